"""Files of captions that can always be resumed."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from zygote import until_it_prints

from smile.captioning.caption_file import CaptionFile, Result, check_out
from smile.data.batches import Broken
from smile.errors import UserError
from smile.model.captioner import Caption
from smile.system import files
from smile.system.files import write_text

ROOT = Path(__file__).parents[2]
RUN = {"models": [{"weights": "abc", "source": "here", "num_beams": 3}], "precision": "float32"}
NAMES = [
    "a.jpg",
    'b "1", c.jpg',
    "new\nline.jpg",
    "return\r.jpg",
    "ümläut.jpg",
    os.fsdecode(b"\xff.jpg"),
    "z.jpg",
]


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
            {"text": 'a 0, "5"', "logprob": 0.0},
            {"text": 'a 1, "5"', "logprob": -0.333333},
        ],
    }
    assert "ümläut".encode() in lines[4]


def test_lines_hold_tokens_only_if_asked(tmp_path):
    path = tmp_path / "c.jsonl"
    write(path, NAMES[:1], tokens=True)
    record = json.loads(path.read_bytes())
    assert record["captions"][1]["tokens"] == [["a", -0.333333], ["[SEP]", 0.0]]
    write(path, NAMES[:2])  # one with tokens is resumed without
    first, second = map(json.loads, path.read_bytes().splitlines())
    assert first == record and "tokens" not in second["captions"][0]


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


@pytest.fixture
def no_flush(monkeypatch):
    """Hundreds of runs need not wait for the disk."""
    monkeypatch.setattr(files, "flush", lambda path: None)


@pytest.mark.slow
def test_a_file_torn_anywhere_is_made_whole(path, no_flush):
    """Cut at every byte, as a kill in the middle of a write would, then resumed."""
    names = NAMES[1:3]
    write(path, names)
    whole = path.read_bytes()
    lines = caption_file(path).lines
    growing = b"".join(result(name).json_line() for name in names)
    for length in [0, 1, *range(len(result(names[0]).json_line()) - 2, len(growing))]:
        if path != lines:  # killed in the second run, or in the first
            path.write_bytes(b"image,caption,logprob\n") if length % 2 else path.unlink()
        lines.write_bytes(growing[:length])
        write(path, names)
        assert path.read_bytes() == whole, f"cut at byte {length}"


OLD_CSV = b'''image,caption,logprob
a.jpg,"a 0, ""5""",0.0
a.jpg,"a 1, ""5""",-0.333333
"b ""1"", c.jpg","a 0, ""12""",0.0
"b ""1"", c.jpg","a 1, ""12""",-0.333333
"new
line.jpg","a 0, ""12""",0.0
"new
line.jpg","a 1, ""12""",-0.333333
'''


def write_old_run(path: Path) -> None:
    record = {"version": 1} | RUN
    path.with_name(f"{path.name}.run.json").write_text(json.dumps(record))


@pytest.mark.slow
def test_a_csv_file_of_version_0_1_is_resumed_wherever_it_was_torn(tmp_path, no_flush):
    path = tmp_path / "captions.csv"
    write_old_run(path)
    spoilt = OLD_CSV.index(b"\nline")  # from here on, it looks like lines that somebody has spoilt
    for length in [*range(0, 30, 5), *range(100, spoilt + 1)]:
        path.write_bytes(OLD_CSV[:length])
        write(path, NAMES[:3])
        assert path.read_bytes() == OLD_CSV, f"cut at byte {length}"
    path.write_bytes(OLD_CSV[: spoilt + 5])
    with pytest.raises(UserError, match="not captions of ours"):
        write(path, NAMES[:3])
    assert path.read_bytes() == OLD_CSV[: spoilt + 5]


def test_parts_of_version_0_1_are_gathered(tmp_path):
    path = tmp_path / "captions.csv"
    write_old_run(path)
    header, *rows = OLD_CSV.splitlines(keepends=True)
    (tmp_path / "captions.csv.part-0-of-2").write_bytes(b"".join([header, *rows[:2]]))
    (tmp_path / "captions.csv.part-1-of-2").write_bytes(b"".join([header, *rows[2:4], b'"torn']))
    (file,) = write(path, NAMES[:3])
    assert file.done == set(NAMES[:2])
    assert path.read_bytes() == OLD_CSV and not list(tmp_path.glob("*.part*"))


def test_the_errors_file_of_version_0_1_may_be_somebodys_own(tmp_path):
    (tmp_path / "notes.errors.jsonl").write_text("mine")
    for kind in ("jsonl", "csv"):
        write(tmp_path / f"notes.{kind}", NAMES)
        file = caption_file(tmp_path / f"notes.{kind}")
        assert file.errors_path.name == f"notes.{kind}.errors.jsonl"
    assert (tmp_path / "notes.errors.jsonl").read_text() == "mine"


# --- edited by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        (b"a 1, ", b'a 5" pipe, '),
        (b"\na.jpg", b'\n"a.jpg'),
        (b",0.0\n", b",\n"),
        (b",0.0\n", b",0.0,more\n"),
        (b"image,caption", b"image;caption"),
        (b"image,caption", b"\xef\xbb\xbfimage,caption"),
        (b",0.0\n", b"\n"),
        (b"\na.jpg", b"\n\na.jpg"),
    ],
)
def test_a_csv_file_spoilt_by_hand_loses_nothing(tmp_path, edit):
    """Whatever can be no end of a killed run's file is refused, and left alone."""
    path = tmp_path / "captions.csv"
    write(path, NAMES)
    path.write_bytes(path.read_bytes().replace(*edit, 1))
    edited = path.read_bytes()
    try:
        write(path, [*NAMES, "new.jpg"])
    except UserError as error:
        assert "not captions of ours" in str(error) and "\n" not in str(error)
        assert path.read_bytes() == edited
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "captions.csv",
            "captions.csv.run.json",
        ]
    else:  # a quote in the middle of a caption is only a character
        rows = list(csv.reader(path.open(newline="", encoding="utf-8", errors="surrogateescape")))
        assert edit[1] == b'a 5" pipe, ' and ["a.jpg", 'a 5" pipe, "5"', "-0.333333"] in rows
        assert len(rows) == 1 + 2 * len([*NAMES, "new.jpg"])


def test_a_caption_corrected_in_csv_stays(tmp_path):
    path = tmp_path / "captions.csv"
    write(path, NAMES[:2])
    path.write_bytes(path.read_bytes().replace(b"a 0, ", b"a dog, "))
    write(path, NAMES[:3])
    assert path.read_bytes().count(b"a dog, ") == 2 and path.read_bytes().count(b"a 0, ") == 1


def test_a_csv_file_changed_since_a_killed_run_began_is_not_replaced(tmp_path):
    path = tmp_path / "captions.csv"
    write(path, NAMES[:2])
    file = caption_file(path)
    file.prepare()
    file.open()
    file.add([result(NAMES[2])])
    path.write_bytes(path.read_bytes().replace(b"a 0, ", b"a dog, "))
    edited = path.read_bytes()
    file.close()
    with pytest.raises(UserError, match="was changed while"):
        file.finish(NAMES)
    with pytest.raises(UserError, match=r"was changed while .* move it away"):
        write(path, NAMES[:4])
    assert path.read_bytes() == edited
    path.unlink()
    (file,) = write(path, NAMES[:4])
    assert file.done == set(NAMES[:3])


ODD_LINES = [
    b'{"image": ["a"], "captions": []}',
    b'{"image": 5, "captions": []}',
    b'{"image": null, "captions": []}',
    b'{"image": "a"}',
    b'{"image": "a", "captions": "x"}',
    b'{"image": "a", "captions": ["x"]}',
    b'{"image": "a", "captions": [{"text": 5}]}',
    b'{"image": "a", "captions": [{"text": "x", "logprob": NaN}]}',
    b'{"image": NaN}',
    b"[]",
    b"5",
    b"null",
    b"",
    b"nonsense",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"image": ' + b"[" * 100_000,
    b'{"image": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("line", ODD_LINES, ids=range(len(ODD_LINES)))
def test_a_line_that_is_not_ours_is_named_and_left_alone(path, line):
    write(path, NAMES)
    lines = caption_file(path).lines
    before = b"".join(result(name).json_line() for name in NAMES)
    for place in ("middle", "end", "end without newline"):
        ours = {"middle": before, "end": b"", "end without newline": b""}[place]
        edited = before + line + (b"" if place == "end without newline" else b"\n") + ours
        lines.write_bytes(edited)
        if place == "end without newline" and not line:
            continue
        with pytest.raises(UserError, match=f"byte {len(before)}.*: not a record of ours"):
            caption_file(path).prepare()
        assert lines.read_bytes() == edited
        assert not list(path.parent.glob(".*.lock"))


def test_a_last_line_whose_line_end_an_editor_took_is_kept(tmp_path):
    path = tmp_path / "captions.jsonl"
    write(path, NAMES[:2])
    edited = path.read_bytes().replace(b"a 0, ", b"a dog, ")
    path.write_bytes(edited.rstrip(b"\n"))
    write(path, NAMES[:2])
    assert path.read_bytes() == edited


# --- runs that end early or meet odd files ----------------------------------------------------


def test_a_run_that_stops_leaves_what_it_has_in_good_order(path):
    whole = path.with_name(f"whole{path.suffix}")
    write(whole, NAMES[:2])
    file = caption_file(path)
    file.prepare()
    file.open()
    file.add([result(name) for name in NAMES[:2]])
    file.stop()
    assert path.read_bytes() == whole.read_bytes()
    names = {p.name for p in path.parent.iterdir()}
    assert names == {p + s for p in (path.name, whole.name) for s in ("", ".run.json")}


@pytest.mark.parametrize("how", ["removed", "folder removed", "moved", "replaced"])
def test_a_file_that_goes_away_meanwhile_is_said_and_nothing_lost(tmp_path, how):
    path = tmp_path / "folder" / "captions.jsonl"
    whole = b"".join(result(name).json_line() for name in NAMES[:2])
    file = caption_file(path)
    file.prepare()
    file.open()
    file.add([result(NAMES[0])])
    if how == "removed":
        path.unlink()
    elif how == "folder removed":
        shutil.rmtree(path.parent)
    elif how == "moved":
        path.rename(tmp_path / "moved")
    else:
        write_text(path, "something else")
    with pytest.raises(UserError, match=f"was .*{how.split()[-1]}.* while it was being written"):
        file.add([result(NAMES[1])])
    file.stop()
    where = {"moved": tmp_path / "moved", "replaced": path.with_name("captions.jsonl.saved")}
    assert where.get(how, path).read_bytes() == whole
    if "removed" in how:
        (file,) = write(path, NAMES)
        assert file.done == set(NAMES[:2])


def test_a_link_is_followed_and_both_names_share_the_lock(path):
    (path.parent / "elsewhere").mkdir()
    real = path.parent / "elsewhere" / f"real{path.suffix}"
    path.symlink_to(real)
    write(path, NAMES)
    write(path, NAMES[::-1], order=NAMES[::-1])
    assert path.is_symlink() and real.read_bytes().count(b"z.jpg") > 0
    first, second = caption_file(path), caption_file(real)
    first.prepare()
    assert first.lock.path == second.lock.path
    first.lock.release()


def modes_while_writing(path: Path) -> dict[str, str]:
    """The permissions of each file beside an open file of captions, by name, in octal."""
    file = caption_file(path)
    file.prepare()
    file.open()
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in path.parent.iterdir()}
    file.stop()
    return modes


def test_a_group_may_read_and_write_if_the_umask_lets_it(path):
    before = os.umask(0o002)
    try:
        modes = modes_while_writing(path)
    finally:
        os.umask(before)
    assert set(modes.values()) == {"0o664"} and len(modes) == 3  # the lock too


def test_permissions_are_those_of_the_umask_or_of_the_file_there(path):
    before = os.umask(0o077)
    try:
        write(path, NAMES[:2])
        os.umask(0o022)
        write(path, NAMES[:3], order=NAMES[:3])  # gathered anew
        modes = modes_while_writing(path)
    finally:
        os.umask(before)
    ours = {name: mode for name, mode in modes.items() if name.startswith("captions")}
    assert set(ours.values()) == {"0o600"} and len(ours) == (3 if path.suffix == ".csv" else 2)


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
    places = [path.read_bytes().index(name) for name in (b"new/a.jpg", b"old/a.jpg", b"old/b.jpg")]
    assert places == sorted(places)


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
        os.write(files[-1].file, b'{"image": "torn')
        for file in files:
            file.close()
        files[0].lock.release()
    write(path, NAMES, order=NAMES, world=worlds[-1])
    assert path.read_bytes() == alone.read_bytes()
    assert not list(path.parent.glob("*.part-*")) and not list(path.parent.glob(".*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "bfloat16"}, '--precision was "float32", is "bfloat16" now'),
        ({"models": [{"weights": "abc", "num_beams": 1}]}, "--num-beams was 3, is 1 now"),
        ({"models": [{"weights": "x", "num_beams": 3}]}, "--model has other weights"),
        ({"models": [RUN["models"][0] | {"seed": 0}]}, "--seed was none, is 0 now"),
        ({"models": RUN["models"] * 2}, "of 1 models were asked for, of 2 now"),
        ({"models": [RUN["models"][0] | {"num_return": 2}]}, "--num-return was 1, is 2 now"),
    ],
)
def test_another_model_or_other_settings_are_refused(path, change, said):
    write(path, NAMES)
    with pytest.raises(UserError, match=said) as caught:
        caption_file(path, run=RUN | change).check()
    assert "--overwrite" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "5", "[]", "{", '{"models": 5}', '{"a": ' * 500 + "1" + "}" * 500]
)
def test_a_run_record_edited_by_hand_is_one_line(path, text):
    write(path, NAMES)
    path.with_name(f"{path.name}.run.json").write_text(text)
    with pytest.raises(UserError, match="--overwrite"):
        caption_file(path).check()


def test_a_setting_younger_than_the_file_had_its_default(path):
    write(path, NAMES)
    models = [RUN["models"][0] | {"no_repeat_ngram_size": 0, "forbid": ()}]
    caption_file(path, run=RUN | {"models": models}).check()


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


@pytest.mark.slow
def test_two_runs_at_once_are_refused(path):
    """Until the first is no more, killed or not; its children do not count."""
    code = (
        "import os, sys, time; from smile.captioning.caption_file import CaptionFile\n"
        f"CaptionFile({str(path)!r}, run={RUN!r}).prepare()\n"
        "if os.fork() == 0: time.sleep(60)\n"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    with until_it_prints(code) as first:
        with pytest.raises(UserError, match="another run is writing"):
            caption_file(path).prepare()
        first.kill()
        first.wait()
        second = caption_file(path)
        second.prepare()
        second.lock.release()


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
    errors = path.with_name(f"{path.name}.errors.jsonl")
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


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("c.txt", "--txt writes"),
        ("c.json", r"--out \S*c\.jsonl holds"),
        ("c", ""),
        ("c.tsv", ""),
    ],
)
def test_an_unknown_suffix_is_refused(tmp_path, name, hint):
    with pytest.raises(UserError, match=r"expected a name that ends in \.jsonl or \.csv.*" + hint):
        check_out(tmp_path / name)


def test_what_is_no_file_is_refused_and_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        check_out(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        check_out(path)
