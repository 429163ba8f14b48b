"""Runs every command of the README and the pages that it leads to, in order, in a prepared folder.

    python .ci/readme.py FOLDER

FOLDER holds links to the project and runs/shapes, a short run of the README's first command.
Commands are the lines set in as code that begin with python or torchrun. Left out, and said so:
those marked "# needs ...". Training is shortened by the settings in SHORT.
"""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/captioning.md",
    "docs/training.md",
    "docs/measuring.md",
)
COLOURS = ("red", "green", "blue", "yellow", "white", "pink")


def main() -> None:
    folder = Path(sys.argv[1])
    prepare(folder)
    for command in commands():
        command, _, needs = command.partition("# needs ")
        if needs:
            print(f"\n==> left out, needs {needs}: {command}", flush=True)
            continue
        if "train.py" in command:
            command += " " + " ".join(f"--set {setting}" for setting in short(command))
        print(f"\n==> {command}", flush=True)
        subprocess.run(command, shell=True, cwd=folder, check=True)


def commands() -> list[str]:
    """The commands of all pages, but for the two that open the README: .ci/run itself runs them."""
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    found = re.findall(r"^ {4,}((?:python|torchrun) .*)$", text, flags=re.MULTILINE)
    if len(found) < 30:
        sys.exit(f"only {len(found)} commands found in the pages: are they written otherwise now?")
    return found


def short(command: str) -> list[str]:
    """Settings that make a command's training as short as .ci/run's, to go on with that run."""
    settings = (ROOT / ".ci" / "short").read_text(encoding="utf-8").split()
    return [s for s in settings if "shapes" in command or not s.startswith("data.")]


def prepare(folder: Path) -> None:
    """photos/: images, each with a caption in a .txt beside it; shards/: the same in four tars."""
    (folder / "photos").mkdir()
    (folder / "shards").mkdir()
    for number in range(24):
        colour = COLOURS[number % len(COLOURS)]
        image = Image.new("RGB", (96, 96), "grey")
        ImageDraw.Draw(image).ellipse((20, 20, 50 + number, 50 + number), fill=colour)
        path = folder / "photos" / f"{number:02}.jpg"
        image.save(path)
        path.with_suffix(".txt").write_text(f"a {colour} circle on a grey background")
        with tarfile.open(folder / "shards" / f"{number % 4:05}.tar", "a") as shard:
            for member in (path, path.with_suffix(".txt")):
                shard.add(member, member.name)


if __name__ == "__main__":
    main()
