"""What somebody does who has installed the wheel: draws, loads, captions, scores, hands on.

    python -P .ci/installed.py CHECKOUT RUN

In an empty folder, which then holds scenes/ and captions.jsonl. CHECKOUT is only looked at, to see
whether the wheel has every file of the package.
"""

import json
import subprocess
import sys
from pathlib import Path

import smile
from smile.metrics.text.cider import cider_d
from smile.metrics.text.ngrams import Candidates, References
from smile.metrics.text.ptb import tokenize_all


def main() -> None:
    checkout, run = map(Path, sys.argv[1:])
    check_whole(checkout)
    module("smile.data", "draw", "scenes", "--count", "12")
    module("smile.weights.load", "inspect", str(run))
    lines = Path("scenes/captions.jsonl").read_text(encoding="utf-8").splitlines()
    known = [json.loads(line) for line in lines]
    captions = caption(run, [record["image"] for record in known])
    references = References([tokenize_all(record["captions"]) for record in known])
    score = cider_d(Candidates(tokenize_all(captions), references)).corpus
    print(f"CIDEr-D of {len(captions)} captions: {score:.3f}")
    module("smile.weights.load", "export", str(run), "exported", "--format", "transformers")
    said = smile.load("flickr8k-small").caption(checkout / "docs" / "photos" / "camera.jpg")
    print(f"the captioner that comes along: {said}")


def check_whole(checkout: Path) -> None:
    """The package is the installed one, with every file that the checkout has."""
    package = Path(smile.__file__).parent
    if not package.is_relative_to(sys.prefix):
        sys.exit(f"smile comes from {package}, not from the wheel in {sys.prefix}")
    expected, found = contents(checkout / "smile"), contents(package)
    if expected != found:
        sys.exit(f"the wheel and smile/ differ in {sorted(expected ^ found)}")


def contents(folder: Path) -> set[str]:
    """Its files, but for what Python makes of them."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if path.suffix != ".pyc"}


def caption(run: Path, names: list[str]) -> list[str]:
    """Captions of images in scenes/, also written to captions.jsonl."""
    captioner = smile.load(run)
    captions = captioner.caption([f"scenes/{name}" for name in names])
    with open("captions.jsonl", "w", encoding="utf-8") as file:
        for name, text in zip(names, captions, strict=True):
            file.write(json.dumps({"image": name, "caption": text}) + "\n")
    smile.explain(captioner, f"scenes/{names[0]}", "words.png")
    return captions


def module(*words: str) -> None:
    subprocess.run([sys.executable, "-m", *words], check=True)


if __name__ == "__main__":
    main()
