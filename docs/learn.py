"""Checks docs/learn.md: runs its code, and compares every number and picture with what comes out.

    python docs/learn.py            check; prints what is wrong, and exits with 1 if anything is
    python docs/learn.py --write    fill in what the code prints, and draw the pictures again
    python docs/learn.py --train    train the lesson's captioner anew (minutes), then --write

The check writes nothing. The captioner is docs/learn/captioner (after SMILE) and its mle/ (before),
a run of docs/learn/captioner.toml in half precision. Another machine trains another one, so read
the text again after --train.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "learn")]

import prose  # noqa: E402
import torch  # noqa: E402
from lesson import Lesson  # noqa: E402
from pictures import PICTURES  # noqa: E402

from smile.system.files import read_text  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help="fill in outputs and pictures")
    choice.add_argument("--train", action="store_true", help="train the captioner first")
    args = parser.parse_args()
    os.chdir(ROOT)  # the lesson's paths are seen from here
    torch.set_num_threads(1)  # a captioner so small is slower with more
    lesson = Lesson(DOCS / "learn.md", PICTURES)
    if args.train:
        train()
    if args.train or args.write:
        lesson.write()
    faults = [*prose.faults(read_text(lesson.path), DOCS)]
    if not (args.train or args.write):
        faults += lesson.check()
    for fault in faults:
        print(f"learn.py: {fault}", file=sys.stderr)
    sys.exit(bool(faults))


def train() -> None:
    """Trains docs/learn/captioner.toml and keeps both captioners in half precision."""
    folder = DOCS / "learn" / "captioner"
    with tempfile.TemporaryDirectory() as scratch:
        run, half = Path(scratch, "run"), Path(scratch, "half")
        _python("train.py", DOCS / "learn" / "captioner.toml", "--out", run)
        for source, kept in ((run, half), (run / "mle", half / "mle")):
            _python("-m", "smile.weights", "convert", source, kept, "--half")
        for path in half.glob("**/*.*"):
            kept = folder / path.relative_to(half)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(path.read_bytes())


def _python(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
