"""The settings of captions, as widgets."""

from typing import Any

import streamlit as st

from smile.config import GenerateConfig
from smile.page.offered import Offer
from smile.page.request import Request

KEPT: dict[str, Any] = {"persist_state": "session"}  # while another tab is open
MOST_RETURNED = 5
BEAM, NUCLEUS = "Beam search", "Nucleus sampling"


def ask_settings(offer: Offer) -> Request:
    """How captions are to be written; first the captioner's own way, as far as that is known."""
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
    asked = _Widgets(own, offer.source)
    left, right = st.columns(2)
    settings: dict[str, Any] = {}
    seed = 0
    with left:
        settings["num_return"] = asked.slider("Captions a picture", "num_return", 1, MOST_RETURNED)
        if search == BEAM:
            least = settings["num_return"]
            settings |= {"num_beams": max(least, asked.slider("Beams", "num_beams", 1, 10))}
            settings |= {"do_sample": False, "top_p": 1.0, "top_k": 0, "temperature": 1.0}
            if settings["num_beams"] == least > 1:
                st.caption(f"{least} captions need {least} beams.")
        else:
            settings["do_sample"] = True
            settings["top_p"] = asked.slider("Nucleus (top p)", "top_p", 0.05, 1.0, first=0.9)
            settings["top_k"] = asked.number("Only the k likeliest words; 0: all", "top_k", 0, 1000)
            settings["temperature"] = asked.slider("Temperature", "temperature", 0.1, 2.0)
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
        shortest, longest = asked.lengths("Length in tokens, with the prompt")
        settings |= {"min_length": shortest, "max_length": longest}
        settings["length_penalty"] = asked.slider("Length penalty", "length_penalty", -2.0, 3.0)
        settings["repetition_penalty"] = asked.slider(
            "Repetition penalty", "repetition_penalty", 0.5, 3.0
        )
        settings["no_repeat_ngram_size"] = asked.number(
            "No phrase of so many words twice; 0: off", "no_repeat_ngram_size", 0, 10
        )
        forbidden = ask_text(
            "forbid",
            "Words never to use",
            placeholder="photo of, blurry",
            help="Words and phrases with commas between them. “cat” leaves “cattle” possible.",
        )
        settings["forbid"] = tuple(filter(None, map(str.strip, forbidden.split(","))))
    return Request(
        settings,
        prompt=f"{prompt} " if prompt else None,
        prefix=f"{prefix} " if prefix else "",
        seed=int(seed),
    )


def ask_text(key: str, label: str, *, placeholder: str, help: str) -> str:
    """A line of text, without the spaces around it."""
    kept: dict[str, Any] = {"key": key, "placeholder": placeholder, "help": help, **KEPT}
    return str(st.text_input(label, max_chars=200, **kept)).strip()


class _Widgets:
    """Widgets that begin with a captioner's own settings, and are kept apart for each captioner."""

    def __init__(self, own: GenerateConfig, source: str) -> None:
        self.own, self.source = own, source

    def _given(self, name: str) -> dict[str, Any]:
        meaning = GenerateConfig.__dataclass_fields__[name].metadata["meaning"]
        return {"key": f"{name}/{self.source}", "help": meaning.capitalize() + ".", **KEPT}

    def slider(self, label: str, name: str, least: Any, most: Any, *, first: Any = None) -> Any:
        """A slider; `first` is where it begins if the captioner's own is no choice of its own."""
        own = getattr(self.own, name)
        value = first if first is not None and own == most else own
        value = min(max(value, least), most)
        step = None if isinstance(least, int) else 0.05
        return st.slider(label, least, most, value, step, **self._given(name))

    def number(self, label: str, name: str, least: int, most: int) -> int:
        own = min(max(getattr(self.own, name), least), most)
        return int(st.number_input(label, least, most, own, **self._given(name)))

    def lengths(self, label: str) -> tuple[int, int]:
        most = max(60, self.own.max_length)
        return st.slider(
            label, 0, most, (self.own.min_length, self.own.max_length), **self._given("max_length")
        )
