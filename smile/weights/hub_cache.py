"""The hub's own cache on this machine: copies of a file of any revision.

    models--OWNER--NAME/
        refs/main                  the commit that the main branch had when it was asked for
        blobs/SHA256               contents, named by their checksum if they are large
        snapshots/COMMIT/NAME      links to the contents

A pinned file is taken from any snapshot, so another revision of its repository is no reason to
download it again.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from smile.errors import UserError, reason_of
from smile.system.files import reading, sha256
from smile.system.verified import has_checksum
from smile.weights.pins import Pin


def repository_folder(repo: str, repo_type: str = "model") -> Path:
    """Where the hub caches a repository."""
    from huggingface_hub import constants  # without the hub's client, which takes 0.3 s

    return Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{repo.replace('/', '--')}"


def copies(repo: str, name: str) -> list[Path]:
    """The cached copies of a model's file, of any revision; the main branch's is the first."""
    folder = repository_folder(repo)
    main = ""
    with contextlib.suppress(OSError, ValueError):
        main = (folder / "refs" / "main").read_text("utf-8").strip()
    found = [path for path in folder.glob(f"snapshots/*/{name}") if path.is_file()]
    return sorted(found, key=lambda path: (path.parent.name != main, path))


def pinned_copies(repo: str, name: str, pin: Pin) -> list[Path]:
    """The cached copies of a model's file that are the pinned one; [] if none is cached.

    Raises:
        UserError: if there are other ones only.
    """
    found = copies(repo, name)
    good = [path for path in found if is_pinned(path, pin)]
    if found and not good:
        blob = os.path.realpath(found[0])
        raise UserError(
            f"{blob} is {_summary(found[0], pin)}: delete it to download {repo}/{name} again, "
            f"or give {found[0].parent} as the source to use it as it is"
        )
    return good


def is_pinned(path: Path, pin: Pin) -> bool:
    """Whether a cached file is the pinned one.

    The hub names contents by their SHA-256, and so do we; both compare what arrived, the hub the
    length and we the SHA-256. So a link to that name is enough, which takes no time. A file that is
    no link, as on a disk without links, is hashed once and remembered.
    """
    with reading(path):
        if pin.size is not None and path.stat().st_size != pin.size:
            return False
        if path.is_symlink() and Path(os.readlink(path)).name == pin.sha256:
            return True
        return pin.checksum is None or has_checksum(path, pin.checksum)


def _summary(path: Path, pin: Pin) -> str:
    """How a cached file differs from the pinned one."""
    return (
        f"{path.stat().st_size} bytes with the SHA-256 {sha256(path)}, expected "
        f"{pin.size or 'any number of'} bytes with the SHA-256 {pin.sha256}"
    )


def link(content: Path, path: Path) -> None:
    """Gives `content`, a file of the same cache, a further name; replaces a dangling link.

    Raises:
        UserError: if the name cannot be written.
    """
    new = path.with_name(f".{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            new.symlink_to(os.path.relpath(content, path.parent))
        except OSError:  # a disk without symbolic links
            try:
                os.link(content, new)
            except OSError:
                shutil.copy2(content, new)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written, {reason_of(error)}") from error
