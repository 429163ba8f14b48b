"""Files of torch.save are read whatever lies beside the weights, and nothing in them ever runs."""

import contextlib
import io
import os
import pickle
import pickletools
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import smile.torchfile as torchfile
from smile.errors import UserError
from smile.torchfile import Placeholder, read_torch_file

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
STORAGE = ("storage", torch.FloatStorage, "0", "cpu", 4)


def save(value, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def write_zip(path: Path, program: bytes, data: bytes = bytes(16)) -> Path:
    """A file of torch.save with this pickle and one storage named 0."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: Path, program: bytes, numel: int = 4, data: bytes = bytes(16)) -> Path:
    """The same in the legacy format; the storage's name is in the list of keys that follows."""
    head = b"".join(
        pickle.dumps(value, protocol=2) for value in (torchfile.LEGACY_MAGIC, 1001, {"protocol": 1})
    )
    keys = pickle.dumps(["0"], protocol=2) + struct.pack("<q", numel) + data
    path.write_bytes(head + program + keys)
    return path


WRITE = {True: write_zip, False: write_legacy}


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value if isinstance(value, tuple) and value[:1] == ("storage",) else None


def dumps(value, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol=protocol).dump(value)
    return buffer.getvalue()


class Call:
    """Pickled as "call this function with these arguments", whatever they are."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state

    def __reduce__(self):
        return (self.function, self.args, *([] if self.state is None else [self.state]))

    def __call__(self):
        raise NotImplementedError("only to be pickled as a function")


def tensor_call(size=(2, 2), stride=(2, 1), offset=0, storage=STORAGE) -> Call:
    rebuild = torch._utils._rebuild_tensor_v2
    return Call(rebuild, storage, offset, size, stride, False, OrderedDict())


def tensors() -> dict:
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = OrderedDict(
        weight=base,
        same=base,
        view=base[:, 1:, ::2],
        turned=base.transpose(0, 2),
        whole=torch.tensor(7),
        none=torch.empty(0, 3),
        half=torch.randn(5).half(),
        brain=torch.randn(5).bfloat16(),
        eighth=torch.randn(5).to(torch.float8_e4m3fn),
        flags=torch.tensor([True, False]),
        wide=torch.randn(3, dtype=torch.float64),
        parameter=nn.Parameter(torch.randn(2, 2)),
    )
    state._metadata = {"": {"version": 1}}  # as module.state_dict() has
    return state


def check_tensors(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name].float(), tensor.float()), name


@pytest.fixture
def foreign():
    """An object of a class whose module is gone again when the file is read."""
    module = types.ModuleType("ruamel.yaml.comments")
    exec(
        "class CommentedMap(dict):\n"
        "    def __setstate__(self, state):\n"
        "        raise AssertionError('a method of the file ran')\n"
        "class Anchor: pass\n",
        module.__dict__,
    )
    names = ("ruamel", "ruamel.yaml", "ruamel.yaml.comments")
    sys.modules.update({name: module for name in names})
    value = module.CommentedMap(lr=1e-5, epochs=5)
    value.anchor = module.Anchor()
    yield value
    for name in names:
        sys.modules.pop(name, None)


# --- honest files --------------------------------------------------------------------------------


@FORMATS
def test_reads_plain_weights(tmp_path, zipped):
    state = tensors()
    check_tensors(read_torch_file(save(state, tmp_path / "a.pth", zipped)), state)


@FORMATS
def test_reads_weights_beside_an_object_of_an_unknown_class(tmp_path, zipped, foreign):
    state = tensors()
    contents = {"model": state, "optimizer": {"state": {}}, "config": foreign, "epoch": 3}
    path = save(contents, tmp_path / "checkpoint_best.pth", zipped)
    for name in [name for name in sys.modules if name.startswith("ruamel")]:
        del sys.modules[name]
    found = read_torch_file(path)
    check_tensors(found["model"], state)
    assert (found["optimizer"], found["epoch"]) == ({"state": {}}, 3)
    config = found["config"]
    assert type(config) is Placeholder
    assert config.name == "ruamel.yaml.comments.CommentedMap"
    assert dict(config.items) == {"lr": 1e-5, "epochs": 5}
    assert config.state["anchor"].name == "ruamel.yaml.comments.Anchor"
    assert not any(name.startswith("ruamel") for name in sys.modules)


@FORMATS
def test_the_machine_alone_reads_what_torch_reads(tmp_path, zipped):
    state = tensors()
    path = save(state, tmp_path / "a.pth", zipped)
    found = torchfile._read_zip(path) if zipped else torchfile._read_legacy(path)
    check_tensors(found, state)
    assert found["weight"].data_ptr() == found["same"].data_ptr()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@FORMATS
def test_reads_every_pickle_protocol(tmp_path, zipped, protocol):
    contents = {
        "model": tensors(),
        "other": Path("x"),
        "plain": [1, -2, 2**40, -(2**90), 0.5, "é", b"b", {1, 2}, frozenset({3}), None, True, (4,)],
    }
    path = tmp_path / "a.pth"
    torch.save(contents, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(path)
    check_tensors(found["model"], contents["model"])
    assert type(found["other"]) is Placeholder
    numbers = found["plain"]
    assert numbers[:6] == contents["plain"][:6]
    if protocol >= 4:  # earlier ones call `set` and `_codecs.encode`
        assert numbers == contents["plain"]


@pytest.mark.parametrize("beside", [None, Path("x")], ids=["torch", "machine"])
def test_tensors_of_a_zip_are_mapped_and_writing_to_them_spares_the_file(tmp_path, beside):
    path = save({"a": torch.zeros(4096), "b": torch.ones(3), "beside": beside}, tmp_path / "a.pth")
    before = path.read_bytes()
    found = read_torch_file(path)
    # The storages are stretches of one mapping, so their distance is that in the file.
    with zipfile.ZipFile(path) as archive:
        heads = [archive.getinfo(f"a/data/{key}").header_offset for key in "01"]
    distance = found["b"].data_ptr() - found["a"].data_ptr()
    assert abs(distance - (heads[1] - heads[0])) < 64
    found["a"].fill_(5)
    assert path.read_bytes() == before


def test_a_big_endian_file_is_refused_not_misread(tmp_path):
    path = tmp_path / "a.pth"
    write_zip(path, dumps({"a": tensor_call(), "x": Call(os.getcwd)}))
    path.write_bytes(path.read_bytes().replace(b"little", b"bigger"))
    with pytest.raises(UserError, match=r"a\.pth cannot be read"):
        read_torch_file(path)


# --- hostile files -------------------------------------------------------------------------------


class Touches:
    """Writes a file when made, or when given its state."""

    def __new__(cls, path=None, **keywords):
        if path is not None:
            Path(path).touch()
        return super().__new__(cls)

    def __setstate__(self, state):
        Path(state).touch()


class Victim:
    """A class of ours on which a pickle could set attributes."""


def raw(program: str, sentinel: Path) -> bytes:
    """A pickle written by hand, for instructions that Python's pickler no longer writes."""
    return program.replace("COMMAND", f"echo hostile > {sentinel}").encode() + b"."


def pushed(*values) -> bytes:
    """A pickle that puts these values on the stack, without its end."""
    return b"".join(dumps(value).removeprefix(b"\x80\x02").removesuffix(b".") for value in values)


HOSTILE = {
    "os.system": lambda at: dumps(Call(os.system, f"echo hostile > {at}")),
    "eval": lambda at: dumps(Call(eval, f"open({str(at)!r}, 'w')")),
    "protocol 0": lambda at: dumps(Call(os.system, f"echo hostile > {at}"), protocol=0),
    "stack global": lambda at: dumps(Call(os.system, f"echo hostile > {at}"), protocol=4),
    "nested reduce": lambda at: dumps(Call(list, Call(map, os.mkdir, [str(at)]))),
    "inside a dict": lambda at: dumps({"a": {"b": [1, Call(os.mkdir, str(at))]}}),
    "result of a call": lambda at: dumps(Call(Call(getattr, Path(at), "touch"))),
    "key of a dict": lambda at: dumps({Call(os.mkdir, str(at)): 1}),
    "argument of torch's": lambda at: dumps(tensor_call(size=Call(os.mkdir, str(at)))),
    "persistent id": lambda at: dumps(tensor_call(storage=(*STORAGE[:4], Call(os.mkdir, str(at))))),
    "setstate": lambda at: dumps(Call(Touches, state=str(at))),
    "setattr": lambda at: pushed(Victim, (None, {"owned": 1})) + b"b.",
    "newobj": lambda at: pushed(Touches, (str(at),)) + b"\x81.",
    "newobj_ex": lambda at: pushed(Touches, (str(at),), {}) + b"\x92.",
    "inst": lambda at: raw("(S'COMMAND'\nios\nsystem\n", at),
    "obj": lambda at: raw("(cos\nsystem\nS'COMMAND'\no", at),
}


def bare(program: bytes) -> bytes:
    """`program` without its protocol mark, to stand in the middle of another."""
    return program[2:] if program[:1] == b"\x80" else program


def beside_weights(program: bytes) -> bytes:
    """{"model": a tensor, "other": what `program` makes}, as a pickle."""
    start = dumps({"model": tensor_call()}).removesuffix(b".")
    return start + b"X\x05\x00\x00\x00other" + bare(program).removesuffix(b".") + b"s."


def happened(sentinel: Path) -> bool:
    return sentinel.exists() or hasattr(Victim, "owned")


@pytest.fixture(autouse=True)
def unowned():
    yield
    if hasattr(Victim, "owned"):
        del Victim.owned


@FORMATS
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_never_runs(tmp_path, name, zipped):
    sentinel = tmp_path / "sentinel"
    program = beside_weights(HOSTILE[name](sentinel))
    path = WRITE[zipped](tmp_path / "a.pth", program)
    if name == "argument of torch's":
        with pytest.raises(UserError, match="cannot be read"):
            read_torch_file(path)
    else:
        found = read_torch_file(path)
        assert torch.equal(found["model"], torch.zeros(2, 2))
        assert "other" in found
    assert not happened(sentinel)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_hostile_pickles_are_hostile(tmp_path, name):
    """With Python's own reader each does its work, so the test above can fail."""
    sentinel = tmp_path / "sentinel"
    unpickler = pickle.Unpickler(io.BytesIO(HOSTILE[name](sentinel)))
    unpickler.persistent_load = lambda identity: None
    with contextlib.suppress(Exception):
        unpickler.load()
    assert happened(sentinel)


@pytest.mark.parametrize("program", [b"\x82\x01.", b"\x83\x01\x01.", b"Pwhat\n.", b"K\x01Q."])
def test_extension_codes_and_foreign_persistent_objects_are_placeholders(tmp_path, program):
    found = read_torch_file(write_zip(tmp_path / "a.pth", beside_weights(program)))
    assert torch.equal(found["model"], torch.zeros(2, 2))
    assert type(found["other"]) is Placeholder


@FORMATS
@pytest.mark.parametrize(
    "claim",
    [
        {"size": (5,), "stride": (1,)},
        {"size": (2, 2), "stride": (3, 1)},
        {"size": (2,), "stride": (1,), "offset": 3},
        {"size": (2,), "stride": (1,), "offset": -1},
        {"size": (2,), "stride": (-1,), "offset": 3},
        {"size": (-2,), "stride": (1,)},
        {"size": (2**62,), "stride": (2**62,)},
        {"size": (2,), "stride": (1, 1)},
        {"size": (2.0,), "stride": (1,)},
        {"storage": (*STORAGE[:4], -4)},
        {"storage": (*STORAGE[:2], "../data.pkl", "cpu", 4)},
    ],
    ids=str,
)
@pytest.mark.parametrize("machine", [False, True], ids=["torch", "machine"])
def test_a_tensor_never_reaches_outside_its_data(tmp_path, claim, machine, zipped):
    contents = {"a": tensor_call(**claim), **({"b": Call(os.getcwd)} if machine else {})}
    path = WRITE[zipped](tmp_path / "a.pth", dumps(contents))
    with pytest.raises(UserError, match=r"a\.pth cannot be read") as caught:
        read_torch_file(path)
    assert "\n" not in str(caught.value)


@FORMATS
@pytest.mark.parametrize("numel", [5, 2**60])
def test_tensor_data_are_no_longer_than_the_file_has(tmp_path, numel, zipped):
    contents = {"a": tensor_call(storage=(*STORAGE[:4], numel)), "b": Call(os.getcwd)}
    path = WRITE[zipped](tmp_path / "a.pth", dumps(contents))
    with pytest.raises(UserError, match=r"a\.pth cannot be read.*tensor data 0"):
        read_torch_file(path)


def test_sparse_indices_are_checked(tmp_path):
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2), (2,))
    path = save({"a": sparse, "b": torch.ones(2)}, tmp_path / "a.pth")
    assert torch.equal(read_torch_file(path)["a"].to_dense(), torch.ones(2))
    indices = struct.pack("<2q", 0, 1)
    path.write_bytes(path.read_bytes().replace(indices, struct.pack("<2q", 0, 10**9)))
    found = read_torch_file(path)
    assert type(found["a"]) is Placeholder
    assert torch.equal(found["b"], torch.ones(2))


