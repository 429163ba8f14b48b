"""Draws scenes to caption, or downloads Flickr8k.

python -m smile.data draw scenes --count 12
python -m smile.data download flickr8k

draw: pictures that `configs/shapes.toml`'s captioner has never seen. The folder then holds scenes
of the test split, 00.png and so on, and captions.jsonl, a line per picture with its captions and
all true statements about it:

    {"image": "00.png", "captions": ["a red circle", ...], "statements": ["the circle is red", ...]}

It is a training folder (`data.format=folder`), and its captions.jsonl is a file of references.

download: 8091 photos with five captions each, 1.1 GB, as `configs/flickr8k.toml` trains on; only
what the folder lacks of them. The photos belong to their Flickr users and are for research and
education only. An interrupted download is resumed by the same command.
"""

import argparse
import json
import os
import shlex
from itertools import islice
from pathlib import Path

from smile.config import LARGEST_SEED
from smile.data.download import download
from smile.data.flickr8k_folder import USUAL
from smile.data.shapes import scenes, true_statements
from smile.errors import UserError
from smile.system.files import check_empty, write_text, writing
from smile.system.output import ending, prepare_output, say
from smile.version import __version__

MOST, SIZES = 1_000_000, (16, 2048)


def main() -> None:
    prepare_output()
    args = parse_args()
    folder = Path(os.path.expanduser(args.folder))  # a folder "~" is never meant
    resumes = "; the same command resumes" if args.command == "download" else ""
    with ending("smile.data", stopped=f"stopped; {folder} may be incomplete{resumes}"):
        if args.command == "draw":
            draw(folder, count=args.count, seed=args.seed, size=args.size)
        else:
            download_flickr8k(folder)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m smile.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    one = commands.add_parser("draw", help="write drawn scenes and their captions to a new folder")
    one.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")
    one.add_argument("--count", type=int, default=12, help="how many scenes (12)")
    one.add_argument("--seed", type=int, default=0, help="which scenes (0)")
    one.add_argument("--size", type=int, default=240, help="their side in pixels (240)")
    one = commands.add_parser("download", help="download a data set, or what a folder lacks of it")
    one.add_argument("name", choices=["flickr8k"], help="which data set")
    one.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path(USUAL),
        help=f"where to ({USUAL})",
    )
    return parser.parse_args()


def download_flickr8k(folder: Path) -> None:
    """Downloads what `folder` lacks of Flickr8k, and says what to do with it."""
    download(folder, ratings=True)
    root = "" if folder == Path(USUAL) else f" --set data.root={shlex.quote(str(folder))}"
    say(
        f"{folder} holds Flickr8k; to train on it: "
        f"python train.py configs/flickr8k_scratch.toml{root}"
    )


def draw(folder: Path, *, count: int, seed: int, size: int) -> None:
    """Writes `count` scenes and captions.jsonl, and says what to do with them.

    Raises:
        UserError: a number is impossible, or the folder is not empty or cannot be written.
    """
    limits = {"--count": (count, 1, MOST), "--seed": (seed, 0, LARGEST_SEED)}
    limits["--size"] = (size, *SIZES)
    for option, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise UserError(f"{option} {value}: expected a number from {least} to {most}")
    check_empty(folder)
    lines = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(islice(scenes("test", seed=seed, image_size=size), count)):
            name = f"{number:0{max(2, len(str(count - 1)))}}.png"
            scene.read().save(folder / name)
            row = {"captions": scene.captions, "statements": true_statements(scene)}
            lines.append(json.dumps({"image": name, **row}) + "\n")
        write_text(folder / "captions.jsonl", "".join(lines))
    say(
        f"{folder} holds {count} scenes and captions.jsonl; to caption them: "
        f"python sample.py {shlex.quote(str(folder))} --model runs/shapes"
    )


if __name__ == "__main__":
    main()
