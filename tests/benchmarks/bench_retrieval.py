"""Retrieval by the captioner: every one of 1000 captions scored on every one of 1000 images.

    python tests/benchmarks/bench_retrieval.py [--captions 1000] [--images 1000]

The model has the sizes of configs/shapes.toml and random weights; the scenes are that run's test
split, and each gives its longest caption, about as long as SMILE's. Some pairs are scored once
more one by one, and must agree.
"""

import argparse
import time

import numpy as np
import torch
from project import ROOT

from smile.captioning.packed import can_pack, pack
from smile.config import load_config, override
from smile.data.shapes import make_scenes
from smile.metrics.retrieval import log_likelihoods
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer

SHAPES = ROOT / "configs" / "shapes.toml"


def make_judge(captions: list[str]) -> Captioner:
    """A captioner of the shapes run's size, with random weights."""
    config = load_config(SHAPES)
    texts = [config.data.prompt + caption for caption in captions]
    tokenizer = Tokenizer.train(texts, vocab_size=config.tokenizer.vocab_size)
    config = override(
        config,
        "decoder",
        {"vocab_size": tokenizer.vocab_size, "features_dim": config.vit.dim},
    )
    torch.manual_seed(0)
    return Captioner(config=config, tokenizer=tokenizer).init_weights().eval()


@torch.inference_mode()
def one_by_one(judge: Captioner, image, caption: str) -> float:
    """log p(caption | image), the plain way."""
    prompt = judge.config.data.prompt
    ids = torch.tensor([judge.tokenizer.encode(caption, prompt=prompt, max_tokens=65)])
    start = len(judge.tokenizer.prompt_ids(prompt))
    features = judge.encode(judge.transform(image)[None])
    logprobs = judge.logits(judge.decode(ids[:, :-1], features)).log_softmax(dim=-1)[0]
    return logprobs[start - 1 :].gather(1, ids[0, start:, None]).sum().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--image-block", type=int)
    parser.add_argument("--caption-block", type=int)
    parser.add_argument("--no-pack", action="store_true", help="leave the judge's layers to torch")
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    args = parser.parse_args()
    if args.tiny:
        args.captions = args.images = 10
    count = max(args.captions, args.images)
    scenes = make_scenes("test", count, seed=0, image_size=48)
    longest = [max(scene.captions, key=len) for scene in scenes]
    judge = make_judge([caption for scene in scenes for caption in scene.captions])
    images = [scene.read() for scene in scenes[: args.images]]
    captions = longest[: args.captions]
    words = np.mean([len(caption.split()) for caption in captions])
    print(
        f"{len(captions)} captions of {words:.1f} words ({len(set(captions))} distinct), "
        f"{len(images)} images, vocabulary {judge.tokenizer.vocab_size}, "
        f"{torch.get_num_threads()} threads"
    )
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(len(captions)), rng.integers(len(images))) for _ in range(20)]
    expected = [one_by_one(judge, images[m], captions[n]) for n, m in pairs]
    if can_pack(judge) and not args.no_pack:
        pack(judge)
    keys = ("image_block", "caption_block")
    blocks = {key: value for key in keys if (value := getattr(args, key)) is not None}
    start, cpu = time.perf_counter(), time.process_time()
    scores = log_likelihoods(judge, images, captions, **blocks)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    per_pair = wall / scores.size * 1e6
    print(f"{wall:.1f} s wall, {cpu:.1f} s of processor time, {per_pair:.1f} µs a pair")
    off = max(abs(scores[n, m] - e) for (n, m), e in zip(pairs, expected, strict=True))
    print(f"20 pairs scored one by one: at most {off:.1e} off, of about {np.mean(expected):.0f}")
    if not off < 1e-3:
        raise SystemExit("the two do not agree")


if __name__ == "__main__":
    main()
