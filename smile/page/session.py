"""What a visitor has on the page: pictures with their captions, and a book.

It is kept from one run of the script to the next, whatever is clicked, and nobody else sees it.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from smile.captioning.explain import WordMap
from smile.errors import UserError
from smile.model.captioner import Caption
from smile.page.book import Book
from smile.page.request import Request, captions_of, maps_of, reason
from smile.page.uploads import MB, Picture, TooMany, check_room, left_out, read_upload
from smile.page.worker import Job, Workers

MOST_IN_BOOK, MOST_BOOK_MB = 200, 500


@dataclass(eq=False)
class Answer:
    """The captions of a picture by one captioner, once they are there.

    maps: for each caption that was looked at, by its place, the job that finds its words' maps.
    """

    picture: Picture
    source: str
    request: Request
    job: Job
    maps: dict[int, Job] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.job.done

    @property
    def captions(self) -> list[Caption]:
        """Best first; none if they are not there yet, or never will be."""
        return [] if self.problem or not self.done else self.job.future.result()

    def num_words(self, caption: Caption) -> int:
        """How many words the captioner wrote: those of the prefix are not its own."""
        return len(caption.text.removeprefix(self.request.prefix).split())

    @property
    def problem(self) -> str:
        """Why there are no captions, in one line; "" if there are, or may be."""
        return problem_of(self.job)


def problem_of(job: Job) -> str:
    """Why a job gave nothing, in one line; "" if it did, or may yet."""
    if not job.done:
        return ""
    try:
        error = job.future.exception()
    except CancelledError:
        return "not described, since this page was closed meanwhile: press “Describe again”"
    return reason(error) if error else ""


@dataclass(eq=False)
class Session:
    """A visitor's pictures, their captions by one or two captioners, and the book.

    answers: for each picture, by its number, the answers of the captioners asked.
    unread: files given, by name and content, that `read_next` has not read yet. A click may end a
        run of the page between two of them, and the next run goes on.
    problems, late, full: of the files given last, what was wrong with them, which had no room, and
        why; `messages` says it all.
    previews: of the pictures in the book, by their numbers there.
    made: the files made of the book, by kind, each with the content it was made of.
    """

    workers: Workers
    visitor: str = field(default_factory=lambda: uuid4().hex)
    pictures: list[Picture] = field(default_factory=list)
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    unread: deque[tuple[str, bytes]] = field(default_factory=deque)
    problems: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    full: TooMany | None = None
    book: Book = field(default_factory=Book)
    previews: dict[int, bytes] = field(default_factory=dict)
    made: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    num_given: int = 0

    def give(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Takes files, by name and content, for `read_next`."""
        files = list(files)
        if files and not self.unread:
            self.problems, self.late, self.full = [], [], None
        self.unread.extend(files)

    def read_next(self) -> Picture | None:
        """Puts the next file given into the list; None, and a message, if that cannot be."""
        name, data = self.unread.popleft()
        try:
            check_room(self.pictures, len(data))
            picture = read_upload(self.num_given, name, data)
        except TooMany as error:
            self.late.append(name)
            self.full = error
        except UserError as error:
            self.problems.append(str(error))
        else:
            self.num_given += 1
            self.pictures.append(picture)
            return picture
        return None

    @property
    def messages(self) -> list[str]:
        """What went wrong with the files given last, a line each."""
        return [*self.problems, *([left_out(self.late, self.full)] if self.full else [])]

    def describe(
        self, pictures: Sequence[Picture], sources: Sequence[str], request: Request
    ) -> None:
        """Asks each captioner for captions of each picture, in place of those it has."""
        for picture in pictures:
            self.answers[picture.number] = [
                Answer(
                    picture,
                    source,
                    request,
                    self.workers.submit(source, self.visitor, captions_of(picture, request)),
                )
                for source in sources
            ]

    def describe_all(self, sources: Sequence[str], request: Request) -> None:
        """Asks anew for captions of every picture in the list."""
        self.workers.cancel(self.visitor)
        self.describe(self.pictures, sources, request)

    def remove(self, number: int) -> None:
        """Takes a picture out of the list; it stays in the book."""
        self.pictures = [picture for picture in self.pictures if picture.number != number]
        for answer in self.answers.pop(number, ()):
            answer.job.future.cancel()

    def clear(self) -> None:
        """Empties the list; the book stays."""
        self.workers.cancel(self.visitor)
        self.pictures, self.answers, self.problems, self.full = [], {}, [], None
        self.unread.clear()

    def add_to_book(self, picture: Picture, caption: str) -> None:
        """Puts a picture of the list at the end of the book.

        Raises:
            UserError: the book is full.
        """
        size = sum(len(entry.picture) for entry in self.book) + len(picture.data)
        if len(self.book) >= MOST_IN_BOOK or size > MOST_BOOK_MB * MB:
            raise UserError(
                f"the book holds {MOST_IN_BOOK} pictures and {MOST_BOOK_MB} MB at most: make it, "
                "then begin another"
            )
        entry = self.book.add(picture.data, caption, name=picture.name)
        self.previews[entry.number] = picture.preview

    def is_in_book(self, picture: Picture) -> bool:
        """Whether a picture of the list is in the book."""
        return any(entry.picture is picture.data for entry in self.book)

    def remove_from_book(self, number: int) -> None:
        """Takes a picture out of the book, and forgets its preview.

        The second of two quick clicks finds it gone, as it should be; so it is with `move`.
        """
        if self.previews.pop(number, None) is not None:
            self.book.remove(number)

    def move_in_book(self, number: int, place: int) -> None:
        """Puts a picture of the book at another place, counted from 0."""
        if number in self.previews:
            self.book.move(number, place)

    @property
    def asked(self) -> list[Answer]:
        """Every answer, in the order of the pictures."""
        return [a for picture in self.pictures for a in self.answers.get(picture.number, ())]

    @property
    def pending(self) -> int:
        """How many captions are still to come."""
        return sum(not answer.done for answer in self.asked)

    def maps(self, answer: Answer, place: int) -> Job:
        """The job that finds where the captioner looked for the words of a caption, begun once."""
        if place not in answer.maps or answer.maps[place].future.cancelled():
            task = maps_of(answer.picture, answer.request, answer.captions[place])
            answer.maps[place] = self.workers.submit(answer.source, self.visitor, task)
        return answer.maps[place]


def maps_found(job: Job) -> list[WordMap]:
    """The maps of a job that is done, none if it failed."""
    return [] if problem_of(job) or not job.done else job.future.result()
