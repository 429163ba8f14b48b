"""Files of torch.save are read whatever lies beside the weights, and nothing in them ever runs."""

import argparse
import contextlib
import io
import os
import pickle
import random
import struct
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from smile.errors import UserError
from smile.weights import torch_file
from smile.weights.torch_file import Placeholder, read_torch_file

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
STORAGE = ("storage", torch.FloatStorage, "0", "cpu", 4)  # and None in the legacy format


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
        pickle.dumps(value, protocol=2)
        for value in (torch_file.LEGACY_MAGIC, 1001, {"protocol": 1})
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


def tensor_call(
    size=(2, 2), stride=(2, 1), offset=0, storage=STORAGE, *, zipped: bool = True
) -> Call:
    rebuild = torch._utils._rebuild_tensor_v2
    storage = storage if zipped else (*storage, None)
    return Call(rebuild, storage, offset, size, stride, False, OrderedDict())


def of_torch() -> dict[str, Any]:
    """All that a file could write to of what builds tensors: code, defaults and attributes."""
    found = {"OrderedDict": OrderedDict, "Size": torch.Size, "Tensor": torch.Tensor}
    found |= (
        torch_file.BUILDERS
        | torch_file.DTYPES
        | {"Placeholder": Placeholder, "Unpickler": torch_file._Unpickler}
    )
    for module in (torch._utils, torch.storage, torch.serialization):
        found |= {f"{module.__name__}.{name}": value for name, value in vars(module).items()}
    return {
        name: (
            *(getattr(value, key, None) for key in ("__code__", "__defaults__", "__kwdefaults__")),
            {key: one for key, one in vars(value).items() if key != "__slotnames__"}  # a cache
            if hasattr(value, "__dict__")
            else None,
        )
        for name, value in found.items()
        if callable(value) and "_warn" not in name
    }


BEFORE = of_torch()


@pytest.fixture(autouse=True)
def torch_stays_as_it_is():
    """Whatever file a test reads."""
    yield
    assert of_torch() == BEFORE


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


def fake(module: str, *names: str, bases=(object,)) -> list[type]:
    """Classes of a module that the reader will not find."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        sys.modules.setdefault(name, types.ModuleType(name)).FAKE = True
    classes = [type(name, bases, {"__module__": module}) for name in names]
    for one in classes:
        setattr(sys.modules[module], one.__name__, one)
    return classes


def forget_fakes() -> None:
    for name in [name for name, module in sys.modules.items() if "FAKE" in vars(module)]:
        del sys.modules[name]


def of_smile_flickr8k() -> dict:
    """ruamel.yaml's commented map: an OrderedDict with a state, a set and marks in the text."""
    [commented] = fake("ruamel.yaml.comments", "CommentedMap", bases=(OrderedDict,))
    [mark, line] = fake("ruamel.yaml.error", "StringMark", "LineCol")
    config = commented(init_lr=1e-5, max_epoch=5, prompt="a picture of ")
    config._ok = {"init_lr", "max_epoch"}
    config._yaml_line_col = line()
    config._yaml_line_col.data = {"init_lr": [3, 0, 3, 9]}
    config._yaml_line_col.mark = mark()
    return {"model": tensors(), "optimizer": {"state": {}}, "config": config, "epoch": 3}


def of_lavis() -> dict:
    """omegaconf: objects that know their parents, with types and factories among their values."""
    [config, node] = fake("omegaconf.dictconfig", "DictConfig", "AnyNode")
    [metadata] = fake("omegaconf.base", "ContainerMetadata")
    root, child = config(), config()
    root._metadata, child._metadata = metadata(), metadata()
    root._metadata.__dict__ |= {"ref_type": Any, "object_type": dict, "cache": defaultdict(dict)}
    root._parent, child._parent = None, root
    root._content = {"run": child, "model": node()}
    child._content, root._content["model"]._parent = {"amp": node()}, child
    child._content["amp"].__dict__ |= {"_val": True, "_parent": child}
    return {"model": tensors(), "config": root, "scaler": None, "epoch": 2}


