"""Other people's text where Streamlit expects Markdown, shown as it is.

Streamlit reads labels, progress lines and messages as Markdown. Captions and file names come from
others, and might name a picture somewhere in the world, which the browser would fetch. `st.text`
and `st.text_area` need none of this.
"""

import re

from smile.errors import printable

_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
# What Streamlit looks for in text that Markdown has read: addresses, names of emoji, arrows.
_LATER = re.compile(r"://|www\.|@|:[^\s:]+:|[<>=~-]{2}", re.IGNORECASE)
LONGEST = 1200  # characters


def plain(text: str) -> str:
    """Markdown that shows `text` in one line, with no mark of it taken for markup.

    Markdown takes a mark after a backslash as it is. Words in which Streamlit would find something
    after that are set as code, where nothing is looked for: so a command can be copied, too.
    """
    text = " ".join(printable(text).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    words = (_code(word) if _LATER.search(word) else _escaped(word) for word in text.split(" "))
    return " ".join(words)


def _escaped(word: str) -> str:
    return _MARKS.sub(r"\\\1", word)


def _code(word: str) -> str:
    """A word as code, between more backticks than it has in a row."""
    longest = max((len(run) for run in re.findall("`+", word)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{word}{space}{fence}"
