"""The photo book: what is added, edited, moved and removed is what it holds."""

import pickle

import pytest
from helpers import image_bytes

from smile.errors import UserError
from smile.page.book import Book


def captions(book: Book) -> list[str]:
    return [entry.caption for entry in book]


@pytest.fixture
def book():
    book = Book()
    for caption in "abc":
        book.add(image_bytes(), caption, name="a.png")
    return book


def test_pictures_are_moved_by_their_number(book):
    first, second, third = (entry.number for entry in book)
    book.move(third, 0)
    assert captions(book) == ["c", "a", "b"]
    book.move(first, 99)
    assert captions(book) == ["c", "b", "a"]
    book.move(second, -5)
    assert captions(book) == ["b", "c", "a"]
    assert [book.place(number) for number in (first, second, third)] == [2, 0, 1]


def test_a_number_is_never_given_twice(book):
    numbers = [entry.number for entry in book]
    book.remove(numbers[-1])
    assert book.add(image_bytes(), "d").number not in numbers
    assert captions(book) == ["a", "b", "d"]


def test_a_caption_is_edited(book):
    [_, second, _] = book
    book.edit(second.number, "ein Hund")
    assert captions(book) == ["a", "ein Hund", "c"]


def test_a_picture_that_is_gone_is_one_line(book):
    for change in (book.remove, book.place, lambda n: book.edit(n, "x"), lambda n: book.move(n, 0)):
        with pytest.raises(UserError, match="picture 7 is not in the book, which has 3 pictures"):
            change(7)
    assert captions(book) == ["a", "b", "c"]


@pytest.mark.parametrize("data", [b"", b"text", image_bytes(size=(90, 60))[:80]])
def test_what_is_no_picture_is_refused_and_the_book_stays_as_it_was(book, data):
    with pytest.raises(UserError, match=r"x\.jpg: cannot read this image"):
        book.add(data, "x", name="x.jpg")
    assert captions(book) == ["a", "b", "c"]


def test_a_book_is_kept_in_a_session(book):
    book.title, book.author, book.per_page = "Summer", "Ada", 2
    assert pickle.loads(pickle.dumps(book)) == book


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"per_page": 3}, "3 pictures a page: expected 1 or 2"),
        ({"title": "x" * 201}, "the book's title has 201 characters, expected at most 200"),
        ({"author": "x" * 999}, "the book's author has 999 characters"),
        ({"entries": []}, "the book is empty: add a picture first"),
    ],
)
def test_a_book_that_cannot_be_bound_is_one_line(book, change, reason):
    book.check()
    for name, value in change.items():
        setattr(book, name, value)
    with pytest.raises(UserError, match=reason):
        book.check()
