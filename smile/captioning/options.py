"""What `sample.py` and `evaluate.py` both ask on their command lines, and make of the answers."""

import argparse
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_type_hints

import torch

from smile.captioning.int8 import int8_engine
from smile.captioning.packed import exact_head, made_fast, use_views
from smile.config import GenerateConfig, check_setting
from smile.errors import UserError, printable
from smile.model.captioner import Captioner
from smile.system.bfloat16 import (
    CAPTIONING,
    COST,
    NO_UNIT,
    SLOW_CAPTIONING,
    bfloat16_unit,
    cost,
    faster_dtype,
    is_slow,
)
from smile.system.files import lone_surrogate
from smile.system.onednn import multiplies
from smile.system.processors import usable_processors
from smile.weights.fingerprint import fingerprint, fingerprint_of


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of both scripts; each adds more in a subclass.

    `settings` are the settings of `[generate]` that were given; None elsewhere: not given.
    """

    settings: dict[str, Any]
    prompt: str | None
    seed: int
    batch_size: int | None
    workers: int | None
    device: str
    precision: str
    compile: bool
    model_config: str | None
    vocab: str | None


PRECISION_NAMES = ("auto", "float32", "bfloat16", "int8")
PRECISIONS = f"""\
--precision on a CPU       BLIP base needs   and captions
float32                    1.0 GB            exactly
bfloat16, with                               nearly the same words,
  AMX                      0.59 GB           1.6 to 2.0 times as fast
  AVX-512 BF16, Intel      0.60 GB           0.7 to 1.2 times as fast
  AVX-512 BF16, AMD        not measured      at a speed not measured yet
  Arm BF16                 not measured      at a speed not measured yet
  none of these            0.55 GB           more slowly, with AVX2 {COST[0]} to {COST[1]} times
int8, with                                   mostly the same words,
  AVX2 or AVX-512          0.75 GB           1.2 to 1.6 times as fast
  AMX                      0.66 GB           1.5 to 1.8 times as fast
  others                   not measured      at a speed not measured yet
AMX: Intel's Xeons since 2023; AVX-512 BF16: Intel's without AMX, AMD's since Zen 4;
Arm BF16: Graviton 3, Grace
"""

AnyOptions = TypeVar("AnyOptions", bound=Options)


class Parser(argparse.ArgumentParser):
    """Options whose help keeps its lines, and whose errors are one line."""

    def __init__(self, *, usage: str, description: str | None) -> None:
        super().__init__(
            usage=usage,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse(self, kind: type[AnyOptions], words: Sequence[str] | None = None) -> AnyOptions:
        """The command line (or `words`) as a `kind`, whose fields have the options' names."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in vars(self.parse_args(words)).items()
        }
        settings = {setting.name: values.pop(setting.name) for setting in fields(GenerateConfig)}
        given = {name: value for name, value in settings.items() if value is not None}
        try:
            with option_names():
                for name, value in given.items():
                    check_setting(f"generate.{name}", value)
        except UserError as error:
            self.exit(2, f"{self.prog}: {error}\n")
        return kind(settings=given, **values)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}; --help shows all options\n")


def add_caption_options(parser: argparse.ArgumentParser) -> None:
    """`--num-beams` and the like: one option per setting of `[generate]`."""
    group = parser.add_argument_group(
        "captions",
        "defaults: [generate] of the model's run, or BLIP's settings",
    )
    kinds = get_type_hints(GenerateConfig)
    for setting in fields(GenerateConfig):
        kind: Any = kinds[setting.name]
        how: dict[str, Any]
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif kind == tuple[str, ...]:
            how = {"type": between_commas, "metavar": "TEXT,TEXT"}
        else:
            how = {"type": kind, "metavar": kind.__name__.upper()}
        group.add_argument(
            "--" + setting.name.replace("_", "-"),
            help=setting.metadata["meaning"].replace("%", "%%"),
            **how,
        )
    group.add_argument(
        "--prompt", help="text that every caption continues; not repeated in the output"
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed of sampling, from which each image's seed is derived (0)",
    )


@contextlib.contextmanager
def option_names() -> Iterator[None]:
    """Lets a UserError name `--num-beams 0` where it says `generate.num_beams = 0`."""
    try:
        yield
    except UserError as error:
        names = "|".join(setting.name for setting in fields(GenerateConfig))
        message = re.sub(
            rf"\b(?:generate\.)?({names})\b(?: =)?",
            lambda match: "--" + match[1].replace("_", "-"),
            str(error).removeprefix("settings: "),
        )
        raise UserError(message) from error


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("speed", PRECISIONS)
    group.add_argument(
        "--batch-size",
        type=whole_number(1, 4096),
        metavar="N",
        help="images at once (8; on CUDA 64)",
    )
    group.add_argument(
        "--workers",
        type=whole_number(0, 256),
        metavar="N",
        help="processes that read images ahead; 0: none (half the CPUs, at most 4; on CUDA 16)",
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto: the fastest there is)"
    )
    group.add_argument(
        "--precision",
        choices=PRECISION_NAMES,
        default="auto",
        help="of weights and arithmetic, see above (auto: bfloat16 on CUDA, else float32)",
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the image encoder; pays on long runs"
    )


