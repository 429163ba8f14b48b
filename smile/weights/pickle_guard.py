"""Looks through a pickle of `torch.save` before anything reads it.

A pickle is a program for a small stack machine. A few hundred bytes of it can ask for more than any
machine has: tuples that hold each other sixty deep and are then hashed, a list that is copied a
thousand times, 6 GB of zeros, a tensor of 10¹² elements over four bytes. Readers find out too late,
so the guard follows the program first (`pickletools.genops`). It builds nothing: of each value it
knows the kind, how many values hang below it and how deep.

What honest files hold passes: tensors, plain values, containers of these, and objects of any other
class, which no reader of ours builds anyway.
"""

import mmap
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

import torch

DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
STORAGES = {  # bytes an element takes, by the name of the class that holds them
    f"{module}.{name}Storage": itemsize
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, itemsize in {
        **{"Float": 4, "Double": 8, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2},
        **{"Char": 1, "Byte": 1, "Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16, "Untyped": 1},
        **{"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1},
    }.items()
}

MOST_STEPS = 2_000_000  # instructions; a checkpoint of BLIP large with its optimiser has 150 000
MOST_VALUES = 10**8  # below one value, those that it holds twice counted twice
MOST_NAMES = 10_000  # different classes and functions
DEEPEST = 1000  # levels of nesting: about what Python's own pickler can write
MOST_DIMENSIONS = 64
# Keys are hashed and compared. A stranger can choose numbers, and tuples of them, of one hash.
LONGEST_KEY = 2000  # characters of a text, items of a tuple
LARGEST_KEY = 2**60
MOST_TUPLE_KEYS = 1000

LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
NEW = {  # the kind of a new container, and how many values go into it (None: all since the mark)
    **{"EMPTY_TUPLE": ("tuple", 0), "EMPTY_LIST": ("list", 0)},
    **{"EMPTY_DICT": ("dict", 0), "EMPTY_SET": ("set", 0)},
    **{"TUPLE1": ("tuple", 1), "TUPLE2": ("tuple", 2), "TUPLE3": ("tuple", 3)},
    **{"TUPLE": ("tuple", None), "LIST": ("list", None)},
    **{"DICT": ("dict", None), "FROZENSET": ("set", None)},
}
ADD = {  # what a container below its new items is, and how many these are
    **{"APPEND": ("list", 1), "APPENDS": ("list", None), "ADDITEMS": ("set", None)},
    **{"SETITEM": ("dict", 2), "SETITEMS": ("dict", None)},
}
TAKEN = {"REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "OBJ": None, "INST": None, "BUILD": 2}


class WholeModel(ValueError):
    """The file holds a model with its code, as early versions of torch.save wrote it."""


class Function:
    """A function or class that the file names: `module.name`."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


class Node:
    """A value that is not plain: its kind, what it holds, how many values that are, how deep.

    Kinds are tuple, list, dict, set, storage, tensor and object.
    """

    __slots__ = ("depth", "items", "kind", "size")

    def __init__(self, kind: str, items: list | tuple = ()):
        self.kind, self.size, self.depth = kind, 1, 1
        self.items: list[Any] = []
        if items:
            self.fill(items)

    def fill(self, items: list | tuple) -> None:
        self.items += items
        self.size += len(items)
        for item in items:
            if type(item) is Node:
                self.size += item.size
                if item.depth >= self.depth:
                    self.depth = item.depth + 1
        if self.depth > DEEPEST:
            raise ValueError(f"it nests more than {DEEPEST} deep")
        if self.size > MOST_VALUES:
            raise ValueError(f"a {self.kind} in it holds more than {MOST_VALUES} values")


def _kind(value: Any) -> str:
    return value.kind if type(value) is Node else type(value).__name__


class PickleGuard:
    """Follows the pickles of one file and refuses what no honest one asks for.

    Args:
        num_bytes: of the file; its tensors' data cannot be more.
        records: how many bytes of data lie under each key, where that is known.

    Once they are followed, `plain` says whether they held nothing but plain values and ordinary
    tensors, and `storages` which data they name: key → (class, number of elements).
    """

    def __init__(self, *, num_bytes: int, records: Mapping[str, int] | None = None):
        self.num_bytes = self.bytes_left = num_bytes
        self.records = records
        self.plain = True
        self.storages: dict[str, tuple[str, int]] = {}
        self.names: dict[str, Function] = {}
        self.steps = self.num_tuple_keys = 0

    def follow(self, file: BinaryIO | mmap.mmap) -> Any:
        """Follows one pickle, leaves the file after it and returns what the guard sees in it.

        Raises:
            ValueError: it is no pickle, or asks for what an honest file does not.
        """
        self.stack: list = []
        self.outer: list[list] = []  # stacks below each mark
        self.memo: dict[int, Any] = {}
        argument: Any  # what an instruction has depends on the instruction
        for step, (opcode, argument, _) in enumerate(pickletools.genops(cast(BinaryIO, file))):
            if not step % 1024:
                self._count(1024)
            name = opcode.name
            if name in LITERALS:
                self.stack.append(argument)
            elif name in PUTS:
                place = len(self.memo) if argument is None else argument  # None: MEMOIZE
                if not 0 <= place <= len(self.memo) + 1:  # Python's reader makes room up to there
                    raise ValueError(f"its pickle remembers value {place} after {len(self.memo)}")
                self.memo[place] = self.stack[-1]
            elif name in GETS:
                self.stack.append(self.memo[argument])
            elif name == "MARK":
                self.outer.append(self.stack)
                self.stack = []
            elif name == "POP_MARK" or (name == "POP" and not self.stack):
                self._take(None)
            elif name == "POP":
                self._take(1)
            elif name == "DUP":
                self.stack.append(self.stack[-1])
            elif name == "STOP":
                return self._take(1)[0]
            elif name == "FRAME":
                if argument > self.num_bytes:
                    raise ValueError("its pickle ends too early")
            elif name != "PROTO":
                value = self._made(name, argument)  # which may leave another stack
                self.stack.append(value)
        raise ValueError("its pickle has no end")

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise ValueError(f"its pickle takes more than {MOST_STEPS} steps")

    def _take(self, count: int | None) -> list:
        """Takes the last few values off the stack, or (None) all since the mark."""
        if count is None:
            items, self.stack = self.stack, self.outer.pop()
            return items
        start = len(self.stack) - count
        if start < 0:
            raise ValueError("its pickle takes more than it put")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _made(self, name: str, argument: Any) -> Any:
        """What an instruction puts on the stack, once it has taken from there what it needs."""
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in NEW:
            kind, count = NEW[name]
            return self._filled(Node(kind), self._take(count))
        if name in ADD:
            kind, count = ADD[name]
            items = self._take(count)
            [target] = self._take(1)
            if _kind(target) not in (kind, "object"):
                raise ValueError(f"it adds items to a {_kind(target)}")
            return self._filled(target, items)
        if name in TAKEN:
            items = self._take(TAKEN[name])
            self._count(sum(len(item.items) for item in items if type(item) is Node))
            if name == "INST":
                items.insert(0, self._named(argument))
            return self._built(name, *items[:2])
        if name == "GLOBAL":
            return self._named(argument)
        if name == "STACK_GLOBAL":
            return self._named(" ".join(self._take(2)))
        if name == "BINPERSID":
            return self._storage(*self._take(1))
        raise ValueError(f"it has the unexpected instruction {name}")

    def _filled(self, target: Node, items: list) -> Node:
        if target.kind == "dict" and len(items) % 2:
            raise ValueError("a dict has a key without a value")
        if target.kind in ("dict", "set"):
            for key in items[:: 2 if target.kind == "dict" else 1]:
                self._check_key(key)
        target.fill(items)
        return target

    def _check_key(self, key: Any) -> None:
        """Keys are small and flat. Names and objects are hashed by their identity."""
        parts = [key]
        if _kind(key) == "tuple":
            parts = key.items
            self._count(len(parts))
            self.num_tuple_keys += 1
        for part in parts:
            kind = _kind(part)
            if not (
                (kind == "str" and len(part) <= LONGEST_KEY)
                or (kind == "int" and abs(part) < LARGEST_KEY)
                or kind in ("float", "bool", "NoneType", "Function", "object")
            ):
                raise ValueError(
                    f"a dict's key or a set's item is or holds a {kind}, expected short text, a "
                    "small number, or a flat tuple of these"
                )
        if len(parts) > LONGEST_KEY or self.num_tuple_keys > MOST_TUPLE_KEYS:
            raise ValueError("it has too many or too long tuples as keys")

    # Names, calls and tensors.

    def _named(self, name: str) -> Function:
        """The name in "module name". `torch.load` knows one module by an earlier name too."""
        name = name.replace(" ", ".").replace("torch.tensor.", "torch._tensor.", 1)
        if len(self.names) >= MOST_NAMES:
            raise ValueError(f"it names more than {MOST_NAMES} classes and functions")
        return self.names.setdefault(name, Function(name))

    def _built(self, name: str, first: Any, second: Any = None) -> Node:
        """The result of a call, or an object made or changed in another way."""
        known = CALLS.get(first.name) if type(first) is Function else None
        if name == "BUILD":
            # state_dict() gives its OrderedDict a state: versions, which are not needed.
            state = second.items if _kind(second) == "dict" else []
            self.plain &= _kind(first) == "dict" and len(state) == 2 and state[0] == "_metadata"
            if _kind(first) not in ("dict", "object"):  # of classes and functions above all
                raise ValueError(f"it sets attributes of a {_kind(first)}")
            return first
        if name == "REDUCE" and _kind(second) != "tuple":
            raise ValueError(f"it calls something with a {_kind(second)} instead of arguments")
        if name == "REDUCE" and known:
            return known(self, *second.items)
        if known or _kind(first) not in ("Function", "object"):
            raise ValueError(f"it makes an object of a {_kind(first)}")
        self.plain = False
        return Node("object")

    def _storage(self, identity: Any) -> Node:
        """Tensor data: ("storage", class, key, device, number of elements), in old files + None."""
        parts: list[Any] = identity.items if _kind(identity) == "tuple" else []
        if parts[:1] == ["module"]:
            raise WholeModel("it holds a whole model")
        kinds = ["str", "Function", "str", "str", "int", *["NoneType"] * (self.records is None)]
        if [_kind(part) for part in parts] != kinds:
            raise ValueError("it names tensor data in an unknown way")
        title, named, key, _, count = parts[:5]
        kind = named.name
        if title != "storage" or kind not in STORAGES or not key.isascii():
            raise ValueError(f"it names tensor data {key!r} of the unknown kind {kind}")
        num_bytes = count * STORAGES[kind]
        if key not in self.storages:
            self.storages[key] = (kind, count)
            self.bytes_left -= num_bytes
        if self.storages[key] != (kind, count):
            raise ValueError(f"tensor data {key} are named in two ways")
        most = num_bytes if self.records is None else self.records.get(key, -1)
        if not 0 <= num_bytes <= most or self.bytes_left < 0:
            raise ValueError(f"tensor data {key} are not {num_bytes} bytes as it says")
        # A tensor right over quantised data would lack its scale: these are for other calls.
        return Node("quantised data" if ".Q" in kind else "storage", [num_bytes, STORAGES[kind]])

    def _tensor(self, storage, offset, size, stride, *rest) -> Node:
        """A dense tensor, which stays inside its data and has no more elements than these.

        The rest is `requires_grad`, hooks, and maybe a dtype and metadata ("negated").
        """
        size, stride = self._numbers(size), self._numbers(stride)
        self._numbers(Node("tuple", [offset]))
        if _kind(storage) != "storage" or len(size) != len(stride):
            raise ValueError("a tensor has no data, or a size and a stride that differ in length")
        num_bytes, itemsize = storage.items
        for part in rest:
            if type(part) is Function:
                itemsize = DTYPES[part.name].itemsize
            elif part not in (None, True, False) and (_kind(part) != "dict" or part.items):
                self.plain = False
        count, last = 1, offset
        for length, step in zip(size, stride, strict=True):
            count *= length
            last += (length - 1) * step
        if count and max(count, last + 1) * itemsize > num_bytes:
            raise ValueError(f"a tensor of size {tuple(size)} reaches outside its data")
        return Node("tensor")

    def _numbers(self, value: Any) -> list[int]:
        """The items of a tuple of whole numbers, one a dimension."""
        items: list[Any] = value.items if _kind(value) in ("tuple", "list") else [None]
        if len(items) > MOST_DIMENSIONS or not all(
            type(item) is int and 0 <= item < 2**63 for item in items
        ):
            raise ValueError("a tensor's offset, size and stride must be small whole numbers")
        return items

    def _parameter(self, tensor, *rest) -> Node:
        self.plain &= len(rest) == 2 and _kind(rest[1]) == "dict" and not rest[1].items
        if _kind(tensor) not in ("tensor", "object"):
            raise ValueError(f"a parameter is a {_kind(tensor)}")
        return tensor

    def _from_type(self, function, kind, arguments, state) -> Node:
        self.plain = False  # torch would set any attribute that the state names
        return self._built("REDUCE", function, arguments)

    def _size(self, numbers) -> Node:
        return Node("tuple", self._numbers(numbers))

    def _ordered_dict(self, *arguments) -> Node:
        result = Node("dict")
        for pairs in arguments:  # as Python 2 wrote what it holds
            self._count(len(pairs.items))
            for pair in pairs.items:
                self._filled(result, pair.items)
        return result


# All that a file can call and be given more than a placeholder.
CALLS: dict[str, Callable[..., Node]] = {
    "torch._utils._rebuild_tensor": PickleGuard._tensor,
    "torch._utils._rebuild_tensor_v2": PickleGuard._tensor,
    "torch._utils._rebuild_tensor_v3": PickleGuard._tensor,
    "torch._utils._rebuild_parameter": PickleGuard._parameter,
    "torch._utils._rebuild_parameter_with_state": PickleGuard._parameter,
    "torch._tensor._rebuild_from_type_v2": PickleGuard._from_type,
    "torch.Size": PickleGuard._size,
    "collections.OrderedDict": PickleGuard._ordered_dict,
}