def of_lightning() -> dict:
    """Settings as a dict of another class and as a namespace, callbacks by their class."""
    [attributes] = fake("pytorch_lightning.utilities.parsing", "AttributeDict", bases=(dict,))
    [checkpoint] = fake("pytorch_lightning.callbacks", "ModelCheckpoint")
    return {
        "state_dict": tensors(),
        "epoch": 1,
        "pytorch-lightning_version": "2.0",
        "hyper_parameters": attributes(lr=1e-4, args=argparse.Namespace(beams=3)),
        "callbacks": {checkpoint: {"best_model_score": torch.tensor(0.5), "path": Path("a")}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
        "loops": {"fit_loop": {"state": {}, "steps": defaultdict(list)}},
    }


@FORMATS
@pytest.mark.parametrize("make", [of_smile_flickr8k, of_lavis, of_lightning])
def test_checkpoints_of_other_projects(tmp_path, make, zipped):
    """Each holds objects that torch refuses to load, whose modules are not there."""
    contents = make()
    path = save(contents, tmp_path / "checkpoint_best.pth", zipped)
    forget_fakes()
    with pytest.raises((pickle.UnpicklingError, AttributeError)):
        torch.load(path, weights_only=True)
    found = read_torch_file(path)
    assert found.keys() == contents.keys()
    place = "model" if "model" in contents else "state_dict"
    check_tensors(found[place], contents[place])
    assert found["epoch"] == contents["epoch"]
    assert not any("FAKE" in vars(module) for module in sys.modules.values())


@FORMATS
def test_a_negated_tensor_is_not_read_as_what_it_negates(tmp_path, zipped):
    negated = torch.complex(torch.ones(4), torch.ones(4)).conj().imag
    assert negated.is_neg()
    found = read_torch_file(save({"a": negated, "b": Path("x")}, tmp_path / "a.pth", zipped))
    assert isinstance(found["a"], Placeholder) or torch.equal(found["a"], negated)


def test_where_torch_may_read_nothing_but_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    path = save({"a": torch.ones(2)}, tmp_path / "a.pth")
    assert torch.equal(read_torch_file(path)["a"], torch.ones(2))
    with pytest.raises(UserError, match="TORCH_FORCE_WEIGHTS_ONLY_LOAD forbids"):
        read_torch_file(save({"a": Path("x")}, path))


@FORMATS
def test_the_unpickler_alone_reads_what_torch_reads(tmp_path, zipped):
    state = tensors()
    path = save(state, tmp_path / "a.pth", zipped)
    found = torch_file._load(path, is_zip=zipped, plain=False)
    check_tensors(found, state)
    assert found["weight"].data_ptr() == found["same"].data_ptr()


@pytest.mark.filterwarnings("ignore:Sparse")
@FORMATS
def test_tensors_that_are_not_dense_are_placeholders(tmp_path, zipped):
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2), (2,))
    path = save({"a": sparse, "b": torch.ones(2)}, tmp_path / "a.pth", zipped)
    found = read_torch_file(path)
    assert repr(found["a"]) == "<torch._utils._rebuild_sparse_tensor, not loaded>"
    assert torch.equal(found["b"], torch.ones(2))


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
    assert isinstance(found["other"], Placeholder)
    numbers = found["plain"]
    assert numbers[:6] == contents["plain"][:6]
    if protocol >= 4:  # earlier ones call `set` and `_codecs.encode`
        assert numbers == contents["plain"]


@pytest.mark.parametrize("beside", [None, Path("x")], ids=["torch", "ours"])
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
    "setstate": lambda at: dumps(Call(Touches, state=str(at))),
    "newobj": lambda at: pushed(Touches, (str(at),)) + b"\x81.",
    "newobj_ex": lambda at: pushed(Touches, (str(at),), {}) + b"\x92.",
    "inst": lambda at: raw("(S'COMMAND'\nios\nsystem\n", at),
    "obj": lambda at: raw("(cos\nsystem\nS'COMMAND'\no", at),
}


