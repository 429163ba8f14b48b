"""`sample.py` on shards and on a folder in parts: the tables, and what is said."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import ROOT
from test_tar import tar_of
from zygote import killed, soon_after, zygote

import sample
from smile.scale import table, work
from smile.system.distributed import World

COLUMNS = ["key", "image", "caption", "logprob", "candidates", "error"]


pytestmark = pytest.mark.slow
SHARDS = "shards/{00000..00003}.tar"


def rows(path: str | Path) -> list[dict]:
    return pyarrow.parquet.read_table(path).to_pylist()


def tables(folder: str | Path = "out") -> dict[str, list[dict]]:
    return {path.name: rows(path) for path in sorted(Path(folder).glob("[0-9]*.parquet"))}


def contents(folder: str | Path = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("[0-9]*.parquet")}


def test_a_table_per_shard_in_its_order(place, run_sample, work_folder):
    code, out, err = run_sample(SHARDS, "--out", "out", "--num-return", 2)
    assert code == 0 and out == "" and "13 images described" in err
    found = tables()
    assert list(found) == [f"{shard:05}.parquet" for shard in range(4)]
    for shard, of_shard in enumerate(found.values()):
        keys = [f"{shard}/{number:03}" for number in range(shard, 13, 4)]
        assert [row["key"] for row in of_shard] == keys
        assert [row["image"] for row in of_shard] == [f"{key}.png" for key in keys]
    row = found["00000.parquet"][0]
    assert list(row) == COLUMNS and row["error"] is None
    assert row["candidates"][0] == {"caption": row["caption"], "logprob": row["logprob"]}
    assert len(row["candidates"]) == 2
    _, alone, _ = run_sample(*sorted(map(str, Path("photos").rglob("*.png"))), "--json")
    expected = {json.loads(line)["captions"][0]["text"] for line in alone.splitlines()}
    assert {row["caption"] for table in found.values() for row in table} == expected
    stats = json.loads(Path("out/00000.stats.json").read_text())
    assert (stats["rows"], stats["failed"], stats["others"]) == (4, 0, 8)
    metadata = pyarrow.parquet.read_schema("out/00000.parquet").metadata[b"smile"]
    assert json.loads(metadata)["source"] == "shards/00000.tar"
    assert json.loads(metadata)["run"] == json.loads(Path("out/_run.json").read_text())
    assert json.loads(metadata)["run"]["models"][0]["weights"]
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(
        ["_run.json", *(f"{n:05}.{end}" for n in range(4) for end in ("parquet", "stats.json"))]
    )


@pytest.mark.parametrize("images", [[SHARDS], ["photos", "--part-size", 5]])
def test_a_shared_machine_is_said_once(images, place, run_sample, shared_machine):
    code, _, err = run_sample(*images, "--out", "out", "--workers", 0)
    assert code == 0 and err.count("this machine is shared: other processes interrupted") == 1


def test_what_bfloat16_gains_is_said_once_there_is_work(place, run_sample, monkeypatch):
    monkeypatch.setattr("smile.captioning.options.bfloat16_unit", lambda: "AMX")
    _, _, err = run_sample(SHARDS, "--out", "out")
    assert err.count("this processor multiplies bfloat16 (AMX)") == 1
    code, _, err = run_sample(SHARDS, "--out", "out", "--num-beams", 1)
    assert code == 2 and "--num-beams was 2, is 1 now" in err and err.count("\n") == 1
    code, _, err = run_sample(SHARDS, "--out", "out")
    assert code == 0 and "0 images described" in err and "bfloat16" not in err


def test_weights_are_copied_for_a_shard_as_for_several_images(place, run_sample, monkeypatch):
    copied = []

    def prepare(captioner, options, *, repack):
        copied.append(repack)
        return captioner

    monkeypatch.setattr(sample, "prepare", prepare)
    photo = next(Path("photos").rglob("*.png"))
    for words in ([photo], [photo, photo], ["shards/00000.tar", "--out", "out"]):
        assert run_sample(*words)[0] == 0
    assert copied == [False, True, True]


def test_the_same_command_does_what_is_left(place, run_sample):
    run_sample(SHARDS, "--out", "out")
    whole = contents()
    Path("out/00001.stats.json").unlink()  # as if killed between the two
    Path("out/00002.parquet").unlink()
    code, _, err = run_sample("shards/*.tar", "--out", "out")
    assert code == 0 and "6 images described" in err and "2 shards had tables already" in err
    assert contents() == whole
    _, _, err = run_sample(SHARDS, "--out", "out")
    assert "0 images described" in err and "4 shards had tables already" in err


def test_other_settings_are_refused(place, run_sample):
    run_sample(SHARDS, "--out", "out")
    before = contents()
    for more, said in (
        (["--num-beams", 1], "out was made with another model or settings: --num-beams was 2, is"),
        (["--prefix", "ohwx "], '--prefix was none, is "ohwx " now: name another --out'),
    ):
        code, _, err = run_sample(SHARDS, "--out", "out", *more)
        assert code == 2 and said in err and err.count("\n") == 1
    code, _, err = run_sample(SHARDS, "--out", "out", model="other")
    assert code == 2 and "--model has other weights" in err
    assert contents() == before
    Path("out/_run.json").unlink()
    code, _, err = run_sample(SHARDS, "--out", "out")
    assert code == 2 and "out holds tables, but no _run.json" in err and contents() == before


def test_what_a_shard_has_wrong_is_said_and_the_rest_is_done(place, run_sample):
    good = Path("shards/00000.tar").read_bytes()
    hostile = ("/etc/a.png", "../b.png", "a.png", "a.png", ("no.png", b"no"), "\udcff.png", "z.png")
    for name, data in (
        ("empty", tar_of()),
        ("texts", tar_of(("a.json", b"{}"))),
        ("cut", good[:2500]),
        ("hostile", tar_of(*hostile)),
        ("nothing", b""),
    ):
        Path(f"shards/{name}.tar").write_bytes(data)
    code, _, err = run_sample("shards/*.tar", "shards/missing.tar", "--out", "out")
    assert code == 1 and "Traceback" not in err
    found = tables()
    assert len(found) == 4
    assert not Path("out/cut.parquet").exists() and not list(Path("out").glob(".*"))
    assert "shards/cut.tar: not a whole tar: " in err and "shards/nothing.tar: not a wh" in err
    assert "shards/missing.tar: cannot be read: no such file" in err
    assert "shards/empty.tar: there is no image in it\n" in err
    assert "shards/texts.tar: there is no image in it among 1 file\n" in err
    assert "shards/hostile.tar: 4 of 7 images failed, see error in hostile.parquet" in err
    assert "3 shards without a table: the same command again" in err
    wrong = rows("out/hostile.parquet")
    assert [bool(row["error"]) for row in wrong] == [True, True, False, True, True, False, False]
    assert [row["caption"] is None for row in wrong] == [bool(row["error"]) for row in wrong]
    assert wrong[4]["error"].endswith("not an image file") and wrong[5]["image"] == "\\xff.png"
    assert rows("out/empty.parquet") == []
    Path("shards/cut.tar").write_bytes(good)
    code, _, err = run_sample("shards/*.tar", "--out", "out")
    assert len(rows("out/cut.parquet")) == 4 and "7 shards had tables already" in err


def test_a_process_s_share_does_not_change_a_table(place, run_sample, monkeypatch):
    run_sample(SHARDS, "--out", "alone")
    for task in range(3):
        for name, value in (("ID", 5 + 2 * task), ("MIN", 5), ("STEP", 2), ("COUNT", 3)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        _, _, err = run_sample(SHARDS, "--out", "out")
        assert f"sample.py: task {task + 1} of 3: {2 if task == 0 else 1} shard" in err
        assert len(tables()) == [2, 3, 4][task]
    assert contents() == contents("alone")


class Alone(World):
    """A process of torchrun's, without the others to talk to."""

    def sums(self, numbers):
        return list(numbers)

    def first(self, action):
        return action()

    def leave(self, status=0):
        sys.exit(status)


