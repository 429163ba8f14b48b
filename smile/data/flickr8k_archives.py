"""The two archives that Flickr8k was published as, and where they can be had.

SMILE_FLICKR8K_MIRROR names another place for them. The published MD5 holds there too, so a mirror
cannot bring other files. Only one on this machine may, by a file MD5SUMS (`md5sum *.zip`): so tests
serve archives of drawn pictures.
"""

import os
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from smile.errors import UserError
from smile.system.connection import Broken, Refused, Unreachable, ask, shown
from smile.system.download import HEADERS, offline

RELEASE = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
MIRROR = "SMILE_FLICKR8K_MIRROR"
TERMS = "the photos belong to their Flickr users and are for research and education only"
LARGEST_SUMS = 1 << 16  # bytes of MD5SUMS
_THIS_MACHINE = re.compile(
    r"http://(?:127\.0\.0\.1|localhost)(?::[0-9]{1,5})?(?:/[\w./~-]*)?", re.A
)
_SUM = re.compile(r"([0-9a-fA-F]{32}) [ *](\S+)")


@dataclass(frozen=True)
class Archive:
    """A published archive; sizes in bytes are about right, and only its MD5 is relied on."""

    name: str
    md5: str
    size: int
    unpacked: int  # what is taken out of it
    most_unpacked: int  # more is refused


TEXT = Archive(
    name="Flickr8k_text.zip",
    md5="bf6c1abcb8e4a833b7f922104de18627",
    size=2_340_801,
    unpacked=5_000_000,
    most_unpacked=100_000_000,
)
PHOTOS = Archive(
    name="Flickr8k_Dataset.zip",
    md5="f18a1e2920de5bd84dae7cf08ec78978",
    size=1_115_419_746,
    unpacked=1_130_000_000,
    most_unpacked=4_000_000_000,
)


def command(folder: str | os.PathLike[str]) -> str:
    """What to type so that a folder gets what it lacks of Flickr8k, its human ratings included."""
    return f"python -m smile.data download flickr8k {shlex.quote(os.fspath(folder))}"


class Place:
    """Where the archives are had: their release, or the mirror that the environment names.

    Raises:
        UserError: the mirror is no address.
    """

    def __init__(self) -> None:
        self.base = os.environ.get(MIRROR, "").strip().rstrip("/") or RELEASE
        try:
            parts = urlsplit(self.base)
            good = parts.scheme in ("http", "https") and parts.hostname and not parts.query
        except ValueError:
            good = False
        if not good:
            raise UserError(
                f"{MIRROR} = {shown(self.base)!r}: expected https://HOST/FOLDER, the address of "
                f"a folder with {TEXT.name} and {PHOTOS.name}"
            )

    def url(self, archive: Archive) -> str:
        return f"{self.base}/{archive.name}"

    @property
    def is_this_machine(self) -> bool:
        return _THIS_MACHINE.fullmatch(self.base) is not None

    def size(self, archive: Archive) -> int | None:
        """About how many bytes the archive has there; None if it may be another one."""
        return None if self.is_this_machine else archive.size

    def md5(self, archive: Archive) -> str:
        """What the archive must have. Raises UserError if it cannot be asked for."""
        return self._sums.get(archive.name, archive.md5)

    @cached_property
    def _sums(self) -> dict[str, str]:
        """The MD5 that this machine's mirror gives, by the archives' names."""
        if not self.is_this_machine or offline():
            return {}
        url, data = f"{self.base}/MD5SUMS", b""
        try:
            with ask(url, HEADERS) as answer:
                while len(data) < LARGEST_SUMS and (chunk := answer.read(LARGEST_SUMS)):
                    data += chunk
        except Unreachable:
            return {}  # the archives cannot be had either, and the error for them says more
        except (Broken, Refused) as error:
            if isinstance(error, Refused) and error.absent:
                return {}
            raise UserError(f"{url} cannot be read, {error}: check {MIRROR}") from error
        found = map(_SUM.fullmatch, data.decode("ascii", "replace").splitlines())
        return {match[2]: match[1].lower() for match in found if match}
