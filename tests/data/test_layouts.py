"""Each data layout on files written here, and what is said when they are wrong."""

import json
import os
import unicodedata
from types import SimpleNamespace

import pytest
from PIL import Image

from smile.data import layouts
from smile.data.flickr8k import load as flickr8k
from smile.data.folder import load as folder
from smile.data.karpathy import load as karpathy
from smile.data.load import load_examples
from smile.data.places import nfc
from smile.data.splits import SPLITS, hash_splits
from smile.errors import UserError


def touch(path):
    """Layouts look at names only, so an image file may be empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def by_name(photos, root):
    return {photo.path.removeprefix(f"{root}/"): photo.captions for photo in photos}


# --- Flickr8k ---------------------------------------------------------------------------------


@pytest.fixture
def kaggle(tmp_path):
    for name in "abcd":
        touch(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "captions.txt").write_bytes(
        b"\xef\xbb\xbfimage,caption\r\n"
        b'a.jpg,"A dog , running ."\r\n'
        b'a.jpg,"A ""big"" dog"\r\n'
        b"\r\n"
        b"b.jpg,Two men\r\n"
        b"c.jpg,A cat\r\n"
        b"d.jpg,A bird\r\n"
    )
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("b.jpg\na.jpg\n\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("c.jpg\r\n")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("d.jpg")
    return tmp_path


def test_kaggle_layout(kaggle):
    assert by_name(flickr8k(kaggle, "train"), kaggle) == {
        "images/b.jpg": ("two men",),
        "images/a.jpg": ("a dog , running", "a big dog"),
    }
    assert by_name(flickr8k(kaggle, "val"), kaggle) == {"images/c.jpg": ("a cat",)}
    assert by_name(flickr8k(kaggle, "test"), kaggle) == {"images/d.jpg": ("a bird",)}


def test_original_layout(kaggle):
    (kaggle / "captions.txt").unlink()
    (kaggle / "images").rename(kaggle / "Flicker8k_Dataset")
    (kaggle / "Flickr8k.token.txt").write_text(
        "a.jpg#0\tA dog , running .\na.jpg#1\tA #1 dog\nb.jpg#0\tTwo men\nx.jpg.1#0\tnowhere\n"
        "c.jpg#0\tA cat\nd.jpg#0\tA bird\n"
    )
    assert by_name(flickr8k(kaggle, "train", max_words=3), kaggle) == {
        "Flicker8k_Dataset/b.jpg": ("two men",),
        "Flicker8k_Dataset/a.jpg": ("a dog ,", "a 1 dog"),
    }
    (kaggle / "Flickr8k.token.txt").write_text("a.jpg#0\tone\na.jpg#0\ttwo\n")
    with pytest.raises(UserError, match=r"a\.jpg#0"):
        flickr8k(kaggle, "train")
    (kaggle / "Flickr8k.token.txt").write_text("a.jpg A dog\n")
    with pytest.raises(UserError, match=r"token\.txt.*A dog"):
        flickr8k(kaggle, "train")


def test_missing_split_lists_are_named_with_their_source(kaggle):
    (kaggle / "Flickr_8k.devImages.txt").unlink()
    with pytest.raises(UserError, match=r"devImages.txt; put them there from https") as caught:
        flickr8k(kaggle, "train")
    assert "trainImages" not in str(caught.value)


def test_missing_images_are_counted(kaggle):
    names = [f"n{i}.jpg" for i in range(5)]
    (kaggle / "Flickr_8k.trainImages.txt").write_text("\n".join(["a.jpg", *names]))
    with (kaggle / "captions.txt").open("a") as file:
        file.writelines(f"{name},a thing\n" for name in names)
    pattern = r"captions.txt: 5 of 6 train images are not in .*: n0.jpg; n1.jpg; n2.jpg; and 2"
    with pytest.raises(UserError, match=pattern):
        flickr8k(kaggle, "train")
    assert flickr8k(kaggle, "val")


@pytest.mark.parametrize("row", ["", "b.jpg,\n", "b.jpg\n", "b.jpg,fine\nb.jpg,. . .\n"])
def test_an_image_without_a_caption_is_refused(kaggle, row):
    (kaggle / "captions.txt").write_text(f"image,caption\na.jpg,a dog\n{row}")
    with pytest.raises(UserError, match=r"1 of 2 train images have no caption.*: b\.jpg;"):
        flickr8k(kaggle, "train")


def test_a_name_in_two_split_lists_is_refused(kaggle):
    (kaggle / "Flickr_8k.testImages.txt").write_text("d.jpg\na.jpg\n")
    with pytest.raises(UserError, match=r"1 names occur more than once: a\.jpg"):
        flickr8k(kaggle, "val")


def test_an_empty_split_is_refused(kaggle):
    (kaggle / "Flickr_8k.devImages.txt").write_text("\n")
    with pytest.raises(UserError, match=r"devImages.txt: the val split is empty"):
        flickr8k(kaggle, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\na.jpg,a dog, running\n", "line 2: more fields.*quotes"),
        ('image,caption\na.jpg,"a dog\n', "not CSV"),
        ("a.jpg,a dog\n", "expected the header image,caption, found 'a.jpg,a dog'"),
        ("", "expected the header"),
    ],
)
def test_a_bad_csv_is_refused(kaggle, text, message):
    (kaggle / "captions.txt").write_text(text)
    with pytest.raises(UserError, match=rf"captions.txt.*{message}"):
        flickr8k(kaggle, "train")


def test_a_text_that_is_not_utf8_is_refused(kaggle):
    (kaggle / "captions.txt").write_bytes("image,caption\na.jpg,a café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"captions\.txt, line 2: not UTF-8"):
        flickr8k(kaggle, "train")


def test_no_annotations_and_no_root(kaggle, tmp_path):
    (kaggle / "captions.txt").unlink()
    with pytest.raises(UserError, match=r"neither captions\.txt nor Flickr8k\.token\.txt"):
        flickr8k(kaggle, "train")
    for load, source in [
        (flickr8k, "adityajn105/flickr8k"),
        (karpathy, "caption_datasets.zip"),
        (folder, "captions.jsonl"),
    ]:
        with pytest.raises(UserError, match=f"nowhere: there is no such.*{source}"):
            load(tmp_path / "nowhere", "train")
        with pytest.raises(UserError, match=f"data.root is not set.*{source}"):
            load("", "train")


# --- Karpathy ---------------------------------------------------------------------------------


def entry(name, split, *captions, **more):
    return {"filename": name, "split": split, "sentences": [{"raw": c} for c in captions], **more}


@pytest.fixture
def coco(tmp_path):
    entries = [
        entry("a.jpg", "train", "A dog.", "One dog", filepath="train2014"),
        entry("b.jpg", "restval", "A cat", filepath="val2014"),
        entry("e.jpg", "train", "A frog", filepath="train2014"),
        entry("c.jpg", "val", "A bird", filepath="val2014"),
        entry("d.jpg", "test", "A fish", filepath="val2014"),
    ]
    for item in entries:
        touch(tmp_path / item["filepath"] / item["filename"])
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    return tmp_path


def test_coco_by_karpathy(coco):
    assert by_name(karpathy(coco, "train"), coco) == {
        "train2014/a.jpg": ("a dog", "one dog"),
        "train2014/e.jpg": ("a frog",),
        "val2014/b.jpg": ("a cat",),
    }
    for annotations in ("dataset_coco.json", coco / "dataset_coco.json"):
        photos = karpathy(coco, "val", annotations=annotations)
        assert by_name(photos, coco) == {"val2014/c.jpg": ("a bird",)}
    assert by_name(karpathy(coco, "test"), coco) == {"val2014/d.jpg": ("a fish",)}


def test_flickr_by_karpathy(tmp_path):
    touch(tmp_path / "images" / "a.jpg")
    data = {"images": [entry("a.jpg", "train", "A dog")], "dataset": "flickr30k"}
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(data))
    assert by_name(karpathy(tmp_path, "train"), tmp_path) == {"images/a.jpg": ("a dog",)}
    with pytest.raises(UserError, match="the val split is empty, of 1 images"):
        karpathy(tmp_path, "val")


def test_one_listing_per_folder(coco, monkeypatch):
    listed = []
    scandir = layouts.os.scandir
    monkeypatch.setattr(layouts.os, "scandir", lambda path: listed.append(path) or scandir(path))
    (coco / "train2014" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 3 train images are not in .*: train2014/a\.jpg"):
        karpathy(coco, "train", annotations="dataset_coco.json")
    assert sorted(listed) == [str(coco / "train2014"), str(coco / "val2014")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not one of Karpathy's files"),
        ('{"images": [{"filename": "a.jpg", "split": "val"}]}', "sentences"),
        (json.dumps({"images": [entry("a.jpg", "vla", "x")]}), "unknown split .vla."),
        (json.dumps({"images": [entry("a.jpg", "val", "x")] * 2}), r"more than once: a\.jpg"),
        (json.dumps({"images": [entry("a.jpg", "val")]}), "1 of 1 val images have no caption"),
    ],
)
def test_a_bad_karpathy_file_is_refused(tmp_path, content, message):
    (tmp_path / "dataset_x.json").write_text(content)
    with pytest.raises(UserError, match=rf"dataset_x\.json.*{message}"):
        karpathy(tmp_path, "val")


def test_which_karpathy_file(coco):
    with pytest.raises(UserError, match=r"there is no other\.json"):
        karpathy(coco, "train", annotations="other.json")
    (coco / "dataset_flickr8k.json").touch()
    with pytest.raises(UserError, match=r"2 of them .*data\.annotations"):
        karpathy(coco, "train")
    for path in coco.glob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"found none.*caption_datasets\.zip"):
        karpathy(coco, "train")


# --- Folder -----------------------------------------------------------------------------------


def loaded(root, **options):
    """Every split that holds something: split → name → captions."""
    splits = {}
    for split in SPLITS:
        try:
            splits[split] = by_name(folder(root, split, **options), root)
        except UserError as error:
            assert "split is empty" in str(error)
    return splits


def merged(splits):
    names = [name for photos in splits.values() for name in photos]
    assert len(names) == len(set(names)), "an image is in two splits"
    return {name: captions for photos in splits.values() for name, captions in photos.items()}


def test_json_lines(tmp_path):
    for name in "abcd":
        touch(tmp_path / "sub" / f"{name}.jpg")
    (tmp_path / "captions.jsonl").write_text(
        '\ufeff{"image": "sub/a.jpg", "caption": "A dog"}\r\n\r\n'
        '{"image": "sub/b.jpg", "captions": ["A cat", "One\u2028cat"]}\n'
        '{"image": "sub/a.jpg", "caption": "One dog"}\n'
        '{"file_name": "sub/c.jpg", "text": "A bird"}\n'
        '{"image": "sub/d.jpg", "caption": "A fish"}\n',
        encoding="utf-8",
    )
    assert merged(loaded(tmp_path)) == {
        "sub/a.jpg": ("a dog", "one dog"),
        "sub/b.jpg": ("a cat", "one cat"),
        "sub/c.jpg": ("a bird",),
        "sub/d.jpg": ("a fish",),
    }


def test_csv_with_a_split_column(tmp_path):
    for name in "abc":
        touch(tmp_path / f"{name}.png")
    (tmp_path / "captions.csv").write_text(
        'image,caption,split\na.png,"A dog, running",train\nb.png,A cat,validation\n'
        "a.png,One dog,train\nc.png,A bird,test\n"
    )
    assert loaded(tmp_path) == {
        "train": {"a.png": ("a dog, running", "one dog")},
        "val": {"b.png": ("a cat",)},
        "test": {"c.png": ("a bird",)},
    }


def test_text_beside_each_image(tmp_path):
    for name, text in {"a.jpg": "A dog\n\nOne dog\n", "deep/b.PNG": "A cat"}.items():
        touch(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(text)
    touch(tmp_path / "README.txt")
    touch(tmp_path / "deep" / "._b.PNG")  # what macOS leaves behind
    touch(tmp_path / ".thumbnails" / "a.jpg")
    expected = {"a.jpg": ("a dog", "one dog"), "deep/b.PNG": ("a cat",)}
    assert merged(loaded(tmp_path)) == expected
    touch(tmp_path / "deep" / "c.jpg")
    with pytest.raises(
        UserError, match=r"1 of 3 images have no \.txt or \.caption beside them: deep/c\.jpg"
    ):
        folder(tmp_path, "train")
    (tmp_path / "deep" / "c.jpg").rename(tmp_path / "c.txt")
    with pytest.raises(UserError, match=r"1 of 3 texts have no image beside them: c\.txt"):
        folder(tmp_path, "train")


@pytest.mark.parametrize("kind", ["text", "table in each", "table above"])
def test_split_subfolders(tmp_path, kind):
    names = {"train": "a", "validation": "b", "test": "c"}
    rows = []
    for place, name in names.items():
        touch(tmp_path / place / f"{name}.jpg")
        rows.append(json.dumps({"image": f"{place}/{name}.jpg", "caption": f"thing {name}"}))
        if kind == "text":
            (tmp_path / place / f"{name}.txt").write_text(f"thing {name}")
        if kind == "table in each":
            table = f"file_name,text\n{name}.jpg,thing {name}\n"
            (tmp_path / place / "metadata.csv").write_text(table)
    if kind == "table above":
        (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    assert loaded(tmp_path) == {
        "train": {"train/a.jpg": ("thing a",)},
        "val": {"validation/b.jpg": ("thing b",)},
        "test": {"test/c.jpg": ("thing c",)},
    }
    touch(tmp_path / "other" / "d.jpg")
    (tmp_path / "other" / "d.txt").write_text("thing d")
    if kind == "text":
        with pytest.raises(UserError, match=r"1 of 4 images lie outside .*: other/d\.jpg"):
            folder(tmp_path, "train")


def written(root, names):
    root.mkdir(exist_ok=True)
    for name in names:
        touch(root / name)
    rows = [json.dumps({"image": name, "caption": "a thing"}) for name in names]
    (root / "captions.jsonl").write_text("\n".join(rows))


@pytest.mark.slow
def test_hash_split_is_stable_and_near_its_fractions(tmp_path):
    written(tmp_path, [f"{i}.jpg" for i in range(1000)])
    splits = loaded(tmp_path, val_fraction=0.1, test_fraction=0.2)
    assert {split: len(photos) for split, photos in splits.items()} == {
        "train": pytest.approx(700, abs=60),
        "val": pytest.approx(100, abs=40),
        "test": pytest.approx(200, abs=50),
    }
    assert len(merged(splits)) == 1000
    written(tmp_path, [f"{i}.jpg" for i in reversed(range(1100))])
    grown = loaded(tmp_path, val_fraction=0.1, test_fraction=0.2)
    for split in SPLITS:
        assert splits[split].keys() <= grown[split].keys()


def test_a_small_folder_has_every_split(tmp_path):
    written(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    assert {split: len(photos) for split, photos in loaded(tmp_path).items()} == dict.fromkeys(
        SPLITS, 1
    )
    assert loaded(tmp_path, val_fraction=0, test_fraction=0).keys() == {"train"}
    with pytest.raises(UserError, match=r"the val split is empty, of 3 .*data\.val_fraction"):
        folder(tmp_path, "val", val_fraction=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"image": "a.jpg", "caption": "x"}\n{"image"', "line 2: not JSON"),
        ('["a.jpg"]', 'item 1: found "a.jpg", expected an object'),
        ('{"img": "a.jpg", "caption": "x"}', "line 1: no image named: found only img, caption"),
        ('{"image": 0, "caption": "x"}', "line 1: image: found 0, expected text"),
        ('{"image": "a.jpg", "caption": 3}', "line 1: found 3, expected a text or a list"),
        ('{"image": "a.jpg", "prompt": "x"}', "line 1: no caption: found only image, prompt"),
        ('{"image": "a.jpg", "captions": []}', r"1 of 1 train images have no caption"),
        ('{"image": "a.jpg", "caption": "..."}', r"1 of 1 train images have no caption"),
        ('{"image": "b.jpg", "caption": "x"}', r"1 of 1 train images are not in .*: b\.jpg"),
        ('{"image": "no/a.jpg", "caption": "x"}', r"are not in .*: no/a\.jpg"),
        ('{"image": "a.jpg", "caption": "x", "split": "tset"}', "line 1: unknown split .tset."),
        (
            '{"image": "a.jpg", "caption": "x", "split": "val"}\n{"image": "a.jpg", "caption": "y",'
            ' "split": "test"}',
            r"line 2: a\.jpg is in test here and in val before",
        ),
        (
            '{"image": "a.jpg", "caption": "x", "split": "val"}\n{"image": "b.jpg", "text": "y"}',
            r"1 of 2 images have no split where others do: b\.jpg",
        ),
    ],
)
def test_bad_json_lines_are_refused(tmp_path, rows, message):
    touch(tmp_path / "a.jpg")
    (tmp_path / "captions.jsonl").write_text(rows)
    with pytest.raises(UserError, match=message):
        folder(tmp_path, "train", val_fraction=0, test_fraction=0)


ROWS = [{"image": f"{name}.jpg", "caption": f"thing {name}"} for name in "abc"]
THINGS = {f"{name}.jpg": (f"thing {name}",) for name in "abc"}


def data_folder(root, files, *, images="abc", place=""):
    for name in images:
        touch(root / place / f"{name}.jpg")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_kaggles_folder_without_its_lists(tmp_path, capsys):
    table = "image,caption\n" + "".join(f"{r['image']},{r['caption']}\n" for r in ROWS)
    data_folder(tmp_path, {"captions.txt": table}, place="Images")
    as_folder = loaded(tmp_path)
    assert merged(as_folder) == {f"Images/{name}": texts for name, texts in THINGS.items()}
    assert capsys.readouterr().err == ""
    for split in SPLITS:
        assert by_name(flickr8k(tmp_path, split), tmp_path) == as_folder[split]
    (said,) = capsys.readouterr().err.splitlines()  # once for all splits
    assert "no official split lists" in said and "data.val_fraction 0.05" in said


def test_the_captions_without_a_picture_are_left_out_aloud(kaggle, capsys):
    for path in kaggle.glob("*Images.txt"):
        path.unlink()
    with (kaggle / "captions.txt").open("a") as file:
        file.write("x.jpg.1,nowhere\n")
    names = {photo.name for split in SPLITS for photo in flickr8k(kaggle, split)}
    assert names == {str(kaggle / "images" / f"{name}.jpg") for name in "abcd"}
    assert "not an image's name: x.jpg.1" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".caption", ".TXT", ".Caption"])
def test_other_suffixes_of_texts(tmp_path, suffix):
    data_folder(tmp_path, {f"{name}{suffix}": f"thing {name}" for name in "abc"})
    assert merged(loaded(tmp_path)) == THINGS
    (tmp_path / "a.txt").write_text("another thing")
    with pytest.raises(UserError, match=r"a\.txt.*two texts for one image"):
        folder(tmp_path, "train")


@pytest.mark.parametrize("names", [("Train", "VAL"), ("TRAIN", "Validation"), ("train", "Test")])
def test_split_folders_in_capitals(tmp_path, names):
    for place, name in zip(names, "ab", strict=True):
        data_folder(tmp_path, {f"{place}/{name}.txt": "thing"}, images=name, place=place)
    found = loaded(tmp_path)
    assert found.pop("train") == {f"{names[0]}/a.jpg": ("thing",)}
    assert [*found.values()] == [{f"{names[1]}/b.jpg": ("thing",)}]


def test_linked_folders_are_followed_and_circles_said(tmp_path, capsys):
    for place, name in zip(("one", "two"), "ab", strict=True):
        data_folder(tmp_path / "store", {f"{place}/{name}.txt": "thing"}, images=name, place=place)
    root = tmp_path / "linked"
    root.mkdir()
    (root / "train").symlink_to("../store/one")
    (root / "val").symlink_to("../store/two")
    assert loaded(root) == {"train": {"train/a.jpg": ("thing",)}, "val": {"val/b.jpg": ("thing",)}}
    assert capsys.readouterr().err == ""  # a linked split is the data set's own
    (tmp_path / "store" / "one" / "again").symlink_to(tmp_path / "linked")
    assert loaded(root)["train"] == {"train/a.jpg": ("thing",)}
    assert "train/again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("captions_train2014.json", "captions_val2014.json"), "caption"),
        (("coco_karpathy_train.json", "coco_karpathy_val.json"), "caption"),
        (("train.csv", "dev.csv"), ","),
        (("annotations/captions_train2017.json", "annotations/captions_val2017.json"), ""),
    ],
)
def test_tables_whose_names_say_their_split(tmp_path, names, key):
    def table(row):
        if key == ",":
            return f"image,caption\n{row['image']},{row['caption']}\n"
        if key:
            return json.dumps([row | {"image_id": 1}])
        image = {"id": 7, "file_name": row["image"]}
        annotation = {"image_id": 7, "caption": row["caption"]}
        return json.dumps({"images": [image], "annotations": [annotation]})

    files = {name: table(row) for name, row in zip(names, ROWS, strict=False)}
    others = {"coco_karpathy_val_gt.json": "{}", "annotations/instances_train2014.json": "{}"}
    data_folder(tmp_path, files | others, images="ab", place="train2017" if not key else "")
    prefix = "" if key else "train2017/"
    assert loaded(tmp_path) == {
        "train": {f"{prefix}a.jpg": ("thing a",)},
        "val": {f"{prefix}b.jpg": ("thing b",)},
    }


def test_one_such_table_alone_is_split_by_hash(tmp_path):
    data_folder(tmp_path, {"captions_train2014.json": json.dumps(ROWS), "val_log.csv": "x"})
    splits = loaded(tmp_path)
    assert merged(splits) == THINGS and splits.keys() == {*SPLITS}


def test_a_table_may_be_named_and_lie_elsewhere(tmp_path, capsys):
    root = data_folder(tmp_path / "pictures", {"notes.csv": "a,b"})
    table = tmp_path / "lists" / "mine.json"
    table.parent.mkdir()
    table.write_text(json.dumps(ROWS))
    found = {s: by_name(folder(root, s, annotations=table), root) for s in SPLITS}
    assert merged(found) == THINGS and capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"data\.annotations: there is no other\.json"):
        folder(root, "train", annotations="other.json")
    table.write_text(json.dumps([{"image": "../away.jpg", "caption": "x"}]))
    touch(tmp_path / "away.jpg")
    for _ in range(2):
        (photo,) = folder(root, "train", annotations=table, val_fraction=0, test_fraction=0)
        assert photo.outside
    (said,) = capsys.readouterr().err.splitlines()
    assert "outside its folder" in said and "away.jpg" in said


def test_one_image_by_several_names_is_one(tmp_path):
    names = ["a.jpg", "./a.jpg", "sub/../a.jpg", f"{tmp_path}/a.jpg", "b.jpg", "c.jpg"]
    lines = [json.dumps({"image": name, "caption": f"thing {n}"}) for n, name in enumerate(names)]
    (tmp_path / "sub").mkdir()
    data_folder(tmp_path, {"captions.jsonl": "\n".join(lines)})
    assert merged(loaded(tmp_path))["a.jpg"] == ("thing 0", "thing 1", "thing 2", "thing 3")
    assert len(merged(loaded(tmp_path))) == 3


def test_what_sample_wrote_can_be_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captions = [{"text": "A thing", "logprob": -1.5, "tokens": [["a", -1.0]]}, {"text": "Two"}]
    lines = [json.dumps({"image": f"photos/{n}.jpg", "captions": captions}) for n in "abc"]
    rest = {"captions.errors.jsonl": "{}", "captions.jsonl.run.json": "{}"}
    root = data_folder(tmp_path / "photos", {"captions.jsonl": "\n".join(lines)} | rest)
    from_here = {s: {p.path: p.captions for p in folder("photos", s)} for s in SPLITS}
    assert merged(from_here) == {f"photos/{n}.jpg": ("a thing", "two") for n in "abc"}
    plain = [json.dumps({"image": f"{n}.jpg", "caption": "a"}) for n in "abc"]
    (root / "captions.jsonl").write_text("\n".join(plain))
    for split in SPLITS:  # the same splits, whichever way the images are named
        assert {p.path for p in folder("photos", split)} == from_here[split].keys()


ODD_NAMES = [unicodedata.normalize("NFD", "é"), os.fsdecode(b"\xff"), "x" * 236, "a\nb", "b c"]


@pytest.mark.parametrize("kind", ["texts", "table"])
def test_odd_names_keep_their_split(tmp_path, kind):
    """Of another coding, not UTF-8, 240 bytes long, with a line break."""
    files = {}
    for number, name in enumerate(ODD_NAMES):
        touch(tmp_path / f"{name}.jpg")
        files[f"{name}.txt"] = f"thing {number}"
    if kind == "texts":
        for name, text in files.items():
            (tmp_path / name).write_text(text)
    else:
        rows = [
            json.dumps({"image": unicodedata.normalize("NFC", f"{name}.jpg"), "caption": text})
            for name, text in zip(ODD_NAMES, files.values(), strict=True)
        ]
        (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    splits = loaded(tmp_path, val_fraction=0.3, test_fraction=0.3)
    expected = hash_splits([f"{nfc(name)}.jpg" for name in ODD_NAMES], 0.3, 0.3)
    assert {name: split for split, photos in splits.items() for name in photos} == {
        f"{name}.jpg": expected[f"{nfc(name)}.jpg"] for name in ODD_NAMES
    }


def test_a_caption_of_megabytes_is_refused(tmp_path):
    data_folder(tmp_path, {"a.txt": "x" * 5_000_000}, images="a")
    with pytest.raises(UserError, match=r"a\.txt: a caption of 5000000 characters, expected at mo"):
        folder(tmp_path, "train")


def test_captions_that_are_cut_are_counted(tmp_path, capsys):
    data_folder(tmp_path, {"a.txt": "One two three. Four\nOne two (three)\nfour five six seven"})
    for name in "bc":
        (tmp_path / f"{name}.txt").write_text("two words")
    assert merged(loaded(tmp_path, max_words=3))["a.jpg"][0] == "one two three"
    (said,) = capsys.readouterr().err.splitlines()
    assert " 2 " in said and "data.max_words = 3 words" in said


def test_what_is_not_understood_is_named(tmp_path):
    data_folder(tmp_path, {"captions.xml": "<a/>", "a.jpg.text": "a thing"})
    with pytest.raises(UserError, match=r"3 images and no captions; unknown files: a\.jpg\.text; "):
        folder(tmp_path, "train")


def test_a_folder_without_annotations_says_what_was_expected(tmp_path):
    with pytest.raises(UserError, match=r"no images; expected captions\.jsonl"):
        folder(tmp_path, "train")
    touch(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"1 images and no captions; expected captions\.jsonl"):
        folder(tmp_path, "train")
    touch(tmp_path / "captions.csv")
    touch(tmp_path / "captions.jsonl")
    with pytest.raises(
        UserError, match=r"several annotation files, captions\.csv; captions\.jsonl"
    ):
        folder(tmp_path, "train")


# --- load_examples ----------------------------------------------------------------------------


def config(**values):
    defaults = {
        "format": "folder",
        "root": "",
        "annotations": "",
        "max_words": 50,
        "val_fraction": 0.05,
        "test_fraction": 0.05,
        "num_train": 5,
        "num_val": 3,
        "num_test": 2,
        "seed": 0,
    }
    return SimpleNamespace(**{**defaults, **values})


def test_load_examples_reaches_every_format(kaggle):
    data = config(format="flickr8k", root=str(kaggle), max_words=1)
    assert [photo.captions for photo in load_examples(data, "val")] == [("a",)]
    data = config(format="karpathy", root=str(kaggle))
    (kaggle / "dataset_x.json").write_text(json.dumps({"images": [entry("c.jpg", "val", "X")]}))
    assert [photo.captions for photo in load_examples(data, "val")] == [("x",)]
    written(kaggle / "own", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    data = config(root=str(kaggle / "own"), val_fraction=0.9, test_fraction=1e-9)
    assert len(load_examples(data, "val")) > len(load_examples(data, "test")) == 1
    scenes = [load_examples(config(format="shapes"), split, image_size=32) for split in SPLITS]
    assert [len(examples) for examples in scenes] == [5, 3, 2]
    assert scenes[0][0].read().size == (32, 32)
    with pytest.raises(ValueError, match="'dev'"):
        load_examples(data, "dev")
    with pytest.raises(UserError, match="'parquet' is not known"):
        load_examples(config(format="parquet"), "val")


def test_a_photo_reads_its_picture(tmp_path):
    Image.new("L", (4, 6), 9).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("A thing")
    (photo,) = folder(tmp_path, "train", val_fraction=0, test_fraction=0)
    assert photo.name == str(tmp_path / "a.png")
    assert photo.read().getpixel((0, 0)) == (9, 9, 9)
