"""Files appear whole or not at all, on a disk and on a store whose requests fail now and then."""

import io

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from smile.errors import UserError
from smile.scale import store
from smile.scale.store import ReadAhead, is_address, open_folder, open_store


@pytest.fixture(params=["disk", "store"])
def address(request, tmp_path, failing):
    return str(tmp_path / "out") if request.param == "disk" else "failing://out/tables"


def put(address: str, name: str, data: bytes, *, new: bool = False) -> None:
    folder = open_folder(address)
    with folder.temporary(name) as path:
        path.write_bytes(data)
        (folder.publish_new if new else folder.publish)(path, name)


def test_what_is_published_is_there_whole(address):
    folder = open_folder(address)
    assert folder.sizes() == {} and folder.size("a.x") == 0
    put(address, "a.x", b"one")
    put(address, "b.x", b"two!")
    put(address, "a.x", b"newer")
    put(address, "a.x", b"first stays", new=True)
    put(address, "c.x", b"c", new=True)
    assert folder.sizes() == {"a.x": 5, "b.x": 4, "c.x": 1} and folder.size("b.x") == 4
    assert folder.read("a.x", lambda file: file.read()) == b"newer"


def test_what_is_not_published_leaves_nothing(address):
    folder = open_folder(address)
    with pytest.raises(ZeroDivisionError), folder.temporary("a.x") as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert folder.sizes() == {}
    assert not path.exists()


def test_killed_while_publishing_leaves_nothing_of_another_name(tmp_path, monkeypatch):
    """What is left is removed with the next claim, which knows it by its name."""
    monkeypatch.setattr(store, "flush", lambda path: found.extend(tmp_path.iterdir()))
    found = []
    put(str(tmp_path), "a.x", b"one")
    assert {path.name[:16] for path in found} <= {".unfinished-a.x-", "a.x"}


def test_one_process_at_a_time_has_a_file_of_a_disk(tmp_path):
    folder = open_folder(str(tmp_path))
    (tmp_path / ".unfinished-a.x-1234").write_text("of a killed process")
    (tmp_path / ".unfinished-ab.x-1234").write_text("of another file")
    (tmp_path / ".unfinished-a.y-1234").write_text("of a file that goes with it")
    claim = folder.claim("a.x", "a.y")
    assert claim.free and not folder.claim("a.x").free and folder.claim("b.x").free
    claim.release()
    assert folder.claim("a.x").free
    assert [p.name for p in tmp_path.glob(".unfinished-*")] == [".unfinished-ab.x-1234"]


def test_requests_that_fail_now_and_then_are_repeated(failing):
    failing.every = 3
    for number in range(20):
        put("failing://out", f"{number}", b"x" * number)
    folder = open_folder("failing://out")
    assert folder.sizes() == {str(number): number for number in range(20)}
    assert folder.read("7", lambda file: file.read()) == b"x" * 7
    assert failing.num_failed > 10


def test_a_store_that_fails_for_good_is_one_line_without_keys(failing):
    failing.every = 1
    with pytest.raises(UserError) as raised:
        open_folder("failing://out").sizes()
    said = str(raised.value)
    assert "(5 tries)" in said and "SECRET" not in said and "\n" not in said


def test_a_broken_connection_is_resumed_where_it_broke(failing, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 100)
    data = bytes(range(256)) * 40
    MemoryFileSystem().pipe_file("/in/a.tar", data)
    failing.every = 4
    file = ReadAhead("failing://in/a.tar")
    found = io.BytesIO()
    while piece := file.read(77):
        found.write(piece)
    file.close()
    assert found.getvalue() == data and failing.num_failed > 20


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("missing.tar", "missing.tar: cannot be read: no such file or directory"),
        (".", "it is a folder"),
        ("failing://in/no.tar", "failing://in/no.tar: no such file"),
        ("nonsense://x/a.tar", "nonsense://x/a.tar: cannot be opened: Protocol not known"),
    ],
)
def test_what_cannot_be_read_is_one_line(address, said, failing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        ReadAhead(address).read()
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp")]
)
def test_a_missing_package_is_named_with_its_command(kind, package, monkeypatch):
    def missing(*_, **__):
        raise ImportError("a long story")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError) as raised:
        open_store(f"{kind}://user:SECRET@host/a.tar?key=SECRET")
    assert str(raised.value) == (
        f"{kind}://host/a.tar?…: {kind}:// needs {package}: pip install {package}"
    )


@pytest.mark.parametrize("package", ["pyarrow", "fsspec"])
def test_what_tables_need_is_named_with_its_command(package, monkeypatch):
    monkeypatch.setattr(store, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"need {package}: pip install -r requirements-scale.txt"):
        store.require(package, "tables")


def test_a_path_is_no_address():
    assert all(map(is_address, ("s3://b/k", "hf://datasets/a/b", "simplecache::s3://b/k")))
    assert not any(map(is_address, ("a/b.tar", "C:\\a.tar", "/a//b", "a:b")))
