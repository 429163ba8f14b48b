"""Files of captions that can always be gone on with."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smile.captioner import Caption
from smile.data import Broken
from smile.errors import UserError
from smile.results import CaptionFile, Result, scan

ROOT = Path(__file__).parent.parent
RUN = {"models": [{"weights": "abc", "source": "here", "num_beams": 3}], "precision": "float32"}
NAMES = ["a.jpg", 'b "1", c.jpg', "new\nline.jpg", "ümläut.jpg", os.fsdecode(b"\xff.jpg"), "z.jpg"]


def result(name: str, count: int = 2) -> Result:
    captions = [
        Caption(f'a {i}, "{len(name)}"', -i / 3, [("a", -i / 3), ("[SEP]", 0.0)])
        for i in range(count)
    ]
    return Result(name, {"": captions})


def caption_file(path, **options) -> CaptionFile:
    return CaptionFile(path, **({"run": RUN, "captions_per_image": 2} | options))


def write(path, names, *, order=None, results=result, world=1, **options) -> list[CaptionFile]:
    """One run over `names`, with what is done left out."""
    files = [caption_file(path, rank=rank, world=world, **options) for rank in range(world)]
    for file in files:
        file.check()
    files[0].prepare()
    for file in files:
        file.open()
    for rank, file in enumerate(files):
        for name in names[rank::world]:
            file.add([results(name)])
        file.close()
    files[0].finish(order or names, in_order=order is None)
    return files


@pytest.fixture(params=["jsonl", "csv"])
def path(request, tmp_path):
    return tmp_path / f"captions.{request.param}"


def test_jsonl_is_as_promised(tmp_path):
    write(tmp_path / "c.jsonl", NAMES)
    lines = (tmp_path / "c.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line)["image"] for line in lines[:-1]] == NAMES and lines[-1] == b""
    assert json.loads(lines[0]) == {
        "image": "a.jpg",
        "captions": [
            {"text": 'a 0, "5"', "logprob": 0.0, "tokens": [["a", 0.0], ["[SEP]", 0.0]]},
            {"text": 'a 1, "5"', "logprob": -0.333333, "tokens": [["a", -0.333333], ["[SEP]", 0]]},
        ],
    }
    assert "ümläut".encode() in lines[3]


def test_csv_is_as_promised(tmp_path):
    write(tmp_path / "c.csv", NAMES)
    with open(tmp_path / "c.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "caption", "logprob"]
    assert [row[0] for row in rows] == [name for name in NAMES for _ in range(2)]
    assert rows[1] == ["a.jpg", 'a 1, "5"', "-0.333333"]


def test_models_side_by_side_are_named(tmp_path):
    def results(name):
        captions = result(name, count=1).captions[""]
        return Result(name, {"mle": captions, "smile": captions})

    for kind in ("jsonl", "csv"):
        write(tmp_path / f"c.{kind}", NAMES, results=results, labels=["mle", "smile"])
    record = json.loads((tmp_path / "c.jsonl").read_text().splitlines()[0])
    assert [caption["model"] for caption in record["captions"]] == ["mle", "smile"]
    lines = (tmp_path / "c.csv").read_bytes().split(b"\n")
    assert lines[:2] == [b"image,model,caption,logprob", b'a.jpg,mle,"a 0, ""5""",0.0']


def test_a_file_torn_anywhere_is_made_whole(path):
    """Cut at every byte, as a kill in the middle of a write would, then gone on with."""
    names = NAMES[:4]
    write(path, names)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        write(path, names)
        assert path.read_bytes() == whole, f"cut at byte {length}"


def test_a_second_run_adds_only_what_is_new(path):
    write(path, NAMES[:3])
    first = path.read_bytes()
    (file,) = write(path, NAMES)
    assert file.done == set(NAMES[:3])
    assert path.read_bytes().startswith(first) and len(path.read_bytes()) > len(first)
    whole = path.read_bytes()
    write(path, NAMES)
    assert path.read_bytes() == whole


def test_new_images_find_their_place(path):
    write(path, [NAMES[0], NAMES[2]])
    write(path, NAMES, order=NAMES)
    ordered = path.read_bytes()
    path.unlink()
    write(path, NAMES)
    assert path.read_bytes() == ordered


def test_images_of_another_folder_stay(path):
    write(path, ["old/a.jpg", "old/b.jpg"])
    write(path, ["new/a.jpg"], order=["new/a.jpg"])
    names = [name for name, *_ in scan(path, caption_file(path).form)]
    assert names == ["new/a.jpg", "old/a.jpg", "old/b.jpg"]


