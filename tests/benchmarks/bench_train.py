"""Training speed and memory beside transformers, in one run: the same weights, the same captions.

    python tests/benchmarks/bench_train.py            # two CPU threads, float32
    python tests/benchmarks/bench_train.py --precision bfloat16
    python tests/benchmarks/bench_train.py --device cuda
    python tests/benchmarks/bench_train.py --device cuda --compile

BLIP base's size with random weights, 224 px. A step is forward, loss, backward and AdamW (fused,
for both), under bfloat16 autocast on CUDA. transformers gets what its users give it: one caption a
row, the image with each. Ours gets the same pairs with the captions of an image together, and the
captioner as `train.py` prepares it. Both train with the same dropout. With `--precision bfloat16`
on the CPU both are under autocast, and then ours is measured beside transformers in float32. Each
has a process of its own, set up as its own users have it, but that transformers too takes denormal
numbers for 0. On the CPU these take their steps in turn; on CUDA one after the other, each with the
whole memory. Printed are

    captions/s      image-caption pairs of a step over the median step, ours and transformers'
    x               on the CPU the median of the rounds' own ratios, on CUDA the ratio of the
                    medians; and the goal
    a share of      the operations of matrix products that our step cannot do without (padding left
                    out) a second, over what the machine's own matrix product reaches
    memory          each process's highest; on CUDA what was allocated there

Where transformers' step does not fit the GPU, it goes in so many pieces whose gradients add up.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import project  # noqa: F401
import torch
from blip import BASE, PROMPT, SEP, TINY, VOCAB, Sizes, make_ours, make_theirs
from machine import matmul_rate, speedup, wait_for
from torch import Tensor, nn

from smile.config import override
from smile.loss import IGNORE
from smile.model.captioner import Captioner
from smile.model.layers import Attention
from smile.training.head_loss import caption_loss
from smile.training.speed import flush_denormals, prepare


@dataclass(frozen=True)
class Setting:
    """`images` with `captions` captions each, and the ratio to reach."""

    images: int
    captions: int
    goal: float
    sizes: Sizes = BASE
    image_size: int = 224


CPU_SETTINGS = (Setting(8, 5, 3.2), Setting(8, 1, 1.1))
CUDA_SETTINGS = (Setting(64, 5, 4.0), Setting(64, 1, 1.1))
TINY_SETTINGS = (Setting(2, 2, 0.0, TINY, 32),)
OBJECTIVES = ("smile", "mle")
THEIRS, THEIRS_FLOAT32 = "theirs", "theirs-float32"
WARM_UP = {"cpu": 1, "cuda": 3}  # steps that do not count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the forward and backward pass (float32; on CUDA bfloat16)",
    )
    parser.add_argument("--rounds", type=int, help="steps that count (3; on CUDA 10)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.1, help="of both decoders")
    parser.add_argument("--compile", action="store_true", help="ours with train.compile = true")
    parser.add_argument("--captions", type=int, help="only the setting with so many an image")
    parser.add_argument(
        "--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES, help="(both)"
    )
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    names = (*OBJECTIVES, THEIRS, THEIRS_FLOAT32)
    parser.add_argument("--worker", choices=names, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.precision = args.precision or ("bfloat16" if args.device == "cuda" else "float32")
    args.rounds = 1 if args.tiny else args.rounds or (10 if args.device == "cuda" else 3)
    torch.set_num_threads(args.threads)
    settings = CUDA_SETTINGS if args.device == "cuda" else CPU_SETTINGS
    for setting in TINY_SETTINGS if args.tiny else settings:
        if args.captions in (None, setting.captions):
            (work if args.worker else compare)(args, setting)


def compare(args: argparse.Namespace, setting: Setting) -> None:
    """Beside transformers, and on the CPU beside it in float32 too: all four would need 30 GB."""
    compare_with(THEIRS, args, setting)
    if args.device == "cpu" and args.precision != "float32":
        compare_with(THEIRS_FLOAT32, args, setting)


def compare_with(theirs: str, args: argparse.Namespace, setting: Setting) -> None:
    """Prints a line for each objective: rates, ratio, share of the machine's rate, memory."""
    workers = {name: Worker(args, setting, name) for name in (*args.objectives, theirs)}
    for worker in workers.values():
        worker.answer()  # they get ready side by side
    rows, dim = 8 * setting.sizes.patches(setting.image_size), setting.sizes.vit_dim
    shapes = [(rows, dim, 4 * dim), (rows, 4 * dim, dim)]
    rate = matmul_rate(args.device, shapes, dtype=getattr(torch, args.precision))
    take_steps = one_after_the_other if args.device == "cuda" else in_turn
    times, memory = take_steps(workers, warm_up=WARM_UP[args.device], rounds=args.rounds)
    pairs = setting.images * setting.captions
    pieces = workers[theirs].pieces
    who = "transformers in float32" if theirs == THEIRS_FLOAT32 else "transformers"
    for name in args.objectives:
        seconds, other = (statistics.median(times[worker]) for worker in (name, theirs))
        ratio = other / seconds if args.device == "cuda" else speedup(times, name, over=theirs)
        reached = step_operations(make_batch(setting, "cpu"), name, setting) / seconds
        print(
            f"{setting.images} images x {setting.captions} captions, {name}"
            f"{', compiled' if args.compile else ''}: "
            f"ours {pairs / seconds:.2f}, {who} {pairs / other:.2f} captions/s"
            f"{f' (in {pieces} pieces)' if pieces > 1 else ''}; "
            f"{ratio:.2f} x (goal {setting.goal}); {seconds * 1e3:.1f} ms a step; "
            f"{reached / 1e9:.0f} of {rate / 1e9:.0f} GFLOP/s, a share of {reached / rate:.2f}; "
            f"memory {memory[name]:.2f} GB, {who} {memory[theirs]:.2f} GB",
            flush=True,
        )


