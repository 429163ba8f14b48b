"""Which runs the study is made of, the most valuable first."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Run:
    """A call of train.py.

    name: also of its folder, with the seed at its end. meaning: for people.
    init: the run whose last captioner it begins with; "" for none.
    judge: the MLE run of another seed that ranks images by its captions; "" where it is not scored.
    """

    name: str
    meaning: str
    config: Path
    settings: tuple[str, ...]
    init: str = ""
    judge: str = ""


# Name, meaning, settings of continue.toml. All begin with the same MLE captioner and have as many
# epochs; "smile" and "mle" are the two that all others are measured by.
CONTINUED = (
    ("mle", "MLE all along", ("loss.objective=mle",)),
    ("smile", "MLE → SMILE", ()),
    ("mix-0.01", "MLE → 0.01 MLE + 0.99 SMILE", ("loss.mle_weight=0.01",)),
    ("mix-0.1", "MLE → 0.1 MLE + 0.9 SMILE", ("loss.mle_weight=0.1",)),
    ("slow", "MLE → SMILE at 0.3 of the rate", ("train.lr=3e-5",)),
    ("fast", "MLE → SMILE at 3 times the rate", ("train.lr=3e-4",)),
    ("selective", "MLE → SMILE, selective end", ("loss.selective_end=true",)),
    ("reverse", "MLE → reverse", ("loss.objective=reverse",)),
    ("random", "MLE → random", ("loss.objective=random",)),
    ("no-first", "MLE → SMILE without first-token MLE", ('loss.first_token="none"',)),
    ("shift", "MLE → first-token shifting", ('loss.first_token="shift"',)),
)
FIRST = 2  # of these in both seeds before anything else


def plan(*, epochs: int, more: int, seeds: int, batch_size: int) -> list[Run]:
    """`epochs` of MLE in two seeds, one to judge the other; `more` epochs of everything else.

    Args:
        seeds: 1 or 2, how many the variants get.
    """
    starts = [
        Run(
            name=f"start-{seed}",
            meaning="MLE, what the others begin with",
            config=FOLDER / "mle.toml",
            settings=(f"train.epochs={epochs}", *_common(seed, batch_size)),
        )
        for seed in (1, 2)
    ]
    first = [
        _continued(row, seed, more, batch_size) for seed in (1, 2) for row in CONTINUED[:FIRST]
    ]
    others = []
    for seed in range(1, seeds + 1):
        scratch = Run(
            name=f"scratch-{seed}",
            meaning="SMILE from scratch",
            config=FOLDER / "mle.toml",
            settings=(
                *("loss.objective=smile", f"train.epochs={epochs + more}"),
                *_common(seed, batch_size),
            ),
            judge=f"start-{3 - seed}",
        )
        variants = [_continued(row, seed, more, batch_size) for row in CONTINUED[FIRST:]]
        others += [scratch, *variants] if seed == 1 else [*variants, scratch]
    return [*starts, *first, *others]


def _continued(row: tuple[str, str, tuple[str, ...]], seed: int, more: int, batch_size: int) -> Run:
    name, meaning, settings = row
    return Run(
        name=f"{name}-{seed}",
        meaning=meaning,
        config=FOLDER / "continue.toml",
        settings=(f"train.epochs={more}", *settings, *_common(seed, batch_size)),
        init=f"start-{seed}",
        judge=f"start-{3 - seed}",
    )


def _common(seed: int, batch_size: int) -> tuple[str, ...]:
    return f"train.seed={seed}", f"train.batch_size={batch_size}"
