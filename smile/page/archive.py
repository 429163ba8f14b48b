"""The book as a zip: the pictures, a .txt beside each, and captions.jsonl."""

from smile.errors import UserError
from smile.page.book import Book


def zip_book(book: Book) -> bytes:
    """The zip's bytes: picture files as they were given, under safe and unique names.

    Raises:
        UserError: the book is empty.
    """
    book.check()
    raise UserError("the book cannot be zipped yet")