def test_processes_of_torchrun_share_the_shards(place, run_sample, monkeypatch):
    run_sample(SHARDS, "--out", "alone")
    for rank in range(2):
        monkeypatch.setattr(World, "join", lambda rank=rank: Alone(rank, 2))
        code, *_ = run_sample(SHARDS, "--out", "out")
        assert code == 0 and len(tables()) == 2 * rank + 2
    assert contents() == contents("alone")


def test_workers_read_across_shards(place, run_sample):
    run_sample(SHARDS, "--out", "alone")
    run_sample(SHARDS, "--out", "out", "--workers", 1)
    assert contents() == contents("alone")


def test_no_batch_has_images_of_two_shards(place, run_sample, monkeypatch):
    """What a batch has may change its captions a little, and a table must not depend on others."""
    describe, seen = work.describe_batches, []

    def recording(batches, *args, **how):
        def recorded():
            for batch in batches:
                seen.append("".join(image.name[0] for image in batch))  # the shard's number
                yield batch

        return describe(recorded(), *args, **how)

    monkeypatch.setattr(work, "describe_batches", recording)
    run_sample(SHARDS, "--out", "out")
    assert seen == ["00", "00", "11", "1", "22", "2", "33", "3"]


# --- a folder in parts --------------------------------------------------------------------------


