"""Caption text as BLIP trains on it: lower case, little punctuation, a bounded number of words."""

_TO_SPACE = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))


def clean_words(text: str) -> list[str]:
    """All words of `text` in BLIP's training form."""
    return text.lower().translate(_TO_SPACE).split()


def clean_caption(text: str, max_words: int = 50) -> str:
    """Return `text` in BLIP's training form.

    Lower-cases, turns each of ``. ! " ( ) * # : ; ~`` into a space, collapses white space and keeps
    the first `max_words` words. Commas, apostrophes and hyphens stay: the tokenizer knows them.
    The result is "" if no word remains; the loaders refuse such a caption.
    """
    return " ".join(clean_words(text)[:max_words])
