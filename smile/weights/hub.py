"""Files of the Hugging Face hub, downloaded once into the hub's own cache.

The file, its size and its place are announced before the first byte. A cached file needs no
request.
"""

from pathlib import Path
from typing import TypedDict

from smile.errors import UserError
from smile.system.connection import one_line, shown
from smile.system.download import announce, offline


class NotInRepository(UserError):
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
        revision: branch, tag or commit; None is the main branch.

    Raises:
        NotInRepository: if the repository has no such file.
        UserError: if it is neither in the cache nor can be downloaded.
    """
    import huggingface_hub as hub  # here, because it takes 0.3 s and most commands need no hub
    from huggingface_hub import constants, errors

    where: _HubFile = {
        "repo_id": repo_id,
        "filename": filename,
        "repo_type": repo_type,
        "revision": revision,
    }
    try:
        cached = hub.try_to_load_from_cache(**where)
        if isinstance(cached, str):
            return Path(cached)
        url = hub.hf_hub_url(**where)
        if "SMILE_OFFLINE" in offline():
            raise errors.OfflineModeIsEnabled("SMILE_OFFLINE is set")
        size = hub.get_hf_file_metadata(url).size
        announce(url, size, Path(constants.HF_HUB_CACHE), verified=False)
        return Path(hub.hf_hub_download(**where))
    except Exception as error:  # the hub's HTTP library, and so its errors, vary by version
        absent = isinstance(error, errors.RemoteEntryNotFoundError)
        raise (NotInRepository if absent else UserError)(_hub_problem(error, where)) from error


def in_hub_cache(repo_id: str, filename: str) -> bool:
    """Whether a file of a model on the hub is already in the cache."""
    import huggingface_hub as hub

    try:
        return isinstance(hub.try_to_load_from_cache(repo_id, filename), str)
    except ValueError:  # not a repository's name: `hub_file` will say so
        return False


def _hub_problem(error: Exception, where: _HubFile) -> str:
    """What went wrong with a file of the hub, and what to do."""
    from huggingface_hub import constants, errors, hf_hub_url

    repo, name, kind = where["repo_id"], where["filename"], where["repo_type"]
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is no repository of the Hugging Face hub: expected OWNER/NAME"
    url = shown(hf_hub_url(**where))
    page = url.partition("/resolve/")[0]
    match error:
        case errors.GatedRepoError():
            return f"{page} is gated: accept its conditions there, then run `hf auth login`"
        case errors.RepositoryNotFoundError():
            return (
                f"{page} does not exist or is private: check the name, "
                "or run `hf auth login` if it is yours"
            )
        case errors.RevisionNotFoundError():
            return f"{page} has no revision {where['revision']!r}: see {page}/tree/main"
        case errors.RemoteEntryNotFoundError():
            return f"{page} has no file {name!r}: see {page}/tree/{where['revision'] or 'main'}"
    option = "" if kind == "model" else f" --repo-type {kind}"
    if where["revision"]:
        option += f" --revision {where['revision']}"
    folder = f"{kind}s--{repo.replace('/', '--')}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        reason = f"is needed, but downloads are off ({offline() or 'HF_HUB_OFFLINE is set'})"
    else:
        reason = f"cannot be downloaded, {one_line(error)}"
    return (
        f"{url} {reason}: run `hf download {repo} {name}{option}` where there is a connection and "
        f"copy its cache folder {folder} into {constants.HF_HUB_CACHE}, "
        "or download the address and give the file's path instead"
    )
