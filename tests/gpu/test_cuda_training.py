"""Training on CUDA: in every precision, stopped and resumed, under torchrun, within its memory."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SMALL, config_of, differences, train_in_bits, trainer_of
from on_device import DEVICE, HERE, needs_cuda, needs_device, step_losses
from several_processes import DROPOUT, NO_DROPOUT

from smile.config import Config, DecoderConfig, ViTConfig, override
from smile.loss import IGNORE
from smile.model.captioner import Captioner
from smile.system.distributed import World
from smile.training.head_loss import BLOCK, caption_loss
from smile.training.precision import Precision
from smile.training.speed import prepare, train_mode

pytestmark = needs_device


# Precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["smile", "mle", "reverse"])
def test_losses_in_float32_are_the_cpu_s(objective, tmp_path):
    settings = ("train.precision=float32", f"loss.objective={objective}")
    here = step_losses(tmp_path / "here", *settings)
    there = step_losses(tmp_path / "there", *settings, "train.device=cpu")
    assert here == pytest.approx(there, rel=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("objective", ["smile", "mle"])
def test_steps_in_half_precision_are_finite_and_close(precision, objective, tmp_path, note):
    """float16 may leave out its first steps, until its scale fits."""
    if precision == "float16" and DEVICE.type != "cuda":
        pytest.skip("float16 trains on CUDA only")
    name = f"loss.objective={objective}"
    exact = step_losses(tmp_path / "exact", name, "train.precision=float32")
    rounded = step_losses(tmp_path / "rounded", name, f"train.precision={precision}")
    note(f"{precision}, {objective}: losses {rounded[0]:.4f} to {rounded[-1]:.4f}, "
         f"float32 {exact[0]:.4f} to {exact[-1]:.4f}")  # fmt: skip
    assert all(map(math.isfinite, rounded))
    assert rounded[0] == pytest.approx(exact[0], rel=0.02)
    assert rounded[-1] == pytest.approx(exact[-1], rel=0.1)
    assert rounded[-1] < rounded[0]


# Resuming -----------------------------------------------------------------------------------------


def epoch_losses(folder: Path) -> list[float]:
    records = map(json.loads, (folder / "log.jsonl").read_text("utf-8").splitlines())
    return [record[key] for record in records for key in ("train_loss", "val_loss")]


def run_and_resume(folder: Path, *settings: str) -> tuple[list[str], list[str]]:
    """Trains twice without and once with interruptions: how the second and the third differ.

    The epochs' losses are close in any case.
    """
    config = config_of(*DROPOUT, HERE, "data.augment=true", *settings)
    for name in ("once", "twice"):
        trainer_of(config, folder / name, World()).run()
    train_in_bits(config, folder / "resumed", World(), pauses=[1, 2, 5])
    once, twice, resumed = (folder / name for name in ("once", "twice", "resumed"))
    for other in (twice, resumed):
        assert epoch_losses(other) == pytest.approx(epoch_losses(once), rel=0.02)
    return differences(twice, once), differences(resumed, once)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_is_as_close_as_the_same_run_again(precision, tmp_path, note):
    """Some of CUDA's sums are taken in any order, so a run need not repeat itself bit for bit."""
    again, resumed = run_and_resume(tmp_path, f"train.precision={precision}")
    note(f"{precision}: run again: {again or 'bit-equal'}; resumed: {resumed or 'bit-equal'}")
    if not again:
        assert resumed == []


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_with_deterministic_algorithms_a_resumed_run_is_bit_equal(
    precision, tmp_path, deterministic
):
    again, resumed = run_and_resume(tmp_path, f"train.precision={precision}")
    assert again == [] and resumed == []


# Under torchrun -----------------------------------------------------------------------------------


