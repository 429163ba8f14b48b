"""The tab that describes pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import streamlit as st
from streamlit import runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from smile.errors import UserError, counted
from smile.page.offered import Offer, Offers
from smile.page.plain import plain
from smile.page.request import Request, confidence
from smile.page.session import Answer, Session
from smile.page.settings_view import KEPT, ask_settings
from smile.page.uploads import (
    LIMITS,
    MOST_MB,
    Picture,
    drawn_examples,
    photo_examples,
)

NOBODY = ""  # no captioner is called that
EXAMPLE = 104  # pixels; eight fit in a row
POLL, POLL_EACH = 0.3, 0.03  # seconds between two looks at what has come, and more per picture


def show_describe(session: Session, offers: Offers, photos: Path) -> None:
    """Models, pictures, settings, and the captions as they come."""
    chosen = choose_models(offers)
    sources = [offer.source for offer in chosen]
    show_remarks(chosen)
    session.give(bring_pictures(session))
    with st.expander("How captions are written"):
        st.caption(
            "Changes count for new pictures, and for all after “Describe again”."
            + (" What you change counts for both captioners." if len(chosen) > 1 else "")
        )
        request = ask_settings(chosen[0])
    if not session.pictures:
        session.give(choose_example(photos, drawn_first=chosen[0].drawn))
    if session.unread:
        read_pictures(session, sources, request)
        st.rerun()
    if session.messages:
        st.warning("  \n".join(map(plain, session.messages)), icon=":material/warning:")
    if session.pictures:
        show_actions(session, sources, request)
        st.session_state.was_pending = bool(session.pending)
        poll = POLL + POLL_EACH * len(session.pictures) if session.pending else None
        st.fragment(show_answers, run_every=poll)(session)


# Models -------------------------------------------------------------------------------------------


def choose_models(offers: Offers) -> list[Offer]:
    """One captioner, or two to compare."""
    labels = {offer.source: offer.label for offer in offers.models}
    left, right = st.columns(2)
    with left:
        first = st.selectbox(
            "Captioner",
            list(labels),
            format_func=labels.__getitem__,
            help="It is loaded when the first picture comes, once for all visitors.",
            key="model",
            **KEPT,
        )
    with right:
        second = st.selectbox(
            "Compare with",
            [NOBODY, *(source for source in labels if source != first)],
            format_func=lambda source: labels.get(source, "none"),
            help="A second captioner, whose captions stand beside those of the first.",
            key="compared",
            **KEPT,
        )
    for line in offers.left_out:
        st.warning(plain(f"Left out: {line}"))
    return [offers[source] for source in (first, second) if source]


def show_remarks(chosen: Sequence[Offer]) -> None:
    """What to expect of the captioners' captions."""
    for offer in chosen:
        if offer.remark:
            st.caption(f":material/info: {plain(offer.remark)}.")


# Pictures -----------------------------------------------------------------------------------------


def bring_pictures(session: Session) -> list[tuple[str, bytes]]:
    """The files dropped, chosen or taken by the camera in this run: names and bytes."""
    files = st.file_uploader(
        "Pictures: drop them here, or choose them",
        accept_multiple_files=True,
        max_upload_size=MOST_MB,
        key=f"files/{st.session_state.setdefault('num_files', 0)}",
    )
    st.caption(LIMITS)
    shot = None
    if st.toggle("Use the camera", key="camera", **KEPT):
        shot = st.camera_input("Take a picture", key=f"shot/{st.session_state.num_files}")
    given = [(file.name, file.getvalue()) for file in files or []]
    if shot is not None:
        given.append((f"camera-{session.num_given + 1}.jpg", shot.getvalue()))
    forget([*(files or []), *([shot] if shot is not None else [])])
    if given:  # new widgets, which are empty: the old ones would give the same files again
        st.session_state.num_files += 1
    return given


