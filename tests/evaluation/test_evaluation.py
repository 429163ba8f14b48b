"""Inputs and outcomes of an evaluation: file forms, matching, truth by kind, averages, METEOR."""

import json
import os
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from smile.config import DataConfig
from smile.data.shapes import Object, Scene
from smile.errors import UserError
from smile.evaluation.caption_files import read_captions
from smile.evaluation.image_set import ImageIndex, ImageSet
from smile.evaluation.java import meteor_from_statistics
from smile.evaluation.measured import Averaged, Jackknifed, Missing, average
from smile.evaluation.models import ClipJudge, Gpt2Judge, Weights
from smile.evaluation.scoring import Submission, human_outcomes, score, true_share_by_kind
from smile.metrics.bootstrap import Bootstrap
from smile.metrics.text.bleu import bleu_from_counts


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    """METEOR would take seconds where it is installed."""
    monkeypatch.setenv("PATH", "")


# Files of captions ----------------------------------------------------------------------------


@pytest.fixture
def refs(tmp_path: Path) -> ImageSet:
    """Three images, photos/1.png to photos/3.png, two references each, known by 11, 12, 13."""
    (tmp_path / "photos").mkdir()
    names = [f"photos/{i}.png" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        Image.new("RGB", (40, 30), (80 * i, 0, 0)).save(tmp_path / name)
    images = [{"id": 11 + i, "file_name": name} for i, name in enumerate(names)]
    annotations = [
        {"image_id": 11 + i, "caption": caption}
        for i in range(3)
        for caption in (f"A photo, number {i}.", "red")
    ]
    path = tmp_path / "refs.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return ImageSet.from_references(path)


SAID = ["one", "", "three"]
FORMS = {
    "lines.jsonl": "\n".join(
        json.dumps({"image": f"/elsewhere/photos/{i}.png", "caption": text})
        for i, text in enumerate(SAID, start=1)
    ),
    "sample.jsonl": "\n".join(
        json.dumps({"image": f"{i}.png", "captions": [{"text": text}, {"text": "worse"}]})
        for i, text in enumerate(SAID, start=1)
    ),
    "coco.json": json.dumps(
        [{"image_id": 10 + i, "caption": text} for i, text in enumerate(SAID, start=1)]
    ),
    "text_ids.json": json.dumps(
        [{"image_id": f"{10 + i}", "caption": text} for i, text in enumerate(SAID, start=1)]
    ),
    "table.csv": "image,caption,logprob\n1.png,one,-1\n2.png,,-1\n3.png,three,-1\n",
    "best.csv": "image,caption,logprob\n1.png,one,-1\n1.png,worse,-2\n2.png,,-1\n2.png,x,-3\n"
    "3.png,three,-1\n",
    "object.json": json.dumps({"1": "one", "2.png": [""], "photos/3": ["three"]}),
    "excel.csv": "\ufeffFile_Name;Text\r\n1.png;one\r\n2.png;\r\n3.png;three\r\n",
    "huggingface.jsonl": "\n".join(
        json.dumps({"file_name": f"{i}.png", "text": text}) for i, text in enumerate(SAID, start=1)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_captions_is_laid_beside_its_images(refs, tmp_path, form):
    (tmp_path / form).write_text(FORMS[form])
    assert [*read_captions(tmp_path / form, refs).values()] == SAID
    limited = ImageSet.from_references(tmp_path / "refs.json", limit=2)
    # The third is known, and not wanted.
    assert [*read_captions(tmp_path / form, limited).values()] == SAID[:2]


def lines(*rows: dict) -> str:
    return "\n".join(json.dumps(row) for row in rows)


GOOD = [{"image": f"{i}.png", "caption": "x"} for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", lines(*GOOD, {"image": "9.png", "caption": "x"}), "1 of 4 captions are of .*9"),
        (
            "a.jsonl",
            lines(*GOOD, GOOD[0]),
            "1 of 4 captions are of images that already have one.*1",
        ),
        ("a.jsonl", lines(*GOOD[:1]), "2 of 3 images of .* have no caption: .*only-captioned"),
        ("a.jsonl", lines({"image": "1.png", "captions": ["x", "y"]}), "that already have one.*1"),
        ("a.csv", "image,caption\n1.png,x, y\n", "line 2: more fields"),
        ("a.csv", "image,caption\n1.png,x\n1.png,y\n", "that already have one.*logprob"),
        ("a.jsonl", lines({"image": "9" * 40, "caption": "x"}), "1 of 1 captions are of images"),
        ("a.jsonl", lines({"image": "1.png"}), "line 1: no caption: found only image, expected"),
        ("a.jsonl", lines({"image": True, "caption": "x"}), "image: found true, expected text"),
        ("a.jsonl", lines({"image": "1.png", "captions": []}), "line 1: no caption; for"),
        ("a.jsonl", '{"image": "1.png"\n', "line 1: not JSON"),
        ("a.json", '["a", "b"]', 'item 1: found "a"'),
        ("a.json", "", "no captions in it"),
        (
            "a.jsonl",
            lines({"image": "1.png", "captions": [{"text": "x", "model": m} for m in "ab"]}),
            "several models",
        ),
    ],
)
def test_a_wrong_file_of_captions_is_one_line(refs, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_captions(tmp_path / name, refs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a.jpg": [], "b.jpg": ["x"]}, "1 of 2 images have no reference: a.jpg"),
        ({"a.jpg": 3}, '"a.jpg": found 3, expected'),
        ([], "no captions in it; expected"),
        ({}, "no captions in it; expected"),
        (
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2}]},
            "annotations 1: no image has the id 2",
        ),
    ],
)
def test_a_wrong_file_of_references(tmp_path, content, said):
    (tmp_path / "refs.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        ImageSet.from_references(tmp_path / "refs.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.json", '{"1.png": ["x", "y"], "3.png": "z"}'),
        ("r.csv", "filename\tcaption\n1.png\tx\n3.png\tz\n1.png\ty\n"),
        ("r.jsonl", '{"image": "1.png", "captions": ["x", "y"]}\n{"image": "3.png", "text": "z"}'),
        ("r.json", '[{"image": "./1.png", "caption": ["x"]}, {"image": "3.png", "caption": "z"},'
         ' {"image": "1.png", "caption": "y"}]'),
    ],
)  # fmt: skip
def test_every_form_of_references(refs, tmp_path, name, text):
    path = tmp_path / "photos" / name
    path.write_text(text)
    images = ImageSet.from_references(path)
    assert images.references == [("x", "y"), ("z",)] and images.why_no_pictures() == ""


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_coded_in_three_ways(tmp_path, form):
    """On the disk, in the references and in the captions."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    on_disk, name, named = (unicodedata.normalize(f, "é.png") for f in (form, other, form))
    Image.new("RGB", (8, 8)).save(tmp_path / on_disk)
    (tmp_path / "r.json").write_text(json.dumps({name: ["a"], "b.png": ["b"]}))
    (tmp_path / "c.json").write_text(json.dumps({named: "x", "b": "y"}))
    images = ImageSet.from_references(tmp_path / "r.json")
    assert Path(images.examples[0].path).is_file()
    assert [*read_captions(tmp_path / "c.json", images).values()] == ["x", "y"]


def test_a_part_keeps_its_numbers(refs, tmp_path):
    (tmp_path / "lines.jsonl").write_text(FORMS["lines.jsonl"])
    part = refs.part([0, 2])
    assert part.names == [refs.names[0], refs.names[2]] and part.num_in_split == 3
    assert read_captions(tmp_path / "lines.jsonl", part) == {0: "one", 2: "three"}
    assert part.part([2, 1]).names == [refs.names[2]]


def test_an_ambiguous_end_of_a_path_is_nobodys_name():
    index = ImageIndex(["x/0/a.png", "x/1/a.png", "x/1/b.png"])
    assert index.find("a.png") is None and index.find("a") is None
    assert index.find("/far/away/x/1/a.png") == index.find("1/a.png") == 1
    assert index.find("b") == 2 and index.find("c.png") is None
    nfc, nfd = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    for name, other in ((nfc, nfd), (nfd, nfc)):
        assert ImageIndex([name]).find(other) == ImageIndex([f"x/{name}"]).find(other) == 0


def test_karpathys_numbers_name_his_images(tmp_path):
    (tmp_path / "val2014").mkdir()
    entries = []
    for i, number in enumerate((391895, 522418)):
        name = f"COCO_val2014_{number:012}.jpg"
        Image.new("RGB", (8, 8)).save(tmp_path / "val2014" / name)
        entries.append(
            {"filepath": "val2014", "filename": name, "split": "test", "cocoid": number, "imgid": i}
            | {"sentences": [{"raw": "A dog " * 40}]}
        )
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    data = DataConfig(format="karpathy", root=str(tmp_path), max_words=5)
    images = ImageSet.from_data(data, "test")
    (tmp_path / "r.json").write_text(
        json.dumps([{"image_id": n, "caption": str(n)} for n in (522418, 391895)])
    )
    assert read_captions(tmp_path / "r.json", images) == {0: "391895", 1: "522418"}
    assert len(images.references[0][0].split()) == 80  # not cut as for training


# Outcomes -------------------------------------------------------------------------------------


def test_references_without_a_data_set(refs):
    outcomes = score(Submission(images=refs, captions=SAID, references=refs.references))
    assert outcomes["length"].statistics.tolist() == [1, 0, 1]
    assert outcomes["empty"].note == "1 of 3"
    assert outcomes["rouge_l"].per_image[1] == 0  # the empty caption scores, and counts
    assert "no training captions" in outcomes["novel"].reason
    assert "drawn scenes" in outcomes["true_share"].reason
    assert not outcomes["true_share"].applies and outcomes["novel"].applies
    assert refs.why_no_pictures() == ""
    Path(refs.examples[0].path).unlink()
    assert "1 of 3 images are missing" in refs.why_no_pictures()


@pytest.mark.parametrize("references", [[["a dog"]], [["a dog"], ["a dog"]], [["a"], ["a"]]])
def test_cider_cannot_weigh_words_that_all_images_share(refs, references):
    images = refs.part(range(len(references)))
    outcomes = score(Submission(images=images, captions=["a dog"] * len(references),
                           references=references))  # fmt: skip
    assert "at least two images" in outcomes["cider_d"].reason == outcomes["cider"].reason
    assert isinstance(outcomes["rouge_l"], Averaged)
    two = Submission(
        images=refs.part([0, 1]), captions=["a dog"] * 2, references=[["a dog"], ["a cat"]]
    )
    assert score(two)["cider_d"].per_image[0] > 0


def scene(*shapes: str) -> Scene:
    objects = tuple(
        Object(
            shape=shape,
            color="red",
            size="small",
            texture="plain",
            position=place,
            x=0,
            y=0,
            diameter=14,
        )
        for shape, place in zip(shapes, ("top left", "top right"), strict=False)
    )
    return Scene(
        name="s",
        objects=objects,
        background="blue",
        shading="flat",
        captions=("x",),
        image_size=48,
    )


def test_truth_by_kind_by_hand():
    captions = [
        "a small red circle top left and a blue square on a blue background",  # only color wrong
        "two shapes and gibberish",  # true, and two words that say nothing
        "",
    ]
    scenes = [scene("circle", "square")] * 3
    found = true_share_by_kind(captions, scenes)

    def share(key: str) -> list[float]:
        return found[key].statistics.sum(axis=0).tolist()

    assert share("true_shape") == [2, 2]
    assert share("true_color") == [1, 2]
    assert share("true_size") == [1, 1] and share("true_position") == [1, 1]
    assert share("true_background") == [1, 1] and share("true_count") == [1, 1]
    assert found["true_others"] == Missing("no caption has a statement of this kind")
    assert found["unparsed"].per_image.tolist() == [0, 2, 0]
    assert share("true_share") == [7, 10]
    assert found["true_share"].note == "7 of 10"
    per_image = found["true_share"].per_image
    assert per_image[0] == pytest.approx(6 / 7) and np.isnan(per_image[2])


def test_the_average_of_rounds_is_the_mean_of_their_scores():
    rng = np.random.default_rng(0)
    counts = [rng.integers(1, 9, (20, 10)).astype(float) for _ in range(3)]

    def bleu_2(sums):
        return bleu_from_counts(sums)[..., 1]

    bootstrap = Bootstrap(num_images=20, draws=50)
    together = average([Averaged(c, bleu_2) for c in counts]).interval(bootstrap)
    assert together.value == pytest.approx(np.mean([bleu_2(c.sum(axis=0)) for c in counts]))
    means = average([Averaged(c[:, 0], per_image=c[:, 0]) for c in counts])
    assert means.interval(bootstrap).value == pytest.approx(np.mean([c[:, 0] for c in counts]))
    assert means.per_image == pytest.approx(np.mean([c[:, 0] for c in counts], axis=0))
    left = average([Jackknifed(v, np.full(20, v)) for v in (1.0, 2.0)])
    assert left.value == 1.5 and left.without_each.tolist() == [1.5] * 20
    assert average([Missing("why"), Missing("why")]) == Missing("why")


def test_people_need_somebody_to_be_compared_with(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"a": ["x", "y"], "b": ["x"]}))
    with pytest.raises(UserError, match=r"1 of 2 images have one caption only.*b"):
        human_outcomes(ImageSet.from_references(tmp_path / "r.json"))


def test_meteor_of_recorded_counts():
    # What METEOR 1.5's Java program counted of three captions, and the scores it made of that.
    counts = np.array(
        [
            "15 15 10 10 4 4 9 9 0 0 0 0 0 0 0 0 1 1 1 1 0 15 15",
            "14 14 6 6 8 8 5 5 0 0 0 0 0 0 0 0 0 0 0 0 2 13 13",
            "9 9 5 5 3 3 4 4 0 0 0 0 0 0 0 0 1 1 1 1 0 9 9",
        ]
    )
    counts = np.array([[float(x) for x in row.split()] for row in counts])
    expected = [0.936, 0.5677838551969898, 0.9058823529411765]
    np.testing.assert_allclose(meteor_from_statistics(counts), expected, atol=1e-12)


# Models ---------------------------------------------------------------------------------------


def test_nothing_is_downloaded_that_was_not_named(monkeypatch):
    monkeypatch.delenv("SMILE_OFFLINE", raising=False)
    seen = []

    def load(source, *, device):
        seen.append((source, os.environ.get("SMILE_OFFLINE")))
        raise UserError("gone" if seen[-1][1] is None else "is needed, but downloads are off")

    common = {"option": "--clip", "usual": "clip-vit-b-32", "device": torch.device("cpu")}
    with pytest.raises(UserError, match="--clip clip-vit-b-32 downloads it"):
        Weights(asked=None, **common).load(load)
    with pytest.raises(UserError, match="gone"):
        Weights(asked="clip-vit-l-14", **common).load(load)
    with pytest.raises(UserError, match="left out"):
        Weights(asked="none", **common).load(load)
    assert seen == [("clip-vit-b-32", "1"), ("clip-vit-l-14", None)]


class FakeClip:
    """Texts and pictures as one-hot vectors: of the text's number, of the picture's redness."""

    def embed_images(self, images, *, total):
        return torch.eye(3)[[image.getpixel((0, 0))[0] // 80 for image in images]]

    def embed_texts(self, texts, *, prefix=""):
        return torch.eye(3)[[int(text[-1]) if text[-1:].isdigit() else 0 for text in texts]]


def test_clip_scores_by_hand(refs):
    judge = ClipJudge(refs, SimpleNamespace(load=lambda load: FakeClip()))
    captions = ["it is 0", "it is 2", "it is 2"]
    found = score(
        Submission(
            images=refs, captions=captions, references=refs.references, models={"clip": judge}
        )
    )
    assert found["clip_score"].per_image.tolist() == [2.5, 0, 2.5]
    assert found["clip_rank"].per_image.tolist() == [1, 2.5, 1]
    assert found["clip_r1"].statistics.tolist() == [1, 0, 1]
    assert found["clip_r5"].note == "pool of 3 images"


def test_perplexity_leaves_empty_captions_out(refs, monkeypatch):
    monkeypatch.setattr(
        "smile.evaluation.models.perplexities",
        lambda model, captions: np.array([10.0, np.nan, 30.0]),
    )
    judge = Gpt2Judge(SimpleNamespace(load=lambda load: None))
    submission = Submission(
        images=refs, captions=SAID, references=refs.references, models={"gpt2": judge}
    )
    ppl = score(submission)["ppl"]
    assert ppl.interval(Bootstrap(num_images=3, draws=20)).value == 20
    assert ppl.note == "without 1 empty captions"
