"""Other people's text where Streamlit expects Markdown, shown as it is.

Streamlit reads labels, progress lines and messages as Markdown. Captions and file names come from
others, and might name a picture somewhere in the world, which the browser would fetch. `st.text`
and `st.text_area` need none of this.
"""

import re

from smile.errors import printable

_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
LONGEST = 200  # characters of a label


def plain(text: str) -> str:
    """Markdown that shows `text` in one line, with no mark of it taken for markup.

    Markdown takes a mark after a backslash as it is. The word joiner after it, which has no width,
    is for what Streamlit looks for later: names of emoji, arrows, addresses.
    """
    text = " ".join(printable(text).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return _MARKS.sub("\\\\\\1\u2060", text)