# --- what is no file of torch.save ---------------------------------------------------------------

NOT_WEIGHTS = {
    "empty": (b"", "is empty"),
    "page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page, not weights"),
    "page 2": (b"\n  <html lang=en>", "web page, not weights"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "json": (b'{"error": "not found"}', "is a JSON file"),
    "text": (b"Entry not found", "is a text file"),
    "safetensors": (
        struct.pack("<Q", 16) + b'{"a":{}}        ' + bytes(64),
        "rename it so that it ends in .safetensors",
    ),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "is compressed"),
    "tar": (b"storages".ljust(257, b"\0") + b"ustar\0" + bytes(300), "is a tar archive"),
    "random": (b"\x01\x9f\xee\x02" + bytes(60), "starts with 01 9f ee 02"),
    "zeros": (bytes(64), "starts with zeros"),
    "pickle": (pickle.dumps({"a": 1}), "a pickle, but not one of torch.save"),
    "broken pickle": (b"\x80\x02}q\x00", "cannot be read"),
    "broken zip": (b"PK\x03\x04" + bytes(99), "ends too early"),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_says_in_one_line_what_a_file_is(tmp_path, kind):
    contents, message = NOT_WEIGHTS[kind]
    path = tmp_path / "a.pth"
    path.write_bytes(contents)
    with pytest.raises(UserError) as caught:
        read_torch_file(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.pth does not exist"):
        read_torch_file(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="is a folder"):
        read_torch_file(tmp_path)


@FORMATS
@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
def test_a_truncated_file(tmp_path, part, zipped):
    path = save({"a": torch.randn(300), "b": torch.randn(300)}, tmp_path / "a.pth", zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(UserError, match="download or copy it again") as caught:
        read_torch_file(path)
    assert "\n" not in str(caught.value)


def test_zips_of_something_else(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match="not one of torch"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(UserError, match="TorchScript"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", dumps({"a": tensor_call()}))
        archive.writestr("a/data/0", bytes(16))
    with pytest.raises(UserError, match="compressed by another program"):
        read_torch_file(path)


@pytest.mark.parametrize("contents", [nn.Linear(2, 2), torch.ones(2), [1]], ids=str)
def test_contents_that_are_no_dict(tmp_path, contents):
    with pytest.raises(UserError, match="expected a dict of weights"):
        read_torch_file(save(contents, tmp_path / "a.pth"))


def test_placeholders_show_only_printable_names():
    assert repr(Placeholder("a.b")) == "<a.b, not loaded>"
    assert repr(Placeholder("a\x1b[2J\nb")).isprintable()


def test_every_instruction_of_pickle_is_known():
    """A new Python version's new instruction would be refused with an error, not misread."""
    known = {*torchfile.LITERALS, *torchfile.CONSTANTS, *torchfile.FROM_MARK}
    known |= set(torchfile.SHORT_TUPLES)
    source = Path(torchfile.__file__).read_text(encoding="utf-8")
    missing = {code.name for code in pickletools.opcodes if code.name not in known}
    # Out-of-band buffers cannot be in a file.
    expected = {"NEXT_BUFFER", "READONLY_BUFFER"}
    assert {name for name in missing if f'"{name}"' not in source} == expected
