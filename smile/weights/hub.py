"""Files of the Hugging Face hub, downloaded once into the hub's own cache.

The file, its size and its place are announced before the first byte. A cached file needs no
request. A file whose checksum is known (`pins`) is compared with it, and is resumed after an
interruption of any kind; the hub's own client resumes within one process only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from smile.errors import UserError
from smile.system.connection import one_line, shown
from smile.system.download import NotReached, announce, fetch, offline
from smile.system.missing import Missing, Unavailable
from smile.weights.hub_cache import link, pinned_copies, repository_folder
from smile.weights.pins import Pin, pin_of


class NotInRepository(Unavailable):
    """A repository of the hub has no file of that name."""


class _HubFile(TypedDict):
    """Which file of the hub, by huggingface_hub's names."""

    repo_id: str
    filename: str
    repo_type: str
    revision: str | None


def hub_file(
    repo_id: str, filename: str, *, repo_type: str = "model", revision: str | None = None
) -> Path:
    """A file of a Hugging Face hub repository, in the hub's cache.

    A cached file is used without asking whether the hub has a newer version. HF_ENDPOINT, HF_HOME,
    HF_HUB_OFFLINE and log-ins work as in huggingface_hub.

    Args:
        repo_type: "model", "space" or "dataset".
        revision: branch, tag or commit; None is the pinned revision, or else the main branch.

    Raises:
        NotInRepository: if the repository has no such file.
        NotReached: if it is not in the cache, and the hub cannot be reached or must not be.
        Unavailable: if it cannot be downloaded for another reason.
        UserError: if it is not the pinned file, or `repo_id` is no repository's name.
    """
    pin = pin_of(repo_id, filename) if repo_type == "model" and revision is None else Pin()
    if pin.sha256 is not None and (found := pinned_copies(repo_id, filename, pin)):
        return found[0]
    where: _HubFile = {
        "repo_id": repo_id,
        "filename": filename,
        "repo_type": repo_type,
        "revision": revision or pin.revision,
    }
    import huggingface_hub as hub  # here, because it takes 0.3 s and most commands need no hub
    from huggingface_hub import constants, errors

    try:
        if pin.sha256 is None:
            cached = hub.try_to_load_from_cache(**where)
            if isinstance(cached, str):
                return Path(cached)
        url = hub.hf_hub_url(**where)
        if "SMILE_OFFLINE" in offline():
            raise errors.OfflineModeIsEnabled("SMILE_OFFLINE is set")
        found_there = hub.get_hf_file_metadata(url)
        if pin.sha256 is None:
            announce(url, found_there.size, Path(constants.HF_HUB_CACHE), verified=False)
            return Path(hub.hf_hub_download(**where))
    except Exception as error:  # the hub's HTTP library, and so its errors, vary by version
        raise _hub_error(error, where) from error
    commit = pin.revision or str(found_there.commit_hash)
    return _download_pinned(where, url, pin, commit=commit, etag=str(found_there.etag))


def _download_pinned(where: _HubFile, url: str, pin: Pin, *, commit: str, etag: str) -> Path:
    """Downloads a file with a known checksum, to where the hub's own client would put it."""
    from huggingface_hub.utils import build_hf_headers

    login = build_hf_headers().get("authorization", "")
    if len(etag) == 64 and etag != pin.sha256:  # of a large file, the hub's ETag is its SHA-256
        raise UserError(
            f"{shown(url)} has the SHA-256 {etag}, expected {pin.sha256}: the file there has "
            "changed; give a local folder's path instead"
        )
    folder = repository_folder(where["repo_id"])
    blob = fetch(
        url,
        checksum=pin.checksum,
        size=pin.size,
        folder=folder / "blobs",
        name=pin.sha256,
        token=login.removeprefix("Bearer ") or None,
    )
    path = folder / "snapshots" / commit / where["filename"]
    link(blob, path)
    return path


def in_hub_cache(
    repo_id: str, filename: str, *, repo_type: str = "model", revision: str | None = None
) -> bool:
    """Whether a file on the hub is already in the cache."""
    import huggingface_hub as hub

    try:
        found = hub.try_to_load_from_cache(
            repo_id, filename, repo_type=repo_type, revision=revision
        )
    except ValueError:  # not a repository's name: `hub_file` will say so
        return False
    return isinstance(found, str)


def missing_from_hub(
    repo_id: str,
    names: Sequence[str],
    *,
    what: str,
    repo_type: str = "model",
    revision: str | None = None,
    size: int | None = None,
) -> Missing:
    """Files of one repository that are not in the cache; no `names` stand for all that it has."""
    from huggingface_hub import constants

    folder = repository_folder(repo_id, repo_type)
    kind = "" if repo_type == "model" else f"{repo_type}s/"
    return Missing(
        what=what,
        address=f"{constants.ENDPOINT}/{kind}{repo_id}",
        place=f"the folder {folder.name} of {folder.parent}",
        size=size,
        command=_command(repo_id, names, repo_type, revision),
    )


def _command(repo: str, names: Sequence[str], kind: str, revision: str | None) -> str:
    """What to type to download files into the hub's cache."""
    words = ["hf download", repo, *names]
    if kind != "model":
        words += ["--repo-type", kind]
    if revision:
        words += ["--revision", revision]
    return " ".join(words)


def _hub_error(error: Exception, where: _HubFile) -> UserError:
    """What went wrong with a file of the hub, and what to do."""
    from huggingface_hub import constants, errors, hf_hub_url

    repo, name, kind = where["repo_id"], where["filename"], where["repo_type"]
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{repo!r} is no repository of the Hugging Face hub: expected OWNER/NAME")
    url = shown(hf_hub_url(**where))
    page = url.partition("/resolve/")[0]
    match error:
        case errors.GatedRepoError():
            return Unavailable(
                f"{page} is gated: accept its conditions there, then run `hf auth login`"
            )
        case errors.RepositoryNotFoundError():
            return Unavailable(
                f"{page} does not exist or is private: check the name, "
                "or run `hf auth login` if it is yours"
            )
        case errors.RevisionNotFoundError():
            return Unavailable(
                f"{page} has no revision {where['revision']!r}: see {page}/tree/main"
            )
        case errors.RemoteEntryNotFoundError():
            tree = f"{page}/tree/{where['revision'] or 'main'}"
            return NotInRepository(f"{page} has no file {name!r}: see {tree}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        reason = f"downloads are off ({offline() or 'HF_HUB_OFFLINE is set'})"
        problem = f"is needed, but {reason}"
    else:
        reason = f"{constants.ENDPOINT} cannot be reached, {one_line(error)}"
        problem = f"cannot be downloaded, {one_line(error)}"
    folder = repository_folder(repo, kind)
    command = _command(repo, [name], kind, where["revision"])
    message = (
        f"{url} {problem}: run `{command}` where there is a connection and "
        f"copy its cache folder {folder.name} into {folder.parent}, "
        "or download the address and give the file's path instead"
    )
    return NotReached(message, reason) if _not_reached(error) else Unavailable(message)


def _not_reached(error: Exception) -> bool:
    """Whether there was no answer at all, because of the connection or a setting."""
    from huggingface_hub import errors

    # httpx, or httpx2 in later versions of huggingface_hub.
    of_connection = type(error).__module__.startswith("httpx")
    none_asked = isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError)
    return of_connection or none_asked
