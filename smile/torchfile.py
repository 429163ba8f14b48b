"""Reads `.pth`, `.pt` and `.bin` files without running anything that is written in them.

What `torch.save` writes is a pickle beside raw tensor data, and a pickle is a program: "import
this, call that". `torch.load(weights_only=True)` follows only the calls that build tensors and
refuses a file that has any other. Some honest files do: SMILE_Flickr8k keeps a `ruamel.yaml` object
next to the weights. Those are read again here by a machine that follows the same program but has
nothing to call: tensors come from a fixed table (`BUILDERS`) whose bounds are checked, and
whatever else the file wants imported or called becomes an inert `Placeholder`.
"""

import io
import mmap
import os
import pickletools
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from smile.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the number that opens what torch.save wrote before 1.6

DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
        *("float8_e4m3fn", "float8_e5m2"),
    )
}
STORAGES = {
    f"{module}.{name}": dtype
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in {
        "FloatStorage": torch.float32,
        "DoubleStorage": torch.float64,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "ShortStorage": torch.int16,
        "CharStorage": torch.int8,
        "ByteStorage": torch.uint8,
        "BoolStorage": torch.bool,
        "ComplexFloatStorage": torch.complex64,
        "ComplexDoubleStorage": torch.complex128,
        "UntypedStorage": torch.uint8,
    }.items()
}


def read_torch_file(path: str | Path) -> dict:
    """Reads a file of `torch.save`, zip or legacy format, onto the CPU; runs no code from it.

    Tensors of the zip format are memory-mapped: they take memory as they are read, and what is
    written to them never reaches the file. Objects of classes that are not torch's are
    `Placeholder`s.

    Raises:
        UserError: if there is no such file, or it is something else, damaged, or not a dict.
    """
    path = Path(path)
    is_zip = _check_format(path)
    if is_zip:
        _check_archive(path)
    try:
        contents = _load_weights_only(path, is_zip)
    except Exception:  # whatever torch refuses, and why: the reader below decides what it is
        try:
            contents = _read_zip(path) if is_zip else _read_legacy(path)
        except UserError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path} cannot be read, {reason}: {_AGAIN}") from error
    if not isinstance(contents, dict):
        found = contents if isinstance(contents, Placeholder) else type(contents).__name__
        raise UserError(
            f"{path} holds {found}, expected a dict of weights: "
            "save `model.state_dict()` instead of the model"
        )
    return contents


def _load_weights_only(path: Path, is_zip: bool) -> Any:
    # A sparse tensor's indices are checked only on demand; unchecked ones read out of bounds.
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():
        warnings.simplefilter("ignore")  # "please file an issue" about uncommon pickle protocols
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


# --- is it a file of torch.save at all? ------------------------------------------------------

_AGAIN = "it is damaged or incomplete; download or copy it again"


def _check_format(path: Path) -> bool:
    """Whether the file is a zip (True) or maybe the legacy format (False); else says what it is."""
    expected = "expected a file of weights (.pth, .pt, .bin)"
    if not path.exists():
        raise UserError(f"{path} does not exist, {expected}: check the path")
    if path.is_dir():
        raise UserError(f"{path} is a folder, {expected}: name the file in it")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from error
    if head.startswith(b"PK\x03\x04"):
        return True
    if head.startswith(b"\x80"):  # the opening of a pickle, protocol 2 or later
        return False
    raise UserError(f"{path} {_what_it_is(head, size)}")


