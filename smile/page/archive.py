"""The book as a zip: the picture files as they were given, a .txt beside each, and captions.jsonl.

Unpacked, it is a data set: training tools read the .txt files, and this project captions.jsonl.
"""

import io
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from PIL import Image

from smile.page.book import Book, Entry
from smile.system.files import json_line
from smile.system.picture_files import HEIF_SUFFIXES, IMAGE_SUFFIXES, is_heif

LONGEST = 200  # bytes of a name; most file systems take 255, and a number may be added
CAPTIONS = "captions.jsonl"
# What Windows forbids, what would start another folder, and what would not be seen.
_FORBIDDEN = re.compile(
    r'[<>:"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff\u200b-\u200f\u2028-\u202f\u2060-\u206f]'
)
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE
)  # Windows


def zip_book(book: Book) -> bytes:
    """The zip's bytes.

    Raises:
        UserError: the book is empty.
    """
    book.expect_pictures()
    buffer = io.BytesIO()
    lines = []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, entry in zip(safe_names(book), book, strict=True):
            caption = " ".join(entry.caption.split())  # one line is one caption
            archive.writestr(name, entry.picture, zipfile.ZIP_STORED)  # compressed as it is
            text = PurePosixPath(name).with_suffix(".txt").name
            if caption:  # training refuses an empty one
                archive.writestr(text, caption.encode("utf-8", "replace") + b"\n")
                lines.append(json_line({"image": name, "captions": [{"text": caption}]}))
        archive.writestr(CAPTIONS, b"".join(lines))
    return buffer.getvalue()


def safe_names(entries: Iterable[Entry]) -> Iterator[str]:
    """A name for each picture that every system takes, after its own; no two share a .txt.

    No name leads to another folder or hides its ending. Of two that are the same but for case or
    suffix, the second becomes "dog (2).jpg".
    """
    taken = set()
    for entry in entries:
        name = PurePosixPath(_cleaned(entry.name))
        suffix = name.suffix.lower()
        if suffix in IMAGE_SUFFIXES | HEIF_SUFFIXES:
            stem = name.stem
        else:
            stem, suffix = name.name, _suffix(entry.picture)
        stem = stem.rstrip(". ") or "picture"
        if _RESERVED.fullmatch(stem):
            stem = f"_{stem}"
        stem = stem.encode()[: LONGEST - len(suffix)].decode(errors="ignore").rstrip(". ")
        unique = stem
        number = 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{stem} ({number})"
        taken.add(unique.casefold())
        yield unique + suffix


def _cleaned(name: str) -> str:
    """The last part of a path, without what some system forbids; no hidden file."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    return _FORBIDDEN.sub("_", last).strip().lstrip(".") or "picture"


def _suffix(picture: bytes) -> str:
    """The suffix of a picture, by its bytes."""
    if is_heif(picture):
        return ".heic"
    with Image.open(io.BytesIO(picture)) as image:
        form = image.format or ""
    return {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}.get(form, f".{form.lower()}")
