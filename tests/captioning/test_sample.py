"""`sample.py` as people run it: what it takes, what it prints, what it leaves behind."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, make_photos, make_run, same_captions
from kill_bulk import command, kill_and_resume
from PIL import Image

import sample
from smile.system.distributed import World


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with runs `run` and `other`."""
    folder = tmp_path_factory.mktemp("work")
    make_run(folder / "run")
    make_run(folder / "other", seed=1)
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Nine pictures under photos/, in the working directory."""
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 9)
    return sorted(str(path) for path in Path("photos").rglob("*.png"))


@pytest.fixture
def run_sample(work, run_script):
    """Runs main() in this process: (exit status, standard output, standard error)."""

    def run(*args: object, model: str | None = "run") -> tuple[int, str, str]:
        options = ["--model", work / model] if model else []
        return run_script(sample.main, *args, *options)

    return run


def records(path: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_captions_on_standard_output(photos, run_sample):
    code, out, err = run_sample(photos[-1], photos[0])
    assert code == 0 and err == ""
    assert [line.partition(": ")[0] for line in out.splitlines()] == [photos[-1], photos[0]]
    code, out, _ = run_sample("photos", "--json", "--num-return", 2)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in lines] == photos
    assert [caption.keys() for caption in lines[0]["captions"]] == [{"text", "logprob"}] * 2
    _, out, _ = run_sample(photos[0], "--json-tokens", "--num-return", 2)
    line = json.loads(out)
    for caption in line["captions"]:
        total = sum(logprob for _, logprob in caption["tokens"])
        assert caption["logprob"] == pytest.approx(total, abs=1e-4)
    assert [c["text"] for c in line["captions"]] == [c["text"] for c in lines[0]["captions"]]
    _, out, _ = run_sample(photos[-1], "--num-return", 2)
    assert out.count(photos[-1] + ": ") == 2


@pytest.mark.slow
def test_the_first_caption_waits_for_no_library_that_it_does_not_need(photos, work):
    """Each of them takes a second or more to import."""
    words = ["sample.py", photos[0], "--model", str(work / "run"), "--workers", "0"]
    code = f"""
import sys
sys.argv = {words!r}
import sample
try:
    sample.main()