@pytest.mark.parametrize("worlds", [(2,), (3, 1), (1, 2), (4, 3, 2)])
def test_any_number_of_processes_gives_one_file_in_order(path, worlds):
    """Runs with other numbers of processes go on where those before were killed."""
    alone = path.with_name("alone" + path.suffix)
    write(alone, NAMES)
    for i, world in enumerate(worlds[:-1]):
        files = [caption_file(path, rank=rank, world=world) for rank in range(world)]
        files[0].prepare()
        for file in files:
            file.open()
        files[-1].add([result(NAMES[i])])  # the others had nothing yet
        os.write(files[-1].file, b'"torn')
        for file in files:
            file.close()
        files[0].lock.release()
    write(path, NAMES, order=NAMES, world=worlds[-1])
    assert path.read_bytes() == alone.read_bytes()
    assert not list(path.parent.glob("*.part-*")) and not list(path.parent.glob(".*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "bfloat16"}, 'precision "float32" there, "bfloat16" now'),
        (
            {"models": [{"weights": "abc", "num_beams": 1}]},
            r"models\.1\.num_beams 3 there, 1 now",
        ),
        ({"models": [{"weights": "x", "num_beams": 3}]}, r'models\.1\.weights "abc" there'),
        ({"models": []}, "models .* there"),
    ],
)
def test_another_model_or_other_settings_are_refused(path, change, said):
    write(path, NAMES)
    with pytest.raises(UserError, match=said) as caught:
        caption_file(path, run=RUN | change).check()
    assert "--overwrite" in str(caught.value)


def test_the_place_of_the_model_does_not_matter(path):
    write(path, NAMES)
    models = [RUN["models"][0] | {"source": "elsewhere"}]
    caption_file(path, run=RUN | {"models": models}).check()


def test_a_file_of_unknown_origin_is_refused_and_can_be_overwritten(path):
    path.write_text("my own work\n")
    with pytest.raises(UserError, match=r"run\.json.* does not"):
        caption_file(path).check()
    file = caption_file(path)
    file.prepare(overwrite=True)
    file.open()
    file.close()
    file.finish([])
    assert b"my own" not in path.read_bytes()


def test_a_line_that_is_not_ours_is_named(path):
    write(path, NAMES)
    size = path.stat().st_size
    with open(path, "ab") as file:
        file.write(b'{"picture": 1}\n' if path.suffix == ".jsonl" else b'"a"b,c\n')
    with pytest.raises(UserError, match=f"byte {size}"):
        caption_file(path).prepare()


def test_two_runs_at_once_are_refused(path):
    """Until the first is no more, killed or not; its children do not count."""
    code = (
        "import os, sys, time; from smile.results import CaptionFile\n"
        f"CaptionFile({str(path)!r}, run={RUN!r}).prepare()\n"
        "if os.fork() == 0: time.sleep(60)\n"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
    ) as first:
        try:
            assert first.stdout.readline()
            with pytest.raises(UserError, match="another run is writing"):
                caption_file(path).prepare()
            first.kill()
            first.wait()
            second = caption_file(path)
            second.prepare()
            second.lock.release()
        finally:
            os.killpg(first.pid, signal.SIGKILL)


def test_a_batch_is_one_write(path, monkeypatch):
    file = caption_file(path)
    file.prepare()
    file.open()
    written = []
    monkeypatch.setattr(os, "write", lambda _, data: written.append(data) or len(data))
    file.add([result(name) for name in NAMES])
    file.close()
    file.lock.release()
    assert len(written) == 1 and written[0].endswith(b"\n")


def test_a_full_disk_is_said(path, monkeypatch):
    file = caption_file(path)
    file.prepare()
    file.open()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match="cannot write: no space left"):
        file.add([result("a.jpg")])
    file.lock.release()


def test_errors_are_listed_for_the_last_run_only(path):
    errors = path.with_name("captions.errors.jsonl")
    for world in (1, 2):
        files = [caption_file(path, rank=rank, world=world) for rank in range(world)]
        files[0].prepare()
        for rank, file in enumerate(files):
            file.open()
            file.add_errors([Broken(f"{world}{rank}.jpg", "no")])
            file.close()
        files[0].finish([])
        listed = [json.loads(line) for line in errors.read_text().splitlines()]
        assert listed == [{"image": f"{world}{r}.jpg", "reason": "no"} for r in range(world)]
    write(path, NAMES)
    assert not errors.exists()


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected a name that ends in \.jsonl or \.csv"):
        caption_file(tmp_path / "captions.txt")
