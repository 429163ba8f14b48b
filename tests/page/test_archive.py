"""The book's zip: everything is in it, under names that no system and no stranger can abuse."""

import io
import json
import zipfile

import pytest
from helpers import image_bytes

from smile.errors import UserError
from smile.page.archive import safe_names, zip_book
from smile.page.book import Book, Entry


def names(*given: str) -> list[str]:
    return list(safe_names(Entry(0, image_bytes(), name, "") for name in given))


def opened(book: Book) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(zip_book(book)))


def test_it_holds_the_files_as_given_their_texts_and_the_captions():
    book = Book()
    pictures = [image_bytes("red"), image_bytes("blue", form="JPEG")]
    book.add(pictures[0], "a red square", name="square.png")
    book.add(pictures[1], "ein blaues\nViereck 狗", name="Ωμέγα.jpg")
    with opened(book) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "square.png", "square.txt", "Ωμέγα.jpg", "Ωμέγα.txt", "captions.jsonl",
        ]  # fmt: skip
        assert [archive.read(name) for name in ("square.png", "Ωμέγα.jpg")] == pictures
        assert archive.read("square.txt") == b"a red square\n"
        assert archive.read("Ωμέγα.txt").decode() == "ein blaues Viereck 狗\n"
        lines = archive.read("captions.jsonl").decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"image": "square.png", "captions": [{"text": "a red square"}]},
        {"image": "Ωμέγα.jpg", "captions": [{"text": "ein blaues Viereck 狗"}]},
    ]


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("dog.jpg", "dog.jpg"),
        ("IMG 0001 (1).JPG", "IMG 0001 (1).jpg"),
        ("../../etc/passwd", "passwd.png"),
        ("C:\\Users\\a\\dog.png", "dog.png"),
        ("/abs/dog.png", "dog.png"),
        ("..", "picture.png"),
        ("", "picture.png"),
        (".png", "png.png"),
        (".hidden.png", "hidden.png"),
        ('a<b>:"c|d?*.png', "a_b___c_d__.png"),
        ("a\nb\x00\x1b[31m.png", "a_b__[31m.png"),
        ("con.png", "_con.png"),
        ("COM1.tar.png", "_COM1.tar.png"),
        ("dog. .png", "dog.png"),
        ("virus.exe", "virus.exe.png"),
        ("photo\u202egnp.exe", "photo_gnp.exe.png"),
        ("broken\udcff.png", "broken_.png"),
        ("x" * 300 + ".png", "x" * 196 + ".png"),
        ("狗" * 300 + ".jpeg", "狗" * 65 + ".jpeg"),
        ("cafe\u0301.png", "café.png"),
    ],
)
def test_names_are_made_safe(given, safe):
    assert names(given) == [safe]


def test_no_two_pictures_share_a_name_or_a_text():
    assert names("dog.jpg", "DOG.jpg", "dog.png", "a/dog.jpg", "dog (2).jpg") == [
        "dog.jpg", "DOG (2).jpg", "dog (3).png", "dog (4).jpg", "dog (2) (2).jpg",
    ]  # fmt: skip
    assert len(set(names(*["x" * 200 + ".jpg"] * 20))) == 20
    assert names("captions.png", "captions.jsonl") == ["captions.png", "captions.jsonl.png"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_name_without_a_suffix_gets_the_picture_s(form):
    suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(form, form.lower())
    [name] = safe_names([Entry(0, image_bytes(form=form), "dog", "")])
    assert name == f"dog.{suffix}"


def test_a_picture_without_a_caption_is_no_training_example():
    book = Book()
    for name, caption in (("a.png", "a dog"), ("b.png", " ")):
        book.add(image_bytes(), caption, name=name)
    archive = zipfile.ZipFile(io.BytesIO(zip_book(book)))
    assert set(archive.namelist()) == {"a.png", "a.txt", "b.png", "captions.jsonl"}
    assert archive.read("captions.jsonl").count(b"\n") == 1


def test_an_empty_book_is_refused():
    with pytest.raises(UserError, match="the book is empty: add a picture first"):
        zip_book(Book())
