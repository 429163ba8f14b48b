"""From process start to first caption, beside transformers: seconds and peak memory.

    python tests/benchmarks/bench_load.py

Both read the same folder on disk, random weights of BLIP base's size, and caption one photo
greedily with 20 words, each in a process of its own, in turn. Peak memory is the operating system's
figure; what a process that only imports torch takes is subtracted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from project import ROOT

OURS = """
import smile
from PIL import Image
from smile.captioning.packed import made_fast
captioner = made_fast(smile.load({folder!r}), repack=False)  # as sample.py does for one image
print(captioner.caption(Image.open({photo!r}), num_beams=1, max_length=24, min_length=24))
"""
THEIRS = """
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor
model = BlipForConditionalGeneration.from_pretrained({folder!r})
processor = BlipProcessor.from_pretrained({folder!r})
inputs = processor(Image.open({photo!r}), "a picture of", return_tensors="pt")
ids = model.generate(**inputs, num_beams=1, max_length=24, min_length=24)
print(processor.decode(ids[0], skip_special_tokens=True).removeprefix("a picture of "))
"""
TORCH = "import torch; print()"
# What torchvision lacks beside a CPU-only torch; ours would import more, and gets torch sooner.
DECLARE = """
import torch
operators = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    operators.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    args = parser.parse_args()
    rounds = range(1) if args.tiny else range(-1, args.rounds)  # the first does not count
    with tempfile.TemporaryDirectory() as folder:
        photo = str(Path(folder) / "photo.png")
        make_model(folder, photo, tiny=args.tiny)
        weights = (Path(folder) / "model.safetensors").stat().st_size / 1e6
        names = {"folder": folder, "photo": photo}
        declare = "" if torchvision_imports() else DECLARE
        programs = {"ours": OURS, "transformers": declare + THEIRS, "torch alone": TORCH}
        seconds = {who: [] for who in programs}
        memory, said = {who: [] for who in programs}, {}
        for counted in rounds:
            for who, program in programs.items():
                time_taken, peak, said[who] = measure(program.format(**names))
                if counted >= 0:
                    seconds[who].append(time_taken)
                    memory[who].append(peak)
    base = statistics.median(memory["torch alone"])
    print(f"weights: {weights:.0f} MB; torch alone: {base:.0f} MB")
    for who in ("ours", "transformers"):
        peak = statistics.median(memory[who]) - base
        print(f"{who}: {statistics.median(seconds[who]):.2f} s to the first caption, "
              f"{peak:.0f} MB above torch, {peak / weights:.2f} of the weights")  # fmt: skip
    pairs = zip(seconds["ours"], seconds["transformers"], strict=True)
    ratio = statistics.median(our / their for our, their in pairs)
    print(f"ratio of times {ratio:.2f} (goal: at most 0.5); same caption: "
          f"{said['ours'] == said['transformers']}")  # fmt: skip


MAKE = """
import sys
from pathlib import Path
import torch
from PIL import Image
sys.path.insert(0, "tests/benchmarks")
from blip import BASE, TINY, make_ours, make_theirs
from smile.weights.export import export_transformers
from smile.model.tokenizer import Tokenizer
folder, photo, size = sys.argv[1:]
words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
words += [f"[unused{i}]" for i in range(99, 994)] + [f"w{i}" for i in range(30522 - 999)]
words[1037], words[3861], words[1997] = "a", "picture", "of"
sizes, pixels = (TINY, 32) if size == "tiny" else (BASE, 384)
captioner = make_ours(make_theirs(sizes, pixels), sizes, pixels)
captioner.tokenizer = Tokenizer(words)
export_transformers(captioner, folder)
Image.effect_noise((640, 480), 60).convert("RGB").save(photo)
"""


def make_model(folder: str, photo: str, *, tiny: bool) -> None:
    """Writes a model as transformers has it, and a picture; in a process that ends afterwards."""
    words = [sys.executable, "-c", MAKE, folder, photo, "tiny" if tiny else "base"]
    subprocess.run(words, cwd=ROOT, check=True)


def torchvision_imports() -> bool:
    """Whether torchvision's operators load beside this torch."""
    tried = [sys.executable, "-c", "import torchvision"]
    return subprocess.run(tried, stderr=subprocess.DEVNULL).returncode == 0


def measure(program: str) -> tuple[float, float, str]:
    """Runs a program; returns its seconds to the first line, peak memory in MB and that line."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    line = process.stdout.readline().decode()
    seconds = time.perf_counter() - started
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a program failed with {process.returncode}:\n{program}")
    return seconds, usage.ru_maxrss * 1024 / 1e6, line


if __name__ == "__main__":
    main()
