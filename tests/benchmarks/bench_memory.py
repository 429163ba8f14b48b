"""Peak memory of captioning with three beams, beside transformers.

    python tests/benchmarks/bench_memory.py

Both read the same folder on disk, random weights of BLIP base's size, and caption a batch of eight
images with beam 3 and 20 words, each in a process of its own; ours also with weights in bfloat16,
and in int8.
Printed is the operating system's peak of the process, and what of it is above a process that only
imports torch.
"""

import argparse
import tempfile
from pathlib import Path

from bench_load import DECLARE, TORCH, make_model, measure, torchvision_imports

from smile.system.bfloat16 import faster_dtype

OURS = """
import smile, torch
from PIL import Image
from smile.captioning.packed import made_fast
# as sample.py for a folder
captioner = made_fast(smile.load({folder!r}, dtype=torch.{dtype}), int8={int8})
photos = [Image.open({photo!r}).rotate(angle) for angle in range(8)]
settings = {{"num_beams": 3, "max_length": 24, "min_length": 24}}
print(captioner.caption(photos, **settings)[0])
"""
THEIRS = """
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor
model = BlipForConditionalGeneration.from_pretrained({folder!r})
processor = BlipProcessor.from_pretrained({folder!r})
photos = [Image.open({photo!r}).rotate(angle) for angle in range(8)]
inputs = processor(photos, ["a picture of"] * 8, return_tensors="pt")
ids = model.generate(**inputs, num_beams=3, max_length=24, min_length=24)
print(processor.decode(ids[0], skip_special_tokens=True).removeprefix("a picture of "))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = str(Path(folder) / "photo.png")
        make_model(folder, photo, tiny=args.tiny)
        declare = "" if torchvision_imports() else DECLARE
        int8_dtype = str(faster_dtype()).removeprefix("torch.")
        programs = {
            "torch alone": TORCH,
            "ours": OURS.replace("{dtype}", "float32").replace("{int8}", "False"),
            "ours in bfloat16": OURS.replace("{dtype}", "bfloat16").replace("{int8}", "False"),
            "ours in int8": OURS.replace("{dtype}", int8_dtype).replace("{int8}", "True"),
            "transformers": declare + THEIRS,
        }
        peaks = {}
        for who, program in programs.items():
            _, peaks[who], said = measure(program.format(folder=folder, photo=photo))
            above = peaks[who] - peaks["torch alone"]
            print(f"{who}: {peaks[who]:.0f} MB, {above:.0f} above torch alone; {said.strip()[:40]}")
    print(f"ratio {peaks['ours'] / peaks['transformers']:.2f} (goal: at most 1)")


if __name__ == "__main__":
    main()
