"""Tars by strangers: streamed, with WebDataset's keys, and nothing in them can do harm."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import tracemalloc

import pytest
from helpers import image_bytes

from smile.data.batches import Broken
from smile.errors import UserError
from smile.scale.tar import LARGEST_IMAGE, TarImage, TarImages, key_of

RED = image_bytes()


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int | None = None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(RED) if size is None else size
    return info


def tar_of(*entries, **options) -> bytes:
    """A tar of names (with a red picture each), of (name, bytes), or of `entry`s."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        for one in entries:
            if isinstance(one, tarfile.TarInfo):
                archive.addfile(one, io.BytesIO(RED) if one.isreg() else None)
            else:
                name, data = (one, RED) if isinstance(one, str) else one
                archive.addfile(entry(name, size=len(data)), io.BytesIO(data))
    return file.getvalue()


def found_in(data: bytes) -> list[TarImage | Broken]:
    return list(TarImages(io.BytesIO(data)))


def reasons(data: bytes) -> dict[str, str]:
    return {one.name: getattr(one, "reason", "") for one in found_in(data)}


def problem_of(data: bytes) -> str:
    with pytest.raises(UserError) as raised:
        found_in(data)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_images_are_yielded_in_order_with_their_bytes(compress):
    long = "d/" * 100 + "b.webp"
    tar = tar_of("a.jpg", ("a.json", b"{}"), ("a.txt", b"x"), long, entry("d", tarfile.DIRTYPE))
    images = TarImages(io.BytesIO(compress(tar)))
    found = list(images)
    assert [(one.name, one.data) for one in found] == [("a.jpg", RED), (long, RED)]
    assert found[0].read().size == (12, 8) and images.num_others == 2


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("000.jpg", "000"),
        ("a.b/000.seg.png", "a.b/000"),
        ("./000.jpg", "./000"),
        ("new\nline.jpg", "new\nline"),
        ("._000.jpg", None),
        ("000", None),
    ],
)
def test_keys_are_webdataset_s(name, key):
    assert key_of(name) == key


def test_entries_that_mean_harm_are_named_and_the_rest_is_read():
    link = entry("link.jpg", tarfile.SYMTYPE, 0)
    link.linkname = "/etc/passwd"
    hostile = (
        *("/etc/a.jpg", "../b.jpg", "x/../../c.png", "a.jpg", "a.jpg"),
        *(entry("device.jpg", tarfile.CHRTYPE, 0), link, entry("fifo.png", tarfile.FIFOTYPE, 0)),
        *("raw.dng", "good.jpg", "._good.jpg"),
    )
    found = found_in(tar_of(*hostile))
    assert [one.name for one in found if isinstance(one, TarImage)] == ["a.jpg", "good.jpg"]
    said = {one.name: one.reason for one in found if isinstance(one, Broken)}
    assert said.keys() == {
        *("/etc/a.jpg", "../b.jpg", "x/../../c.png", "a.jpg"),
        *("device.jpg", "link.jpg", "fifo.png", "raw.dng"),
    }
    assert "leads out of the tar" in said["../b.jpg"] and "second entry" in said["a.jpg"]
    assert "not a regular file" in said["link.jpg"] and ".dng is a kind" in said["raw.dng"]


def test_a_tar_cut_anywhere_says_so_after_what_it_has():
    tar = tar_of("a.jpg", "b.jpg", "c.jpg", bufsize=512)
    whole = tar.rstrip(b"\0")
    end = -(-len(whole) // 512) * 512  # where the end mark begins
    rng = random.Random(0)
    for cut in (0, 1, 511, 512, 700, 1536, end - 1, end, end + 100, *rng.sample(range(end), 20)):
        images = TarImages(io.BytesIO(tar[:cut]))
        names = []
        with pytest.raises(UserError, match="not a whole tar: "):
            for image in images:
                names.append(image.name)
        assert names == ["a.jpg", "b.jpg", "c.jpg"][: len(names)]
    assert len(found_in(tar[: end + 512])) == 3
    assert "after b.jpg" in problem_of(tar[: end - 513])
    assert problem_of(gzip.compress(tar)[:-20]).startswith("not a whole tar: ")


def test_no_tar_and_an_empty_one():
    assert found_in(tar_of()) == []
    for data in (b"", b"no tar", b"<html>" * 500, RED):
        assert problem_of(data).startswith("not a whole tar: ")


@pytest.mark.parametrize("size", [LARGEST_IMAGE + 1, 10 * 2**30, 2**62])
def test_a_size_that_is_a_lie_costs_neither_memory_nor_time(size):
    tar = tar_of("a.jpg")[:1024] + entry("huge.jpg", size=size).tobuf(tarfile.GNU_FORMAT)
    found = iter(TarImages(io.BytesIO(tar + bytes(5000))))
    assert next(found).name == "a.jpg" and "are read" in next(found).reason
    with pytest.raises(UserError, match="not a whole tar"):
        next(found)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize("size", [2**24, 10 * 2**30])
def test_a_header_of_gigabytes_is_not_read(kind, size):
    tar = entry("name", kind, size).tobuf(tarfile.GNU_FORMAT)
    file = io.BytesIO(tar + bytes(2**24))
    tracemalloc.start()
    with pytest.raises(UserError, match="a header of more than"):
        list(TarImages(file))
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_headers_without_end_are_refused():
    chain = b"".join(entry("x", b"x", 0).tobuf(tarfile.GNU_FORMAT) for _ in range(1500))
    assert problem_of(chain).startswith("not a whole tar: ")
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    info = entry("a.jpg", size=2**21)
    info.pax_headers = sparse
    data = info.tobuf(tarfile.PAX_FORMAT) + b"%d\n" % 2**40 + b"1\n" * 2**19 + bytes(2**20)
    assert "a header of more than" in problem_of(data)


def test_nothing_is_remembered_of_entries_gone_by():
    """Memory is that of one entry, however many there are."""

    class Endless:
        def __init__(self, block: bytes, count: int):
            self.block, self.count, self.rest = block, count, b""

        def read(self, size=-1):
            if not self.rest and self.count:
                self.rest, self.count = self.block, self.count - 1
            data, self.rest = self.rest[:size], self.rest[size:]
            return data

    block = entry("a.json", size=0).tobuf(tarfile.GNU_FORMAT)
    peaks = []
    for count in (200, 2000):
        tracemalloc.start()
        with pytest.raises(UserError):
            list(TarImages(Endless(block, count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 30_000


def test_damaged_bytes_end_in_one_line_or_in_images():
    tar = tar_of("a.jpg", "b.jpg", ("b.json", b"{}"), "c.jpg" + "x" * 200 + ".png")
    rng = random.Random(0)
    for _ in range(150):
        damaged = bytearray(tar[: rng.randrange(512, 5000)] if rng.random() < 0.3 else tar[:6000])
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            found_in(bytes(damaged))
        except UserError as error:
            assert "\n" not in str(error)
