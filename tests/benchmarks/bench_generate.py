"""Captioning speed beside transformers, in one run: the same weights, the same captions.

    python tests/benchmarks/bench_generate.py            # two CPU threads, float32
    python tests/benchmarks/bench_generate.py --device cuda

BLIP base's size with random weights. For each setting both caption the same images in turn, several
rounds; printed are the medians, their ratio, and on the CPU the arithmetic floor: the operations of
encoder, cross-attention, decoder and head over the measured matrix-product rate, plus the bytes of
the weights that each step reads over the measured copy rate.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import torch

import smile.data.augment  # noqa: F401  (makes torchvision importable for transformers)
from smile.captioner import Captioner
from smile.checkpoint import build
from smile.config import Config, override
from smile.generate import generate
from smile.packed import PackedLinear, can_pack, pack
from smile.weight_names import TRANSFORMERS, to_ours


@dataclass(frozen=True)
class Setting:
    name: str
    beams: int
    batch: int
    size: int
    goal: float


CPU_SETTINGS = (
    Setting("beam 3, batch 8, 224 px", 3, 8, 224, 1.8),
    Setting("greedy, batch 8, 224 px", 1, 8, 224, 1.5),
    Setting("beam 3, batch 1, 384 px", 3, 1, 384, 1.8),
)
CUDA_SETTINGS = (
    Setting("beam 3, batch 64, 384 px", 3, 64, 384, 3.0),
    Setting("greedy, batch 64, 384 px", 1, 64, 384, 3.0),
)
NEW_TOKENS = 20
PROMPT = [30522, 1037, 3861, 1997]
SEP = 102


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cuda = args.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    matmul = copy = 0.0
    for setting in CUDA_SETTINGS if cuda else CPU_SETTINGS:
        theirs = make_theirs(setting.size).to(args.device, dtype)
        ours = make_ours(theirs, setting).to(args.device, dtype)
        if can_pack(ours):
            pack(ours)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(setting.batch, 3, setting.size, setting.size, generator=generator)
        images = images.to(args.device, dtype)
        runs = {
            "ours": lambda m=ours, x=images, s=setting: run_ours(m, x, s),
            "theirs": lambda m=theirs, x=images, s=setting: run_theirs(m, x, s),
        }
        times, captions = in_turn(runs, rounds=args.rounds, cuda=cuda)
        same = captions["ours"] == captions["theirs"]
        rates = {who: setting.batch / statistics.median(t) for who, t in times.items()}
        ratio = statistics.median(
            b / a for a, b in zip(times["ours"], times["theirs"], strict=True)
        )
        line = (
            f"{setting.name}: ours {rates['ours']:.2f}, "
            f"transformers {rates['theirs']:.2f} images/s; "
            f"{ratio:.2f} x (goal {setting.goal}); same captions: {same}"
        )
        if not cuda:
            # The best of all settings' moments: a shared machine may be slow at any one of them.
            matmul, copy = map(max, machine_rates(), (matmul, copy))
            floor = floor_seconds(setting, matmul, copy)
            share = floor / statistics.median(times["ours"])
            line += (
                f"; floor {floor:.2f} s, our share of it {share:.2f} ({matmul / 1e9:.0f} GFLOP/s "
                f"matrix product, {copy / 1e9:.1f} GB/s copy, {args.threads} threads)"
            )
        print(line, flush=True)


def in_turn(runs: dict, *, rounds: int, cuda: bool) -> tuple[dict, dict]:
    """Seconds and results of each, run in turn after one warm-up."""
    times = {who: [] for who in runs}
    results = {}
    for counted in range(-1, rounds):
        for who, call in runs.items():
            if cuda:
                torch.cuda.synchronize()
            started = time.perf_counter()
            results[who] = call()
            if cuda:
                torch.cuda.synchronize()
            if counted >= 0:
                times[who].append(time.perf_counter() - started)
    return times, results


def make_theirs(size: int):
    from transformers import BlipConfig, BlipForConditionalGeneration

    config = BlipConfig(
        vision_config={"image_size": size},
        text_config={
            "vocab_size": 30524,
            "encoder_hidden_size": 768,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "bos_token_id": 30522,
            "sep_token_id": SEP,
            "eos_token_id": SEP,
            "pad_token_id": 0,
        },
    )
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config).eval()
    with torch.no_grad():  # spread the scores out, so that no caption hangs on a rounding error
        model.text_decoder.cls.predictions.transform.LayerNorm.weight.mul_(4)
    return model


def make_ours(theirs, setting: Setting) -> Captioner:
    weights = to_ours(dict(theirs.state_dict()), TRANSFORMERS, source="transformers")
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    config = override(Config(), "vit", {"image_size": setting.size, "norm_eps": 1e-5})
    return build(config, None, weights, source="transformers")


def search_settings(setting: Setting) -> dict:
    length = len(PROMPT) + NEW_TOKENS
    return {"num_beams": setting.beams, "max_length": length, "min_length": length}


@torch.inference_mode()
def run_ours(model: Captioner, images, setting: Setting) -> list[list[int]]:
    options = override(Config(), "generate", search_settings(setting)).generate
    prompts = torch.tensor([PROMPT], device=images.device).expand(len(images), -1)
    found = generate(model, model.encode(images), prompts, sep_id=SEP, options=options)
    return [hypotheses[0].ids for hypotheses in found]


@torch.inference_mode()
def run_theirs(model, images, setting: Setting) -> list[list[int]]:
    # Its generate() cuts the last token off the prompt, where its tokenizer put [SEP].
    prompts = torch.tensor([[*PROMPT, SEP]] * len(images), device=images.device)
    ids = model.generate(pixel_values=images, input_ids=prompts, **search_settings(setting))
    return [row[len(PROMPT) :].tolist() for row in ids]


def machine_rates() -> tuple[float, float]:
    """Best of several: float32 operations per second of a matrix product (as packed as ours), and
    bytes per second of a copy, read and written."""
    rows, x = 1576, torch.randn(1576, 768)
    layer = PackedLinear(torch.randn(3072, 768), torch.zeros(3072))
    source = torch.randn(40_000_000)
    target = torch.empty_like(source)
    matmul = best(lambda: layer(x))
    copied = best(lambda: target.copy_(source))
    return 2 * rows * 768 * 3072 / matmul, 2 * source.numel() * 4 / copied


def best(call, rounds: int = 15) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(rounds):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return min(times)


def floor_seconds(setting: Setting, matmul: float, copy: float) -> float:
    """What the arithmetic alone takes: products at full rate, weights read at the copy rate."""
    patches, d, depth = (setting.size // 16) ** 2 + 1, 768, 12
    encoder = depth * (12 * d * d * patches + 2 * patches * patches * d) + patches * 3 * 256 * d
    cross = depth * 2 * d * d * patches
    rows, words = setting.batch * setting.beams, len(PROMPT) / setting.beams + NEW_TOKENS - 1
    block = depth * (14 * d * d + 2 * d * patches)  # self 4, cross 2, MLP 8; reading the image
    head = d * d + d * 30524
    work = setting.batch * (encoder + cross) + rows * (words * block + NEW_TOKENS * head)
    weights = 4 * (depth * 14 * d * d + head) * NEW_TOKENS
    return 2 * work / matmul + weights / copy


if __name__ == "__main__":
    main()
