"""`evaluate.py --agreement`: a small Flickr8k whose numbers are known by hand, and mistakes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flickr8k_server import NOT_THERE, text_entries
from PIL import Image

import evaluate
from smile.evaluation import catalogue
from smile.evaluation.agreement import JUDGES, agreement_rows
from smile.evaluation.measured import Missing
from smile.evaluation.rated_captions import load_ratings
from smile.metrics.text.cider import cider_d
from smile.metrics.text.ngrams import Candidates, References
from smile.metrics.text.ptb import tokenize_all

CAPTIONS = {
    "a.jpg": ["a red dog"] * 5,
    "b.jpg": ["a blue cat"] * 5,
    "c.jpg": ["one tree here", "a red tree", "three", "four", "five"],
}
# The first line is a's own caption. Of the others, BLEU-1, the share of words that are the
# reference's, is 1/3 ("a"), 2/3 ("a red") and 0.
RATED = [
    ("a.jpg", "a.jpg#0", "4\t4\t4"),
    ("a.jpg", "b.jpg#0", "1\t1\t2"),
    ("a.jpg", "c.jpg#1", "2\t3\t4"),
    ("b.jpg", "c.jpg#0", "1\t1\t1"),
]
# The nine pairs are 0: 1 1 1; 1/3: 1 1 2; 2/3: 2 3 4. Of those with unlike scores, concordant are
# 3 from 0 and 1/3 (each 1 with the 2), 9 from 0 and 2/3 (all), and 8 from 1/3 and 2/3 (all but 2
# with 2, a tie), and none is discordant: C - D = 20. With n = 9 and m = 3 distinct scores
# (of 4 ratings), 2 * 20 / (9² * 2/3) = 20/27.
TAU = 100 * 20 / 27
# Without photo a all scores are 0 and C - D = 0. Without b, C - D = 8 and n = 6: 16 / (36 * 2/3),
# which is 2/3. Of these two values the jackknife's standard error is 1/3.
LOW = TAU - 100 * 1.959964 / 3


def token_txt(folder: Path) -> None:
    """The ids say which caption is which, in whatever order."""
    lines = [
        f"{name}#{i}\t{text}\n" for name, texts in CAPTIONS.items() for i, text in enumerate(texts)
    ]
    (folder / "Flickr8k.token.txt").write_text("".join(reversed(lines)))


def captions_txt(folder: Path) -> None:
    rows = [f"{name},{text}\n" for name, texts in CAPTIONS.items() for text in texts]
    (folder / "captions.txt").write_text("image,caption\n" + "".join(rows))


def karpathy_json(folder: Path) -> None:
    images = [
        {"filename": name, "split": "test", "sentences": [{"raw": text} for text in texts]}
        for name, texts in CAPTIONS.items()
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))


def write_ratings(path: Path, rated=RATED) -> None:
    path.write_text("".join("\t".join(line) + "\n" for line in rated))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The small Flickr8k with ids, the current folder, and no Java."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    token_txt(folder)
    write_ratings(folder / "ExpertAnnotations.txt")
    return folder


@pytest.fixture
def agree(run_script):
    def run(*words: object) -> tuple[int, str, str]:
        return run_script(evaluate.main, "--agreement", *words)

    return run


def read(path: str = "evaluation/agreement") -> dict:
    return json.loads((Path(path) / "agreement.json").read_text("utf-8"))


def values(report: dict) -> dict[str, dict]:
    return {metric["key"]: metric["values"]["tau_c"] for metric in report["metrics"]}


@pytest.mark.parametrize("layout", [token_txt, captions_txt, karpathy_json])
def test_by_hand(folder, agree, layout):
    (folder / "Flickr8k.token.txt").unlink()
    layout(folder)
    code, out, _ = agree("flickr8k", "--clip", "none", "--gpt2", "none")
    assert code == 0
    assert "9 pairs of a score and an expert's rating, of 3 captions" in out
    assert "left out: 1 caption of the rated photo itself\n" in out
    report = read()
    assert (report["pairs"], report["photos"], report["left_out"]["own_captions"]) == (9, 2, 1)
    found = values(report)
    interval = {key: found["bleu_1"][key] for key in ("value", "low", "high")}
    assert interval == pytest.approx({"value": TAU, "low": LOW, "high": 100}, abs=1e-4)
    assert [line["scores"]["bleu_1"] for line in report["rated"]] == pytest.approx(
        [100 / 3, 200 / 3, 0], abs=1e-4
    )
    assert report["rated"][1]["caption"] == "a red tree"
    assert report["rated"][1]["ratings"] == [2, 3, 4]
    # Image frequencies are those of the two photos that the ratings name.
    references = References([tokenize_all(CAPTIONS[name]) for name in ("a.jpg", "b.jpg")])
    expected = cider_d(Candidates(tokenize_all(["a red tree", "one tree here"]), references))
    scores = [line["scores"]["cider_d"] for line in report["rated"]]
    assert scores[1:] == pytest.approx(expected.per_image, abs=1e-12)
    # What was published stands there even where nothing was measured.
    assert "CLIPScore" in out and "51.2" in out and "53.0" in out
    assert found["clip_score"]["missing"].startswith("2 of 2 images are missing")


class FakeClip:
    """Pictures by their redness, 0 to 2, and texts by how many of two words they have."""

    def embed_images(self, images, *, total):
        return torch.eye(3)[[image.getpixel((0, 0))[0] // 100 for image in images]]

    def embed_texts(self, texts, *, prefix=""):
        return torch.eye(3)[[len({"red", "tree"} & set(text.split())) for text in texts]]


def test_models_judge_every_caption_of_a_photo(folder, agree, monkeypatch):
    # A text with one of the words fits photo b, and one with both fits a. So the three captions
    # score 0, 2.5 and 2.5. The first fits neither photo, so its own is between ranks 1 and 2; the
    # others rank theirs first.
    monkeypatch.setattr("smile.evaluation.models.load_clip", lambda *_, **__: FakeClip())
    (folder / "images").mkdir()
    for name, red in (("a.jpg", 250), ("b.jpg", 120)):
        Image.new("RGB", (8, 8), (red, 0, 0)).save(folder / "images" / name)
    code, out, _ = agree("flickr8k", "--gpt2", "none")
    assert code == 0 and "low is good, so turned round" in " ".join(out.split())
    report = read()
    lines = [line["scores"] for line in report["rated"]]
    assert [line["clip_score"] for line in lines] == [0, 250, 250]
    assert [line["clip_rank"] for line in lines] == [1.5, 1, 1]
    found = values(report)
    # 0: 1 1 2; 2.5: 2 3 4 1 1 1. Concordant are 8 with 2 3 4; discordant are the 2 with 1 1 1.
    expected = 100 * 2 * (8 - 3) / (9**2 / 2)
    assert found["clip_score"]["value"] == pytest.approx(expected, abs=1e-4)
    assert found["clip_rank"]["value"] == pytest.approx(expected, abs=1e-4)
    assert found["clip_score"]["low"] <= found["clip_score"]["value"] <= found["clip_score"]["high"]


def test_a_drawn_flickr8k_at_the_usual_place(folder, agree):
    usual = Path("data/flickr8k")
    usual.mkdir(parents=True)
    for name in ("Flickr8k.token.txt", "ExpertAnnotations.txt"):
        (usual / name).write_text(text_entries()[name])
    code, out, _ = agree("--clip", "none", "--gpt2", "none", "--out", "here")
    assert code == 0 and "48 pairs" in out and "left out: 8 captions of" in out
    assert -100 <= values(read("here"))["rouge_l"]["value"] <= 100


def test_data_say_where_captions_are(folder, agree):
    (folder / "ExpertAnnotations.txt").rename("mine.txt")
    Path("data.toml").write_text('[data]\nformat = "flickr8k"\nroot = "flickr8k"\n')
    code, _, _ = agree("mine.txt", "--data", "data.toml", "--clip", "none", "--gpt2", "none")
    assert code == 0 and values(read())["bleu_1"]["value"] == pytest.approx(TAU, abs=1e-4)


def test_photos_that_flickr8k_does_not_have_are_counted(folder, agree):
    rated = [*RATED, ("b.jpg", f"{NOT_THERE}#0", "1\t1\t2"), (NOT_THERE, "a.jpg#0", "1\t1\t2")]
    write_ratings(folder / "ExpertAnnotations.txt", rated)
    no_models = ["--clip", "none", "--gpt2", "none"]
    code, out, _ = agree("flickr8k", *no_models)
    assert code == 0 and "itself; 2 of a photo that Flickr8k does not have\n" in out
    assert read()["pairs"] == 9
    with (folder / "Flickr8k.token.txt").open("a") as file:  # a caption is known by its id
        file.write(f"{NOT_THERE}#0\tnobody sees this\n")
    code, out, _ = agree("flickr8k", *no_models)
    assert code == 0 and "itself; 1 of a photo" in out and read()["pairs"] == 12


def test_every_metric_that_judges_a_caption_is_asked():
    groups = (catalogue.REFERENCES, catalogue.IMAGE, catalogue.LANGUAGE)
    others = {m.key for m in catalogue.METRICS if m.group in groups} - {*JUDGES}
    assert others == {f"{judge}_r{rank}" for judge in ("clip", "judge") for rank in (1, 5, 10)}


def test_captions_without_a_score_are_left_out_of_that_metric(folder):
    ratings = load_ratings("flickr8k")
    scores = dict.fromkeys(JUDGES, Missing("not asked"))
    scores |= {"ppl": np.array([20.0, 10.0, math.nan]), "meteor": np.ones(3)}
    cells = {row.metric.key: row.cells[0] for row in agreement_rows(ratings, scores)}
    # 20: 1 1 2; 10: 2 3 4, and a low PPL is good: 8 concordant of 6 ratings.
    assert cells["ppl"].interval.value == pytest.approx(100 * 2 * 8 / (6**2 / 2))
    assert cells["ppl"].note == "without 3 pairs that have no score"
    assert cells["meteor"].missing == "all scores or all ratings are the same"
    assert cells["spice"].missing == "not asked"


LINE = "a.jpg\tb.jpg#0\t1\t1\t2"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg\tb.jpg#0\t1\t1", "line 2: found 'a.jpg\\tb.jpg#0\\t1\\t1', expected five fields"),
        ("a.jpg\tb.jpg#0\t1\t1\t5", "ratings from 1 to 4"),
        ("a.jpg\tb.jpg#0\t1\t1\t2\t2", "expected five fields"),
        ("a.jpg\tb.jpg#5\t1\t1\t2", "NAME.jpg#0 (to #4)"),
        ("a.jpg b.jpg#0 1 1 2", "with tabs"),
        ("a.jpg\tb.jpg#0\t0.2\t1\t5", "expected five fields"),  # CrowdFlowerAnnotations.txt
        ("x.jpg\tb.jpg#0\t1\t1\t2", "line 2: x.jpg is not in flickr8k/Flickr8k.token.txt (1 of 2"),
        ("a.jpg\tx.jpg#0\t1\t1\t2", "line 2: x.jpg#0 is not in"),
        ("a.jpg\tshort.jpg#1\t1\t1\t2", "line 2: short.jpg#1 is not in"),
    ],
)
def test_a_damaged_line_is_named(folder, agree, line, said):
    with (folder / "Flickr8k.token.txt").open("a") as file:
        file.write("short.jpg#0\tone only\n")
    (folder / "ExpertAnnotations.txt").write_text(f"{LINE}\n{line}\n")
    code, out, err = agree("flickr8k")
    assert code == 2 and not out and said in err and len(err.splitlines()) == 1
    assert "flickr8k/ExpertAnnotations.txt, line 2: " in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere"], "nowhere/ExpertAnnotations.txt: there is no such file; ExpertAnnotations.txt"
         " is in Flickr8k_text.zip, and this puts it there: "
         "python -m smile.data download flickr8k nowhere"),
        (["a b/x.txt"], "download flickr8k 'a b'"),
        ([], "data/flickr8k/ExpertAnnotations.txt: there is no such file"),
        (["empty.txt"], "empty.txt: it is empty"),
        (["alone/ExpertAnnotations.txt"], "alone: none of Flickr8k's files of captions is there"),
        (["own.txt", "--data", "d.toml"], "own.txt: no caption of another photo is rated"),
        (["four"], "four/captions.txt: 1 of 3 photos do not have 5 captions: c.jpg has 4"),
        (["--data", "shapes.toml"], "data.format: found shapes, expected flickr8k or karpathy"),
        (["flickr8k", "--limit", "3"], "--limit does not go with --agreement"),
        (["flickr8k", "--split", "val"], "--split does not go with --agreement"),
        (["flickr8k", "--draws", "9"], "--draws does not go with --agreement"),
        (["flickr8k", "--references", "r.json"], "--references does not go with"),
        (["flickr8k", "--set", "data.root=x"], "--set without --data does not go with"),
        (["flickr8k", "--human"], "not allowed with"),
        (["flickr8k", "--clip", "nowhere"], "nowhere"),
        (["flickr8k", "--out", "empty.txt"], "agreement.json: cannot write: not a directory"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(folder, agree, monkeypatch, args, said):
    Path("empty.txt").write_text("\n")
    write_ratings(Path("own.txt"), RATED[:1])
    Path("shapes.toml").write_text('[data]\nformat = "shapes"\n')
    Path("d.toml").write_text('[data]\nformat = "flickr8k"\nroot = "flickr8k"\n')
    for name in ("alone", "four"):
        Path(name).mkdir()
        write_ratings(Path(name, "ExpertAnnotations.txt"))
    captions_txt(Path("four"))
    text = Path("four/captions.txt").read_text()
    Path("four/captions.txt").write_text(text.replace("c.jpg,five\n", ""))
    monkeypatch.setattr("evaluate.score_rated", lambda *_: pytest.fail("scored"))
    code, out, err = agree(*args)
    assert code == 2 and not out and len(err.splitlines()) == 1
    assert err.startswith("evaluate.py: ") and said in err