finally:
    print([name for name in ("torchvision", "matplotlib", "transformers") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith(f"{photos[0]}: ") and last == "[]"


@pytest.mark.parametrize("names", [["typo.jpg"], ["typo.jpg", "other/*.png"]])
def test_names_of_nothing_are_said_before_a_model_is_loaded(names, run_sample, monkeypatch):
    """Loading may mean a download of a gigabyte."""
    monkeypatch.setattr(sample, "find_models", lambda _: pytest.fail("a model was loaded"))
    status, _, errors = run_sample(*names)
    assert status == 1 and "typo.jpg: " in errors and errors.count("\n") == len(names)


@pytest.mark.slow
def test_broken_images_are_reported_and_the_rest_described(photos, run_sample):
    Path("photos/0/zz.jpg").write_bytes(b"no")
    Path("photos/1/empty.jpg").touch()
    Path("photos/notes.txt").write_text("a folder's other files are nobody's mistake")
    code, _, err = run_sample("photos", "--out", "c.jsonl")
    assert code == 1
    errors = records("c.jsonl.errors.jsonl")
    assert [(error["image"], error["reason"].rpartition(": ")[2]) for error in errors] == [
        ("photos/0/zz.jpg", "not an image file"),
        ("photos/1/empty.jpg", "the file is empty"),
    ]
    assert "sample.py: photos/0/zz.jpg: cannot read this image: not an image file\n" in err
    assert "9 images described" in err and "2 failed, see c.jsonl.errors.jsonl" in err
    assert [record["image"] for record in records("c.jsonl")] == photos
    Path("photos/0/zz.jpg").unlink()
    code, _, err = run_sample("photos", "--out", "c.jsonl")
    assert code == 1 and "9 had their captions already" in err
    assert [error["image"] for error in records("c.jsonl.errors.jsonl")] == ["photos/1/empty.jpg"]
    code, *_ = run_sample("photos/notes.txt")  # but one that is named is tried
    assert code == 1


@pytest.mark.slow
def test_csv_has_a_row_per_caption(photos, run_sample):
    code, *_ = run_sample("photos", "--out", "c.csv", "--num-return", 2)
    with open("c.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert code == 0 and rows[0].keys() == {"image", "caption", "logprob"}
    assert [row["image"] for row in rows] == [name for name in photos for _ in range(2)]


@pytest.mark.slow
def test_texts_beside_the_images(photos, run_sample):
    Path(photos[0]).with_suffix(".txt").write_text("my own")
    code, out, err = run_sample("photos", "--txt")
    assert code == 0 and out == "" and "1 had its captions already" in err
    assert Path(photos[0]).with_suffix(".txt").read_text() == "my own"
    texts = [Path(name).with_suffix(".txt").read_text() for name in photos[1:]]
    _, out, _ = run_sample(*photos[1:])
    assert [line for text in texts for line in text.splitlines()] == [
        line.rpartition(": ")[2] for line in out.splitlines() if ": " in line
    ]
    _, _, err = run_sample("photos", "--txt", "--out", "c.jsonl")
    assert "9 images described" in err and len(records("c.jsonl")) == 9
    Path(photos[3]).with_suffix(".txt").unlink()
    _, _, err = run_sample("photos", "--txt", "--out", "c.jsonl")
    assert "1 image described" in err and len(records("c.jsonl")) == 9
    assert Path(photos[3]).with_suffix(".txt").read_text() == texts[2]


@pytest.mark.slow
def test_other_settings_are_refused(photos, run_sample):
    run_sample("photos", "--out", "c.jsonl")
    before = Path("c.jsonl").read_bytes()
    for more, said in (
        (["--num-beams", 1], "settings: --num-beams was 2, is 1 now: "),
        (["--prompt", ""], '--prompt was "a picture of ", is "" now'),
        (["--forbid", "red,A dog"], '--forbid was [], is ["a dog", "red"] now'),
        (["--prefix", "ohwx "], '--prefix was none, is "ohwx " now'),
        (["--precision", "bfloat16"], '--precision was "float32", is "bfloat16" now'),
        (["--top-p", 0.5], "--seed was none, is 0 now; --top-p was 1.0, is 0.5 now"),
    ):
        code, _, err = run_sample("photos", "--out", "c.jsonl", *more)
        assert code == 2 and said in err and err.count("\n") == 1
    code, _, err = run_sample("photos", "--out", "c.jsonl", model="other")
    assert code == 2 and "--model has other weights" in err
    assert Path("c.jsonl").read_bytes() == before
    same = ["--batch-size", 2, "--workers", 0, "--num-beams", 2, "--seed", 4]
    code, _, err = run_sample("photos", "--out", "c.jsonl", *same)
    assert code == 0 and "9 had their captions already" in err
    code, *_ = run_sample("photos", "--out", "c.jsonl", "--overwrite", model="other")
    assert code == 0 and Path("c.jsonl").read_bytes() != before


@pytest.mark.slow
def test_words_around_captions_and_words_in_none(photos, run_sample):
    """As a training set is made: the same texts in every form, and remembered."""
    _, plain, _ = run_sample("photos", "--json")
    said = [json.loads(line)["captions"][0]["text"].split() for line in plain.splitlines()]
    word, phrase = said[0][-1], " ".join(said[0][:2])
    how = ["--forbid", f"{word.upper()}, {phrase}", "--prefix", "ohwx,  ", "--suffix", ' "é"']
    code, out, _ = run_sample("photos", "--json", *how)
    texts = [json.loads(line)["captions"][0]["text"] for line in out.splitlines()]
    assert code == 0 and len(texts) == 9
    for text in texts:
        assert text.startswith("ohwx,  ") and text.endswith(' "é"')
        words = text.removeprefix("ohwx,  ").removesuffix(' "é"')
        assert word not in words.split() and f" {phrase} " not in f" {words} "
    run_sample("photos", "--out", "c.jsonl", "--txt", *how)
    assert [line["captions"][0]["text"] for line in records("c.jsonl")] == texts
    beside = [Path(photo).with_suffix(".txt").read_text("utf-8") for photo in photos]
    assert beside == [f"{text}\n" for text in texts]
    run_sample("photos", "--out", "c.csv", *how)
    with open("c.csv", encoding="utf-8", newline="") as file:
        assert [row["caption"] for row in csv.DictReader(file)] == texts
    code, _, err = run_sample("photos", "--out", "c.csv", *how[2:4])
    assert code == 2 and '--forbid was ["' in err and "--suffix was" in err, err
    assert "--prefix was" not in err


@pytest.mark.slow
def test_two_models_side_by_side_on_a_sheet(photos, run_sample, work):
    compare = ["--compare", work / "run", work / "other"]
    code, out, _ = run_sample("photos", *compare, "--sheet", "sheet.png", model=None)
    expected = {}
    for name in ("run", "other"):
        _, alone, _ = run_sample(*photos, "--json", model=name)
        for line in alone.splitlines():
            record = json.loads(line)
            lines = expected.setdefault(record["image"], [record["image"]])
            lines.append(f"  {name}: {record['captions'][0]['text']}")
    assert code == 0 and out == "".join("\n".join(e) + "\n" for e in expected.values())
    assert Image.open("sheet.png").width > 400
    run_sample("photos", *compare, "--out", "c.csv", model=None)
    assert Path("c.csv").read_text("utf-8").startswith("image,model,caption,logprob\n")
    code, _, err = run_sample("photos", "--compare", work / "run", work / "run", model=None)
    assert code == 2 and "two different models" in err


@pytest.mark.slow
def test_a_sheet_shows_the_first_images_on_its_pages(photos, run_sample, monkeypatch):
    monkeypatch.setattr(sample, "SHEET_IMAGES", 4)
    drawn = []

    def draw(shown, path):
        drawn.extend(one.name for one in shown)
        return [path, path.with_name("sheet-2.png")]

    monkeypatch.setattr(sample, "contact_sheet", draw)
    _, _, err = run_sample("photos", "--sheet", "sheet.png")
    assert drawn == photos[:4]
    assert "sheet.png: 2 pages, the last sheet-2.png; the first 4 images, 5 more not shown" in err


@pytest.mark.slow
def test_sampling_repeats_with_the_seed(photos, run_sample):
    first = run_sample("photos", "--top-p", 0.9, "--seed", 3)
    assert run_sample("photos", "--top-p", 0.9, "--seed", 3, "--batch-size", 2) == first
    assert run_sample("photos", "--top-p", 0.9, "--seed", 4) != first


@pytest.mark.slow
def test_what_is_named_twice_is_described_once(photos, run_sample):
    code, out, err = run_sample("photos", "photos/*/*.png", "--json")
    assert code == 0 and out.count("\n") == 9 and "9 named twice, skipped" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["https://example.org/a.jpg"], "is a URL"),
        (["a.jpg", "--out", "c.txt"], "--txt writes a .txt beside each image"),
        (["a.jpg", "--out", "c.json"], "--out c.jsonl holds JSON"),
        (["a.jpg", "--out", "pipe.jsonl"], "pipe.jsonl: not a regular file"),
        (["a.jpg", "--out", "file/c.csv"], "file/c.csv: cannot write: not a directory"),
        (["a.jpg", "--sheet", "x.xyz"], "x.xyz: expected a name that ends in .png or"),
        (["a.jpg", "--sheet", "photos"], "photos: expected a name that ends in .png or"),
        (["a.jpg", "--explain", "file/x.png"], "file/x.png: cannot write: not a directory"),
        (["photos", "--sheet", "photos/0/0006.png"], "is one of the images to describe"),
        (["photos/0/0006.png", "--explain", "link.png"], "is one of the images to describe"),
        (["named.csv", "--out", "./named.csv"], "is one of the images to describe"),
        (
            ["a.jpg", "--num-beams", "0"],
            "sample.py: --num-beams 0: expected a whole number from",
        ),
        (["a.jpg", "--num-beams", "1000000"], "--num-beams 1000000: expected a whole"),
        (["a.jpg", "--temperature", "1e-40"], "--temperature 1e-40: expected a number"),
        (["a.jpg", "--length-penalty", "-1000"], "--length-penalty -1000.0: expected a number"),
        (["a.jpg", "--length-penalty", "nan"], "--length-penalty nan: expected a number"),
        (["a.jpg", "--top-p", "x"], "--top-p: invalid float value: 'x'; --help shows all options"),
        (["a.jpg", "--forbid", "dog, ,cat"], "--forbid: 'dog, ,cat': expected words or phrases"),
        (["a.jpg", "--forbid", ""], "--forbid: '': expected words or phrases with commas"),
        (["a.jpg", "--prefix", "ohwx\n"], r"--prefix: 'ohwx\n': expected one line"),
        (["a.jpg", "--suffix", "\udcff"], "--suffix: '\\udcff': expected one line of UTF-8 text"),
        (["a.jpg", "--batch-size", "9" * 5000], "expected a whole number from 1 to 4096"),
        (["a.jpg", "--batch-size", "1000000"], "1000000: expected a whole number from 1 to 4096"),
        (["a.jpg", "--workers", "-1"], "-1: expected a whole number from 0 to 256"),
        (["a.jpg", "--nonsense\x1b[31m"], r"unrecognized arguments: --nonsense\x1b[31m"),
        (["a.jpg", "--device", "nonsense"], "device nonsense: not available"),
    ],
)
def test_mistakes_are_one_line_before_any_work(photos, run_sample, monkeypatch, args, said):
    os.mkfifo("pipe.jsonl")
    Path("file").touch()
    Path("link.png").symlink_to("photos/0/0006.png")
    Path("named.csv").write_bytes(Path("photos/0/0006.png").read_bytes())
    before = {path: path.read_bytes() for path in Path().rglob("*.[pc][ns][gv]")}
    monkeypatch.setattr(sample, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    code, out, err = run_sample(*args)
    assert code == 2 and out == "" and err.count("\n") == 1 and said in err, err
    assert before == {path: path.read_bytes() for path in Path().rglob("*.[pc][ns][gv]")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--min-length", 50], "sample.py: --min-length 50: expected at most --max-length 16"),
        (["--max-length", 64], "--max-length 64: expected at most decoder.max_positions = 40"),
        (["--max-length", 4, "--min-length", 0], "--max-length is 4, but the prompt alone has 4"),
        (["--num-return", 4], "--num-return is 4, but --num-beams only 2: raise --num-beams"),
        (["--num-beams", 3, "--top-p", 0.9], "--num-beams 3 is for beam search, but --top-p 0.9"),
        (["--no-do-sample", "--top-k", 3], "--do-sample false is for beam search, but --top-k 3"),
        (["--prompt", "a \udcff"], "holds \\udcff, half of a pair: no character in UTF-8"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_named_as_options(photos, run_sample, args, said):
    run_sample("photos", "--out", "c.jsonl")
    before = Path("c.jsonl").read_bytes()
    code, _, err = run_sample("photos", *args, "--out", "c.jsonl", "--overwrite")
    assert code == 2 and err.count("\n") == 1 and said in err, err
    assert Path("c.jsonl").read_bytes() == before


def test_names_of_any_length_are_no_traceback(photos, run_sample):
    code, out, err = run_sample("a" * 5000, photos[0])
    assert code == 1 and out.count("\n") == 1 and "cannot read this image: file name too" in err


@pytest.mark.slow
def test_what_is_left_out_is_counted_in_the_last_line(photos, run_sample, no_heif):
    for name in ("a.HEIC", "b.heic", "c.nef", "d.svg", "notes.txt"):
        Path("photos/1", name).touch()
    Path("photos/1/no_suffix").write_bytes(Path(photos[0]).read_bytes())
    for args in ((), ("--out", "c.csv")):
        code, _, err = run_sample("photos", *args)
        assert code == 0 and err.count("\n") == 1
        assert "5 pictures not read (.heic 2, .nef 1, .svg 1, no suffix 1; for HEIC: pip" in err
    code, out, err = run_sample("photos/1/a.HEIC", "photos/1/no_suffix")
    assert code == 1 and out.startswith("photos/1/no_suffix: ")
    os.symlink("..", "photos/loop")
    os.symlink("../elsewhere", "photos/linked")
    os.mkdir("elsewhere")
    Path(photos[0]).rename("elsewhere/a.png")
    os.symlink("../elsewhere", "photos/twice")
    code, out, err = run_sample("photos")
    assert code == 1 and "photos/loop: a link to a folder that contains it: not followed" in err
    assert (
        "photos/linked/a.png: " in out
        and "sample.py: 1 link to a folder searched already; 5 pictures not" in err
    )


def test_two_images_of_one_stem_are_said(photos, run_sample):
    Path("two").mkdir()
    for name, photo in (("a.jpg", photos[0]), ("a.png", photos[1]), ("b.png", photos[2])):
        Path("two", name).write_bytes(Path(photo).read_bytes())
    for _ in range(2):
        code, _, err = run_sample("two", "--txt")
        assert code == 1 and "two/a.png: its captions would go to two/a.txt, where those of" in err
        assert "1 failed" in err and sorted(Path("two").glob("*.txt")) == [
            Path("two/a.txt"),
            Path("two/b.txt"),
        ]
    code, _, err = run_sample("two", "--txt", "--out", "c.jsonl", "--overwrite")
    assert code == 1 and "3 images described" in err and "1 failed, see c.jsonl.errors.jsonl" in err
    assert len(records("c.jsonl")) == 3 and len(records("c.jsonl.errors.jsonl")) == 1


def test_a_shared_machine_is_said_once(photos, run_sample, shared_machine):
    code, out, err = run_sample("photos", "--batch-size", 2, "--workers", 0)
    [line] = err.splitlines()
    assert code == 0 and out.startswith(f"{photos[0]}: ")
    assert line.startswith("sample.py: this machine is shared: other processes interrupted this")


@pytest.mark.slow
def test_a_run_that_ends_early_keeps_what_it_has(photos, run_sample, monkeypatch):
    run_sample("photos", "--out", "whole.csv")
    describe_all = sample.describe_all

    def stop(*args, **kwargs):
        yield next(describe_all(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "describe_all", stop)
    options = ["--out", "c.csv", "--sheet", "sheet.png", "--batch-size", 4]
    code, _, err = run_sample("photos", *options)
    assert code == 130 and "stopped; the same command resumes from here" in err
    assert Path("whole.csv").read_bytes().startswith(Path("c.csv").read_bytes())
    assert Path("c.csv").read_bytes().count(b"photos/") == 4
    assert Image.open("sheet.png").width > 400
    assert not list(Path().glob(".*")) and not Path("c.csv.jsonl").exists()
    monkeypatch.undo()
    os.chdir(Path("c.csv").parent)


def test_help_tells_whose_the_defaults_are(run_sample):
    code, out, _ = run_sample("--help", model=None)
    assert code == 0 and out.startswith("usage: sample.py IMAGE [IMAGE ...] [options]\n")
    assert "defaults: [generate] of the model's run, or BLIP's settings" in " ".join(out.split())
    captions = out.partition("\ncaptions:")[2].partition("\nspeed:")[0]
    assert "--num-beams" in captions and "(3)" not in captions and "(30)" not in captions


# --- standard output and error ----------------------------------------------------------------


@pytest.mark.slow
def test_a_terminal_obeys_no_name_and_a_pipe_gets_it(photos, run_sample, monkeypatch):
    name = "photos/\x1b[31m\x9b.png"
    Path(photos[0]).rename(name)
    _, out, _ = run_sample(name)
    assert out.startswith(f"{name}: ")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    _, out, _ = run_sample(name)
    assert out.startswith(r"photos/\x1b[31m\x9b.png: ")
    _, out, _ = run_sample(name, "--json")
    assert json.loads(out)["image"] == name and "\x1b" not in out and "\x9b" not in out
    Path(name).write_bytes(b"no")
    _, _, err = run_sample(name)
    assert err.startswith(r"sample.py: photos/\x1b[31m\x9b.png: cannot read")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_standard_output_on_a_full_disk_is_one_line(photos, run_sample, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = run_sample(photos[0])
    assert code == 2
    assert err == "sample.py: standard output: cannot write: no space left on device\n"


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_is_no_traceback(photos, run_sample, monkeypatch, capfd, closed):
    run_sample(photos[0])
    with monkeypatch.context() as patch:
        patch.setattr(sys, closed, None)
        patch.setattr(sys, "argv", [*sys.argv[:2], "--out", "c.jsonl", *sys.argv[2:]])
        with pytest.raises(SystemExit) as ended:
            sample.main()
    assert ended.value.code == 0 and len(records("c.jsonl")) == 1
    capfd.readouterr()
    if closed == "stdout":
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None)
            patch.setattr(sys, "argv", ["sample.py", photos[0]])
            with pytest.raises(SystemExit) as ended:
                sample.main()
        assert ended.value.code == 2 and "say with --out where" in capfd.readouterr().err


@pytest.mark.slow
def test_a_reader_that_has_had_enough_ends_it_quietly(photos, work):
    words = [sys.executable, ROOT / "sample.py", "photos", "--model", work / "run"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as closed:
        done = subprocess.run(words, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b"" and done.returncode == 141


@pytest.mark.slow
def test_two_processes_give_the_same_file(photos, work, run_sample):
    run_sample("photos", "--out", "alone.jsonl")
    Path("photos/0/zz.jpg").write_bytes(b"no")
    words = command(Path("photos"), work / "run", Path("c.jsonl"), processes=2)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )
    assert same_captions(Path("c.jsonl"), Path("alone.jsonl"))
    assert [error["image"] for error in records("c.jsonl.errors.jsonl")] == ["photos/0/zz.jpg"]
    assert done.returncode == 1 and "9 images described" in done.stderr
    assert not list(Path().glob("*.part-*"))


@pytest.mark.slow
def test_nothing_is_lost_when_killed(tmp_path):
    progress = kill_and_resume(tmp_path, kills=3, num_photos=24)
    assert max(progress) > 0


def test_explain_draws_one_image(photos, run_sample, monkeypatch):
    code, out, err = run_sample(photos[0], "--explain", "words.png")
    assert code == 0, err
    assert out.startswith(f"{photos[0]}: ")
    assert Image.open("words.png").width > 300
    with monkeypatch.context() as patched:
        patched.setattr(sample.World, "join", lambda: World(1, 2))
        code, _, err = run_sample(photos[0], "--explain", "x.png")
        assert code == 2 and "--explain: expected one process, not several" in err
    code, _, err = run_sample("photos", "--explain", "x.png")
    assert code == 2 and "expected one image" in err
    code, _, err = run_sample("missing.jpg", "--explain", "x.png")
    assert code == 2 and "missing.jpg" in err
    assert not Path("x.png").exists()
