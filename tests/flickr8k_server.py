"""Archives of the form of Flickr8k's, with drawn pictures in them, and a server for them.

    python tests/flickr8k_server.py [TRAIN VAL TEST]

draws so many pictures of each split, prints the server's address, and serves until it is killed:

    SMILE_FLICKR8K_MIRROR=http://127.0.0.1:PORT python -m smile.data download flickr8k data/flickr8k
"""

import hashlib
import io
import signal
import sys
import zipfile
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from helpers import FileServer

from smile.data.shapes import Scene, make_scenes

PHOTOS, TEXT = "Flickr8k_Dataset.zip", "Flickr8k_text.zip"
COUNTS = (8, 3, 3)
LISTS = ("train", "dev", "test")
# Flickr8k.token.txt has captions of one image that is not there, under such a name.
NOT_THERE = "2258277193_586949ec62.jpg.1"


def names(split: int, count: int) -> list[str]:
    """File names as Flickr gives them: the photo's number and a secret."""
    numbers = [10**9 + 10**6 * split + number for number in range(count)]
    secrets = (hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest() for n in numbers)
    return [f"{number}_{secret[:10]}.jpg" for number, secret in zip(numbers, secrets, strict=True)]


def zipped(entries: dict[str, bytes | str]) -> bytes:
    """A zip archive of these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():  # the same bytes at every call, so without a time
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


@cache
def photo_entries(counts: tuple[int, int, int] = COUNTS) -> dict[str, bytes]:
    """What the archive of photos holds, and what macOS adds to such an archive."""
    found = {"Flicker8k_Dataset/": b""}
    for name, scene in drawn(counts):
        file = io.BytesIO()
        scene.read(48).save(file, "JPEG")
        found[f"Flicker8k_Dataset/{name}"] = file.getvalue()
    return found | {f"__MACOSX/Flicker8k_Dataset/._{names(0, 1)[0]}": b"\x00\x05\x16\x07"}


@cache
def text_entries(counts: tuple[int, int, int] = COUNTS) -> dict[str, str]:
    """What the archive of texts holds: also what no data set needs."""
    captions = [
        f"{name}#{number}\t{caption} .\n"
        for name, scene in drawn(counts)
        for number, caption in enumerate(scene.captions)
    ]
    captions += [f"{NOT_THERE}#{number}\tnobody sees this .\n" for number in range(5)]
    tokens = "".join(captions)
    found = {
        f"Flickr_8k.{split}Images.txt": "".join(f"{name}\n" for name in names(number, count))
        for number, (split, count) in enumerate(zip(LISTS, counts, strict=True))
    }
    rated = names(0, counts[0])
    experts = [  # each photo with a caption of its own, and with two of the next photo
        f"{name}\t{other}#{number}\t{scores}\n"
        for name, other in zip(rated, [*rated[1:], rated[0]], strict=True)
        for other, number, scores in (
            (name, 0, "4\t4\t4"),
            (other, 1, "1\t1\t2"),
            (other, 3, "1\t2\t3"),
        )
    ]
    return found | {
        "Flickr8k.token.txt": tokens,
        "Flickr8k.lemma.token.txt": tokens,
        "ExpertAnnotations.txt": "".join(experts),
        "CrowdFlowerAnnotations.txt": f"{rated[0]}\t{rated[1]}#0\t0\t0\t3\n",
        "readme.txt": "drawn for tests\n",
        "__MACOSX/._readme.txt": "\x00\x05\x16\x07",
    }


@cache
def drawn(counts: tuple[int, int, int]) -> list[tuple[str, Scene]]:
    """The scenes of all splits by their names, and one that no list names, as Flickr8k has 91."""
    found = []
    for number, (split, count) in enumerate(zip(("train", "val", "test"), counts, strict=True)):
        found += zip(names(number, count), make_scenes(split, count), strict=True)
    return [*found, *zip(names(9, 1), make_scenes("train", 1, seed=1), strict=True)]


@cache
def archives(counts: tuple[int, int, int] = COUNTS) -> dict[str, bytes]:
    """The two archives by their names."""
    return {PHOTOS: zipped(photo_entries(counts)), TEXT: zipped(text_entries(counts))}


def md5sums(archives: dict[str, bytes]) -> bytes:
    """What `md5sum *.zip` prints."""
    lines = [
        f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}  {name}\n"
        for name, content in archives.items()
    ]
    return "".join(lines).encode()


class Flickr8kServer(FileServer):
    """A mirror of Flickr8k's archives; `put` replaces one."""

    def __init__(self, counts: tuple[int, int, int] = COUNTS):
        super().__init__()
        self.put(archives(counts))

    def put(self, archives: dict[str, bytes]) -> None:
        """Serves these archives, and MD5SUMS of them."""
        self.files |= {f"/{name}": content for name, content in archives.items()}
        served = {name: self.files[f"/{name}"] for name in (PHOTOS, TEXT)}
        self.files["/MD5SUMS"] = md5sums(served)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]] or [*COUNTS]
    print(Flickr8kServer((numbers[0], numbers[1], numbers[2])).address, flush=True)
    signal.pause()
