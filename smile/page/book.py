"""A photo book: pictures with captions, in an order, under a title.

    book = Book(title="Summer", author="Ada")
    page = book.add(data, "a dog on the beach", name="dog.jpg")
    book.edit(page.number, "our dog on the beach")
    book.move(page.number, 0)

It is plain Python, so a session can keep it and pickle it. It holds the bytes of the files and not
their pixels, which take ten times the memory; `pdf.py` decodes one picture at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from smile.errors import UserError, counted
from smile.model.images import read_image

PER_PAGE = (1, 2)
LONGEST_TITLE = 200  # characters


@dataclass
class Entry:
    """A picture in the book.

    number: which one it is, for as long as it is in the book; never given twice.
    picture: the bytes of the image file.
    name: its file name, as its owner calls it; "" if it has none.
    caption: what is written under it.
    """

    number: int
    picture: bytes
    name: str
    caption: str


@dataclass
class Book:
    """Pictures with captions.

    title, author: on the title page; a book without either has no title page.
    per_page: how many pictures a page has, 1 or 2.
    """

    title: str = ""
    author: str = ""
    per_page: int = 1
    entries: list[Entry] = field(default_factory=list)
    _added: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def add(self, picture: bytes, caption: str, *, name: str = "") -> Entry:
        """Puts a picture at the end of the book; `picture` is the bytes of an image file.

        Raises:
            UserError: it is not an image of a kind and size that is read; the book stays as it was.
        """
        read_image(picture, name or "the picture", longest=64)  # all of it, or binding would fail
        self._added += 1
        entry = Entry(self._added, picture, name, caption)
        self.entries.append(entry)
        return entry

    def edit(self, number: int, caption: str) -> None:
        """Gives a picture another caption. Raises UserError if it is not in the book."""
        self.entries[self.place(number)].caption = caption

    def move(self, number: int, place: int) -> None:
        """Puts a picture at a place, counted from 0; one beyond either end means that end.

        Raises:
            UserError: the picture is not in the book.
        """
        entry = self.entries.pop(self.place(number))
        self.entries.insert(max(place, 0), entry)

    def remove(self, number: int) -> None:
        """Takes a picture out of the book. Raises UserError if it is not in it."""
        del self.entries[self.place(number)]

    def place(self, number: int) -> int:
        """Where a picture stands, counted from 0. Raises UserError if it is not in the book."""
        for place, entry in enumerate(self.entries):
            if entry.number == number:
                return place
        raise UserError(
            f"picture {number} is not in the book, which has {counted(len(self), 'picture')}"
        )

    def expect_pictures(self) -> None:
        """Raises UserError if the book is empty: there is nothing to bind."""
        if not self.entries:
            raise UserError("the book is empty: add a picture first")

    def check(self) -> None:
        """Raises UserError if it cannot be bound: it is empty, or its title fills a page."""
        self.expect_pictures()
        if self.per_page not in PER_PAGE:
            raise UserError(f"{self.per_page} pictures a page: expected 1 or 2")
        for what, text in (("title", self.title), ("author", self.author)):
            if len(text) > LONGEST_TITLE:
                raise UserError(
                    f"the book's {what} has {len(text)} characters, expected at most "
                    f"{LONGEST_TITLE}: shorten it"
                )
