"""The guard refuses, before any reader, what would crash it, never end or fill the memory."""

import io
import pickletools
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from smile.errors import UserError
from smile.weights import pickle_guard
from smile.weights.pickle_guard import PickleGuard
from smile.weights.torch_file import read_torch_file

START = b"\x80\x02"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, last: str) -> bytes:
    return f"c{module}\n{last}\n".encode()


TWICE = b")" + b"2\x86" * 20  # a tuple that holds the last one twice, twenty deep
LONG_LIST = b"](" + b"K\x01" * 5000 + b"e"
KEY = r"key or a set's item is or holds a "
BOMBS = {  # the program, and why it is refused
    "deep key": (b"})" + b"\x85" * 400_000 + b"K\x01s.", "nests more than 1000 deep"),
    "wide key": (b"}" + TWICE + b"K\x01s.", KEY + "tuple"),
    "one of several": (b"}(" + text("a") + b"N" + TWICE + b"K\x01u.", KEY + "tuple"),
    "dict from a mark": (b"(" + TWICE + b"K\x01d.", KEY + "tuple"),
    "item of a set": (b"\x8f(" + TWICE + b"\x90.", KEY + "tuple"),
    "item of a frozenset": (b"(" + TWICE + b"\x91.", KEY + "tuple"),
    "OrderedDict": (name("collections", "OrderedDict") + b")R" + TWICE + b"Ns.", KEY + "tuple"),
    "pairs": (
        name("collections", "OrderedDict") + b"](" + TWICE + b"N\x86e\x85R.",
        KEY + "tuple",
    ),
    "frozenset as key": (b"}(\x91K\x01s.", KEY + "set"),
    "list as key": (b"}]K\x01s.", KEY + "list"),
    "bytes as key": (b"}C\x01aK\x01s.", KEY + "bytes"),
    "huge number as key": (b"}" + number(2**61) + b"K\x01s.", KEY + "int"),
    "long text as key": (b"}" + text("a" * 3000) + b"K\x01s.", KEY + "str"),
    "many tuples as keys": (
        b"}(" + b"".join(b"M" + struct.pack("<H", k) + b"\x85N" for k in range(1001)) + b"u.",
        "too many or too long tuples",
    ),
    "wide value": (b"])" + b"2\x86" * 60 + b"a.", "a tuple in it holds more than 100000000"),
    "deep value": (b"]" * 2000 + b"a" * 1999 + b".", "nests more than 1000 deep"),
    "copies of a list": (
        name("torch", "Size") + b"q\x000" + LONG_LIST + b"\x85q\x010](h\x00h\x01Re.",
        "small whole numbers",
    ),
    "long arguments": (
        b"(" + b"N" * 5000 + b"tq\x000](" + (name("a", "b") + b"h\x00R") * 500 + b"e.",
        "more than 1000000 steps",
    ),
    "place in memory": (b"Nr" + struct.pack("<I", 2**31) + b".", "remembers value 2147483648"),
    "long number": (b"\x8b" + struct.pack("<i", 300) + bytes(300) + b".", "instruction LONG4"),
    "frame": (b"\x95" + struct.pack("<Q", 2**40) + b"N.", "ends too early"),
    "attributes of a class": (name("a", "B") + b"}b.", "sets attributes of a Function"),
    "attributes of a list": (b"]}b.", "sets attributes of a list"),
    "object of a known name": (name("torch", "Size") + b")\x81.", "makes an object of"),
    "call of a value": (b"N)R.", "makes an object of a NoneType"),
    "call without a tuple": (name("a", "b") + b"]R.", "instead of arguments"),
    "items for a tuple": (b")Na.", "adds items to a tuple"),
    "key without value": (b"}(Nu.", "a key without a value"),
    "no end": (b"N", "exhausted"),
    "nothing": (b".", "takes more than it put"),
    "module": (b"(" + text("module") + name("a", "b") + b"NNtQ.", "it holds a whole model"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused(kind, monkeypatch):
    monkeypatch.setattr(pickle_guard, "MOST_STEPS", 1_000_000)
    program, reason = BOMBS[kind]
    with pytest.raises(ValueError, match=reason):
        PickleGuard(num_bytes=10**6).follow(io.BytesIO(START + program))


def test_data_are_no_more_than_the_file_has_together():
    one = b"(" + text("storage") + name("torch", "FloatStorage")
    data = b"".join(one + text(key) + text("cpu") + b"K\x10NtQ" for key in "ab")
    PickleGuard(num_bytes=128).follow(io.BytesIO(START + data + b"\x86."))
    with pytest.raises(ValueError, match="tensor data b are not 64 bytes"):
        PickleGuard(num_bytes=100).follow(io.BytesIO(START + data + b"\x86."))


def test_no_reader_sees_what_the_guard_refuses(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", START + BOMBS["wide value"][0])
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UserError, match="more than 100000000 values"):
        read_torch_file(path)


def test_every_instruction_of_pickle_is_known():
    """A new Python version's new instruction would be refused with an error, not misread."""
    source = Path(pickle_guard.__file__).read_text(encoding="utf-8")
    unknown = {code.name for code in pickletools.opcodes if f'"{code.name}"' not in source}
    # Buffers beside the pickle, classes by a number, names of data as text, endless numbers.
    assert unknown == {"NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4", "PERSID", "LONG4"}


def test_what_is_plain_and_what_is_not():
    """Only what torch's reader builds as ours would is left to it."""
    empty = name("collections", "OrderedDict") + b")R"
    for program, plain in {
        b"}" + text("a") + b"N" + b"s.": True,
        empty + b"}" + text("_metadata") + b"}sb.": True,
        empty + b"}" + text("items") + b"}sb.": False,  # would stand before the method
        name("a", "b") + b")R.": False,
        name("torch", "Tensor") + b")\x81.": False,
    }.items():
        guard = PickleGuard(num_bytes=100)
        guard.follow(io.BytesIO(START + program))
        assert guard.plain == plain, program
