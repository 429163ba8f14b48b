"""Other people's text where Streamlit expects Markdown, shown as it is.

Streamlit reads labels, progress lines and messages as Markdown. Captions and file names come from
others, and might name a picture somewhere in the world, which the browser would fetch. `st.text`
and `st.text_area` need none of this.
"""

import re

from smile.errors import printable

_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
# What Streamlit and its Markdown look for after the marks: names of emoji, addresses, arrows.
_LATER = re.compile(r"(\\[:@]|www\\\.|\\[<>=~-](?=\\[<>=~-]))", re.IGNORECASE)
LONGEST = 600  # characters


def plain(text: str) -> str:
    """Markdown that shows `text` in one line, with no mark of it taken for markup.

    Markdown takes a mark after a backslash as it is. The word joiner, which has no width, parts
    what is looked for after that. It stands nowhere else: a command can be copied from a message.
    """
    text = " ".join(printable(text).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return _LATER.sub("\\1\u2060", _MARKS.sub(r"\\\1", text))
