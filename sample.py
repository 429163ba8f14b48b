"""Describe photos.

python sample.py dog.jpg
python sample.py holiday/ more.jpg --model runs/shapes --json
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from smile.captioner import Captioner
from smile.data import IMAGE_SUFFIXES, open_image
from smile.errors import UserError
from smile.pretrained import add_model_options, default_source, load


def main() -> None:
    args = parse_args()
    try:
        captioner = find_captioner(args)
        settings = {} if args.num_beams is None else {"num_beams": args.num_beams}
        failed = 0
        for path in find_images(args.images):
            try:
                caption = captioner.caption(open_image(path), **settings)
            except UserError as error:
                print(f"sample.py: {error}", file=sys.stderr)
                failed += 1
                continue
            line = {"image": str(path), "caption": caption}
            print(json.dumps(line, ensure_ascii=False) if args.json else f"{path}: {caption}")
    except UserError as error:
        print(f"sample.py: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if failed else 0)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument(
        "--model",
        help="a run folder, a .pth, a transformers folder, a known name such as blip-base, or a "
        "hub id (default: the newest run under runs/, else blip-base)",
    )
    add_model_options(parser)
    parser.add_argument("--num-beams", type=int, help="beams of the search; 1 is greedy")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args()


def find_captioner(args: argparse.Namespace) -> Captioner:
    """The captioner named; without a name the newest run, or else blip-base."""
    source = args.model
    if source is None:
        source, why = default_source()
        print(f"sample.py: no --model given: {source}, {why}", file=sys.stderr)
    try:
        return load(source, model_config=args.model_config, vocab=args.vocab)
    except UserError as error:
        if args.model is not None:
            raise
        raise UserError(
            f"{error}\n"
            "  train a captioner (minutes, no downloads): python train.py configs/shapes.toml\n"
            "  or point at one you have: python sample.py PHOTO --model RUN_FOLDER_OR_WEIGHTS"
        ) from error


def find_images(paths: list[Path]) -> Iterator[Path]:
    """Files as named, folders as the images under them in order of name."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        else:
            yield path


if __name__ == "__main__":
    main()
