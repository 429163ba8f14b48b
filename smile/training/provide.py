"""What a run or a score needs and this machine lacks: named at once, and fetched before the work.

Local mistakes come first: nothing is downloaded for a command that cannot succeed. Then all that is
missing is known before the first byte. Of weights only the small files are fetched here, which
everything else would be useless without; the large ones come last, when the data have been read.
"""

import os
from collections.abc import Callable, Sequence

from smile.config import Config, DataConfig
from smile.data import download, karpathy
from smile.errors import UserError
from smile.system.distributed import World
from smile.system.download import NotReached, offline
from smile.system.missing import Missing, refuse, shown_size
from smile.training.setup import load_init
from smile.training.splits import Splits, load_splits
from smile.weights import needed
from smile.weights.repository import ELSEWHERE


def provide(config: Config, world: World, *, resumes: bool = False) -> Splits:
    """The examples of each split that a run needs, fetched by one process if they are missing.

    Args:
        resumes: whether the run has weights of its own, and a vocabulary with them.

    Raises:
        UserError: as `fetch`, or the data are wrong.
    """
    sources = [config.model.init] if config.model.init and not resumes else []
    vocab = "" if resumes else config.tokenizer.vocab
    world.first(
        lambda: fetch(
            config.data, sources=sources, vocab=vocab, try_out=lambda _: load_init(config)
        )
    )
    return load_splits(config)


def fetch(
    data: DataConfig,
    *,
    sources: Sequence[str] = (),
    vocab: str | None = None,
    try_out: Callable[[str], object] = lambda source: None,
) -> None:
    """Fetches the data that are missing, and the small files of weights.

    Args:
        sources: what `load` will be asked for.
        vocab: the vocabulary that it will be given; "" or None if it is the source's own.
        try_out: loads a source; called for those that are here, before data are fetched.

    Raises:
        UserError: a source or the vocabulary does not exist, or something cannot be fetched: then
            all that is missing is named.
    """
    if vocab and not os.path.isfile(vocab):
        raise UserError(
            f"{vocab}: there is no such vocabulary (tokenizer.vocab, or --vocab): expected a BERT "
            "vocab.txt; without the setting it comes with the weights"
        )
    _refuse_what_cannot_come(data, _missing(data, sources, own_vocab=not vocab))
    try:
        for source in sources:
            needed.fetch_small(source, own_vocab=not vocab)
        if download.missing(data):
            for source in sources:
                if needed.local(source).exists():
                    try_out(source)
        download.provide(data)
    except NotReached as error:
        missing = _missing(data, sources, own_vocab=not vocab)
        refuse(missing, f"{error.reason}: {ELSEWHERE}")
        raise


def _missing(data: DataConfig, sources: Sequence[str], *, own_vocab: bool) -> list[Missing]:
    """All that is missing; a source that does not exist is refused first."""
    weights = [part for source in sources for part in needed.missing(source, own_vocab=own_vocab)]
    if data.format == "karpathy":
        return [*karpathy.missing(data.root, annotations=data.annotations), *weights]
    return [*download.missing(data), *weights]


def _refuse_what_cannot_come(data: DataConfig, missing: Sequence[Missing]) -> None:
    """Raises UserError if downloads are off, or for data that are not downloaded by themselves."""
    if why := offline():
        refuse(missing, f"downloads are off ({why}): {ELSEWHERE}")
    others = [
        piece.what + (f" ({shown_size(piece.size)})" if piece.size else "")
        for piece in missing
        if piece.fetched
    ]
    problem = f"{data.root}: not all of this data set is here"
    if data.format == "flickr8k":
        problem += " (data.download = true fetches it)"
    if others:
        problem += f"; what else is missing will be downloaded: {', '.join(others)}"
    refuse([piece for piece in missing if not piece.fetched], problem)
