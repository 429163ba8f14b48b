"""The files that a source needs: found on this machine, downloaded, or named as missing.

The vocabulary comes with the model. It is the source's own, or else bert-base-uncased's, from which
every published BLIP took it.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from smile.errors import UserError, nearest
from smile.system.connection import shown
from smile.system.download import NotReached, fetch, place_of
from smile.system.missing import Missing, curl, refuse
from smile.weights.file import read_file
from smile.weights.hub import hub_file, in_hub_cache, missing_from_hub
from smile.weights.hub_cache import pinned_copies, repository_folder
from smile.weights.known import KNOWN, MODELS, Known
from smile.weights.pins import PINS, Pin, pin_of
from smile.weights.repository import (
    ELSEWHERE,
    download_folder,
    download_small_files,
    missing_files,
)
from smile.weights.run_folder import is_run, is_unfinished
from smile.weights.transformers_folder import read_folder
from smile.weights.transformers_settings import GENERATION, PROCESSORS, TOKENIZER_CONFIG
from smile.weights.vocabulary import ADDED_TOKENS, TOKENIZER, VOCAB

BERT_VOCAB = ("google-bert/bert-base-uncased", "vocab.txt")
BERT_ROWS = range(30522, 30522 + 1024)  # with BLIP's two tokens, perhaps padded
HUB_ID = r"\w[\w.-]*/\w[\w.-]*"
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")  # of files, not of repositories
VOCABULARY_FILES = (VOCAB, ADDED_TOKENS, TOKENIZER, TOKENIZER_CONFIG)


def local(source: str | Path) -> Path:
    """`source` as a path, with "~" expanded; that of a captioner which comes with this package."""
    path = Path(os.path.expanduser(source))
    known = KNOWN.get(str(source))
    return MODELS / known.folder if known and known.folder and not path.exists() else path


def check_source(source: str) -> None:
    """Raises UserError if `source` is neither on this machine nor the name of anything published.

    Nothing is downloaded: whether a hub id exists is not asked.
    """
    if not os.path.exists(local(source)):
        _published(source)


def find(source: str, *, own_vocab: bool = True) -> Path:
    """The file or folder that `source` names, downloaded if it is not there.

    Args:
        own_vocab: whether the source's own vocabulary is needed too.

    Raises:
        UserError: there is no such source, or it cannot be downloaded; without a connection the
            error names all that is missing.
    """
    path = local(source)
    if os.path.exists(path):
        return path
    published = _published(source)
    try:
        with _naming(source):
            return _download(published, own_vocab=own_vocab)
    except NotReached as error:
        why = f"{_prefix(source) or f'{source}: '}{error.reason}: {ELSEWHERE}"
        refuse(missing(source, own_vocab=own_vocab), why)
        raise


def fetch_small(source: str, *, own_vocab: bool) -> None:
    """Downloads what `load(source)` needs beside the weights, which are of no use without it.

    Raises:
        NotReached: there is no connection, or there must be none.
        UserError: there is no such source, or a file cannot be downloaded.
    """
    path = local(source)
    if not os.path.exists(path):
        published = _published(source)
        with _naming(source):
            _download_small(published, own_vocab=own_vocab)
    elif own_vocab and _missing_vocabulary(path):
        hub_file(*BERT_VOCAB)


def missing(source: str, *, own_vocab: bool) -> list[Missing]:
    """What `load(source)` would download: files that are not on this machine yet.

    Args:
        own_vocab: whether the source's own vocabulary is needed too.

    Raises:
        UserError: there is no such source, as `find` says it, or a file that is there is damaged.
    """
    path = local(source)
    if os.path.exists(path):
        return _missing_vocabulary(path) if own_vocab else []
    published = _published(source)
    if published.hub:
        small = (PROCESSORS[-1], VOCAB) if own_vocab else PROCESSORS[-1:]
        if lacking := missing_files(published.hub, small):
            return lacking
        path = _download(published, own_vocab=own_vocab)  # all there: only finds it
    else:
        path = _place(published)
    vocabulary = _missing_vocabulary(path) if own_vocab else []
    return vocabulary if os.path.exists(path) else [*vocabulary, _weights(published, path)]


def published_pin(source: str, name: str) -> Pin:
    """What is known of the file `name` of a published source."""
    published = KNOWN.get(source, Known("", hub=source))
    return PINS.get(published.url) or pin_of(published.hub, name)


def _published(source: str) -> Known:
    """The published checkpoint that `source` names. Raises UserError if it names none."""
    if source in KNOWN:
        if KNOWN[source].folder:
            raise UserError(f"{local(source)} is missing: clone the project again")
        return KNOWN[source]
    path = local(source)
    beside = nearest(path, _names_beside(path))
    if re.fullmatch(HUB_ID, source) and path.suffix not in WEIGHT_SUFFIXES and not beside:
        return Known("", hub=source)
    raise UserError(
        f"{source}: no such file or folder, and not a known name ({', '.join(KNOWN)}) "
        f"or a hub id (owner/name){beside or nearest(source, KNOWN)}"
    )


def _names_beside(path: Path) -> list[str]:
    """The names in the folder that `path` should be in."""
    with contextlib.suppress(OSError):
        return [str(name) for name in path.parent.iterdir()]
    return []


def _prefix(source: str) -> str:
    """How an error about the hub begins if perhaps a local path was meant, else ""."""
    if source in KNOWN or not os.path.exists(local(source).parent):
        return ""
    return f"{source}: no such file or folder; on the hub: "


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Puts `_prefix` before an error that is not for want of a connection."""
    try:
        yield
    except NotReached:
        raise
    except UserError as error:
        if not (prefix := _prefix(source)):
            raise
        raise UserError(f"{prefix}{error}") from error