def test_a_folder_in_parts(place, run_sample):
    os.rename("photos/0/0009.png", b"photos/0/\xff.png")
    code, _, err = run_sample("photos", "--part-size", 5, "--out", "out")
    assert code == 0 and "13 images described" in err, err
    found = tables()
    assert [len(table) for table in found.values()] == [5, 5, 3]
    names = [row["image"] for table in found.values() for row in table]
    expected = sorted(map(str, Path("photos").rglob("*.png")))
    assert names == [name.replace("\udcff", "\\xff") for name in expected]
    before = contents()
    Path("photos/0/0000.png").write_bytes(Path("photos/1/0010.png").read_bytes())
    Path(expected[-1]).unlink()
    code, _, err = run_sample("photos", "--part-size", 5, "--out", "out")
    assert code == 0 and "1 image came since: in further parts; 1 image of _parts.parq" in err
    assert [row["image"] for row in rows("out/00003.parquet")] == ["photos/0/0000.png"]
    assert before.items() <= contents().items()
    shutil.rmtree("out", ignore_errors=False)
    run_sample("photos", "--part-size", 20, "--out", "out")
    (again,) = tables().values()
    assert [row["image"] for row in again[1:]] == [n for n in names if n != expected[-1]]


def test_names_that_went_before_their_part_was_done(place, run_sample):
    run_sample("photos", "--part-size", 5, "--out", "out")
    Path("out/00001.stats.json").unlink()
    gone = rows("out/00001.parquet")[2]["image"]
    Path(gone).unlink()
    code, _, err = run_sample("photos", "--part-size", 5, "--out", "out")
    assert code == 1 and "part 1: 1 of 5 images failed" in err
    assert rows("out/00001.parquet")[2]["error"] == "cannot read this image: no such file"


# --- stores -------------------------------------------------------------------------------------


@pytest.fixture
def stored(place, failing):
    """The shards on a store, too."""
    for path in Path("shards").iterdir():
        MemoryFileSystem().pipe_file(f"/in/{path.name}", path.read_bytes())
    return failing


def downloaded() -> dict[str, bytes]:
    files = MemoryFileSystem()
    found = {path.rpartition("/")[2]: path for path in files.find("/out")}
    return {n: files.cat_file(p) for n, p in found.items() if n[0].isdigit() and n[-1] == "t"}


