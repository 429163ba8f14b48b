"""Reads `.pth`, `.pt` and `.bin` files without running anything that is written in them.

What `torch.save` writes is a pickle beside raw tensor data, and a pickle is a program: "import
this, call that". `PickleGuard` looks through it first. What holds nothing but tensors and plain
values is then read by `torch.load(weights_only=True)`. Some honest files hold more: SMILE_Flickr8k
keeps a `ruamel.yaml` object next to the weights. These are read by Python's own unpickler with one
change: a name in the file never leads to a class or a function of this process. A few names lead to
builders of ours (`BUILDERS`), each other one to a class made for it that does nothing.
"""

import contextlib
import io
import mmap
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch

from smile.errors import UserError
from smile.weights.format import weight_format
from smile.weights.pickle_guard import DTYPES, STORAGES, PickleGuard, WholeModel

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the number that opens what torch.save wrote before 1.6
_AGAIN = (
    "it is damaged, incomplete or meant to harm: download or copy it again, from where you trust"
)
_STATE_DICT = "expected a dict of weights: save `model.state_dict()` instead of the model"


def read_torch_file(path: str | Path) -> dict:
    """Reads a file of `torch.save`, zip or legacy format, onto the CPU; runs no code from it.

    Tensors of the zip format are memory-mapped: they take memory as they are read, and what is
    written to them never reaches the file. Objects of classes that are not torch's, and tensors
    that are not dense, are `Placeholder`s.

    Raises:
        UserError: if there is no such file, or it is something else, damaged, or not a dict.
    """
    path = Path(path)
    found = weight_format(path)
    if found == "safetensors":
        raise UserError(f"{path} is in safetensors format, expected a file of torch.save")
    is_zip = found == "zip"
    try:
        guard = _guard_zip(path) if is_zip else _guard_legacy(path)
        contents = _load(path, is_zip=is_zip, plain=guard.plain)
    except UserError:
        raise
    except WholeModel as error:
        raise UserError(f"{path} holds a whole model, {_STATE_DICT}") from error
    except Exception as error:  # whatever a damaged or hostile file leads to
        reason = " ".join(str(error).split())[:300]
        if not isinstance(error, ValueError | RuntimeError | OSError) or not reason:
            reason = f"its pickle makes no sense ({type(error).__name__})"
        raise UserError(f"{path} cannot be read, {reason}; {_AGAIN}") from error
    if not isinstance(contents, dict):
        strange = isinstance(contents, Placeholder | _PlaceholderClass)
        what = contents if strange else type(contents).__name__
        raise UserError(f"{path} holds {what}, {_STATE_DICT}")
    return contents


def _load(path: Path, *, is_zip: bool, plain: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "please file an issue" about uncommon pickle protocols
        load = partial(torch.load, path, map_location="cpu", mmap=is_zip)
        if plain:
            with contextlib.suppress(Exception):  # what torch refuses, and why: see below
                return load(weights_only=True)
        if os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "").lower() in ("1", "y", "yes", "true"):
            raise UserError(
                f"{path} holds more than weights, which TORCH_FORCE_WEIGHTS_ONLY_LOAD forbids to "
                "leave out: unset it, or save `model.state_dict()` alone"
            )
        return load(weights_only=False, pickle_module=_Pickle)


# --- what a file asks for, looked through before it is read -------------------------------------


