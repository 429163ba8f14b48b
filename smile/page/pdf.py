"""The book as a PDF of A4 pages: a title page, then one or two pictures on each."""

from collections.abc import Callable
from dataclasses import dataclass

from smile.errors import UserError
from smile.page.book import Book


@dataclass(frozen=True)
class Bound:
    """A book as a PDF.

    pdf: the file's bytes.
    warning: a line about characters that no font here has; "" if there are none.
    """

    pdf: bytes
    warning: str


def bind(book: Book, *, progress: Callable[[int, int], object] | None = None) -> Bound:
    """The book as a PDF. `progress(done, total)` is called after each picture.

    Raises:
        UserError: the book is empty, a picture cannot be read, or fpdf2 is not installed.
    """
    book.expect_pictures()
    raise UserError("the book cannot be bound yet")
