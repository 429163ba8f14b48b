"""One reader for tables of captions: every form people have, and what no form may hold."""

import json
import random
import shutil
import unicodedata

import pytest
from mutations import damage

from smile.data import flickr8k, folder, karpathy
from smile.data.caption_table import LONGEST_CAPTION, read_table
from smile.errors import UserError
from smile.evaluation.caption_files import read_captions
from smile.evaluation.image_set import ImageSet

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": "k", "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 1, "id": 9, "caption": "A dog"},
        {"image_id": "k", "id": 8, "caption": "A cat, asleep"},
        {"image_id": 1, "id": 7, "caption": "One dog"},
    ],
}
BLIPS = [
    {"image": "a.jpg", "caption": ["A dog", "One dog"], "image_id": 1},
    {"image": "b.jpg", "caption": "A cat, asleep", "image_id": "k"},
]
OBJECT = {"a.jpg": ["A dog", "One dog"], "b.jpg": "A cat, asleep"}
FORMS = {
    "coco.json": json.dumps(COCO),
    "blip.json": json.dumps(BLIPS, indent=1),
    "list.jsonl": json.dumps(BLIPS),
    "lines.jsonl": "\ufeff" + "\r\n\r\n".join(map(json.dumps, BLIPS)),
    "lines.json": "\n".join(map(json.dumps, BLIPS)),
    "object.json": json.dumps({"a.jpg": ["A dog", "One dog"], "b.jpg": "A cat, asleep"}),
    "indented.json": json.dumps(
        {"a.jpg": ["A dog", "One dog"], "b.jpg": "A cat, asleep"}, indent=1
    ),
    "names.jsonl": '{"File_Name": "a.jpg", "TEXT": "A dog"}\n{"filename": "a.jpg", "captions": '
    '["One dog"]}\n{"image_file": "b.jpg", "caption": "A cat, asleep"}',
    "excel.csv": "\ufeffImage,Caption\r\na.jpg,A dog\r\na.jpg,One dog\r\n\r\n"
    'b.jpg,"A cat, asleep"\r\n',
    "semicolons.csv": "filename;captions\na.jpg;A dog\na.jpg;One dog\nb.jpg;A cat, asleep",
    "tabs.csv": "caption\timage_file\nA dog\ta.jpg\nOne dog\ta.jpg\nA cat, asleep\tb.jpg\n",
    "old_mac.tsv": "file_name\ttext\ra.jpg\tA dog\ra.jpg\tOne dog\rb.jpg\tA cat, asleep\r",
    "kaggle.txt": 'image,caption\na.jpg,A dog\na.jpg,One dog\nb.jpg,"A cat, asleep"\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8", newline="")
    captions: dict[str, list[str]] = {}
    for row in read_table(tmp_path / name):
        assert str(tmp_path / name) in row.where and not row.scored
        captions.setdefault(row.image, []).extend(row.captions)
    assert captions == {"a.jpg": ["A dog", "One dog"], "b.jpg": ["A cat, asleep"]}


def test_numbers_splits_and_scored_captions(tmp_path):
    (tmp_path / "a.json").write_text(FORMS["coco.json"])
    assert [row.number for row in read_table(tmp_path / "a.json")] == [1, "k"]
    (tmp_path / "a.json").write_text('[{"image_id": 5, "caption": "x", "split": "val"}]')
    (row,) = read_table(tmp_path / "a.json")
    assert (row.image, row.number, row.split) == (5, 5, "val")
    sampled = {"image": "a.jpg", "captions": [{"text": "x", "logprob": -1}, {"text": "y"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(sampled))
    (row,) = read_table(tmp_path / "a.jsonl")
    assert row.captions == ("x", "y") and row.scored
    (tmp_path / "a.csv").write_text("image,caption,logprob\na.jpg,x,-1\nb.jpg,y\n")
    assert [row.scored for row in read_table(tmp_path / "a.csv")] == [True, False]
    (tmp_path / "a.jsonl").write_text('{"image": "a.jpg", "caption": "x", "logprob": 0.0}')
    assert read_table(tmp_path / "a.jsonl")[0].scored


def one(**row) -> str:
    return json.dumps({"image": "a.jpg", "caption": "x"} | row)


def coco(**changed) -> str:
    return json.dumps(COCO | changed)


DEEP = "[" * 50_000
WRONG = [
    ("a.jsonl", one() + "\n{", "line 2: not JSON"),
    ("a.jsonl", one() + "\n[3]", "line 2: found .3., expected an object"),
    ("a.jsonl", DEEP, "nested too deep"),
    ("a.json", DEEP, "nested too deep"),
    ("a.jsonl", '{"image": ' + "9" * 5000 + "}", "line 1: .*too many digits"),
    ("a.jsonl", one(image="9" * 5000), "line 1, image: a name of 5000 characters"),
    ("a.jsonl", one(image="\ud83d"), "no file can be called that"),
    ("a.jsonl", one(image=["a"]), "image: found .*expected text"),
    ("a.jsonl", one(image=""), "line 1: no image named"),
    ("a.jsonl", '{"caption": "x"}', "no image named: found only caption"),
    ("a.jsonl", one(caption={"text": "x"}), "line 1: found .*expected a text or a list of texts"),
    ("a.jsonl", one(caption=["x", 3]), "caption 2: found 3, expected text"),
    ("a.jsonl", one(caption=[{"txt": "x"}]), "caption 1: found null, expected text"),
    ("a.jsonl", one(caption="half a \ud83d"), r"line 1: not UTF-8 text: \\ud83d"),
    ("a.jsonl", one(caption="x" * (LONGEST_CAPTION + 1)), "line 1: a caption of 10001 characters"),
    ("a.jsonl", one(split=3), "line 1, split: found 3, expected text"),
    ("a.jsonl", '{"image": "a", "image": "b", "caption": "x"}', '"image" is named twice'),
    ("a.json", '{"a.jpg": ["x"], "a.jpg": ["y"]}', '"a.jpg" is named twice'),
    ("a.json", '{"a.jpg": 3}', '"a.jpg": found 3'),
    ("a.json", "3", "found 3, expected an object"),
    ("a.json", "[]", "no captions in it; expected"),
    ("a.json", "", "no captions in it"),
    ("a.json", '{"images": []}', "data.format = karpathy"),
    ("a.json", '{"annotations": []}', "no images: found only annotations"),
    (
        "a.json",
        coco(images=[{"id": 1, "file_name": None}]),
        "images 1, file_name",
    ),
    ("a.json", coco(images=[{"id": 1.5, "file_name": "a"}]), "images 1, id"),
    (
        "a.json",
        coco(images=COCO["images"][:1] * 2),
        "images 2: .*has the id 1 too",
    ),
    ("a.json", coco(images=COCO["images"][:1]), 'no image has the id "k"'),
    ("a.json", coco(annotations=[{"image_id": 1}]), "annotations 1: no caption"),
    ("a.csv", "", "expected the header image,caption, found ''"),
    ("a.csv", "img,caption\na,x\n", "found 'img,caption'"),
    ("a.csv", "image,caption,Caption\na,x,y\n", "the column caption more than once"),
    ("a.csv", "image,caption\na.jpg,x, y\n", "line 2: more fields than the header has .3, not 2"),
    ("a.csv", 'image,caption\na.jpg,x\nb.jpg,"x\nc.jpg,y\n', "line 3: not CSV.*quote"),
    ("a.csv", "image,caption\na.jpg," + "x" * 140_000, "line 2: .*(not CSV|characters)"),
    ("a.csv", "image,caption\na.jpg,caf\udce9\n", "line 2: not UTF-8"),
    ("a.csv", "image,caption\n", "no captions in it"),
]


@pytest.mark.parametrize(("name", "text", "said"), WRONG)
def test_a_wrong_table_is_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=said) as error:
        read_table(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_several_models_are_refused_but_not_models_of_cars(tmp_path):
    both = [{"text": "x", "model": name, "logprob": -1} for name in "ab"]
    (tmp_path / "a.jsonl").write_text(one(caption=both))
    with pytest.raises(UserError, match=r"captions of several models \(a; b\): keep one"):
        read_table(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_text("image,model,caption,logprob\na,m,x,-1\na,n,x,-1\n")
    with pytest.raises(UserError, match=r"several models \(m; n\)"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("image,model,caption\na,Fiat,x\nb,Audi,x\n")
    assert len(read_table(tmp_path / "a.csv")) == 2


def test_bytes_of_a_files_name_are_kept(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"image,caption\n\xff.jpg,x\n")
    (tmp_path / "a.jsonl").write_text('{"image": "\\udcff.jpg", "caption": "x"}')
    for name in ("a.csv", "a.jsonl"):
        assert read_table(tmp_path / name)[0].image == "\udcff.jpg"


READINGS = (
    lambda path: folder.load(path.parent, "train"),
    lambda path: folder.load(path.parent, "val", annotations=path.name),
    lambda path: flickr8k.load(path.parent, "train"),
    lambda path: karpathy.load(path.parent, "train", annotations=path.name),
    lambda path: karpathy.karpathy_ids(path.parent, annotations=path.name),
    lambda path: read_captions(path, ImageSet.from_references(path), allow_missing=True),
)
KARPATHYS = {
    "images": [
        {"filename": f"{n}.jpg", "split": split, "sentences": [{"raw": "A dog"}], "cocoid": i}
        for i, (n, split) in enumerate(zip("ab", ("train", "val"), strict=True))
    ]
}


@pytest.mark.slow
def test_whatever_a_table_holds_ends_in_captions_or_one_line(tmp_path):
    """In every form, damaged, and read in every way; `fuzz_strangers.py` tries more for longer."""
    well = 0
    forms = {**FORMS, "karpathy.json": json.dumps(KARPATHYS)}
    for seed in range(60):
        rng = random.Random(seed)
        place = tmp_path / str(seed)
        place.mkdir()
        for name in ("a.jpg", "b.jpg", unicodedata.normalize("NFD", "é.jpg")):
            (place / name).touch()
        name = rng.choice(list(forms))
        path = place / ("captions." + name.partition(".")[2])
        path.write_text(forms[name], encoding="utf-8", newline="")
        done = damage(place, rng)
        for read in READINGS:
            try:
                read(path)
                well += 1
            except UserError as error:
                said = str(error)
                assert "\n" not in said and 0 < len(said) < 2000, (seed, done, said[:300])
        shutil.rmtree(place)
    assert well > 30  # some are read all the same