def _guard_zip(path: Path) -> PickleGuard:
    """Follows the pickle of a zip that two readers cannot see differently."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            in_order = _has_one_table(file, size)
            records = {record.filename: record for record in archive.infolist()}
            in_order &= len({name.lower() for name in records}) == len(archive.infolist())
            name = _find_pickle(path, list(records.values()))
            start = name.removesuffix("data.pkl") + "data/"
            program = io.BytesIO(archive.read(name))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} ends too early or is damaged ({size} bytes, no table of contents at its end): "
            "download or copy it again"
        ) from error
    if not in_order:
        raise UserError(f"{path} is a zip archive that torch.save never writes; {_AGAIN}")
    sizes = {key.removeprefix(start): record.file_size for key, record in records.items()}
    guard = PickleGuard(num_bytes=size, records=sizes)
    guard.follow(program)
    return guard


def _find_pickle(path: Path, records: list[zipfile.ZipInfo]) -> str:
    """The name of the record that holds the pickle. Refuses zips of something else."""
    names = {record.filename.partition("/")[2].lower(): record.filename for record in records}
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
    return names["data.pkl"]


def _has_one_table(file: BinaryIO, size: int) -> bool:
    """Whether a zip's table of contents lies where each reader looks: right before the end.

    At the end are, in 98 bytes: the place of the table in 64 bits, the place of that, and the place
    of the table in 32 bits. Python's reader and torch's differ in what they do where these disagree
    or are not there, and so could be shown different files.
    """
    file.seek(-min(size, 98), os.SEEK_END)
    tail = file.read().rjust(98, b"\0")
    wide, locator, end = tail[:56], tail[56:76], tail[76:]
    if locator.startswith(b"PK\x06\x07"):
        length, offset = struct.unpack("<40x2Q", wide)
        start = size - len(tail)
        in_place = struct.unpack("<8xQ4x", locator) == (start,) and wide.startswith(b"PK\x06\x06")
    else:
        length, offset = struct.unpack("<12x2L2x", end)
        start = size - len(end)
        in_place = True
    return in_place and end.startswith(b"PK\x05\x06") and offset + length == start


def _guard_legacy(path: Path) -> PickleGuard:
    """Follows the five pickles: magic number, version, system, contents, keys of the data."""
    with contextlib.suppress(tarfile.TarError), tarfile.open(path, "r:"):
        raise UserError(
            f"{path} is a tar archive, expected one file of torch.save: unpack it first"
        )
    with (
        path.open("rb") as opened,
        # A map, not the file: reading a length that a hostile file claims never reserves it.
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file,
    ):
        guard = PickleGuard(num_bytes=file.size())
        if guard.follow(file) != LEGACY_MAGIC:
            raise UserError(
                f"{path} is a pickle, but not one of torch.save, and pickles can run code: "
                "save the weights with torch.save or as safetensors"
            )
        for _ in ("version", "system", "contents"):
            guard.follow(file)
        keys = getattr(guard.follow(file), "items", [])
        if sorted(keys) != sorted(guard.storages):
            raise ValueError("the list of tensor data does not match the tensors")
        for key in keys:
            kind, count = guard.storages[key]
            start, num_bytes = file.tell() + 8, count * STORAGES[kind]
            written = int.from_bytes(file.read(8), "little")
            if written != count or start + num_bytes > file.size():
                raise ValueError(f"tensor data {key} are not as long as its tensors say")
            file.seek(start + num_bytes)
    return guard


# --- Python's unpickler, with nothing to call ------------------------------------------------


class _PlaceholderClass(type):
    """The class of classes that stand for a stranger's."""

    def __repr__(cls) -> str:
        name = cls.__name__ if cls.__name__.isprintable() else ascii(cls.__name__)
        return f"<{name}, not loaded>"


class Placeholder(metaclass=_PlaceholderClass):
    """What stands for an object of a class that the file names. It does and keeps nothing."""

    __slots__ = ()
    shape = ()  # for tables of weights, where it may stand for a tensor

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    @property
    def name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        return repr(type(self))

    def _ignore(self, *_: Any) -> "Placeholder":
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = _ignore


class _Builder:
    """Stands for a function of torch. A pickle could write to the attributes of a function, of a
    class or of an object: this has none.
    """

    __slots__ = ()


class _Tensor(_Builder):
    __slots__ = ()

    def __call__(self, storage, offset, size, stride, *rest) -> Any:
        """A dense tensor. The rest is `requires_grad`, hooks, and maybe a dtype and metadata."""
        if any(isinstance(part, dict) and part for part in rest):  # no weight has these
            return Placeholder()
        dtypes = [part for part in rest if isinstance(part, torch.dtype)]
        tensor = torch.empty(0, dtype=dtypes[0] if dtypes else storage.dtype)
        return tensor.set_(storage.untyped(), offset, tuple(size), tuple(stride))


class _Parameter(_Builder):
    __slots__ = ()

    def __call__(self, data, *_) -> Any:
        return data


class _FromType(_Builder):
    __slots__ = ()

    def __call__(self, function, _, arguments, __) -> Any:
        return function(*arguments)


class _Size(_Builder):
    __slots__ = ()

    def __call__(self, numbers) -> tuple:
        return tuple(numbers)


class _Dict(dict):
    """An OrderedDict; its state, which is the `_metadata` of state_dict(), is not needed."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        pass


class _OrderedDict(_Builder):
    __slots__ = ()

    def __call__(self, pairs=()) -> dict:
        return _Dict(pairs)


class _Bytes(_Builder):
    """The class of tensor data without a dtype of their own, as `torch.load` asks about it."""

    __slots__ = ()
    dtype = torch.uint8


BUILDERS = {
    "torch._utils._rebuild_tensor": _Tensor(),
    "torch._utils._rebuild_tensor_v2": _Tensor(),
    "torch._utils._rebuild_tensor_v3": _Tensor(),
    "torch._utils._rebuild_parameter": _Parameter(),
    "torch._utils._rebuild_parameter_with_state": _Parameter(),
    "torch._tensor._rebuild_from_type_v2": _FromType(),
    "torch.storage.UntypedStorage": _Bytes(),
    "torch.Size": _Size(),
    "collections.OrderedDict": _OrderedDict(),
}


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, which finds nothing but builders, dtypes and placeholders."""

    def __init__(self, file: BinaryIO, **options: Any):
        super().__init__(file, **options)
        self.classes: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module}.{name}"
        found = BUILDERS.get(name) or DTYPES.get(name) or self.classes.get(name)
        if found is None:
            found = _PlaceholderClass(name, (Placeholder,), {"__slots__": ()})
            self.classes[name] = found
        return found


class _Pickle:
    """What `torch.load` uses of the module `pickle`."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: BinaryIO, **options: Any) -> Any:
        return _Unpickler(file, **options).load()