@pytest.mark.parametrize("pattern", ["{00000..00003}.tar", "*.tar"])
def test_a_store_that_fails_now_and_then_gets_the_same_tables(stored, run_sample, pattern):
    run_sample("failing://in/*.tar", "--out", "alone")
    stored.every = 7
    code, _, err = run_sample(f"failing://in/{pattern}", "--out", "failing://out/x")
    assert code == 0 and stored.num_failed > 3, err
    assert downloaded() == contents("alone") and len(downloaded()) == 4
    code, _, err = run_sample(f"failing://in/{pattern}", "--out", "failing://out/x")
    assert "4 shards had tables already" in err
    code, _, err = run_sample("failing://in/*.tar", "--out", "failing://out/x", "--num-beams", 1)
    assert code == 2 and "failing://out/x was made with another model or settings" in err


def test_an_error_in_the_midst_of_a_part_publishes_nothing(stored, run_sample, monkeypatch):
    add, count = table.TableWriter.add, 0

    def failing_add(*words, **more):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        add(*words, **more)

    monkeypatch.setattr(table.TableWriter, "add", failing_add)
    code, _, err = run_sample("failing://in/*.tar", "--out", "failing://out/x")
    assert code == 130 and "the same command resumes from here" in err
    assert [*downloaded()] == ["00000.parquet"]
    code, _, err = run_sample("failing://in/*.tar", "--out", "failing://out/x")
    assert code == 0 and "9 images described" in err and len(downloaded()) == 4


def test_a_table_that_a_store_does_not_take_is_not_done(stored, run_sample):
    stored.refused = "/00001.parquet"
    code, _, err = run_sample(SHARDS, "--out", "failing://out/x")
    assert code == 1 and "00001.tar: failing://out/x/00001.parquet: " in err, err
    assert "(5 tries)" in err and "SECRET" not in err and "1 shard without a table" in err
    stats = [path for path in MemoryFileSystem().find("/out") if path.endswith(".stats.json")]
    assert [path[-16:-11] for path in stats] == ["00000", "00002", "00003"]
    stored.refused = ""
    code, _, err = run_sample(SHARDS, "--out", "failing://out/x")
    assert code == 0 and "3 shards had tables already" in err and len(downloaded()) == 4


def test_parts_on_a_store(place, failing, run_sample):
    failing.every = 9
    code, _, err = run_sample("photos", "--part-size", 5, "--out", "failing://out/x")
    assert code == 0 and "13 images described" in err and len(downloaded()) == 3
    code, _, err = run_sample("photos", "--part-size", 5, "--out", "failing://out/x")
    assert code == 0 and "3 parts had tables already" in err and len(downloaded()) == 3


# --- two jobs, and none -------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["disk", "store"])
def test_two_jobs_on_one_output(stored, run_sample, monkeypatch, where):
    """The other one writes a table, and is at work on another, while this one is."""
    out = "out" if where == "disk" else "failing://out/x"
    run_sample(SHARDS, "--out", "alone")
    begin, claims = work._Line._begin, []

    def begin_meanwhile(line, unit):
        if unit.name == "00001" and not claims:
            claims.append(line.output.claim("00003"))
            for name in ("00002.parquet", "00002.stats.json"):
                with line.output.folder.temporary(name) as path:
                    path.write_bytes(Path("alone", name).read_bytes())
                    line.output.folder.publish(path, name)
        return begin(line, unit)

    monkeypatch.setattr(work._Line, "_begin", begin_meanwhile)
    code, _, err = run_sample(SHARDS, "--out", out)
    assert "00002.tar: another job has written its table meanwhile" in err
    assert code == (where == "disk")
    if where == "disk":
        assert "00003.tar: another job is at work on it, with the same --out" in err
        claims[0].release()
        code, *_ = run_sample(SHARDS, "--out", out)
    assert code == 0 and (contents() or downloaded()) == contents("alone")


