"""Training speed and memory beside transformers, in one run: the same weights, the same captions.

    python tests/benchmarks/bench_train.py            # two CPU threads, float32
    python tests/benchmarks/bench_train.py --device cuda

BLIP base's size with random weights, 224 px. A step is forward, loss, backward and AdamW (fused,
for both). transformers gets what its users give it: one caption a row, the image with each. Ours
gets the same pairs with the captions of an image together, and the captioner as `train.py` prepares
it. Both train with the same dropout; on CUDA both under bfloat16 autocast. Each has a process of
its own, set up as its own users have it, and these take their steps in turn. Printed are

    captions/s  the batch's captions over the median step, ours and transformers'
    x           the median of the rounds' own ratios, and the goal
    share       of the machine's matrix-product rate that our step reaches: the operations that it
                cannot do without, over the time it took
    memory      the most that each process had
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import project  # noqa: F401
import torch
from blip import BASE, PROMPT, SEP, TINY, VOCAB, make_ours, make_theirs
from machine import matmul_rate, wait_for
from torch import Tensor, nn

from smile.captioner import Captioner
from smile.config import override
from smile.head_loss import caption_loss
from smile.layers import Attention
from smile.loss import IGNORE
from smile.training.speed import prepare

IMAGE_SIZE = 224
DIM, HIDDEN, DEPTH, PATCHES = BASE.dim, 4 * BASE.dim, BASE.depth, BASE.patches(IMAGE_SIZE)
SHAPES = [(8 * PATCHES, DIM, HIDDEN), (8 * PATCHES, HIDDEN, DIM)]  # of the encoder's products


@dataclass(frozen=True)
class Setting:
    """`images` with `captions` captions each, and the ratio to reach."""

    images: int
    captions: int
    goal: float


CPU_SETTINGS = (Setting(8, 5, 3.2), Setting(8, 1, 1.1))
CUDA_SETTINGS = (Setting(64, 5, 4.0), Setting(64, 1, 1.1))
TINY_SETTINGS = (Setting(2, 2, 0.0),)
OBJECTIVES = ("smile", "mle")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.1, help="of both decoders")
    parser.add_argument("--compile", action="store_true", help="ours with train.compile = true")
    parser.add_argument("--captions", type=int, help="only the setting with so many an image")
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    parser.add_argument("--worker", choices=(*OBJECTIVES, "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = CUDA_SETTINGS if args.device == "cuda" else CPU_SETTINGS
    if args.tiny:
        settings, args.rounds = TINY_SETTINGS, 1
    for setting in settings:
        if args.captions in (None, setting.captions):
            (work if args.worker else compare)(args, setting)


def compare(args: argparse.Namespace, setting: Setting) -> None:
    """Prints a line for each objective: rates, ratio, share of the machine's rate, memory."""
    workers = {name: Worker(args, setting, name) for name in (*OBJECTIVES, "theirs")}
    for worker in workers.values():
        worker.answer()  # when it is ready: they start side by side
    rate = matmul_rate(args.device, SHAPES)
    times = {name: [] for name in workers}
    for counted in range(-1, args.rounds):
        for name, worker in workers.items():
            seconds = worker.step()
            if counted >= 0:
                times[name].append(seconds)
    memory = {name: worker.end() / 1e9 for name, worker in workers.items()}
    pairs = setting.images * setting.captions
    for name in OBJECTIVES:
        ratio = statistics.median(b / a for a, b in zip(times[name], times["theirs"], strict=True))
        seconds, other = (statistics.median(times[who]) for who in (name, "theirs"))
        reached = step_operations(make_batch(setting, "cpu"), name) / seconds
        print(
            f"{setting.images} images x {setting.captions} captions, {name}"
            f"{', compiled' if args.compile else ''}: "
            f"ours {pairs / seconds:.2f}, transformers {pairs / other:.2f} captions/s; "
            f"{ratio:.2f} x (goal {setting.goal}); "
            f"{reached / 1e9:.0f} of {rate / 1e9:.0f} GFLOP/s, a share of {reached / rate:.2f}; "
            f"memory {memory[name]:.2f} GB, transformers {memory['theirs']:.2f} GB",
            flush=True,
        )


