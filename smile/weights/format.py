"""Tells the format of a file of weights by its first bytes, or what else the file is."""

from pathlib import Path
from typing import Literal

from smile.errors import UserError
from smile.system.files import check_regular, is_web_page, reading

Format = Literal["zip", "pickle", "safetensors"]
LARGEST_HEADER = 2**27  # bytes of JSON before the tensors of a safetensors file


def weight_format(path: str | Path) -> Format:
    """The format of a file: what `torch.save` writes (zip) or wrote (pickle), or safetensors.

    Raises:
        UserError: there is no such file, it cannot be opened, or is something else.
    """
    path = Path(path)
    expected = "expected a file of weights (.pth, .pt, .bin, .safetensors)"
    if not path.exists():
        raise UserError(f"{path} does not exist, {expected}: check the path")
    if path.is_dir():
        raise UserError(f"{path} is a folder, {expected}: name the file in it")
    check_regular(path)
    with reading(path), path.open("rb") as file:
        head = file.read(1024)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < LARGEST_HEADER:
        return "safetensors"
    if head.startswith(b"\x80"):  # a pickle of protocol 2 or later
        return "pickle"
    raise UserError(f"{path} {_what_it_is(head)}")


def _what_it_is(head: bytes) -> str:
    """What a file without weights is, and what to do."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "is empty: its download or copy failed; make it again"
    if not any(head):
        return "starts with zeros: it is damaged or incomplete; download or copy it again"
    if is_web_page(head):
        return (
            "is a web page, not weights: download it again from the address behind the page's "
            "download button (a page instead of a file often means that a log-in is required)"
        )
    if head.startswith(b"version https://git-lfs"):
        return (
            "is a Git LFS pointer, not the weights it stands for: run `git lfs pull` in its "
            "folder, or download the file itself"
        )
    if head[257:262] == b"ustar":
        return "is a tar archive, expected one file of weights: unpack it first"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")):
        return "is compressed, expected a file of weights: unpack it first"
    if b"\0" not in head and head.isascii():
        kind = "JSON" if text[:1] in (b"{", b"[") else "text"
        return f"is a {kind} file, not weights: name the weights' file"
    return (
        "was written neither by torch.save nor as safetensors "
        f"(it starts with {head[:8].hex(' ')}): check the path"
    )
