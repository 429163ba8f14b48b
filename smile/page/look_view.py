"""The tab that shows where a captioner looked for a word."""

import io
import math
from collections.abc import Sequence

import streamlit as st
from PIL import Image

from smile.captioning.attention_sheet import full_light, heated
from smile.captioning.explain import WordMap
from smile.page.plain import plain
from smile.page.session import Answer, Session, maps_found, problem_of
from smile.page.settings_view import KEPT

SIDE = 800  # pixels of the picture with the map
POLL = 0.2


def show_look(session: Session) -> None:
    """A caption of the list, its words to choose from, and the map of the chosen one."""
    looked = [answer for answer in session.asked if answer.captions]
    if not looked:
        st.info("Describe a picture first: then its words can be chosen here.")
        return
    answer, place = choose_caption(looked)
    job = session.maps(answer, place)
    if not job.done:
        st.fragment(wait_for, run_every=POLL)(job)
    elif problem := problem_of(job):
        st.error(plain(problem), icon=":material/error:")
    elif maps := maps_found(job):
        st.fragment(show_words)(answer, place, maps)  # a click runs that alone
    else:
        st.info("This caption has no words.")


def wait_for(job) -> None:
    """A line until a job is done, and then the whole page again."""
    if job.done:
        st.rerun()
    st.caption("Looking …")


def choose_caption(looked: list[Answer]) -> tuple[Answer, int]:
    """One of the captions there are: whose answer it is, and its place there."""
    several = len({answer.source for answer in looked}) > 1
    numbers = dict.fromkeys(answer.picture.number for answer in looked)
    # Of labels with the same text Streamlit knows only one: each begins with another number.
    places = {number: place for place, number in enumerate(numbers, 1)}
    choices = {}
    for answer in looked:
        for place, caption in enumerate(answer.captions):
            whose = f" [{answer.source}]" if several else ""
            number = f", {place + 1}" if len(answer.captions) > 1 else ""
            title = f"{places[answer.picture.number]}. {answer.picture.short_title}"
            label = f"{title}{whose}{number}: {caption.text}"
            choices[f"{answer.picture.number}/{answer.source}/{place}"] = label, answer, place
    key = st.selectbox(
        "Caption", list(choices), format_func=lambda key: choices[key][0], key="looked", **KEPT
    )
    _, answer, place = choices[key if key in choices else next(iter(choices))]
    return answer, place


def show_words(answer: Answer, place: int, maps: list[WordMap]) -> None:
    """The caption's words, and the picture, bright where one looked for the chosen one."""
    labels = word_labels([word.word for word in maps])
    left, right = st.columns([3, 2], gap="medium")
    with right:
        number = st.pills(
            "Choose a word",
            range(len(maps)),
            format_func=labels.__getitem__,
            default=0,
            required=True,
            wrap=True,
            key=f"word/{answer.picture.number}/{answer.source}/{place}/{id(answer)}",
        )
        word = maps[number or 0]
        st.metric("Probability of this word", f"{math.exp(word.logprob):.0%}")
        st.caption(
            "That is what the captioner gave it, given the words before. The picture is bright "
            "where its cross-attention lay, the mean of all heads and layers: where it looked, "
            "which is not always why it chose the word."
        )
    with left:
        st.image(
            overlay(answer.picture.preview, word, maps),
            width="stretch",
            alt=f"{answer.picture.title}, bright where the captioner looked for “{word.word}”",
        )


def word_labels(words: Sequence[str]) -> list[str]:
    """The words as labels, which Streamlit tells apart by their text alone.

    A word that came before gets one more joiner, which has no width, each time it comes again.
    """
    return [
        plain(word) + "\u2060" * words[:number].count(word) for number, word in enumerate(words)
    ]


def overlay(preview: bytes, word: WordMap, maps: Sequence[WordMap]) -> bytes:
    """A JPEG of the picture with one of the words' maps, as `sample.py --explain` draws it."""
    with Image.open(io.BytesIO(preview)) as image:
        image.thumbnail((SIDE, SIDE))
        photo = image.convert("RGB")
    if max(photo.size) < SIDE:  # a small picture would show a map of few pixels
        scale = SIDE / max(photo.size)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
    file = io.BytesIO()
    most = full_light([each.heat.tolist() for each in maps])
    heated(photo, word.heat.tolist(), most).save(file, "JPEG", quality=85)
    return file.getvalue()
