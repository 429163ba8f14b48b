"""Words and phrases that no caption may hold: which tokens may not come next.

Whole words count: forbidding "cat" leaves "cattle", which may be spelled "cat ##tle". So "cat" may
be spelled, but then only a piece that makes the word longer may follow. At the last position, where
nothing follows, the piece that completes the word is forbidden itself.

The text counts, not its pieces, since "blurry" may be spelled "blur ##ry" or "bl ##ur ##ry". So the
caption's words are read from its text, and compared as the tokenizer splits and lower-cases them.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from smile.errors import UserError
from smile.model.tokenizer import Tokenizer, check_characters
from smile.system.files import show


class Forbidden:
    """Texts that no caption may hold.

    Args:
        texts: each of one or several words.
        prompt_length: tokens of the prompt, in which a forbidden phrase may begin.
        max_length: the most tokens of a caption, with the prompt.

    Raises:
        UserError: a text has no word, or together they leave no word to say.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: Tokenizer, *, prompt_length: int, max_length: int
    ):
        self.tokenizer, self.spelling = tokenizer, spelling(tokenizer)
        self.prompt_length, self.max_length = prompt_length, max_length
        # All captions of an image share its prompt, and each is read more than once in a step.
        self.prompt_text = lru_cache(maxsize=1024)(tokenizer.decode)
        self.words = lru_cache(maxsize=4096)(self._read)
        for text in texts:
            check_characters(text, "forbid")
        self.phrases = [_words(tokenizer, text) for text in texts]
        for text, words in zip(texts, self.phrases, strict=True):
            if not words:
                raise UserError(f"forbid = {show(text)}: expected a word or a phrase")
        alone = {words[0] for words in self.phrases if len(words) == 1}
        if not self.spelling.inner and alone >= self.spelling.first.keys():
            raise UserError("forbid leaves no word of the captioner's vocabulary")
        self.ends_word = torch.ones(tokenizer.vocab_size, dtype=torch.bool)
        self.ends_word[[token for tokens in self.spelling.inner.values() for token in tokens]] = 0

    def mask(self, scores: Tensor, ids: Tensor) -> None:
        """Sets to -∞, in place, the (R, V) scores of tokens that may not follow (R, T) `ids`."""
        captions = [self.words(tuple(row)) for row in ids.tolist()]
        scores[:, self.spelling.several] = float("-inf")
        if complete := self._complete(captions):
            ends_word = self.ends_word.to(scores.device)
            scores[complete] = scores[complete].masked_fill(ends_word, float("-inf"))
        if ids.size(1) + 1 == self.max_length:
            for row, words in enumerate(captions):
                scores[row, list(self._completing(words))] = float("-inf")

    def look_ahead(
        self,
        scores: Tensor,
        ids: Tensor,
        picks: Callable[[Tensor], Iterable[tuple[int, int]]],
        best_after: Callable[[Tensor], Tensor],
    ) -> None:
        """Lowers, in place, the scores of tokens that complete a phrase.

        If "cat" counted by its own probability, a search would take it, and then have to make some
        longer word of it, however unlikely: "catness". So "cat" counts with the best piece that
        may follow. To know that one takes a decoding step, so it is done only for tokens that the
        search picks. The scores in the next step are relative to that piece's, so that no total
        counts it twice.

        Args:
            scores: (R, V), after `mask`.
            ids: (R, T), the captions so far.
            picks: `scores` → the row and token of each continuation that the search would take.
            best_after: (R,) next tokens → (R,), the best score of the tokens that may follow them.
        """
        captions = [self.words(tuple(row)) for row in ids.tolist()]
        if complete := self._complete(captions):
            counted = scores[complete].amax(dim=1, keepdim=True)
            scores[complete] -= counted.masked_fill(counted.isinf(), 0.0)
        unseen = [self._completing(words) for words in captions]
        while looked := {row: token for row, token in picks(scores) if token in unseen[row]}:
            rows, tokens = list(looked), list(looked.values())
            following = ids[:, -1].clone()  # what the other rows decode does not matter
            following[rows] = torch.tensor(tokens, device=ids.device)
            scores[rows, tokens] += best_after(following)[rows]
            for row, token in looked.items():
                unseen[row].remove(token)

    def _complete(self, captions: list[list[str]]) -> list[int]:
        """The captions that end with a phrase unless a piece makes their last word longer."""
        return [
            row
            for row, (*before, word) in enumerate(captions)
            if word and any(_ends_with([*before, word], phrase) for phrase in self.phrases)
        ]

    def _completing(self, caption: list[str]) -> set[int]:
        """The tokens with which a caption would end with a phrase."""
        *before, word = caption
        found: set[int] = set()
        for *start, last in self.phrases:
            if _ends_with(before, start) and last.startswith(word):
                found.update(self.spelling.inner.get(last[len(word) :], ()))
            if _ends_with([*before, word] if word else before, start):
                found.update(self.spelling.first.get(last, ()))
        return found

    def _read(self, ids: tuple[int, ...]) -> list[str]:
        """The words of a caption after those of its prompt.

        The last word is unfinished; it is "" where the next token must begin a new one.
        """
        prompt, caption = ids[: self.prompt_length], ids[self.prompt_length :]
        text = f"{self.prompt_text(prompt)} {self.tokenizer.decode(caption)}"
        *before, last = _words(self.tokenizer, text + "x")  # x joins the last word if any can
        return [*before, last[:-1]]


def _ends_with(words: list[str], ending: list[str]) -> bool:
    return words[len(words) - len(ending) :] == ending


class Spelling(NamedTuple):
    """How a vocabulary spells words.

    first: a word → the tokens that spell it as a new word.
    inner: the end of a word → the tokens that add it to an unfinished word.
    several: the tokens of several words, which the tokenizer never splits a text into.
    """

    first: dict[str, list[int]]
    inner: dict[str, list[int]]
    several: list[int]


@lru_cache(maxsize=8)
def spelling(tokenizer: Tokenizer) -> Spelling:
    """The spelling of a tokenizer's vocabulary, which is read once."""
    found = Spelling(defaultdict(list), defaultdict(list), [])
    for token, piece in enumerate(tokenizer.vocab):
        if tokenizer.is_special(token):
            continue
        text = f"x{piece[2:]}" if piece.startswith("##") else f"x {piece}"
        start, *words = _words(tokenizer, text)
        if len(words) > 1 or (words and start != "x"):
            found.several.append(token)
        elif words:  # "##!" too, since a "!" is a word of its own
            found.first[words[0]].append(token)
        elif start != "x":
            found.inner[start[1:]].append(token)
    return found


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """Decomposed, since a letter may get its accent from the next piece."""
    return [unicodedata.normalize("NFD", word) for word in tokenizer.words(text)]
