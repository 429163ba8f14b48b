"""The settings of captions, as widgets."""

from typing import Any

import streamlit as st

from smile.config import GenerateConfig
from smile.page.offered import Offer
from smile.page.request import Request

KEPT: dict[str, Any] = {"persist_state": "session"}  # while another tab is open
MOST_RETURNED = 5
BEAM, NUCLEUS = "Beam search", "Nucleus sampling"
TOGETHER = (
    {"num_return", "num_beams", "do_sample", "top_p", "top_k", "temperature"},
    {"min_length", "max_length"},
)
HELP = {
    "num_return": "How many captions each picture gets, the best first.",
    "num_beams": "How many captions are followed at the same time. More take longer.",
    "top_p": "Draws among the likeliest words that have this share of the probability together.",
    "top_k": "Draws among this many of the likeliest words.",
    "temperature": "Above 1 the captions become bolder, below 1 safer.",
    "max_length": "The shortest and the longest caption, in tokens: words and pieces of words.",
    "length_penalty": "Larger prefers longer captions; 0 judges by probability alone.",
    "repetition_penalty": "Above 1, words that were said already become less likely.",
    "no_repeat_ngram_size": "2: no two words one after the other come again; 3: no three.",
}


def ask_settings(offer: Offer) -> Request:
    """How captions are to be written; first the captioner's own way, as far as that is known.

    The request names what differs from that, so that a second captioner keeps its own way too.
    """
    own = offer.settings
    search = st.segmented_control(
        "Search",
        [BEAM, NUCLEUS],
        default=NUCLEUS if own.samples else BEAM,
        required=True,
        help="Beam search finds the most probable captions; sampling draws varied ones at random.",
        key=f"search/{offer.source}",
        **KEPT,
    )
    asked = _Widgets(offer)
    left, right = st.columns(2)
    seed = 0
    with left:
        settings = _ask_search(asked, beams=search == BEAM, samples=own.samples)
        if search != BEAM:
            seed = st.number_input(
                "Seed", 0, 10**6, 0, key="seed", help="Another seed, other captions.", **KEPT
            )
        prompt = ask_text(
            "prompt",
            "Captions continue",
            placeholder="the captioner's own prompt",
            help="The prompt: the captioner goes on from it. It is not repeated in the caption.",
        )
        prefix = ask_text(
            "prefix",
            "Put before each caption",
            placeholder="nothing",
            help="For training sets: a trigger word, for example.",
        )
    with right:
        settings |= _ask_form(asked)
        forbidden = ask_text(
            "forbid",
            "Words never to use",
            placeholder="photo of, blurry",
            help="Words and phrases with commas between them. “cat” leaves “cattle” possible.",
        )
    if words := tuple(filter(None, map(str.strip, forbidden.split(",")))):
        settings["forbid"] = words
    return Request(
        changed(settings, own),
        prompt=f"{prompt} " if prompt else None,
        prefix=f"{prefix} " if prefix else "",
        seed=int(seed),
    )


def _ask_search(asked: "_Widgets", *, beams: bool, samples: bool) -> dict[str, Any]:
    """The settings of the search: of beams, or of sampling, which may be the captioner's own."""
    number = asked.slider("Captions a picture", "num_return", 1, MOST_RETURNED)
    if beams:
        width = max(number, asked.slider("Beams", "num_beams", 1, 10))
        if width == number > 1:
            st.caption(f"{number} captions need {number} beams.")
        sampling = {"do_sample": False, "top_p": 1.0, "top_k": 0, "temperature": 1.0}
        return {"num_return": number, "num_beams": width, **sampling}
    first = None if samples else 0.9
    return {
        "num_return": number,
        **({} if samples else {"num_beams": 1}),
        "do_sample": True,
        "top_p": asked.slider("Nucleus (top p)", "top_p", 0.05, 1.0, first=first),
        "top_k": asked.number("Only the k likeliest words; 0: all", "top_k", 0, 1000),
        "temperature": asked.slider("Temperature", "temperature", 0.1, 2.0),
    }


def _ask_form(asked: "_Widgets") -> dict[str, Any]:
    """The settings of length and repetition."""
    shortest, longest = asked.lengths("Length in tokens, with the prompt")
    return {
        "min_length": shortest,
        "max_length": longest,
        "length_penalty": asked.slider("Length penalty", "length_penalty", -2.0, 3.0),
        "repetition_penalty": asked.slider("Repetition penalty", "repetition_penalty", 0.5, 3.0),
        "no_repeat_ngram_size": asked.number(
            "No phrase of so many words twice; 0: off", "no_repeat_ngram_size", 0, 10
        ),
    }


def changed(settings: dict[str, Any], own: GenerateConfig) -> dict[str, Any]:
    """The settings that differ from a captioner's own, with those that make sense only together."""
    differ = {name for name, value in settings.items() if value != getattr(own, name)}
    for group in TOGETHER:
        if differ & group:
            differ |= group
    return {name: value for name, value in settings.items() if name in differ}


def ask_text(key: str, label: str, *, placeholder: str, help: str) -> str:
    """A line of text, without the spaces around it."""
    kept: dict[str, Any] = {"key": key, "placeholder": placeholder, "help": help, **KEPT}
    return str(st.text_input(label, max_chars=200, **kept)).strip()


class _Widgets:
    """Widgets that begin with a captioner's own settings, and are kept apart for each captioner."""

    def __init__(self, offer: Offer) -> None:
        self.own, self.source, self.longest = offer.settings, offer.source, offer.longest

    def _given(self, name: str) -> dict[str, Any]:
        return {"key": f"{name}/{self.source}", "help": HELP[name], **KEPT}

    def slider(self, label: str, name: str, least: Any, most: Any, *, first: Any = None) -> Any:
        """A slider; `first` is where it begins if the captioner's own is no choice of its own."""
        own = getattr(self.own, name)
        value = first if first is not None and own == most else own
        least, most = min(least, own), max(most, own)
        step = None if isinstance(least, int) else 0.05
        return st.slider(label, least, most, value, step, **self._given(name))

    def number(self, label: str, name: str, least: int, most: int) -> int:
        own = getattr(self.own, name)
        bounds = min(least, own), max(most, own)
        return int(st.number_input(label, *bounds, own, **self._given(name)))

    def lengths(self, label: str) -> tuple[int, int]:
        own = self.own.min_length, self.own.max_length
        return st.slider(label, 0, self.longest, own, **self._given("max_length"))