def test_killed_at_any_moment_the_same_command_completes(place, run_sample, work_folder):
    run_sample(SHARDS, "--out", "alone")
    words = [ROOT / "sample.py", SHARDS, "--out", "out", "--model", work_folder / "run"]
    words += ["--batch-size", 2, "--workers", 0]
    rng = random.Random(0)
    for number in range(2):
        far = soon_after(lambda n=number: len(contents()) >= n, 0.03 * rng.random())
        killed(zygote().start(words), far)
    code, *_ = run_sample(SHARDS, "--out", "out")
    assert code == 0 and contents() == contents("alone")
    assert not list(Path("out").glob(".unfinished*")) and not list(Path("out").glob("*.lock"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGTERM to send")
def test_sigterm_ends_it_tidily(place, work_folder):
    words = [ROOT / "sample.py", *["shards/*.tar"], "--out", "out", "--model", work_folder / "run"]
    process = zygote().start([*words, "--batch-size", 1, "--workers", 0])
    while process.poll() is None and not list(Path("out").glob(".unfinished-0*")):
        time.sleep(0.002)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGTERM)
    assert process.wait() in (0, 130) and not list(Path("out").glob(".*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([SHARDS], "shards become tables: say with --out FOLDER"),
        ([SHARDS, "--out", "c.jsonl"], "--out c.jsonl: expected a folder or an address"),
        ([SHARDS, "photos", "--out", "out"], "is a shard, and others are not"),
        ([SHARDS, "--part-size", "9", "--out", "out"], "--part-size cuts a folder of images"),
        ([SHARDS, "--txt", "--out", "out"], "--txt does not go with tables: leave it out"),
        ([SHARDS, "--json-tokens", "--out", "out"], "--json-tokens does not go with tables"),
        ([SHARDS, "--overwrite", "--out", "out"], "--overwrite does not go with tables"),
        (["shards/{a,b}*.tar", "--out", "out"], "shards/a*.tar: matches no shard"),
        (["{0..9999999}.tar", "--out", "out"], "10000000 shards are named, of at most 1000000"),
        ([SHARDS, "x/00000.tar", "--out", "out"], "shards of one name would have one table"),
        (["_run.tar", "--out", "out"], "names that begin with . or _"),
        (["https://h/*.tar?k=SECRET", "--out", "out"], "a web server lists no files"),
        (["nonsense://a.tar", "--out", "out"], "nonsense://a.tar: cannot be opened"),
        ([SHARDS, "--out", "nonsense://out"], "nonsense://out: cannot be opened"),
        ([SHARDS, "--out", ""], "--out has an empty name"),
        (["photos", "--out", "out"], "for a folder of tables, add --part-size 10000"),
    ],
)
def test_mistakes_are_one_line_before_any_work(place, run_sample, monkeypatch, words, said):
    if not words[0].startswith("nonsense"):  # that shard is told of when its turn comes
        monkeypatch.setattr(sample, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    code, out, err = run_sample(*words)
    assert code in (1, 2) and out == "" and said in err and "SECRET" not in err, err
    assert "Traceback" not in err and not tables()


def test_a_missing_package_is_said_before_any_work(place, run_sample, monkeypatch):
    monkeypatch.setattr("smile.scale.store.find_spec", lambda name: None)
    code, _, err = run_sample(SHARDS, "--out", "out")
    assert code == 2 and "tables need pyarrow: pip install -r requirements-scale.txt" in err


def test_addresses_are_shards_and_places_for_tables(place, run_sample):
    code, _, err = run_sample(f"file://{place}/shards/00000.tar", "--out", f"file://{place}/out")
    assert code == 0 and len(tables()["00000.parquet"]) == 4, err


def test_keys_in_addresses_are_in_no_file(place, failing, run_sample):
    MemoryFileSystem().pipe_file("/in/00000.tar", Path("shards/00000.tar").read_bytes())
    code, *_ = run_sample("failing://user:SECRET@in/00000.tar", "--out", "out")
    for path in Path("out").iterdir():
        assert b"SECRET" not in path.read_bytes()
    assert code in (0, 1)