REFUSED = {  # asks for something where honest files have numbers or classes
    "argument of torch's": lambda at, **zipped: dumps(
        tensor_call(size=Call(os.mkdir, str(at)), **zipped)
    ),
    "persistent id": lambda at, **zipped: dumps(
        tensor_call(storage=(*STORAGE[:4], Call(os.mkdir, str(at))), **zipped)
    ),
    "setattr": lambda at, **zipped: pushed(Victim, (None, {"owned": 1})) + b"b.",
}


def bare(program: bytes) -> bytes:
    """`program` without its protocol mark, to stand in the middle of another."""
    return program[2:] if program[:1] == b"\x80" else program


def beside_weights(program: bytes, *, zipped: bool = True) -> bytes:
    """{"model": a tensor, "other": what `program` makes}, as a pickle."""
    start = dumps({"model": tensor_call(zipped=zipped)}).removesuffix(b".")
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
    program = beside_weights(HOSTILE[name](sentinel), zipped=zipped)
    found = read_torch_file(WRITE[zipped](tmp_path / "a.pth", program))
    assert torch.equal(found["model"], torch.zeros(2, 2))
    assert "other" in found
    assert not happened(sentinel)


@FORMATS
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_honest_file_asks_for_is_refused(tmp_path, name, zipped):
    sentinel = tmp_path / "sentinel"
    program = beside_weights(REFUSED[name](sentinel, zipped=zipped), zipped=zipped)
    with pytest.raises(UserError, match="cannot be read"):
        read_torch_file(WRITE[zipped](tmp_path / "a.pth", program))
    assert not happened(sentinel)


@pytest.mark.parametrize("name", [*HOSTILE, *REFUSED])
def test_the_hostile_pickles_are_hostile(tmp_path, name):
    """With Python's own reader each does its work, so the tests above can fail."""
    sentinel = tmp_path / "sentinel"
    unpickler = pickle.Unpickler(io.BytesIO((HOSTILE | REFUSED)[name](sentinel)))
    unpickler.persistent_load = lambda identity: None
    with contextlib.suppress(Exception):
        unpickler.load()
    assert happened(sentinel)


@pytest.mark.parametrize("state", [{"__defaults__": (1,)}, (None, {"__defaults__": (1,)})])
@pytest.mark.parametrize("name", [*torch_file.BUILDERS, "torch.half", "torch.float16", "os.system"])
def test_even_unguarded_a_pickle_cannot_write_to_what_it_names(tmp_path, name, state):
    """pickle's BUILD writes into whatever it gets, functions and classes of this process too."""
    module, _, last = name.rpartition(".")
    program = f"c{module}\n{last}\n".encode() + pushed(state) + b"b0" + bare(dumps({}))
    path = write_zip(tmp_path / "a.pth", b"\x80\x02" + program)
    before = of_torch()
    with contextlib.suppress(Exception):
        torch_file._load(path, is_zip=True, plain=False)
    assert of_torch() == before
    with pytest.raises(UserError, match="it sets attributes of a Function"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "program", [b"\x82\x01.", b"\x83\x01\x01.", b"Pwhat\n.", b"K\x01Q.", b"\x97."]
)
def test_instructions_that_no_file_of_torch_has_are_refused(tmp_path, program):
    path = write_zip(tmp_path / "a.pth", beside_weights(program))
    with pytest.raises(UserError, match=r"unexpected instruction|unknown way"):
        read_torch_file(path)


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
        {"size": (10**6, 10**6), "stride": (0, 0)},
        {"size": (5,), "stride": (0,)},
        {"size": (1,) * 65, "stride": (1,) * 65},
    ],
    ids=lambda claim: str(claim)[:40],
)
@pytest.mark.parametrize("foreign", [False, True], ids=["torch", "ours"])
def test_a_tensor_never_reaches_outside_its_data(tmp_path, claim, foreign, zipped):
    call = tensor_call(**claim, zipped=zipped)
    contents = {"a": call, **({"b": Call(os.getcwd)} if foreign else {})}
    path = WRITE[zipped](tmp_path / "a.pth", dumps(contents))
    with pytest.raises(UserError, match=r"a\.pth cannot be read") as caught:
        read_torch_file(path)
    assert "\n" not in str(caught.value)


