"""What a precision gains on this CPU, and how far its captions are from those of float32.

    python tests/benchmarks/bench_precision.py           # two CPU threads

BLIP base with random weights, as bench_generate.py has it, in float32, in bfloat16, and in int8
(the decoder's layers; the rest in bfloat16 where the processor multiplies that faster). All caption
the same images in turn, several rounds of 20 words each. Where the processor does not multiply
bfloat16 that takes several times as long as float32, and says as much about captions: `--rounds 1`
is sooner done. Printed are for each setting

    images/s       the batch over the median round
    x              the median of the rounds' own ratios to float32
    same captions  the share of images for which it says the same as float32
    logprob        of a word of float32's captions: the mean difference

Random weights make many words about as likely: those of a trained captioner differ less.
"""

import argparse
import copy
import statistics

import project  # noqa: F401
import torch
from bench_generate import CPU_SETTINGS, TINY_SETTINGS, Setting, agreement, in_turn, run_ours
from blip import PROMPT, make_ours, make_theirs
from machine import speedup

from smile.captioning.packed import made_fast
from smile.model.captioner import Captioner
from smile.system.bfloat16 import faster_dtype

SETTINGS = (*CPU_SETTINGS, Setting(3, 1, 224, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for setting in TINY_SETTINGS if args.tiny else SETTINGS:
        for line in compare(setting, rounds=1 if args.tiny else args.rounds):
            print(f"{setting}: {line}", flush=True)


def make_models(setting: Setting) -> dict[str, Captioner]:
    whole = make_ours(
        make_theirs(setting.sizes, setting.image_size), setting.sizes, setting.image_size
    )
    rounded = copy.deepcopy(whole).to(torch.bfloat16)
    rest = copy.deepcopy(whole).to(faster_dtype())
    models = {"int8": made_fast(rest, int8=True), "bfloat16": made_fast(rounded)}
    return {"float32": made_fast(whole), **models}


def compare(setting: Setting, *, rounds: int) -> list[str]:
    """A line about each precision."""
    models = make_models(setting)
    shape = (setting.batch, 3, setting.image_size, setting.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    runs = {
        name: lambda model=model: run_ours(model, images.to(model.vit.class_token), setting)
        for name, model in models.items()
    }
    times, captions = in_turn(runs, rounds=rounds)
    exact = logprobs(models["float32"], images, captions["float32"])
    lines = []
    for name, model in models.items():
        off = (logprobs(model, images, captions["float32"]) - exact).abs().mean()
        lines.append(
            f"{name}: {setting.batch / statistics.median(times[name]):.2f} images/s; "
            f"{speedup(times, name, over='float32'):.2f} x; "
            f"same captions {agreement(captions[name], captions['float32']):.0%}; "
            f"logprob {off:.4f}"
        )
    return lines


@torch.inference_mode()
def logprobs(model: Captioner, images: torch.Tensor, captions: list[list[int]]) -> torch.Tensor:
    """(B, T), of each word of the captions."""
    ids = torch.tensor([[*PROMPT, *caption] for caption in captions])
    features = model.encode(images.to(model.vit.class_token))
    scores = model.logits(model.decode(ids[:, :-1], features)).float().log_softmax(dim=-1)
    return scores.gather(2, ids[:, 1:, None])[:, len(PROMPT) - 1 :, 0]


if __name__ == "__main__":
    main()