def _download(published: Known, *, own_vocab: bool) -> Path:
    """The cached file or folder of a published checkpoint."""
    if published.hub:
        return download_folder(published.hub, model_type="blip", files=_small_files(own_vocab))
    _download_small(published, own_vocab=own_vocab)
    if published.space:
        name, _, path = published.space.partition(":")
        return hub_file(name, path, repo_type="space")
    pin = PINS.get(published.url, Pin())
    return fetch(published.url, checksum=pin.checksum, size=pin.size)


def _download_small(published: Known, *, own_vocab: bool) -> None:
    """Downloads the files of a published checkpoint that are not weights."""
    if published.hub:
        files = _small_files(own_vocab)
        download_small_files(published.hub, model_type="blip", files=files)
    elif own_vocab and _missing_vocabulary(_place(published)):
        hub_file(*BERT_VOCAB)


def _small_files(own_vocab: bool) -> tuple[str, ...]:
    """The files of a repository beside its config and weights."""
    return (*PROCESSORS, GENERATION, *(VOCABULARY_FILES if own_vocab else ()))


def _place(published: Known) -> Path:
    """Where the file of a published checkpoint is, or will be: for a space, about where."""
    if published.url:
        return place_of(published.url)
    name, _, path = published.space.partition(":")
    if in_hub_cache(name, path, repo_type="space"):
        return hub_file(name, path, repo_type="space")
    return repository_folder(name, "space") / path


def _weights(published: Known, place: Path) -> Missing:
    """The file of a published checkpoint, as a missing one."""
    if published.url:
        url = shown(published.url)
        return Missing(
            what=f"the weights {place.name}",
            address=url,
            place=str(place),
            size=PINS.get(published.url, Pin()).size,
            command=curl(url, place),
        )
    name, _, path = published.space.partition(":")
    return missing_from_hub(name, [path], what=f"{path} of {name}", repo_type="space")


def _missing_vocabulary(found: Path) -> list[Missing]:
    """bert-base-uncased's vocabulary, if weights that are or will be at `found` need it."""
    if is_run(found) or is_unfinished(found):
        return []
    folder = found if found.is_dir() else found.parent
    if any((folder / name).exists() for name in (VOCAB, TOKENIZER)):
        return []
    pin = pin_of(*BERT_VOCAB)
    if pinned_copies(*BERT_VOCAB, pin) or (found.exists() and not _has_berts_rows(found)):
        return []
    repo, name = BERT_VOCAB
    what = f"{name} of {repo.partition('/')[2]}"
    return [missing_from_hub(repo, [name], what=what, revision=pin.revision, size=pin.size)]


def _has_berts_rows(found: Path) -> bool:
    """Whether the weights have a row for each token of BERT's: else its vocabulary cannot fit."""
    weights = read_folder(found) if found.is_dir() else read_file(found)
    name = "text_decoder.bert.embeddings.word_embeddings.weight"
    table = weights.get(name)
    return isinstance(table, Tensor) and table.ndim == 2 and len(table) in BERT_ROWS
