"""A run does what its formulas say: each step, each rate, each number of the log, the epoch kept.

Other tests compare a run with another of the same code, which a mistake in both would pass. Here
the other side is written down once more, the long way: the losses of `loss.py` on all logits, AdamW
(Loshchilov and Hutter 2019) one tensor at a time, the schedule and the moving average by hand.
"""

import copy
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import walks_by_chance
from torch import Tensor

import train
from smile.config import Config, load_config
from smile.data.batches import Batch, BatchRow
from smile.data.shapes import check_caption
from smile.loss import IGNORE, mle_loss, random_loss, reverse_loss, smile_loss
from smile.model.captioner import Captioner
from smile.training.setup import make_captioner
from smile.training.splits import load_splits
from smile.weights.run_folder import load_run

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "configs" / "shapes.toml"
# 3 images with 5 captions each: 4 batches of 4 images with a caption each, 2 steps an epoch; two
# epochs of MLE, two of the objective. No setting that a step depends on has its default.
SETTINGS = (
    "vit.image_size=8", "vit.patch_size=4", "vit.dim=16", "vit.depth=1", "vit.num_heads=2",
    "vit.mlp_dim=16", "decoder.dim=16", "decoder.depth=1", "decoder.num_heads=4",
    "decoder.mlp_dim=16", "decoder.dropout=0.0", "data.num_train=3", "data.num_val=3",
    "data.num_test=0", "data.captions_per_image=1", "data.prompt=we see ", "data.max_tokens=20",
    "loss.mle_epochs=2", "loss.lr=2e-3", "loss.warmup_steps=1", "loss.mle_weight=0.3",
    "loss.label_smoothing=0.2", "loss.num_random=3", "loss.selective_end=true",
    "train.epochs=4", "train.batch_size=4", "train.accumulate=2", "train.lr=4e-3",
    "train.min_lr=5e-4", "train.warmup_steps=2", "train.weight_decay=3.0",
    "train.betas=[0.7, 0.9]", "train.grad_clip=1.1", "train.ema=0.3", "train.seed=5",
    "train.device=cpu", "train.workers=0", "train.val_every=2", "train.caption_images=2",
    "generate.max_length=12",
)  # fmt: skip
OBJECTIVES = {
    "smile": ("loss.objective=smile", "loss.first_token=none"),
    "smile from the first token": ("loss.objective=smile", "loss.first_token=mle"),
    "smile, shifted": ("loss.objective=smile", "loss.first_token=shift"),
    "smile, two captions": ("loss.objective=smile", "data.captions_per_image=2"),
    "reverse": ("loss.objective=reverse", "loss.first_token=none"),
    "random": ("loss.objective=random", "loss.first_token=none"),
    "mle": ("loss.objective=mle", "loss.mle_epochs=0", "loss.selective_end=false"),
}


# The formulas -------------------------------------------------------------------------------------


def expected_rates(config: Config, steps: int) -> list[float]:
    """The learning rate at each step of the run, of so many steps an epoch."""
    loss, settings = config.loss, config.train
    phases = [(settings.epochs, settings.lr, settings.warmup_steps)]
    if loss.objective != "mle":
        phases = [(loss.mle_epochs, settings.lr, settings.warmup_steps)]
        phases += [(settings.epochs - loss.mle_epochs, loss.lr, loss.warmup_steps)]
    rates = []
    for epochs, highest, warmup in phases:
        rates += [highest * (i + 1) / warmup for i in range(warmup)]
        falling = epochs * steps - warmup
        for i in range(falling):
            half_a_wave = (1 + math.cos(math.pi * i / (falling - 1))) / 2
            rates.append(settings.min_lr + (highest - settings.min_lr) * half_a_wave)
    return rates


def expected_loss(captioner: Captioner, batch: Batch, objective: str) -> tuple[Tensor, int]:
    """The loss summed over a batch's tokens, and their number."""
    config, tokenizer = captioner.config.loss, captioner.tokenizer
    prompt = len(tokenizer.prompt_ids(captioner.config.data.prompt))
    features = captioner.encode(batch.images)
    ids = batch.ids.flatten(0, 1)
    logits = captioner.logits(captioner.decode(ids[:, :-1], features))[:, prompt - 1 :]
    labels = ids[:, prompt:].masked_fill(ids[:, prompt:] == 0, IGNORE)
    shared = {
        "end_id": tokenizer.sep_id if config.selective_end else None,
        "reduction": "sum",
    }
    mle = mle_loss(logits, labels, label_smoothing=config.label_smoothing, **shared)
    shared["first_token_mle"] = config.first_token == "mle"
    tokens = int((labels != IGNORE).sum())
    if objective == "mle":
        return mle, tokens
    if objective == "random":
        subset = random_loss(logits, labels, num_random=config.num_random, **shared)
    else:
        subset = {"smile": smile_loss, "reverse": reverse_loss}[objective](logits, labels, **shared)
    return config.mle_weight * mle + (1 - config.mle_weight) * subset, tokens


