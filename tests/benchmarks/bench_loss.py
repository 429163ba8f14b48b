"""Head and loss alone, forward and backward: time and memory beside the formulas over all words.

    python tests/benchmarks/bench_loss.py

SMILE from the states of 16 captions of 24 tokens, beside the reference's way: score all 30524
words, mask those outside the caption, cross entropy. MLE in blocks, for 4096 tokens, beside the
same in one piece. Both of a pair take turns in one process; printed are the medians, their ratio,
and the memory each takes beyond its inputs and their gradients (the process's highest, from the
system).
"""

import argparse
import ctypes
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import project  # noqa: F401
import torch
import torch.nn.functional as F
from bench_generate import in_turn
from machine import speedup
from torch import Tensor

from smile.training.head_loss import caption_loss

VOCAB, DIM = 30524, 768


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    args = parser.parse_args()
    rounds = 1 if args.tiny else args.rounds
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    weight = (torch.randn(VOCAB, DIM) * 0.02).requires_grad_()
    bias = torch.zeros(VOCAB, requires_grad=True)

    def ours(objective: str) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda states, labels: caption_loss(
            states, labels, weight=weight, bias=bias, objective=objective
        )

    def masked(states: Tensor, labels: Tensor) -> Tensor:
        logits = F.linear(states, weight, bias)
        allowed = torch.zeros(len(labels), VOCAB, dtype=torch.bool).scatter_(1, labels, True)
        allowed = allowed[:, None].repeat(1, labels.size(1), 1)
        allowed[:, 0] = True
        return F.cross_entropy(logits.masked_fill(~allowed, -1e9).flatten(0, 1), labels.flatten())

    def whole(states: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(states, weight, bias).flatten(0, 1), labels.flatten())

    cases = (
        ("SMILE", (16, 24), ours("smile"), masked, "goal: 3.5 x, 0.10"),
        ("MLE in blocks", (256, 16), ours("mle"), whole, "goal: memory that is bounded"),
    )
    for name, shape, mine, theirs, goal in cases:
        shape = (2, 6) if args.tiny else shape
        states = torch.randn(*shape, DIM, requires_grad=True)
        labels = torch.randint(VOCAB, shape)
        leaves = (states, weight, bias)
        runs = {"ours": (mine, states, labels, leaves), "formula": (theirs, states, labels, leaves)}
        calls = {who: lambda run=run: forward_backward(*run) for who, run in runs.items()}
        times, losses = in_turn(calls, rounds=rounds)
        if abs(losses["ours"] - losses["formula"]) > 1e-4:
            raise SystemExit(f"{name}: not the same loss: {losses}")
        ratio = speedup(times, "ours", over="formula")
        a, b = (statistics.median(times[who]) * 1e3 for who in runs)
        memory = {who: extra_memory(call, leaves) / 1e6 for who, call in calls.items()}
        print(
            f"{name}, {shape[0]} x {shape[1]}: ours {a:.0f} ms, formula {b:.0f} ms; {ratio:.2f} x; "
            f"memory beside inputs and gradients {memory['ours']:.0f} MB, "
            f"formula {memory['formula']:.0f} MB, "
            f"{memory['ours'] / memory['formula']:.3f} of it ({goal})",
            flush=True,
        )


def forward_backward(loss: Callable, states: Tensor, labels: Tensor, leaves: tuple) -> float:
    for leaf in leaves:
        leaf.grad = None
    value = loss(states, labels)
    value.backward()
    return value.item()


def extra_memory(call: Callable[[], float], leaves: tuple[Tensor, ...]) -> int:
    """Bytes at the highest while `call` runs, beyond what was there before and the gradients."""
    for leaf in leaves:
        leaf.grad = None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed earlier goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew from here
    before = memory_in_use("VmRSS")
    call()
    return memory_in_use("VmHWM") - before - sum(leaf.nbytes for leaf in leaves)


def memory_in_use(key: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at the highest (VmHWM). Linux only."""
    [kilobytes] = re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main()
