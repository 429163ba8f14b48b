"""Which runs the study is made of, the most valuable first, and how large they are."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the study is.

    epochs: of MLE. more: epochs of what follows. seeds: of the variants, 1 or 2.
    rate: the peak learning rate of what follows.
    every, starts, follows: settings of all runs, of those from nothing, and of the others.
    """

    epochs: int
    more: int
    seeds: int
    batch_size: int
    rate: float
    every: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()


# The configs are a GPU's. A CPU's batches are a quarter as large, so an epoch has more steps.
SIZES = {
    "gpu": Size(epochs=60, more=6, seeds=2, batch_size=128, rate=1e-4),
    "cpu": Size(
        epochs=30,
        more=2,
        seeds=1,
        batch_size=32,
        rate=5e-5,
        every=("vit.image_size=128", "train.weight_decay=0.1"),
        starts=(
            *("train.lr=6e-4", "train.warmup_steps=400"),
            *("train.ema=0.999", "train.val_every=2"),
        ),
        follows=("train.warmup_steps=80", "train.ema=0.997", "train.val_every=1"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A call of train.py.

    name: also of its folder, with the seed at its end. meaning: for people.
    init: the run whose last captioner it begins with; "" for none.
    to_score: whether evaluate.py scores it.
    judge: the MLE run of another seed that ranks images by this run's captions; "" for none.
    """

    name: str
    meaning: str
    config: Path
    settings: tuple[str, ...]
    init: str = ""
    to_score: bool = True
    judge: str = ""


@dataclass(frozen=True)
class Continuation:
    """What may follow MLE: settings of continue.toml, and a multiple of the size's rate."""

    name: str
    meaning: str
    settings: tuple[str, ...] = ()
    rate: float = 1.0


# All begin with the same MLE captioner and have as many epochs; "smile" and "mle" are the two that
# all others are measured by.
CONTINUED = (
    Continuation("mle", "MLE all along", ("loss.objective=mle",)),
    Continuation("smile", "MLE → SMILE"),
    Continuation("mix-0.01", "MLE → 0.01 MLE + 0.99 SMILE", ("loss.mle_weight=0.01",)),
    Continuation("mix-0.1", "MLE → 0.1 MLE + 0.9 SMILE", ("loss.mle_weight=0.1",)),
    Continuation("slow", "MLE → SMILE at 0.3 of the rate", rate=0.3),
    Continuation("fast", "MLE → SMILE at 3 times the rate", rate=3.0),
    Continuation("selective", "MLE → SMILE, selective end", ("loss.selective_end=true",)),
    Continuation("reverse", "MLE → reverse", ("loss.objective=reverse",)),
    Continuation("random", "MLE → random", ("loss.objective=random",)),
    Continuation("no-first", "MLE → SMILE without first-token MLE", ('loss.first_token="none"',)),
    Continuation("shift", "MLE → first-token shifting", ('loss.first_token="shift"',)),
)
FIRST = 2  # of these in both seeds before anything else
SCRATCH = "SMILE from scratch"
MEANINGS = {row.name: row.meaning for row in CONTINUED} | {"scratch": SCRATCH}

# What MLE's settings are made of: each is left out alone, to see what it is worth.
RECIPE = {
    "recipe": ("MLE", ()),
    "no-augment": ("without augmentation", ("data.augment=false",)),
    "no-dropout": ("without dropout", ("decoder.dropout=0",)),
    "no-drop-path": ("without stochastic depth", ("vit.drop_path=0",)),
    "no-smoothing": ("without label smoothing", ("loss.label_smoothing=0",)),
    "no-average": ("without the average of the weights", ("train.ema=0",)),
    "patch-stem": ("with one large convolution as the stem", ('vit.stem="patch"',)),
    "vocabulary": ("with a vocabulary of 8000 pieces", ("tokenizer.vocab_size=8000",)),
}


def plan(size: Size) -> list[Run]:
    """MLE in two seeds, one to judge the other, and what follows it."""
    starts = [
        Run(
            name=f"start-{seed}",
            meaning="MLE, what the others begin with",
            config=FOLDER / "mle.toml",
            settings=_from_nothing(seed, size, epochs=size.epochs),
            to_score=False,  # MLE all along is, which goes on from it
        )
        for seed in (1, 2)
    ]
    first = [_continued(row, seed, size) for seed in (1, 2) for row in CONTINUED[:FIRST]]
    others = []
    for seed in range(1, size.seeds + 1):
        scratch = Run(
            name=f"scratch-{seed}",
            meaning=SCRATCH,
            config=FOLDER / "mle.toml",
            settings=(
                "loss.objective=smile",
                *_from_nothing(seed, size, epochs=size.epochs + size.more),
            ),
            judge=f"start-{3 - seed}",
        )
        variants = [_continued(row, seed, size) for row in CONTINUED[FIRST:]]
        # It takes as long as a start. Where many train at a time it begins beside the starts.
        others += [*variants, scratch]
    return [*starts, *first, *others]


def recipe(size: Size) -> list[Run]:
    """MLE from nothing, and the same without each part of its settings."""
    return [
        Run(
            name=f"{name}-{seed}",
            meaning=meaning,
            config=FOLDER / "mle.toml",
            settings=(*_from_nothing(seed, size, epochs=size.epochs), *settings),
        )
        for seed in range(1, size.seeds + 1)
        for name, (meaning, settings) in RECIPE.items()
    ]


def _continued(row: Continuation, seed: int, size: Size) -> Run:
    return Run(
        name=f"{row.name}-{seed}",
        meaning=row.meaning,
        config=FOLDER / "continue.toml",
        settings=(
            *(f"train.epochs={size.more}", f"train.lr={size.rate * row.rate:.3g}"),
            *(*size.follows, *row.settings, *_common(seed, size)),
        ),
        init=f"start-{seed}",
        judge=f"start-{3 - seed}",
    )


def _from_nothing(seed: int, size: Size, *, epochs: int) -> tuple[str, ...]:
    return f"train.epochs={epochs}", *size.starts, *_common(seed, size)


def _common(seed: int, size: Size) -> tuple[str, ...]:
    return *size.every, f"train.seed={seed}", f"train.batch_size={size.batch_size}"