def prepare(captioner: Captioner, options: Options, *, repack: bool = True) -> Captioner:
    """Makes a captioner fast, by what the speed options say; `repack` as in `pack`."""
    if not options.compile:
        return made_fast(captioner, repack=repack, int8=options.precision == "int8")
    captioner.vit.compile()
    use_views(captioner)
    return exact_head(captioner)


def speed(options: Options, captioner: Captioner) -> dict[str, Any]:
    """How `describe_all` is to go about it: what was asked for, or what suits the machine."""
    on_cuda = captioner.device.type == "cuda"
    cpus = usable_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    workers = usual_workers(captioner.device, cpus)
    return {
        "batch_size": options.batch_size or (64 if on_cuda else 8),
        "workers": workers if options.workers is None else options.workers,
        "seed": options.seed,
        "autocast": captioner.device.type != "cpu"
        and precision(options, captioner.device) == "bfloat16",
    }


def usual_workers(device: torch.device, cpus: int) -> int:
    """How many processes read images ahead for a captioner that has so many processors."""
    return max(1, min(16, cpus) if device.type == "cuda" else min(4, cpus // 2))


# Precision ----------------------------------------------------------------------------------------


def precision(options: Options, device: torch.device) -> str:
    """What `--precision` means on the captioner's device: "float32", "bfloat16" or "int8"."""
    if options.precision == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return options.precision


def weights_dtype(options: Options, device: torch.device) -> torch.dtype:
    """What `load` is to make of the weights: bfloat16 on the CPU if that is the precision.

    Elsewhere they stay in float32, and autocast rounds them. What int8 leaves as it is has the
    `faster_dtype` of the CPU.

    Raises:
        UserError: int8 is asked for, and cannot be had.
    """
    if options.precision == "int8":
        _check_int8(options, device)
        return faster_dtype()
    on_cpu = device.type == "cpu"
    return torch.bfloat16 if on_cpu and options.precision == "bfloat16" else torch.float32


def _check_int8(options: Options, device: torch.device) -> None:
    if device.type != "cpu":
        raise UserError(
            f"--precision int8 is for CPUs, and this is {device}: leave --precision out, or add "
            "--device cpu"
        )
    if options.compile:
        raise UserError("--precision int8 does not go with --compile: leave one of them out")
    if not (multiplies(torch.float32) and int8_engine()):
        raise UserError(
            f"--precision int8: torch {torch.__version__} has no int8 product for this processor: "
            "leave --precision out"
        )


def fingerprint_for(options: Options, source: str, captioner: Captioner) -> str:
    """The fingerprint of a captioner's weights before any rounding: those of one file are one."""
    if captioner.decoder.word_embed.weight.dtype == torch.float32:
        return fingerprint(captioner)
    return fingerprint_of(source, vocab=options.vocab, model_config=options.model_config)


def about_bfloat16(options: Options, device: torch.device, *, is_long: bool) -> str:
    """A line about what bfloat16 costs here, or in a long run would gain; "" if there is none."""
    if device.type != "cpu":
        return ""
    unit = bfloat16_unit()
    if options.precision == "bfloat16" and not unit:
        taken = cost("{} to {} times".format(*COST))
        return f"--precision bfloat16: {NO_UNIT}, so captions {taken}; it saves memory"
    if options.precision == "bfloat16" and is_slow(unit):
        return f"--precision bfloat16: {SLOW_CAPTIONING}; it saves memory"
    if options.precision == "auto" and is_long and unit and not is_slow(unit):
        gain = (
            f"makes BLIP's captions about {CAPTIONING[unit]} times as fast"
            if unit in CAPTIONING
            else f"may well make captions faster, which was not measured with {unit}"
        )
        return (
            f"this processor multiplies bfloat16 ({unit}): --precision bfloat16 {gain}, and they "
            "stay nearly the same"
        )
    return ""


def labels(sources: Sequence[str]) -> list[str]:
    """Short names that tell the compared models apart.

    Raises:
        UserError: two of them are the same.
    """
    short = [Path(source).name or source for source in sources]
    names = short if len(set(short)) == len(short) else list(sources)
    if len(set(names)) < len(names):
        raise UserError(f"--compare {' '.join(sources)}: expected two different models")
    return names


def between_commas(text: str) -> tuple[str, ...]:
    """A type of option: texts with commas between them."""
    texts = tuple(part.strip() for part in text.split(","))
    if not all(texts):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}: expected words or phrases with commas between them"
        )
    return texts


def one_line(text: str) -> str:
    """A type of option: text that a line of a file can hold."""
    if lone_surrogate(text) or text.splitlines() not in ([], [text]):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: expected one line of UTF-8 text")
    return text


def whole_number(least: int, most: int = 10**9) -> Callable[[str], int]:
    """A type of option: whole numbers from `least` to `most`."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,20}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text[:40]}: expected a whole number from {least} to {most}"
            )
        return int(text)

    return number
