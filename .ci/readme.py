"""Runs every command that the README gives, in its order, in a folder prepared for them.

    python .ci/readme.py FOLDER

FOLDER holds links to the project and runs/shapes, a short run of the README's first command.
Commands are the lines set in as code that begin with python or torchrun. Left out, and said so:
those marked "# needs ...". Training is shortened by the settings in SHORT.
"""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
COLOURS = ("red", "green", "blue", "yellow", "white", "pink")


def main() -> None:
    folder = Path(sys.argv[1])
    prepare(folder)
    for command in commands((ROOT / "README.md").read_text(encoding="utf-8")):
        command, _, needs = command.partition("# needs ")
        if needs:
            print(f"\n==> left out, needs {needs}: {command}", flush=True)
            continue
        if "train.py" in command:
            command += " " + " ".join(f"--set {setting}" for setting in short(command))
        print(f"\n==> {command}", flush=True)
        subprocess.run(command, shell=True, cwd=folder, check=True)


def commands(readme: str) -> list[str]:
    """The README's commands, but for the two it opens with, which .ci/run itself runs."""
    found = re.findall(r"^ {4,}((?:python|torchrun) .*)$", readme, flags=re.MULTILINE)
    if len(found) < 20:
        sys.exit(f"only {len(found)} commands found in README.md: is it written otherwise now?")
    return found


def short(command: str) -> list[str]:
    """Settings that make a command's training as short as .ci/run's, to go on with that run."""
    settings = (ROOT / ".ci" / "short").read_text(encoding="utf-8").split()
    return [s for s in settings if "shapes" in command or not s.startswith("data.")]


def prepare(folder: Path) -> None:
    """photos/: images, each with a caption in a .txt beside it."""
    (folder / "photos").mkdir()
    for number in range(24):
        colour = COLOURS[number % len(COLOURS)]
        image = Image.new("RGB", (96, 96), "grey")
        ImageDraw.Draw(image).ellipse((20, 20, 50 + number, 50 + number), fill=colour)
        path = folder / "photos" / f"{number:02}.jpg"
        image.save(path)
        path.with_suffix(".txt").write_text(f"a {colour} circle on a grey background")


if __name__ == "__main__":
    main()