def forget(files: Iterable[UploadedFile]) -> None:
    """Takes files that have been read out of Streamlit's memory, which keeps them for a visit."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return
    manager = runtime.get_instance().uploaded_file_mgr
    if isinstance(manager, MemoryUploadedFileManager):
        for file in files:
            manager.remove_file(context.session_id, file.file_id)


def read_pictures(session: Session, sources: Sequence[str], request: Request) -> None:
    """Reads the files given, with a bar, and asks for captions of each as soon as it is read."""
    bar = st.progress(0.0, text="Reading the pictures")
    total = len(session.unread)
    while session.unread:
        done = total - len(session.unread)
        bar.progress(done / total, text=f"Reading picture {done + 1} of {total}")
        if (picture := session.read_next()) is not None:
            session.describe([picture], sources, request)


def choose_example(photos: Path, *, drawn_first: bool) -> list[tuple[str, bytes]]:
    """The picture of an example that was clicked, if one was."""
    st.subheader("Or try one of these", anchor=False)
    examples = (*photo_examples(photos),), drawn_examples()
    groups = examples[::-1] if drawn_first else examples
    chosen: list[tuple[str, bytes]] = []
    with st.container(horizontal=True, key="examples"):
        for example in (example for group in groups for example in group):
            with st.container(width=EXAMPLE, gap="xsmall"):
                st.image(example.data, width=EXAMPLE, alt=f"Example: {example.shows}")
                if st.button(example.title, key=f"example/{example.name}", width="stretch"):
                    chosen.append((example.name, example.data))
    return chosen


def show_actions(session: Session, sources: Sequence[str], request: Request) -> None:
    """What can be done with the whole list."""
    with st.container(horizontal=True, key="actions"):
        st.button(
            "Add all to the book",
            icon=":material/menu_book:",
            type="primary",
            help="The first caption of each picture that is not in the book yet.",
            on_click=add_all,
            args=[session],
        )
        if st.button("Describe again", icon=":material/refresh:"):
            session.describe_all(sources, request)
            st.rerun()
        st.button("Clear the list", icon=":material/delete:", on_click=session.clear)


# Captions -----------------------------------------------------------------------------------------


def show_answers(session: Session) -> None:
    """How far it is, and every picture with its captions; run again and again while some miss."""
    pending = session.pending
    show_progress(session)
    show_lengths(session)
    for picture in session.pictures:
        show_picture(session, picture)
    if not pending and st.session_state.get("was_pending"):
        st.session_state.was_pending = False
        st.rerun()  # so that the page stops asking
    st.session_state.was_pending = bool(pending)


def show_progress(session: Session) -> None:
    """The line and bar of what is still to come."""
    asked = session.asked
    waiting = [answer for answer in asked if not answer.done]
    if not waiting:
        return
    of, missing = len(session.pictures), len({answer.picture.number for answer in waiting})
    text = f"{of - missing} of {counted(of, 'picture')} described"
    st.progress(1 - len(waiting) / len(asked), text=text)
    for source in dict.fromkeys(answer.source for answer in waiting):
        loading = session.workers.progress(source)
        if loading.line:
            text = plain(loading.line)
            if loading.fraction is None:
                st.caption(f"{text} …")
            else:
                st.progress(loading.fraction, text=text)
    st.caption(queue_line(session, waiting[0]))


def show_lengths(session: Session) -> None:
    """Of two captioners, how many words their captions have."""
    words: dict[str, list[int]] = {}
    for answer in session.asked:
        words.setdefault(answer.source, []).extend(map(answer.num_words, answer.captions))
    if len(words) > 1:
        means = [
            f"{plain(source)} {sum(counts) / len(counts):.1f}"
            for source, counts in words.items()
            if counts
        ]
        if means:
            st.caption(f"Words a caption: {'; '.join(means)}.")


def queue_line(session: Session, answer: Answer) -> str:
    """How long the queue is of the captioner that is to give the next answer."""
    total = session.workers.waiting(answer.source)
    ahead = session.workers.ahead(answer.source, answer.job)
    mine = session.workers.waiting_of(answer.source, session.visitor)
    others = f", {total - mine} of them other visitors'" if total > mine else ""
    before = f"; {ahead} before your next one" if ahead else ""
    return f"In the queue: {counted(total, 'picture')}{others}{before}."


def show_picture(session: Session, picture: Picture) -> None:
    """A picture beside its captions by each captioner."""
    answers = session.answers.get(picture.number, [])
    best = next((answer.captions[0].text for answer in answers if answer.captions), "")
    with st.container(border=True, key=f"picture-{picture.number}"):
        left, right = st.columns([2, 3] if len(answers) < 2 else [1, 3], gap="medium")
        with left:
            shows = f"the captioner says: {best}" if best else "not described yet"
            st.image(picture.preview, width="stretch", alt=f"{picture.title}; {shows}")
        with right:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.text(picture.short_title, width="stretch")
                st.button(
                    "Remove",
                    icon=":material/close:",
                    type="tertiary",
                    key=f"remove/{picture.number}",
                    on_click=session.remove,
                    args=[picture.number],
                )
            if picture.note:
                st.caption(picture.note)
            if session.is_in_book(picture):
                st.caption(":material/check: in the book")
            columns = st.columns(len(answers)) if len(answers) > 1 else [right]
            for column, answer in zip(columns, answers, strict=False):
                with column:
                    show_answer(session, answer, named=len(answers) > 1)


def show_answer(session: Session, answer: Answer, *, named: bool) -> None:
    """The captions of one captioner, what went wrong, or that they are still to come."""
    if named:
        st.caption(f"**{plain(answer.source)}**")
    if answer.problem:
        st.error(plain(answer.problem), icon=":material/error:")
    elif not answer.done:
        st.caption("…")
    for place, caption in enumerate(answer.captions):
        key = f"{answer.picture.number}-{answer.source}-{place}"
        with st.container(key=f"caption-{key}", gap="xxsmall"):
            st.text(caption.text or "(no words)")
            with st.container(horizontal=True, vertical_alignment="center"):
                words = counted(answer.num_words(caption), "word")
                st.caption(
                    f"{words}, confidence {confidence(caption):.0%}",
                    help="Confidence: the mean probability of a word, as the captioner sees it. "
                    "It says how sure it is, not whether it is right.",
                    width="content",
                )
                st.button(
                    "Add to the book",
                    icon=":material/add:",
                    type="tertiary",
                    key=f"add/{key}",
                    on_click=add_to_book,
                    args=[session, answer.picture.number, caption.text],
                )


# The book -----------------------------------------------------------------------------------------


def add_to_book(session: Session, number: int, caption: str) -> None:
    """Puts a picture of the list, by its number, at the end of the book, and says so.

    Streamlit never forgets what a button calls it with: a picture would stay in memory.
    """
    found = [picture for picture in session.pictures if picture.number == number]
    add_these(session, [(picture, caption) for picture in found])


def add_all(session: Session) -> None:
    """Puts every picture that has a caption and is not in the book there.

    The caption is the best of the first captioner.
    """
    missing = [picture for picture in session.pictures if not session.is_in_book(picture)]
    firsts = [session.answers.get(picture.number, [])[:1] for picture in missing]
    add_these(
        session, [(a.picture, a.captions[0].text) for [a] in filter(None, firsts) if a.captions]
    )


def add_these(session: Session, entries: Iterable[tuple[Picture, str]]) -> None:
    """Puts pictures with their captions into the book, as far as it has room, and says so."""
    entries = list(entries)
    if not entries:
        st.toast("There is no new caption to add.", icon=":material/info:")
        return
    try:
        for picture, caption in entries:
            session.add_to_book(picture, caption)
    except UserError as error:
        st.toast(plain(str(error)), icon=":material/error:")
    st.toast(f"The book has {counted(len(session.book), 'picture')}.", icon=":material/menu_book:")
