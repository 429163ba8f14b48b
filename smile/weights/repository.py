"""A model folder of the `transformers` library on the hub: found in the cache, or downloaded.

Where the weights are pinned, a cached folder of any revision that holds them is used, and what is
downloaded is of the pinned revision.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from smile.errors import UserError
from smile.system.download import NotReached
from smile.system.missing import Missing, refuse
from smile.weights.hub import NotInRepository, hub_file, in_hub_cache, missing_from_hub
from smile.weights.hub_cache import copies, is_pinned, link, pinned_copies
from smile.weights.pins import Pin, pin_of, pinned_weights
from smile.weights.transformers_folder import (
    CONFIG,
    WEIGHT_FILES,
    check_type,
    weight_file,
    weight_parts,
)

ELSEWHERE = "fetch what is missing where there is a connection, and copy it here"


def find_folder(
    source: str | Path, *, known: Mapping[str, str], model_type: str, files: tuple[str, ...]
) -> Path:
    """The folder that `source` names, downloaded if it is not there.

    Args:
        source: a folder, a name of `known` (name → hub id), or a hub id ("owner/name").
        model_type, files: see `download_folder`.

    Raises:
        UserError: if it is none of these, or cannot be downloaded.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    repo = known.get(str(source), str(source))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or path.exists():
        raise UserError(
            f"{source}: expected a transformers folder of a {model_type!r} model, a known name "
            f"({', '.join(known)}) or a hub id (owner/name)"
        )
    try:
        return download_folder(repo, model_type=model_type, files=files)
    except NotReached as error:
        refuse(missing_files(repo, files), f"{source}: {error.reason}: {ELSEWHERE}")
        raise


def download_folder(repo: str, *, model_type: str, files: tuple[str, ...]) -> Path:
    """The folder in the hub's cache that holds a repository's config, weights and `files`.

    Args, Raises: see `download_small_files`, which comes first.
    """
    if folder := _cached_folder(repo):
        check_type(folder, model_type)
        return folder
    folder = download_small_files(repo, model_type=model_type, files=files)
    pinned, _ = _pinned_form(repo)
    forms = (pinned,) if pinned else WEIGHT_FILES
    weights = _first_there(repo, forms)
    for part in weight_parts(weights):
        if weights.name != part:
            hub_file(repo, part)
    if pinned and weights.parent != folder:  # a copy of another revision
        link(weights.resolve(), folder / weights.name)
    return folder


def download_small_files(repo: str, *, model_type: str, files: tuple[str, ...]) -> Path:
    """The folder in the hub's cache that holds a repository's config and `files`.

    A repository need not have all of `files`. They are requested only if the weights are not in the
    cache, so a downloaded repository needs no request. Where weights are pinned, so is the revision
    of the files beside them.

    Raises:
        NotReached: if a file is not in the cache, and the hub cannot be reached or must not be.
        UserError: if a file cannot be downloaded otherwise, differs from the pinned one, or the
            config is of another `model_type`.
    """
    if folder := _cached_folder(repo):
        check_type(folder, model_type)
        return folder
    pinned, pin = _pinned_form(repo)
    if pinned:
        pinned_copies(repo, pinned, pin)  # before any download: refuses others
    folder = hub_file(repo, CONFIG, revision=pin.revision).parent
    check_type(folder, model_type)
    forms = (pinned,) if pinned else WEIGHT_FILES
    if not any(in_hub_cache(repo, name, revision=pin.revision) for name in forms):
        for name in files:
            with contextlib.suppress(NotInRepository):
                hub_file(repo, name, revision=pin.revision)
    return folder


def missing_files(repo: str, small: Sequence[str]) -> list[Missing]:
    """What `download_folder` would download, as far as it is known: one entry, or none.

    Args:
        small: the files beside config and weights that such a repository usually has.

    Raises:
        UserError: a cached file is not the pinned one.
    """
    if _cached_folder(repo):
        return []
    pinned, pin = _pinned_form(repo)
    names = [CONFIG, *small]
    names = [name for name in names if not in_hub_cache(repo, name, revision=pin.revision)]
    if pinned:
        weights = [] if pinned_copies(repo, pinned, pin) else [pinned]
    elif form := next((name for name in WEIGHT_FILES if in_hub_cache(repo, name)), None):
        parts = weight_parts(hub_file(repo, form))
        weights = [part for part in parts if not in_hub_cache(repo, part)]
        names = [name for name in names if name == CONFIG]  # nothing else is asked for then
    else:
        weights = ["weights"]  # which of `WEIGHT_FILES` is not known
    lacking = [*names, *weights]
    if not lacking:
        return []
    known = [] if "weights" in lacking else lacking
    return [
        missing_from_hub(
            repo,
            known,
            what=f"{', '.join(lacking)} of {repo}",
            revision=pin.revision,
            size=pin.size if weights else None,
        )
    ]


def _cached_folder(repo: str) -> Path | None:
    """The cached folder, of any revision, with pinned weights and a config; None if there is none.

    Without a pin there is none either: then each file is looked for.
    """
    name = pinned_weights(repo)
    for path in copies(repo, name) if name else ():
        whole = (path.parent / CONFIG).exists() and weight_file(path.parent) == path
        if whole and is_pinned(path, pin_of(repo, path.name)):
            return path.parent
    return None


def _pinned_form(repo: str) -> tuple[str | None, Pin]:
    """The pinned file of weights, and its pin.

    None and an empty pin, if there is none or the main branch's are cached in another form.
    """
    name = pinned_weights(repo)
    others = (form for form in WEIGHT_FILES if form != name)
    if name is None or any(in_hub_cache(repo, form) for form in others):
        return None, Pin()
    return name, pin_of(repo, name)


def _first_there(repo: str, names: tuple[str, ...]) -> Path:
    """The first of several files that a repository, or its cache, has."""
    problems: list[UserError] = []
    for name in names:
        try:
            return hub_file(repo, name)
        except UserError as error:
            problems.append(error)
    raise problems[0]