@FORMATS
@pytest.mark.parametrize("numel", [5, 2**60])
def test_tensor_data_are_no_longer_than_the_file_has(tmp_path, numel, zipped):
    call = tensor_call(storage=(*STORAGE[:4], numel), zipped=zipped)
    contents = {"a": call, "b": Call(os.getcwd)}
    path = WRITE[zipped](tmp_path / "a.pth", dumps(contents))
    with pytest.raises(UserError, match=r"a\.pth cannot be read.*tensor data 0"):
        read_torch_file(path)


MUTATED = 150  # of each format; thousands were tried


@pytest.mark.slow
@FORMATS
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, zipped):
    draw = random.Random(0)
    call = tensor_call(zipped=zipped)
    honest = dumps({"model": {"a": call, ("b", 1): [call, Call(os.getcwd)]}, "x": {1, 2.5}})
    for _ in range(MUTATED):
        program = bytearray(honest)
        for _ in range(draw.choice((1, 2, 4))):
            at = draw.randrange(len(program))
            match draw.randrange(3):
                case 0:
                    program[at] = draw.randrange(256)
                case 1:
                    del program[at : at + draw.randrange(1, 6)]
                case 2:
                    start = draw.randrange(len(program))
                    program[at:at] = program[start : start + draw.randrange(40)]
        path = WRITE[zipped](tmp_path / "a.pth", bytes(program))
        try:
            assert isinstance(read_torch_file(path), dict)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_zip_that_two_readers_could_see_differently_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    good = write_zip(path, dumps({"a": tensor_call()})).read_bytes()
    assert torch.equal(read_torch_file(path)["a"], torch.zeros(2, 2))
    table = good.rindex(b"PK\x05\x06")
    moved = good[:table] + b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 1) + good[table:]
    for changed in (good + bytes(30), b"PK\x03\x04" + good, moved, good[:-2] + b"\1\0 "):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"never writes|ends too early") as caught:
            read_torch_file(path)
        assert "\n" not in str(caught.value)
    for name in ("archive/DATA.pkl", "archive/data.pkl", "archive/data/0"):
        path.write_bytes(good)
        with (
            zipfile.ZipFile(path, "a") as archive,
            pytest.warns(UserWarning) if (name != "archive/DATA.pkl") else contextlib.nullcontext(),
        ):
            archive.writestr(name, dumps({"b": tensor_call()}))
        with pytest.raises(UserError, match="never writes"):
            read_torch_file(path)


def test_a_tar_archive_that_begins_like_a_pickle(tmp_path):
    """torch.load tries tar first, and what is in it would be another pickle."""
    path = tmp_path / "a.pth"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("\x80\x02"), io.BytesIO())
    assert path.read_bytes()[:2] == b"\x80\x02"
    with pytest.raises(UserError, match="is a tar archive"):
        read_torch_file(path)


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
        "is in safetensors format",
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


@FORMATS
@pytest.mark.parametrize("contents", [nn.Linear(2, 2), torch.ones(2), [1]], ids=str)
def test_contents_that_are_no_dict(tmp_path, contents, zipped):
    with pytest.raises(UserError, match=r"expected a dict of weights: save `model\.state_dict"):
        read_torch_file(save(contents, tmp_path / "a.pth", zipped))


def test_placeholders_show_only_printable_names(tmp_path):
    path = write_zip(tmp_path / "a.pth", b"\x80\x02ca\x1b[2J\nb\n.")
    with pytest.raises(UserError, match=r"holds <'a.x1b.2J.b', not loaded>, expected a dict"):
        read_torch_file(path)
