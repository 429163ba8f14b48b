"""The page: its tabs, and what all visitors share."""

import sys
from collections.abc import Hashable, Sequence
from pathlib import Path

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from smile.errors import UserError
from smile.page.book_view import show_book
from smile.page.describe_view import show_describe
from smile.page.look_view import show_look
from smile.page.offered import Offers, asked_models, find_offers
from smile.page.plain import plain
from smile.page.session import Session
from smile.page.worker import Workers

TABS = ("Describe", "Look", "Book")


@st.cache_resource(show_spinner=False)
def shared_workers() -> Workers:
    """The captioners of this server: loaded once for all visitors."""
    return Workers(is_here=has_page_open)


def has_page_open(visitor: Hashable) -> bool:
    """Whether a visitor's browser is connected; who reloads the page is another visitor."""
    return not runtime.exists() or runtime.get_instance().is_active_session(str(visitor))


@st.cache_resource(show_spinner=False)
def shared_offers(words: tuple[str, ...]) -> Offers:
    """What can be chosen; a run that ends while the page is open shows up at the next start."""
    return find_offers(asked_models(words))


def visitor_session() -> Session:
    """This visitor's session, made at the first run."""
    if "visit" not in st.session_state:
        context = get_script_run_ctx()
        assert context is not None  # Streamlit runs this
        st.session_state.visit = Session(shared_workers(), visitor=context.session_id)
    return st.session_state.visit


def show(words: Sequence[str], root: Path) -> None:
    """The page for the command line's `words`; `root` is the project's folder."""
    try:
        offers = shared_offers(tuple(words))
    except UserError as error:
        print(f"app.py: {error}", file=sys.stderr)
        st.error(plain(str(error)), icon=":material/error:")
        return
    session = visitor_session()
    describe, look, book = st.tabs(TABS, key="tab", on_change="rerun")
    if describe.open:
        with describe:
            show_describe(session, offers, root / "docs" / "photos")
    if look.open:
        with look:
            show_look(session)
    if book.open:
        with book:
            show_book(session)
