"""Captioning speed beside transformers, in one run: the same weights, the same captions.

    python tests/benchmarks/bench_generate.py            # two CPU threads, float32
    python tests/benchmarks/bench_generate.py --precision bfloat16
    python tests/benchmarks/bench_generate.py --device cuda

BLIP with random weights. For each setting both caption the same images in turn, several rounds of
20 words each; on CUDA both have their weights in bfloat16. With `--precision bfloat16` on the CPU
transformers is measured in float32 too, in the same rounds. Printed are

    images/s        the batch over the median round, ours and transformers'
    x               the median of the rounds' own ratios, and the goal
    same captions   the share of images for which both say the same; in bfloat16 two words that are
                    about as likely may change places
    share of floor  the least time the machine could take over the time ours took. The least: the
                    operations of encoder, cross-attention, decoder and head over the measured
                    matrix-product rate, plus the bytes of the weights that each step reads over
                    the measured copy rate
    memory          on CUDA, the most that was allocated beside the weights and the images

Settings come in order of their value, and each ends after `--seconds` however many rounds it had.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import project  # noqa: F401
import torch
from blip import BASE, LARGE, PROMPT, SEP, TINY, VOCAB, Sizes, make_ours, make_theirs
from machine import copy_rate, matmul_rate, packed_rate, speedup, wait_for

from smile.captioning.packed import made_fast
from smile.config import Config, override
from smile.model.captioner import Captioner
from smile.model.generate import generate


@dataclass(frozen=True)
class Setting:
    beams: int
    batch: int
    image_size: int
    goal: float
    sizes: Sizes = BASE

    def __str__(self) -> str:
        search = f"beam {self.beams}" if self.beams > 1 else "greedy"
        return f"{self.sizes.name}, {search}, batch {self.batch}, {self.image_size} px"


CPU_SETTINGS = (
    Setting(3, 8, 224, 1.8),
    Setting(1, 8, 224, 1.5),
    Setting(3, 1, 384, 1.8),
)
CUDA_SETTINGS = (
    Setting(3, 64, 384, 3.0),
    Setting(1, 64, 384, 3.0),
    Setting(3, 64, 384, 3.0, LARGE),
    Setting(3, 1, 384, 3.0),
    Setting(1, 64, 384, 3.0, LARGE),
    Setting(3, 1, 384, 3.0, LARGE),
    Setting(1, 1, 384, 3.0),
    Setting(3, 8, 384, 3.0),
    Setting(3, 256, 384, 3.0),
)
TINY_SETTINGS = (Setting(3, 2, 32, 0.0, TINY), Setting(1, 2, 32, 0.0, TINY))
NEW_TOKENS = 20
FLOAT32 = "transformers in float32"


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    settings = CUDA_SETTINGS if args.device == "cuda" else CPU_SETTINGS
    machine = Machine(args.device, getattr(torch, args.precision))
    begun = time.perf_counter()
    models: tuple = (None, None)
    for setting in TINY_SETTINGS if args.tiny else settings:
        if time.perf_counter() - begun > args.budget:
            print(f"{setting}: left out, as {args.budget:.0f} s have passed", flush=True)
            continue
        key = (setting.sizes, setting.image_size)
        if models[0] != key:
            models = (None, None)  # the old ones go before the new ones come
            models = (key, make_models(setting, args))
        try:
            print(compare(setting, models[1], machine, args), flush=True)
        except torch.OutOfMemoryError as error:
            print(f"{setting}: {str(error).partition('. ')[0]}", flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of weights and arithmetic (float32; on CUDA bfloat16)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=600, help="of a setting's rounds, but at least one (600)"
    )
    parser.add_argument(
        "--budget", type=float, default=3600, help="seconds after which no setting begins (3600)"
    )
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    args = parser.parse_args()
    args.precision = args.precision or ("bfloat16" if args.device == "cuda" else "float32")
    if args.tiny:
        args.rounds = 1
    return args


class Machine:
    """The rates of this machine: the best of all settings' moments, as it may be shared.

    dtype: of the weights and products.
    """

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.matmul = self.copy = 0.0
        if device == "cuda":
            self.measure()
            precision = str(dtype).removeprefix("torch.")
            print(
                f"{torch.cuda.get_device_name()}: {self.matmul / 1e12:.0f} TFLOP/s {precision} "
                f"matrix product, {self.copy / 1e12:.2f} TB/s copy; torch {torch.__version__}",
                flush=True,
            )

    def measure(self) -> None:
        is_cuda = self.device == "cuda"
        matmul = matmul_rate("cuda", [], dtype=self.dtype) if is_cuda else packed_rate(self.dtype)
        self.matmul, self.copy = max(self.matmul, matmul), max(self.copy, copy_rate(self.device))


Models = dict[str, torch.nn.Module]


def make_models(setting: Setting, args: argparse.Namespace) -> Models:
    """Ours and theirs: packed on the CPU, with weights in bfloat16 on CUDA."""
    theirs = make_theirs(setting.sizes, setting.image_size, args.device)
    others = {}
    if args.device == "cpu" and args.precision != "float32":
        others[FLOAT32] = copy.deepcopy(theirs)
    theirs = theirs.to(getattr(torch, args.precision))
    ours = made_fast(make_ours(theirs, setting.sizes, setting.image_size))
    return {"ours": ours, "theirs": theirs, **others}


def compare(setting: Setting, models: Models, machine: Machine, args: argparse.Namespace) -> str:
    """A line about one setting."""
    generator = torch.Generator().manual_seed(0)
    shape = (setting.batch, 3, setting.image_size, setting.image_size)
    images = torch.randn(shape, generator=generator).to(args.device)
    runs = {
        who: partial(
            run_ours if who == "ours" else run_theirs,
            model,
            images.to(next(model.parameters()).dtype),
            setting,
        )
        for who, model in models.items()
    }
    peaks = {who: peak_memory(call, args.device) for who, call in runs.items()}
    times, captions = in_turn(runs, rounds=args.rounds, device=args.device, seconds=args.seconds)
    same = agreement(captions["ours"], captions["theirs"])
    rates = {who: setting.batch / statistics.median(t) for who, t in times.items()}
    ratio = speedup(times, "ours", over="theirs")
    if args.device == "cpu":
        machine.measure()
    share = floor_seconds(setting, machine) / statistics.median(times["ours"])
    line = (
        f"{setting}: ours {rates['ours']:.2f}, transformers {rates['theirs']:.2f} images/s; "
        f"{ratio:.2f} x (goal {setting.goal}; {min(map(len, times.values()))} rounds); "
        f"same captions {same:.0%}; share of floor {share:.2f}"
    )
    if FLOAT32 in times:
        ratio = speedup(times, "ours", over=FLOAT32)
        line += f"; {FLOAT32} {rates[FLOAT32]:.2f} images/s, {ratio:.2f} x"
    if args.device == "cuda":
        return f"{line}; memory " + ", ".join(f"{who} {b / 1e9:.2f} GB" for who, b in peaks.items())
    return line + (
        f" ({machine.matmul / 1e9:.0f} GFLOP/s matrix product, {machine.copy / 1e9:.1f} GB/s copy, "
        f"{args.threads} threads)"
    )


def agreement(ours: list[list[int]], others: list[list[int]]) -> float:
    """The share of images of which both say the same."""
    return sum(a == b for a, b in zip(ours, others, strict=True)) / len(ours)


def peak_memory(call: Callable, device: str) -> int:
    """Bytes allocated on CUDA by the first call, at the highest, beside what was there before."""
    if device != "cuda":
        return 0
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def in_turn(
    runs: dict[str, Callable],
    *,
    rounds: int,
    device: str = "cpu",
    seconds: float = float("inf"),
) -> tuple[dict, dict]:
    """Seconds and results of each, run in turn after one warm-up.

    After so many seconds no other round begins.
    """
    times = {who: [] for who in runs}
    results = {}
    begun = time.perf_counter()
    for counted in range(-1, rounds):
        if counted > 0 and time.perf_counter() > begun + seconds:
            break
        for who, call in runs.items():
            wait_for(device)
            started = time.perf_counter()
            results[who] = call()
            wait_for(device)
            if counted >= 0:
                times[who].append(time.perf_counter() - started)
    return times, results


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


def floor_seconds(setting: Setting, machine: Machine) -> float:
    """What the arithmetic alone takes: products at full rate, weights read at the copy rate."""
    sizes = setting.sizes
    patches, v, d = sizes.patches(setting.image_size), sizes.vit_dim, sizes.dim
    encoder = sizes.vit_depth * (12 * v * v * patches + 2 * patches * patches * v)
    encoder += patches * 3 * 256 * v
    cross = sizes.depth * 2 * v * d * patches
    rows, words = setting.batch * setting.beams, len(PROMPT) / setting.beams + NEW_TOKENS - 1
    block = sizes.depth * (14 * d * d + 2 * d * patches)  # self 4, cross 2, MLP 8; reading it
    head = d * d + d * VOCAB
    work = setting.batch * (encoder + cross) + rows * (words * block + NEW_TOKENS * head)
    block_bytes = machine.dtype.itemsize
    head_bytes = block_bytes if machine.device == "cuda" else 4  # a CPU's head is in float32
    weights = (block_bytes * sizes.depth * 14 * d * d + head_bytes * head) * NEW_TOKENS
    return 2 * work / machine.matmul + weights / machine.copy


if __name__ == "__main__":
    main()