Measured = tuple[dict[str, list[float]], dict[str, float]]


def in_turn(workers: dict[str, "Worker"], *, warm_up: int, rounds: int) -> Measured:
    """Seconds of each one's steps, and its GB, all slowed down alike by what else is running."""
    times = {name: [] for name in workers}
    for counted in range(-warm_up, rounds):
        for name, worker in workers.items():
            seconds = worker.step()
            if counted >= 0:
                times[name].append(seconds)
    return times, {name: worker.end() / 1e9 for name, worker in workers.items()}


def one_after_the_other(workers: dict[str, "Worker"], *, warm_up: int, rounds: int) -> Measured:
    """The same, each of them gone before the next one begins."""
    times, memory = {}, {}
    for name, worker in workers.items():
        times[name] = [worker.step() for _ in range(warm_up + rounds)][warm_up:]
        memory[name] = worker.end() / 1e9
    return times, memory


class Worker:
    """A process that trains one of the models, a step for each line it is sent."""

    def __init__(self, args: argparse.Namespace, setting: Setting, name: str) -> None:
        command = [sys.executable, __file__, "--worker", name, "--captions", str(setting.captions)]
        command += ["--device", args.device, "--threads", str(args.threads)]
        precision = "float32" if name == THEIRS_FLOAT32 else args.precision
        command += ["--dropout", str(args.dropout), "--precision", precision]
        command += [f"--{flag}" for flag in ("compile", "tiny") if getattr(args, flag)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pieces = 1

    def answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker has failed; what it said is above")
        return line

    def step(self) -> float:
        """Takes a step; returns its seconds."""
        print(file=self.process.stdin, flush=True)
        seconds, pieces = self.answer().split()
        self.pieces = int(pieces)
        return float(seconds)

    def end(self) -> int:
        """Ends the process; returns the bytes it had at the highest, on CUDA those allocated."""
        self.process.stdin.close()
        memory = int(self.answer())
        self.process.wait()
        return memory


def work(args: argparse.Namespace, setting: Setting) -> None:
    """What a worker does: a step for each line of stdin, then its memory."""
    flush_denormals()  # as train.py does; with random weights many probabilities are that small
    batch = make_batch(setting, args.device)
    model = make_theirs(setting.sizes, setting.image_size, args.device)
    if args.worker not in OBJECTIVES:
        step = their_step(model, batch, args)
    else:
        ours = make_ours(model, setting.sizes, setting.image_size)
        check_same_loss(ours, model, make_batch(replace(setting, images=2), args.device))
        model = ours
        step = our_step(model, batch, args.worker, args)
    if args.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        pieces = step()
        wait_for(args.device)
        print(time.perf_counter() - started, pieces, flush=True)
    if args.device == "cuda":
        print(torch.cuda.max_memory_allocated())
    else:  # not getrusage: a child's figure there begins at its parent's
        [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        print(int(kilobytes) * 1024)


@dataclass(frozen=True)
class Batch:
    """(B, 3, S, S) images, (B, K, T) ids padded with 0, and where captions are not padding."""

    images: Tensor
    ids: Tensor

    def in_pieces(self, count: int) -> list["Batch"]:
        pairs = zip(self.images.chunk(count), self.ids.chunk(count), strict=True)
        return [Batch(images, ids) for images, ids in pairs]


def make_batch(setting: Setting, device: str) -> Batch:
    """Random pictures and words; captions of 12 to 16 tokens with [SEP], after the prompt."""
    generator = torch.Generator().manual_seed(0)
    rows = (setting.images, setting.captions)
    ends = torch.randint(len(PROMPT) + 12, len(PROMPT) + 17, rows, generator=generator)
    ids = torch.randint(1000, 30000, (*rows, int(ends.max())), generator=generator)
    ids[:, :, : len(PROMPT)] = torch.tensor(PROMPT)
    ids.scatter_(2, ends[:, :, None] - 1, SEP)
    ids.masked_fill_(torch.arange(ids.size(2)) >= ends[:, :, None], 0)
    images = torch.randn(setting.images, 3, *(2 * [setting.image_size]), generator=generator)
    return Batch(images.to(device), ids.to(device))


def our_loss(model: Captioner, batch: Batch, objective: str) -> Tensor:
    states = model.decode(batch.ids[:, :, :-1].flatten(0, 1), model.encode(batch.images))
    labels = batch.ids.flatten(0, 1)[:, len(PROMPT) :]
    return caption_loss(
        states[:, len(PROMPT) - 1 :],
        labels.masked_fill(labels == 0, IGNORE),
        weight=model.decoder.word_embed.weight,
        bias=model.decoder.head_bias,
        objective=objective,
    )


def their_loss(model: nn.Module, batch: Batch) -> Tensor:
    ids = batch.ids.flatten(0, 1)
    labels = ids.masked_fill(ids == 0, IGNORE)
    labels[:, : len(PROMPT)] = IGNORE
    images = batch.images.repeat_interleave(batch.ids.size(1), dim=0)
    return model(
        pixel_values=images, input_ids=ids, attention_mask=(ids != 0).long(), labels=labels
    ).loss


@torch.inference_mode()
def check_same_loss(ours: Captioner, theirs: nn.Module, batch: Batch) -> None:
    """Raises unless both give one loss where nothing is dropped."""
    a, b = our_loss(ours.eval(), batch, "mle").item(), their_loss(theirs.eval(), batch).item()
    if abs(a - b) > 1e-4 * b:
        raise SystemExit(f"ours has a loss of {a}, transformers of {b}: not the same computation")


def our_step(
    model: Captioner, batch: Batch, objective: str, args: argparse.Namespace
) -> Callable[[], int]:
    model.config = override(model.config, "train", {"compile": args.compile})
    for module in model.decoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = args.dropout
        elif isinstance(module, Attention):
            module.dropout = args.dropout
    return make_step(prepare(model), lambda piece: our_loss(model, piece, objective), batch, args)


def their_step(model: nn.Module, batch: Batch, args: argparse.Namespace) -> Callable[[], int]:
    for module in model.text_decoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = args.dropout
    return make_step(model, lambda piece: their_loss(model, piece), batch, args)


def make_step(
    model: nn.Module, loss: Callable[[Batch], Tensor], batch: Batch, args: argparse.Namespace
) -> Callable[[], int]:
    """A function that takes a step, and returns in how many pieces it went: as few as fit."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05, fused=True)
    pieces = 1

    def gradients() -> None:
        for piece in batch.in_pieces(pieces):
            with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bfloat16"):
                value = loss(piece)
            (value / pieces).backward()

    def step() -> int:
        nonlocal pieces
        while not fits(gradients):
            if pieces >= len(batch.images):
                raise SystemExit("not even one image's step fits this GPU")
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            pieces *= 2
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return pieces

    return step


def fits(call: Callable[[], None]) -> bool:
    """Whether a call gets through with the GPU's memory."""
    try:
        call()
    except torch.OutOfMemoryError:
        return False
    return True


def step_operations(batch: Batch, objective: str, setting: Setting) -> int:
    """Multiplications and additions of a step's matrix products, padding left out.

    Each product of the forward pass has two of its size in the backward pass, for its two inputs,
    but for the first, whose input is the image.
    """
    sizes, tokens = setting.sizes, setting.sizes.patches(setting.image_size)
    v, d = sizes.vit_dim, sizes.dim
    images, length = len(batch.images), (batch.ids != 0).sum().item() - batch.ids[..., 0].numel()
    patches = images * tokens
    block = 4 * v * v + 2 * v * 4 * v  # of the encoder, per patch: attention and MLP
    encoder = sizes.vit_depth * patches * (block + 2 * tokens * v)
    cross = sizes.depth * patches * 2 * v * d
    words = sizes.depth * length * (6 * d * d + 2 * d * 4 * d + 2 * tokens * d)
    rows = batch.ids[..., 0].numel()
    targets = length - (len(PROMPT) - 1) * rows
    scored = targets if objective == "mle" else rows  # by the whole vocabulary
    head = length * d * d + scored * d * VOCAB
    patch_embed = images * (tokens - 1) * 3 * 16 * 16 * v
    return 2 * (3 * (encoder + cross + words + head) + 2 * patch_embed)


if __name__ == "__main__":
    main()