class Worker:
    """A process that trains one of the models, a step for each line it is sent."""

    def __init__(self, args: argparse.Namespace, setting: Setting, name: str) -> None:
        command = [sys.executable, __file__, "--worker", name, "--captions", str(setting.captions)]
        command += ["--device", args.device, "--threads", str(args.threads)]
        command += ["--dropout", str(args.dropout)]
        command += [option for option in ("--compile", "--tiny") if getattr(args, option[2:])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker has failed; what it said is above")
        return line

    def step(self) -> float:
        """Takes a step; returns its seconds."""
        print(file=self.process.stdin, flush=True)
        return float(self.answer())

    def end(self) -> int:
        """Ends the process; returns the bytes it had at the highest."""
        self.process.stdin.close()
        memory = int(self.answer())
        self.process.wait()
        return memory


def work(args: argparse.Namespace, setting: Setting) -> None:
    """What a worker does: a step for each line of stdin, then its memory."""
    batch = make_batch(setting, args.device)
    sizes = TINY if args.tiny else BASE
    model = make_theirs(sizes, IMAGE_SIZE)
    if args.worker == "theirs":
        step = their_step(model, batch, args)
    else:
        ours = make_ours(model, sizes, IMAGE_SIZE)
        check_same_loss(ours, model, make_batch(Setting(2, setting.captions, 0), "cpu"))
        model = ours
        step = our_step(model, batch, args.worker, args)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        wait_for(args.device)
        print(time.perf_counter() - started, flush=True)
    if args.device == "cuda":
        print(torch.cuda.max_memory_allocated())
    else:  # not getrusage: a child's figure there begins at its parent's
        [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        print(int(kilobytes) * 1024)


@dataclass(frozen=True)
class Batch:
    """(B, 3, 224, 224) images, (B, K, T) ids padded with 0, and where captions are not padding."""

    images: Tensor
    ids: Tensor


def make_batch(setting: Setting, device: str) -> Batch:
    """Random pictures and words; captions of 12 to 16 tokens with [SEP], after the prompt."""
    generator = torch.Generator().manual_seed(0)
    rows = (setting.images, setting.captions)
    ends = torch.randint(len(PROMPT) + 12, len(PROMPT) + 17, rows, generator=generator)
    ids = torch.randint(1000, 30000, (*rows, int(ends.max())), generator=generator)
    ids[:, :, : len(PROMPT)] = torch.tensor(PROMPT)
    ids.scatter_(2, ends[:, :, None] - 1, SEP)
    ids.masked_fill_(torch.arange(ids.size(2)) >= ends[:, :, None], 0)
    images = torch.randn(setting.images, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    return Batch(images.to(device), ids.to(device))


def our_loss(model: Captioner, batch: Batch, objective: str) -> Tensor:
    [states] = model(batch.images, [batch.ids[:, :, :-1]])
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
) -> Callable[[], None]:
    model.config = override(model.config, "train", {"compile": args.compile})
    for module in model.decoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = args.dropout
        elif isinstance(module, Attention):
            module.dropout = args.dropout
    return make_step(
        prepare(model.to(args.device)), lambda: our_loss(model, batch, objective), args
    )


def their_step(model: nn.Module, batch: Batch, args: argparse.Namespace) -> Callable[[], None]:
    for module in model.text_decoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = args.dropout
    return make_step(model, lambda: their_loss(model, batch), args)


def make_step(model: nn.Module, loss: Callable[[], Tensor], args) -> Callable[[], None]:
    model.train().to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05, fused=True)

    def step() -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def step_operations(batch: Batch, objective: str) -> int:
    """Multiplications and additions of a step's matrix products, padding left out.

    Each product of the forward pass has two of its size in the backward pass, for its two inputs,
    but for the first, whose input is the image.
    """
    images, length = len(batch.images), (batch.ids != 0).sum().item() - batch.ids[..., 0].numel()
    patches = images * PATCHES
    block = 4 * DIM * DIM + 2 * DIM * HIDDEN  # of the encoder, per patch: attention and MLP
    encoder = DEPTH * patches * (block + 2 * PATCHES * DIM)
    cross = DEPTH * patches * 2 * DIM * DIM
    words = DEPTH * length * (6 * DIM * DIM + 2 * DIM * HIDDEN + 2 * PATCHES * DIM)
    rows = batch.ids[..., 0].numel()
    targets = length - (len(PROMPT) - 1) * rows
    scored = targets if objective == "mle" else rows  # by the whole vocabulary
    head = length * DIM * DIM + scored * DIM * VOCAB
    patch_embed = images * (PATCHES - 1) * 3 * 16 * 16 * DIM
    return 2 * (3 * (encoder + cross + words + head) + 2 * patch_embed)


if __name__ == "__main__":
    main()