def torchrun(*words: object) -> None:
    """Runs a script in one process that torchrun starts, on a machine without a network."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [sys.executable, *launcher, "--nproc-per-node", "1", *map(str, words)]
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | loopback, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_one_process_under_torchrun_exchanges_gradients_with_itself(tmp_path):
    settings = (*NO_DROPOUT, HERE, "train.precision=float32")
    trainer_of(config_of(*settings), tmp_path / "alone", World()).run()
    torchrun(ROOT / "tests" / "gpu" / "one_process.py", tmp_path / "wrapped", DEVICE, *settings)
    losses = [epoch_losses(tmp_path / name) for name in ("wrapped", "alone")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_train_py_under_torchrun(tmp_path):
    options = [word for setting in (*SMALL, HERE) for word in ("--set", setting)]
    torchrun("train.py", "configs/shapes.toml", "--out", tmp_path / "run", *options)
    assert len(epoch_losses(tmp_path / "run")) == 4


# Memory -------------------------------------------------------------------------------------------

VIT = ViTConfig(image_size=224, patch_size=16, dim=768, depth=4, num_heads=12, mlp_dim=3072)
DECODER = DecoderConfig(
    vocab_size=30524, dim=768, features_dim=768, depth=4, num_heads=12, mlp_dim=3072
)
IMAGES, WORDS = 16, 20


def bytes_of_a_step(parameters: int, captions: int) -> int:
    """What a step under bfloat16 autocast may need, from the sizes alone.

    Weights, gradients and AdamW's two moments in float32, and the weights once more in bfloat16;
    per token and block what the backward pass reads, in multiples of the width (30 numbers of two
    bytes in the encoder, where 20 were counted, 64 in the decoder, of 52), and per patch and block
    8 for the image's keys and values; a block of scores, twice in each type; the head's gradient
    twice more and in bfloat16, while its parts are added up; cuBLAS's workspaces.
    """
    patches = IMAGES * ((VIT.image_size // VIT.patch_size) ** 2 + 1)
    encoder = 30 * 2 * VIT.dim * patches * VIT.depth
    words = 64 * 2 * DECODER.dim * IMAGES * captions * WORDS * DECODER.depth
    image = 8 * 2 * DECODER.dim * patches * DECODER.depth
    scores = BLOCK * DECODER.vocab_size * 2 * (4 + 2)
    head = DECODER.vocab_size * DECODER.dim * (4 + 4 + 2)
    return 18 * parameters + encoder + words + image + scores + head + 2**26


def training_step(captions: int, objective: str):
    """A captioner, and a function that takes a step of `IMAGES` images with so many captions."""
    torch.manual_seed(0)
    with DEVICE:
        captioner = Captioner(config=Config(vit=VIT, decoder=DECODER)).init_weights()
    captioner.config = override(captioner.config, "train", {"precision": "bfloat16"})
    train_mode(prepare(captioner))
    precision = Precision("bfloat16", DEVICE)
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=1e-5, fused=True)
    images = torch.randn(IMAGES, 3, VIT.image_size, VIT.image_size, device=DEVICE)
    ids = torch.randint(1, DECODER.vocab_size, (IMAGES, captions, WORDS + 1), device=DEVICE)

    def step() -> None:
        labels = ids[:, :, 1:].flatten(0, 1)
        with precision.autocast():
            states = captioner.decode(ids[:, :, :-1].flatten(0, 1), captioner.encode(images))
            loss = caption_loss(
                states,
                labels.masked_fill(labels == 0, IGNORE),
                weight=captioner.decoder.word_embed.weight,
                bias=captioner.decoder.head_bias,
                objective=objective,
            )
        precision.backward(loss)
        precision.step(optimizer, captioner.parameters(), 1.0)
        optimizer.zero_grad(set_to_none=True)

    return captioner, step


@needs_cuda
@pytest.mark.parametrize("objective", ["smile", "mle"])
@pytest.mark.parametrize("captions", [1, 5])
def test_a_step_s_memory_is_bounded_by_its_sizes(captions, objective, note):
    captioner, step = training_step(captions, objective)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step()
    peak = torch.cuda.max_memory_allocated()
    bound = bytes_of_a_step(sum(p.numel() for p in captioner.parameters()), captions)
    note(f"{objective}, {IMAGES} x {captions}: {peak / 1e9:.2f} GB of {bound / 1e9:.2f} at most")
    assert peak <= bound
    del captioner, step
    torch.cuda.empty_cache()
