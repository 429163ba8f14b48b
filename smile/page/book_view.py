"""The tab of the photo book."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from smile.data.caption_table import LONGEST_CAPTION
from smile.errors import UserError
from smile.page.archive import zip_book
from smile.page.book import LONGEST_TITLE, PER_PAGE, Book, Entry
from smile.page.pdf import Bound, bind
from smile.page.plain import plain
from smile.page.session import Session
from smile.page.settings_view import KEPT
from smile.system.missing import shown_size


def show_book(session: Session) -> None:
    """The title page, the pictures in their order, and the downloads."""
    book = session.book
    edit_title(book)
    if not len(book):
        st.info("The book is empty. Describe pictures, then add them to the book.")
        return
    st.caption("The book lives until you close or reload this page: download it before.")
    for place, entry in enumerate(book):
        edit_entry(session, entry, place)
    offer_downloads(session)


def edit_title(book: Book) -> None:
    left, middle, right = st.columns([3, 2, 2])
    with left:
        book.title = st.text_input("Title", max_chars=LONGEST_TITLE, key="title", **KEPT)
    with middle:
        book.author = st.text_input("Author", max_chars=LONGEST_TITLE, key="author", **KEPT)
    with right:
        book.per_page = (
            st.segmented_control(
                "Pictures a page",
                PER_PAGE,
                default=1,
                required=True,
                key="per_page",
                **KEPT,
            )
            or 1
        )


def edit_entry(session: Session, entry: Entry, place: int) -> None:
    """One picture: its caption to edit, and buttons that move or remove it."""
    book = session.book
    number = entry.number
    with st.container(border=True, key=f"entry-{number}"):
        left, right = st.columns([2, 3], gap="medium")
        with left:
            st.image(
                session.previews[number],
                width="stretch",
                alt=f"Picture {place + 1}: {entry.caption}",
            )
        with right:
            caption = st.text_area(
                f"Caption of picture {place + 1}",
                entry.caption,
                max_chars=LONGEST_CAPTION,
                key=f"edited/{number}",
                **KEPT,
            )
            if caption != entry.caption:
                book.edit(number, caption)
            with st.container(horizontal=True):
                st.button(
                    f"Picture {place + 1} up",
                    icon=":material/arrow_upward:",
                    key=f"up/{number}",
                    disabled=not place,
                    on_click=session.move_in_book,
                    args=[number, place - 1],
                )
                st.button(
                    f"Picture {place + 1} down",
                    icon=":material/arrow_downward:",
                    key=f"down/{number}",
                    disabled=place == len(book) - 1,
                    on_click=session.move_in_book,
                    args=[number, place + 1],
                )
                st.button(
                    f"Remove picture {place + 1}",
                    icon=":material/delete:",
                    key=f"out/{number}",
                    type="tertiary",
                    on_click=session.remove_from_book,
                    args=[number],
                )


def offer_downloads(session: Session) -> None:
    """Makes the PDF and the zip when asked, and offers them until the book changes."""
    st.subheader("Take it with you", anchor=False)
    empty = [str(n) for n, entry in enumerate(session.book, 1) if not entry.caption.strip()]
    if empty:
        which = f"{'Picture' if len(empty) == 1 else 'Pictures'} {', '.join(empty)}"
        st.caption(f"{which}: without a caption, so not in the zip's captions.jsonl.")
    left, right = st.columns(2)
    with left:
        pdf = make(session, "PDF", bind_with_bar, icon=":material/menu_book:")
        if pdf is not None:
            offer(pdf.pdf, "book.pdf", "application/pdf")
            if pdf.warning:
                st.warning(plain(pdf.warning))
    with right:
        archive = make(session, "zip", zip_book, icon=":material/folder_zip:")
        if archive is not None:
            offer(archive, "book.zip", "application/zip")
        st.caption("The zip has the pictures, a .txt beside each, and captions.jsonl.")


def make(session: Session, kind: str, maker: Callable[[Book], Any], *, icon: str) -> Any:
    """What `maker` makes of the book as it is now; None before it is asked for."""
    book = session.book
    entries = [(entry.number, entry.caption) for entry in book]
    content = book.title, book.author, book.per_page, entries
    if st.button(f"Make the {kind}", icon=icon, width="stretch"):
        try:
            session.made[kind] = content, maker(book)
        except UserError as error:
            st.error(plain(str(error)))
    if kind in session.made and session.made[kind][0] != content:
        del session.made[kind]  # it may be hundreds of megabytes
    return session.made[kind][1] if kind in session.made else None


def bind_with_bar(book: Book) -> Bound:
    bar = st.progress(0.0, text="Binding")
    try:
        return bind(book, progress=lambda done, total: bar.progress(done / total, text="Binding"))
    finally:
        bar.empty()


def offer(data: bytes, name: str, mime: str) -> None:
    size = shown_size(len(data))
    st.download_button(
        f"Download {name} ({size})",
        data,
        name,
        mime,
        icon=":material/download:",
        type="primary",
        on_click="ignore",
        width="stretch",
    )
