"""The web page: describe pictures, see where the captioner looked, bind a photo book.

streamlit run app.py
streamlit run app.py -- --model runs/shapes --model blip-base
"""

import sys
from pathlib import Path

TITLE = "Captions for your pictures"
INTRO = (
    "Drop pictures and read what they show. Choose a word to see where the captioner looked for "
    "it. Bind the best into a photo book."
)

STYLE = """<style>
.stMainBlockContainer { max-width: 62rem; padding-top: 3.5rem; }
[class*="st-key-picture-"] img, [class*="st-key-entry-"] img {
    max-height: 17rem; width: auto !important; max-width: 100%;
}
.st-key-examples img { aspect-ratio: 1; object-fit: cover; }
[class*="st-key-caption-"] [data-testid="stText"] { font-size: 1.15rem; line-height: 1.4; }
</style>"""


def main() -> None:
    try:
        import streamlit as st
    except ImportError:
        sys.exit(
            "app.py: the page needs streamlit: pip install -r requirements-page.txt, "
            "then streamlit run app.py"
        )
    if not st.runtime.exists():
        sys.exit("app.py: start the page with: streamlit run app.py")
    st.set_page_config(page_title=TITLE, page_icon="📖", layout="centered")
    st.html(STYLE)
    st.title(TITLE, anchor=False)
    st.text(INTRO)
    if "smile.page.main" in sys.modules:
        from smile.page.main import show

        show(sys.argv[1:], Path(__file__).parent)
    else:
        st.fragment(start, run_every=0.2)()


def start() -> None:
    """Imports what takes seconds, once the browser has what is above and shows it.

    Before that, importing torch would keep this process from sending it.
    """
    import streamlit as st

    st.caption("Starting …")
    if st.session_state.setdefault("shown", False):
        import smile.page.main  # noqa: F401

        st.rerun()
    st.session_state.shown = True


main()
