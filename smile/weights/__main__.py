"""The command line of weights: inspect, convert and export captioners.

python -m smile.weights inspect SOURCE
python -m smile.weights convert SOURCE DIR
python -m smile.weights export RUN DIR --format transformers
"""

import argparse
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from smile.config import load_config
from smile.errors import UserError
from smile.system.files import check_empty, reading, sha256, writing
from smile.system.output import ending, prepare_output, say
from smile.weights.arguments import add_model_options
from smile.weights.export import export_blip, export_transformers
from smile.weights.known import KNOWN
from smile.weights.load import find_config, load, read_weights
from smile.weights.names import Account, Convention, account, to_ours
from smile.weights.needed import find, published_pin
from smile.weights.pins import published_as
from smile.weights.run_folder import is_run, load_run, save_run
from smile.weights.transformers_folder import weight_file, weight_parts

NO_CHECKSUM = "unverified: no published checksum is known to be this one"


def main() -> None:
    prepare_output()
    options = _parse_options()
    run = options.pop("run")
    with ending("smile.weights"):
        run(**options)


def _parse_options() -> dict[str, Any]:
    """The command's options by their names, and as "run" the function that takes them."""
    parser = argparse.ArgumentParser(
        prog="python -m smile.weights",
        description="Inspect, convert and export captioners.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="known names:\n"
        + "\n".join(f"  {name:<22} {known.meaning}" for name, known in KNOWN.items()),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="print sizes, and how each key is used")
    inspect.add_argument("source", metavar="SOURCE")
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser("convert", help="write a run folder")
    convert.add_argument("source", metavar="SOURCE")
    convert.add_argument(
        "--half", action="store_true", help="weights as float16, in half the space"
    )
    convert.set_defaults(run=_convert)
    export = commands.add_parser("export", help="write weights for transformers or for BLIP's code")
    export.add_argument("source", metavar="RUN")
    export.add_argument("--format", choices=sorted(EXPORTS), default="transformers")
    export.set_defaults(run=_export)
    for command in (convert, export):
        command.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")
    for command in (inspect, convert, export):
        add_model_options(command)
    return vars(parser.parse_args())


def _inspect(*, source: str, model_config: str | None, vocab: str | None) -> None:
    """Prints sizes and the accounting table of a source."""
    found = find(source, own_vocab=vocab is None)
    if is_run(found):
        captioner = load_run(found)
        weights, config = captioner.state_dict(), captioner.config
        lines = [f"{len(weights)} weights by our own names"]
    else:
        theirs, convention = read_weights(found)
        book = account(theirs, convention)
        lines = _checksum_lines(source, found) + _account_lines(book, theirs, convention)
        if book.missing or book.left_over:
            say("\n".join(lines))
            raise UserError(f"{found}: not a BLIP captioner: see the keys marked above")
        weights = to_ours(theirs, convention, source=found)
        config, _ = find_config(
            found,
            weights,
            convention,
            own_vocab=vocab is None,
            knows_heads=model_config is not None,
        )
    if model_config is not None:
        config = load_config(model_config, base=config)
    total = sum(tensor.numel() for tensor in weights.values())
    say(f"{found}: {total / 1e6:.1f} M parameters")
    for name in ("vit", "decoder"):
        sizes = vars(getattr(config, name)).items()
        say(f"  [{name}] " + ", ".join(f"{key} {value}" for key, value in sizes))
    say("\n".join(lines))


def _checksum_lines(source: str, found: Path) -> list[str]:
    """One line per file of weights: whether it is known to be what was published.

    Raises:
        UserError: it is not what was published under the source's name.
    """
    main = (weight_file(found) if found.is_dir() else found) or found
    lines = []
    for name in weight_parts(main):
        path = main.with_name(name)
        with reading(path):
            found_sum = sha256(path)
        expected = published_pin(source, name).sha256
        if expected not in (None, found_sum):
            raise UserError(
                f"{os.path.realpath(path)} has the SHA-256 {found_sum}, expected {expected}: it is "
                "damaged; delete it to download it again"
            )
        address = published_as(found_sum)
        verdict = f"verified, published as {address}" if address else NO_CHECKSUM
        lines.append(f"{name}: SHA-256 {found_sum}, {verdict}")
    return lines


def _account_lines(book: Account, theirs: dict[str, Tensor], convention: Convention) -> list[str]:
    """One line per key: its shape, and how it is used."""

    def line(key: str, fate: str) -> str:
        return f"  {key:<75} {tuple(theirs[key].shape)!s:<18} {fate}"

    lines = [f"{len(theirs)} keys by {convention.name}'s names:"]
    for row in book.rows:
        fate = "renamed" if len(row.ours) == 1 else f"split in {len(row.ours)}"
        lines += [
            line(key, f"{fate}: {', '.join(row.ours)}") for key in row.theirs if key in theirs
        ]
    lines += [line(key, f"tied: repeats {original}") for key, original in book.tied.items()]
    lines += [line(key, f"dropped: {reason}") for key, reason in book.dropped.items()]
    lines += [line(key, "LEFT OVER: not part of a BLIP captioner") for key in book.left_over]
    return lines + [f"  {key:<75} MISSING" for key in book.missing]


def _convert(*, source: str, folder: Path, half: bool, **options: Any) -> None:
    check_empty(folder)
    captioner = load(source, **options)
    with writing(folder):
        save_run(folder, captioner, half=half)
    say(f"{folder} is a run folder: python sample.py PHOTO --model {folder}")


EXPORTS = {"transformers": export_transformers, "blip": export_blip}


def _export(*, source: str, folder: Path, format: str, **options: Any) -> None:
    check_empty(folder)
    captioner = load(source, **options)
    with writing(folder):
        how_to_use_it = EXPORTS[format](captioner, folder)
    say(how_to_use_it)


if __name__ == "__main__":
    main()