def _what_it_is(head: bytes, size: int) -> str:
    """What a file is that torch.save cannot have written, and what to do."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "is empty: its download or copy failed; make it again"
    if not any(head):
        return f"starts with zeros: {_AGAIN}"
    if text[:9].lower() == b"<!doctype" or text[:5].lower() == b"<html":
        return (
            "is a web page, not weights: download it again from the address behind the page's "
            "download button (a page instead of a file often means that a log-in is asked for)"
        )
    if head.startswith(b"version https://git-lfs"):
        return (
            "is a Git LFS pointer, not the weights it stands for: run `git lfs pull` in its "
            "folder, or download the file itself"
        )
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "is in safetensors format: rename it so that it ends in .safetensors"
    if head[257:262] == b"ustar":
        return "is a tar archive, expected one file of torch.save: unpack it first"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")):
        return "is compressed, expected a file of torch.save: unpack it first"
    if b"\0" not in head and head.isascii():
        kind = "JSON" if text[:1] in (b"{", b"[") else "text"
        return f"is a {kind} file, expected weights that torch.save wrote: name the weights' file"
    return f"was not written by torch.save (it starts with {head[:8].hex(' ')}): check the path"


def _check_archive(path: Path) -> None:
    """Refuses a zip that is cut short, of something else, or too squeezed to be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} ends too early or is damaged ({path.stat().st_size} bytes, no table of "
            "contents at its end): download or copy it again"
        ) from error
    names = {record.filename.partition("/")[2] for record in records}
    if "constants.pkl" in names:
        raise UserError(
            f"{path} is a TorchScript program, which is code: expected weights; "
            "save `model.state_dict()` with torch.save"
        )
    if "data.pkl" not in names:
        raise UserError(f"{path} is a zip archive, but not one of torch.save: unpack it first")
    # Compressed records could not be memory-mapped, and might unpack to any size.
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UserError(
            f"{path} was compressed by another program, which torch.save never does: "
            "get the original file, or unpack and zip it again without compression (`zip -0 -r`)"
        )


# --- where tensor data lies --------------------------------------------------------------------


@dataclass(frozen=True)
class _Storage:
    """The memory under one or more tensors."""

    memory: torch.UntypedStorage
    dtype: torch.dtype


