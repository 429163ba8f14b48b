"""Which files are pictures: by their suffix, or if they have none by their first bytes."""

import importlib.util
import os
import re
import stat
from functools import cache

# What counts as an image when a folder is searched: the suffixes of `images.FORMATS`.
_READ = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .avifs "
    ".jp2 .j2k .j2c .jpc .jpf .jpx .ppm .pgm .pbm .pnm .pfm"
)
IMAGE_SUFFIXES = frozenset(_READ.split())

# The iPhone's format. Pillow reads it with either plugin; pi-heif has no GPL encoder.
HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
HEIF_PLUGINS = ("pi_heif", "pillow_heif")

# Pictures that are not read. They are counted and reported, so that none is skipped silently.
_RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef "
    ".raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
)
_DRAWN = ".ai .cdr .emf .eps .kra .pict .psb .psd .svg .svgz .wmf .xcf"
_PIXELS = (
    ".bpg .cur .dds .exr .fits .flif .hdp .hdr .icns .ico .jls .jp3 .jxl .jxr .pcx .qoi .sgi .tga "
    ".wdp .xbm .xpm"
)
OTHER_SUFFIXES = frozenset(f"{_RAW} {_DRAWN} {_PIXELS}".split())

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_FIRST_BYTES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{4}\x00{4}|II\*\x00|MM\x00\*|RIFF.{4}WEBP|8BPS\x00\x01"
    rb"|\x00{3}\x0c(?:jP|JXL) |\xff\x4f\xff\x51|\xff\x0a|P[1-6]\s"
    rb"|.{4}ftyp(?:avi[fs]|crx |" + b"|".join(_HEIF_BRANDS) + rb")",
    re.DOTALL,
)
HEAD = 16  # bytes that tell a format
_SUFFIX = re.compile(r"\.[a-z]\w{0,7}", re.ASCII)  # "1.5 release" and "frame.0001" have none


def is_image(name: str | os.PathLike[str]) -> bool:
    """Whether a search of a folder takes a file of this name."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in IMAGE_SUFFIXES or (suffix in HEIF_SUFFIXES and heif_plugin() is not None)


def other_picture(path: str | os.PathLike[str]) -> str | None:
    """The kind of a picture that `is_image` does not take: its suffix, or "no suffix".

    None if the file is not a picture by its suffix, or if it has none by its first bytes.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in OTHER_SUFFIXES or suffix in HEIF_SUFFIXES:
        return suffix
    if _SUFFIX.fullmatch(suffix):
        return None
    return "no suffix" if _FIRST_BYTES.match(first_bytes(path)) else None


def is_heif(head: bytes) -> bool:
    """Whether a file is HEIF (such as HEIC), by its first bytes."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """The first `HEAD` bytes of a file, enough to tell its format; empty if it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe might never return
            return b""
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


@cache
def heif_plugin() -> str | None:
    """The module that teaches Pillow to read HEIF, if one is installed."""
    return next((name for name in HEIF_PLUGINS if importlib.util.find_spec(name)), None)