@dataclass
class Textbook:
    """A captioner trained by the formulas.

    average: the moving average of its weights; gradients, squares: AdamW's two averages.
    """

    captioner: Captioner
    steps: int = 0
    averaged: int = 0
    average: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = list(self.captioner.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.gradients = [torch.zeros_like(weight) for weight in self.weights]
        self.squares = [torch.zeros_like(weight) for weight in self.weights]

    def step(self, batches: list[Batch], objective: str, rate: float) -> tuple[float, int]:
        """Returns the loss summed over the tokens, and their number."""
        pairs = [expected_loss(self.captioner, batch, objective) for batch in batches]
        loss, tokens = sum(loss for loss, _ in pairs), sum(tokens for _, tokens in pairs)
        gradients = torch.autograd.grad(loss / tokens, self.weights)
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
        self.clipped = norm > self.captioner.config.train.grad_clip
        scale = min(1.0, self.captioner.config.train.grad_clip / norm)
        self.steps += 1
        for number, gradient in enumerate(gradients):
            self._adamw(number, gradient * scale, rate)
        self._move_average()
        return loss.item(), tokens

    @torch.no_grad()
    def _adamw(self, number: int, gradient: Tensor, rate: float) -> None:
        config = self.captioner.config.train
        (beta1, beta2), weight = config.betas, self.weights[number]
        mean = self.gradients[number] = beta1 * self.gradients[number] + (1 - beta1) * gradient
        square = self.squares[number] = beta2 * self.squares[number] + (1 - beta2) * gradient**2
        mean, square = mean / (1 - beta1**self.steps), square / (1 - beta2**self.steps)
        weight -= rate * config.weight_decay * weight
        weight -= rate * mean / (square.sqrt() + 1e-8)

    @torch.no_grad()
    def _move_average(self) -> None:
        self.averaged += 1
        kept = (1 + self.averaged) / (10 + self.averaged)
        kept = min(kept, self.captioner.config.train.ema)
        pairs = zip(self.average, self.weights, strict=True)
        self.average = [kept * old + (1 - kept) * weight for old, weight in pairs]

    @torch.no_grad()
    def switch(self) -> None:
        """The next phase goes on from the average."""
        for weight, average in zip(self.weights, self.average, strict=True):
            weight.copy_(average)
        self.averaged = 0


# A run, watched -----------------------------------------------------------------------------------


@dataclass
class Seen:
    """An optimiser step of a run: what it was given, and the weights after it.

    in_training: whether dropout and stochastic depth were on."""

    batches: list[Batch]
    rate: float
    weights: list[Tensor]
    in_training: bool


class Run:
    """A run by train.py in folder `run`: its `start`, `steps`, `examples`, and what it wrote."""

    def __init__(self, run_main, monkeypatch, *settings: str) -> None:
        self.steps: list[Seen] = []
        self.config = load_config(CONFIG, settings)
        torch.manual_seed(self.config.train.seed)
        self.examples = load_splits(self.config)
        self.start = make_captioner(self.config, self.examples["train"])
        step = train.Trainer.step

        def watched(trainer, batches, *args):
            torch.manual_seed(len(self.steps))  # for the random words
            result = step(trainer, batches, *args)
            [rate] = {group["lr"] for group in trainer.optimizer.param_groups}
            captioner = trainer.captioner
            weights = [weight.detach().clone() for weight in captioner.parameters()]
            in_training = all(module.training for module in captioner.modules())
            self.steps.append(Seen(batches, rate, weights, in_training))
            return result

        monkeypatch.setattr(train.Trainer, "step", watched)
        options = [word for setting in settings for word in ("--set", setting)]
        status, _, errors = run_main(CONFIG, "--out", "run", *options)
        assert status == 0, errors
        lines = Path("run/log.jsonl").read_text().splitlines()
        self.log = [json.loads(line) for line in lines]
        self.last = load_run(Path("run/last"))


@pytest.fixture
def watch(run_main, quick_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *settings: Run(run_main, monkeypatch, *SETTINGS, *settings)


@pytest.mark.parametrize("settings", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_run_is_what_the_formulas_make_of_its_batches(settings, watch):
    """Rates, weights after each step, the averages that are kept, and the losses of the log."""
    run = watch(*settings)
    config, book = run.config, Textbook(copy.deepcopy(run.start).train())
    names = [name for name, _ in run.start.named_parameters()]
    rates = expected_rates(config, steps=2)
    assert [step.rate for step in run.steps] == pytest.approx(rates)
    sums, clipped = [[0.0, 0], [0.0, 0]], set()  # of two epochs each
    for number, (step, rate) in enumerate(zip(run.steps, rates, strict=True)):
        epoch, in_batch = divmod(number, 2)
        in_mle = epoch < config.loss.mle_epochs or config.loss.objective == "mle"
        if epoch == config.loss.mle_epochs > 0 and in_batch == 0:
            kept = load_run(Path("run/mle")).parameters()
            assert_close(names, kept, book.average, within=rates[number - 1])
            book.switch()
        torch.manual_seed(number)
        loss, tokens = book.step(step.batches, "mle" if in_mle else config.loss.objective, rate)
        sums[epoch // 2][0] += loss
        sums[epoch // 2][1] += tokens
        clipped.add(book.clipped)
        assert_close(names, step.weights, book.weights, within=rate)
        assert step.in_training
    assert clipped == {True, False}  # or the limit on the gradient's norm would be untested
    assert_close(names, run.last.parameters(), book.average, within=rate)
    losses = [loss / tokens for loss, tokens in sums]
    assert [record["train_loss"] for record in run.log] == pytest.approx(losses, rel=1e-4)


def assert_close(
    names: list[str], found: Iterable[Tensor], expected: list[Tensor], *, within: float
) -> None:
    """Weights equal but for rounding: a hundredth of how far a step at the rate `within` goes."""
    for name, weight, right in zip(names, found, expected, strict=True):
        if not walks_by_chance(name):
            assert (weight - right).abs().max() < 0.01 * within, name


def test_each_epoch_deals_every_caption_once_in_an_order_of_its_own(watch):
    run = watch("data.captions_per_image=2")
    pixels = {ex.name: run.start.transform(ex.read()) for ex in run.examples["train"]}
    epochs = []
    for epoch in range(4):
        batches = [batch for step in run.steps[2 * epoch : 2 * epoch + 2] for batch in step.batches]
        dealt = []
        for batch in batches:
            for name, image, captions in zip(batch.names, batch.images, batch.ids, strict=True):
                assert torch.equal(image, pixels[name])
                dealt += [(name, *ids[ids != 0].tolist()) for ids in captions if ids.any()]
        epochs.append(dealt)
    encode = partial(run.start.tokenizer.encode, prompt="we see ", max_tokens=20)
    examples = run.examples["train"]
    every = Counter((ex.name, *encode(caption)) for ex in examples for caption in ex.captions)
    assert all(Counter(epoch) == every for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


def trainer_of(folder: Path, *settings: str) -> train.Trainer:
    config = load_config(CONFIG, (*SETTINGS, *settings))
    examples = load_splits(config)
    return train.Trainer(make_captioner(config, examples["train"]), folder, examples)


def test_the_seed_decides_order_and_augmentation(tmp_path):
    def dealt(seed: int) -> tuple[list, Tensor]:
        batches = trainer_of(tmp_path, f"train.seed={seed}", "data.augment=true").batches
        picture = batches.dataset[BatchRow(example=0, captions=(0,), epoch=0)][1]
        return list(batches.batch_sampler), picture

    (order, picture), (again, same), (another, other) = map(dealt, (5, 5, 6))
    assert order == again != another
    assert torch.equal(picture, same) and not torch.equal(picture, other)


def test_validation_takes_pictures_as_they_are(tmp_path):
    trainer = trainer_of(tmp_path, "data.augment=true")
    examples = trainer.examples["val"]
    batch = next(iter(trainer.data.loader("val")))
    for name, pixels in zip(batch.names, batch.images, strict=True):
        [picture] = [example.read() for example in examples if example.name == name]
        assert torch.equal(pixels, trainer.captioner.transform(picture))


def test_the_log_says_what_the_saved_captioner_does(watch):
    """Its loss on the validation images without dropout, its captions, and how true they are."""
    run = watch("decoder.dropout=0.5", "vit.drop_path=0.5", "vit.depth=2", "data.num_val=4")
    examples, captioner = run.examples["val"], run.last
    total = tokens = 0
    for example in examples:
        image = captioner.transform(example.read())[None]
        for caption in example.captions:
            ids = captioner.tokenizer.encode(caption, prompt="we see ", max_tokens=20)
            batch = Batch(images=image, ids=torch.tensor([[ids]]), names=[example.name])
            with torch.inference_mode():
                loss, count = expected_loss(captioner, batch, "smile")
            total, tokens = total + loss.item(), tokens + count
    record = run.log[-1]
    assert record["val_loss"] == pytest.approx(total / tokens, rel=1e-4)
    shown = examples[:2]
    captions = captioner.caption([example.read() for example in shown])
    assert record["captions"] == {e.name: c for e, c in zip(shown, captions, strict=True)}
    statements = [
        statement.true
        for example, caption in zip(shown, captions, strict=True)
        for statement in check_caption(caption, example)
    ]
    assert record["statements"] == len(statements) > 0
    assert record["true_share"] == sum(statements) / len(statements)
    assert record["caption_words"] == sum(len(c.split()) for c in captions) / 2
    rates = expected_rates(run.config, steps=2)
    assert [record["lr"] for record in run.log] == pytest.approx([rates[3], rates[7]])


def test_validation_is_the_same_twice(watch, monkeypatch):
    """With dropout, stochastic depth and an objective that draws words."""
    validate, pairs = train.Trainer.validation_loss, []

    def twice(trainer, phase):
        pairs.append([validate(trainer, phase) for _ in range(2)])
        return pairs[-1][0]

    monkeypatch.setattr(train.Trainer, "validation_loss", twice)
    random = ("decoder.dropout=0.5", "vit.drop_path=0.5", "vit.depth=2", "loss.objective=random")
    run = watch(*random)
    assert [one for one, other in pairs if one == other] == [r["val_loss"] for r in run.log]


def test_the_folder_holds_the_best_epoch_of_its_phase(watch, monkeypatch):
    """By the validation loss; the losses of MLE and SMILE are not to be compared."""
    losses, best_so_far = [5.0, 4.0, 6.0, 9.0, 8.0, 8.5], [0, 1, 1, 3, 4, 4]
    weights, found = [], []

    def look() -> None:
        if weights:
            found.append(load_run(Path("run")).state_dict())

    def preset(trainer, phase):
        look()
        weights.append({k: v.clone() for k, v in trainer.captioner.state_dict().items()})
        return losses[len(weights) - 1]

    monkeypatch.setattr(train.Trainer, "validation_loss", preset)
    epochs = ("train.epochs=6", "loss.mle_epochs=3", "train.val_every=1", "train.batch_size=20")
    run = watch(*epochs)
    look()
    assert [record["val_loss"] for record in run.log] == losses
    for kept, best in zip(found, best_so_far, strict=True):
        assert [n for n, epoch in enumerate(weights) if same(epoch, kept)] == [best]
    assert same(load_run(Path("run/mle")).state_dict(), weights[2])  # as it was at the switch
    assert same(run.last.state_dict(), weights[5])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


def test_what_a_run_begins_with():
    """As `init_weights` promises: by width, and positions as large as the patches."""
    sizes = (
        "data.num_train=8",
        "vit.dim=256",
        "decoder.dim=64",
        "vit.num_heads=4",
        "decoder.num_heads=4",
    )
    config = load_config(CONFIG, sizes)
    torch.manual_seed(0)
    captioner = make_captioner(config, load_splits(config)["train"])
    for name, weight in captioner.named_parameters():
        width = 256 if name.startswith("vit.") else 64
        if name == "vit.positions":
            expected = 0.5
        elif name == "vit.class_token":
            expected = 0.02
        elif "norm" in name and name.endswith("weight"):
            assert (weight == 1).all(), name
            continue
        elif name.endswith("bias"):
            assert (weight == 0).all(), name
            continue
        else:
            expected = 0.02 * (768 / width) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.15), name