class _MappedStorages:
    """Storages of a zip file: stretches of the file itself, mapped copy-on-write."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile, prefix: str):
        self.file, self.archive, self.prefix = file, archive, prefix
        self.size = os.fstat(file.fileno()).st_size
        self.mapped = torch.UntypedStorage.from_file(file.name, False, self.size)

    def __call__(self, key: str, num_bytes: int) -> torch.UntypedStorage:
        record = self.archive.getinfo(f"{self.prefix}data/{key}")
        if not 0 <= num_bytes <= record.file_size:
            raise ValueError(f"tensor data {key} is {record.file_size} bytes, not {num_bytes}")
        self.file.seek(record.header_offset)
        header = self.file.read(30)  # a zip's local header; name and extra fields follow it
        name_length, extra_length = struct.unpack("<HH", header[26:])
        start = record.header_offset + len(header) + name_length + extra_length
        if start + num_bytes > self.size:
            raise ValueError(f"tensor data {key} lies outside the file")
        return self.mapped[start : start + num_bytes]


class _PromisedStorages:
    """Storages of a legacy file, whose data follow the pickle that names them: `fill` reads it."""

    def __init__(self, file: mmap.mmap):
        self.file = file
        self.bytes_left = file.size()
        self.promised: dict[str, Tensor] = {}

    def __call__(self, key: str, num_bytes: int) -> torch.UntypedStorage:
        if not 0 <= num_bytes <= self.bytes_left:
            raise ValueError(f"tensor data {key} is {num_bytes} bytes, more than the file has")
        self.bytes_left -= num_bytes
        self.promised[key] = torch.empty(num_bytes, dtype=torch.uint8)
        return self.promised[key].untyped_storage()

    def fill(self, keys: list[str], dtypes: dict[str, torch.dtype]) -> None:
        """Reads every promised storage: its number of elements in 8 bytes, then the elements."""
        if sorted(keys) != sorted(self.promised):
            raise ValueError("the list of tensor data does not match the tensors")
        for key in keys:
            (count,) = struct.unpack("<q", self.file.read(8))
            memory = self.promised[key].numpy()
            data = self.file.read(len(memory))
            if count * dtypes[key].itemsize != len(memory) or len(data) != len(memory):
                raise ValueError(f"tensor data {key} is not the size its tensors say")
            memory.data[:] = data


def _read_zip(path: Path) -> Any:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.partition("/")[2] == "data.pkl")
        prefix = name.removesuffix("data.pkl")
        if f"{prefix}byteorder" in archive.namelist():
            order = archive.read(f"{prefix}byteorder")
            if order != b"little":
                raise ValueError(f"its byte order is {order!r}, expected little")
        program = io.BytesIO(archive.read(name))
        return _Machine(_MappedStorages(file, archive, prefix)).run(program)


def _read_legacy(path: Path) -> Any:
    """Five pickles (magic number, version, system, contents, keys of the storages), then data."""
    with (
        path.open("rb") as opened,
        # A map, not the file: reading a length that a hostile file claims never reserves it.
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file,
    ):
        storages = _PromisedStorages(file)
        if _Machine(storages).run(file) != LEGACY_MAGIC:
            raise UserError(
                f"{path} is a pickle, but not one of torch.save, and pickles can run code: "
                "save the weights with torch.save or as safetensors"
            )
        for _ in ("version", "system"):
            _Machine(storages).run(file)
        machine = _Machine(storages)
        contents = machine.run(file)
        keys = _Machine(storages).run(file)
        storages.fill(keys, {key: storage.dtype for key, storage in machine.storages.items()})
        return contents


# --- the machine -------------------------------------------------------------------------------


@dataclass(eq=False)
class Placeholder:
    """What stands where the file wanted `name` imported, called or built. It does nothing.

    The arguments, state and contents it would have been given are kept, to be looked at.
    """

    name: str
    args: tuple = ()
    state: Any = None
    items: list = field(default_factory=list)

    def __repr__(self) -> str:
        name = self.name if self.name.isprintable() else ascii(self.name)
        return f"<{name}, not loaded>"


def _tensor(storage, offset, size, stride, *_, dtype: torch.dtype | None = None) -> Any:
    """A dense tensor over `storage`, after checking that it stays inside it."""
    if not isinstance(storage, _Storage):
        return Placeholder("tensor")
    numbers = (offset, *size, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor's offset, size and stride must be whole numbers")
    dtype = dtype or storage.dtype
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last + 1) * dtype.itemsize > storage.memory.nbytes():
        raise ValueError(f"a tensor of size {tuple(size)} reaches outside its data")
    return torch.empty(0, dtype=dtype).set_(storage.memory, offset, tuple(size), tuple(stride))


def _tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata=None) -> Any:
    # Metadata are the conjugate and negative bits, which no weight has.
    return Placeholder("tensor") if metadata else _tensor(storage, offset, size, stride)


def _tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None) -> Any:
    if metadata or not isinstance(dtype, torch.dtype):
        return Placeholder("tensor")
    return _tensor(storage, offset, size, stride, dtype=dtype)


def _parameter(data, *_) -> Any:
    return data if isinstance(data, Tensor) else Placeholder("parameter")


# All that a file can call: torch's own recipes for tensors, done here with checks.
BUILDERS: dict[str, Callable] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": lambda numbers=(): tuple(numbers) if type(numbers) in (tuple, list) else (),
    "collections.OrderedDict": lambda pairs=(): OrderedDict(
        tuple(pair) for pair in pairs if type(pair) in (tuple, list)
    ),
}


def _pairs(flat: list) -> dict:
    return dict(zip(flat[::2], flat[1::2], strict=True))


CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
FROM_MARK = {"TUPLE": tuple, "LIST": list, "FROZENSET": frozenset, "DICT": _pairs}
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """Pickle's stack machine without imports and calls, one method per kind of instruction."""

    def __init__(self, find_storage: Callable[[str, int], torch.UntypedStorage]):
        self.find_storage = find_storage
        self.storages: dict[str, _Storage] = {}
        self.stack: list = []
        self.outer: list[list] = []  # stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self, file) -> Any:
        """Follows one pickle of a binary file and leaves the file after it."""
        steps = (self._make, self._add, self._remember, self._arrange, self._call)
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return self.stack.pop()
            if not any(step(opcode.name, argument) for step in steps):
                raise ValueError(f"it has the unexpected instruction {opcode.name}")
        raise ValueError("its pickle has no end")

    def _since_mark(self) -> list:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _last(self, count: int) -> list:
        if len(self.stack) < count:
            raise ValueError("its pickle takes more than it put")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _make(self, name: str, argument: Any) -> bool:
        """Plain values and new containers."""
        if name in LITERALS:
            value = argument
        elif name in CONSTANTS:
            value = CONSTANTS[name]()
        elif name in SHORT_TUPLES:
            value = tuple(self._last(SHORT_TUPLES[name]))
        elif name in FROM_MARK:
            value = FROM_MARK[name](self._since_mark())
        else:
            return False
        self.stack.append(value)
        return True

    def _add(self, name: str, argument: Any) -> bool:
        """Items into the container below them."""
        if name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            items = self._since_mark()
        elif name in ("APPEND", "SETITEM"):
            items = self._last(1 if name == "APPEND" else 2)
        else:
            return False
        target = self.stack[-1]
        # `type(...) is`: nothing here can be a subclass with methods of its own.
        if isinstance(target, Placeholder):
            target.items.extend(
                items if "APPEND" in name or name == "ADDITEMS" else _pairs(items).items()
            )
        elif name.startswith("SETITEM") and type(target) in (dict, OrderedDict):
            target.update(_pairs(items))
        elif name.startswith("APPEND") and type(target) is list:
            target.extend(items)
        elif name == "ADDITEMS" and type(target) is set:
            target.update(items)
        else:
            raise ValueError(f"it adds items to a {type(target).__name__}")
        return True

    def _remember(self, name: str, argument: Any) -> bool:
        """The numbered memory, for what occurs more than once."""
        if name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        else:
            return False
        return True

    def _arrange(self, name: str, argument: Any) -> bool:
        """The stack itself."""
        if name == "MARK":
            self.outer.append(self.stack)
            self.stack = []
        elif name == "POP_MARK" or (name == "POP" and not self.stack):
            self._since_mark()
        elif name == "POP":
            self._last(1)
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        else:
            return name in ("PROTO", "FRAME")
        return True

    def _call(self, name: str, argument: Any) -> bool:
        """Every instruction by which a pickle imports, calls or builds something."""
        match name:
            case "GLOBAL":
                value = _named(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                value = _named(".".join(self._last(2)))
            case "EXT1" | "EXT2" | "EXT4":
                value = Placeholder(f"copyreg extension {argument}")
            case "REDUCE" | "NEWOBJ":
                function, args = self._last(2)
                value = _called(function, args)
            case "NEWOBJ_EX":
                function, args, keywords = self._last(3)
                value = Placeholder(_name(function), (args, keywords))
            case "INST":
                value = Placeholder(argument.replace(" ", "."), tuple(self._since_mark()))
            case "OBJ":
                function, *args = self._since_mark()
                value = Placeholder(_name(function), tuple(args))
            case "BUILD":  # an OrderedDict's state is the `_metadata` of state_dict(): not needed
                value, state = self._last(2)
                if isinstance(value, Placeholder):
                    value.state = state
            case "PERSID":
                value = Placeholder("persistent object")
            case "BINPERSID":
                value = self._storage(*self._last(1))
            case _:
                return False
        self.stack.append(value)
        return True

    def _storage(self, identity: Any) -> _Storage | Placeholder:
        """The tensor data that ("storage", type, key, device, number of elements, ...) names."""
        match identity:
            case ("storage", Placeholder(name=kind), str(key), _, int(count), *_) if (
                kind in STORAGES and identity[5:] in ((), (None,))
            ):
                if key not in self.storages:
                    memory = self.find_storage(key, count * STORAGES[kind].itemsize)
                    self.storages[key] = _Storage(memory, STORAGES[kind])
                return self.storages[key]
        return Placeholder("persistent object")


def _named(name: str) -> Any:
    """What the file calls `module.name`: a dtype, or a name that means nothing until called."""
    return DTYPES.get(name) or Placeholder(name)


def _called(function: Any, args: Any) -> Any:
    """The result of a builder of ours, told by its name alone; else a placeholder."""
    if isinstance(function, Placeholder) and function.name in BUILDERS and type(args) is tuple:
        return BUILDERS[function.name](*args)
    return Placeholder(_name(function), args if type(args) is tuple else (args,))


def _name(function: Any) -> str:
    return function.name if isinstance(function, Placeholder) else type(function).__name__
