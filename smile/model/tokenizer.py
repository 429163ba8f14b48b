"""Text ↔ token ids: BERT's uncased WordPiece (Wu et al. 2016), with BLIP's `[DEC]` and `[ENC]`.

`[DEC]` begins a caption, `[SEP]` ends it, `[PAD]` fills a batch. The vocabulary is a `vocab.txt`
with one piece a line: bert-base-uncased's 30522, to which the two tokens of BLIP are added, or one
trained on the captions of a run.

BERT strips accents: "é" becomes "e", and its vocabulary has no "é". In many languages that makes
another word, or none: Hindi and Thai lose vowels, "が" becomes "か". So a vocabulary trained here
keeps accents (`strip_accents=False`). It also keeps the zero-width joiners of Persian and Hindi.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as WordPieceTokenizer

from smile.config import LARGEST_VOCAB
from smile.errors import UserError
from smile.system.files import lone_surrogate, read_text, show

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ADDED = ["[DEC]", "[ENC]"]
LARGEST_FILE = 2**27  # bytes of a vocab.txt
# A word of more characters is [UNK]. In a language without spaces, a caption may be one "word".
LONGEST_WORD, BERTS_LONGEST_WORD = 1000, 100

# Control characters and the like, which BERT removes, except the two joiners.
_CONTROL = "[\\p{C}\ufffd&&[^\u200c\u200d\\s]]"
# BERT makes each Chinese character (and Japanese kanji) a word, so decoding cannot tell whether the
# text had a space there. Chinese and Japanese have none, except next to Latin letters.
_IDEOGRAPH = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_CJK = f"[{_IDEOGRAPH}\u3001-\u3003\u3008-\u3011\uff01-\uff0f\uff1a-\uff1f]"  # and punctuation
_NO_SPACE = re.compile(f"(?<={_CJK}) (?![a-z])|(?<![a-z]) (?={_CJK})")


class Tokenizer:
    """BERT's uncased WordPiece over a vocabulary that holds BLIP's special tokens.

    Args:
        vocab: the pieces in the order of their ids; if `[DEC]` is absent, `[DEC]` and `[ENC]` are
            appended.
        strip_accents: as BERT does; see the module's docstring.

    Raises:
        UserError: if `[PAD]`, `[UNK]` or `[SEP]` is missing or `[PAD]` is not the first.
    """

    def __init__(self, vocab: Sequence[str], *, strip_accents: bool = True):
        if ADDED[0] not in vocab:
            vocab = [*vocab, *(token for token in ADDED if token not in vocab)]
        ids = {piece: i for i, piece in enumerate(vocab)}
        missing = [token for token in ("[PAD]", "[UNK]", "[SEP]") if token not in ids]
        if missing:
            raise UserError(f"vocabulary of {len(vocab)} pieces lacks {', '.join(missing)}")
        if ids["[PAD]"] != 0:
            raise UserError(f"[PAD] is entry {ids['[PAD]']} of the vocabulary, expected the first")
        self.vocab = list(vocab)
        self.ids = ids
        self.strip_accents = strip_accents
        self.pad_id, self.unk_id = ids["[PAD]"], ids["[UNK]"]
        self.bos_id, self.sep_id = ids["[DEC]"], ids["[SEP]"]
        self._special_ids = {ids[token] for token in SPECIAL + ADDED if token in ids}
        self._word_piece = _word_piece(ids, strip_accents=strip_accents)

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    @classmethod
    def from_vocab(
        cls, path: str | Path, *, strip_accents: bool = True, largest: int = LARGEST_VOCAB
    ) -> "Tokenizer":
        """Reads a `vocab.txt` of at most `largest` pieces; see `read_vocab`."""
        pieces = read_vocab(path, largest=largest)
        try:
            return cls(pieces, strip_accents=strip_accents)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @classmethod
    def train(
        cls, captions: Iterable[str], *, vocab_size: int, strip_accents: bool = False
    ) -> "Tokenizer":
        """Learns about `vocab_size` pieces; the same captions always give the same pieces."""
        special = {token: i for i, token in enumerate(SPECIAL)}
        learner = _word_piece(special, strip_accents=strip_accents)
        captions = list(captions)
        words = {word for caption in captions for word in _split(learner, caption)}
        # The trainer numbers letters in a hash map's order, and breaks ties by number. Giving it
        # the letters in sorted order makes its choice of pieces reproducible.
        letters = sorted({letter for word in words for letter in word})
        inner = sorted({"##" + letter for word in words for letter in word[1:]})
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size - len(ADDED),
            special_tokens=[*SPECIAL, *letters, *inner],
            show_progress=False,
        )
        learner.train_from_iterator(captions, trainer)
        ids = learner.get_vocab(with_added_tokens=True)
        return cls(sorted(ids, key=ids.__getitem__), strip_accents=strip_accents)

    def save(self, path: str | Path) -> None:
        """Writes a `vocab.txt` for `from_vocab` or `transformers`.

        The file does not hold `strip_accents`: pass it when loading.
        """
        text = "".join(piece + "\n" for piece in self.vocab)
        Path(path).write_text(text, encoding="utf-8")

    def encode(
        self, text: str, *, prompt: str = "", max_tokens: int = 40, shift_first: bool = False
    ) -> list[int]:
        """`[DEC]`, the prompt, the text, `[SEP]`: at most `max_tokens`, always with `[SEP]`.

        Args:
            shift_first: the text's first piece `word` becomes `##word` ("first-token shifting"),
                or `[UNK]` where the vocabulary has no such piece.

        Raises:
            UserError: text or prompt holds half of a surrogate pair.
        """
        start = self.prompt_ids(prompt)
        pieces = self._ids(text)
        if shift_first and pieces:
            pieces[0] = self.ids.get("##" + self.vocab[pieces[0]], self.unk_id)
        return [*[*start, *pieces][: max_tokens - 1], self.sep_id]

    def prompt_ids(self, prompt: str) -> list[int]:
        """`[DEC]` and the prompt's pieces: what generation starts from."""
        return [self.bos_id, *self._ids(prompt)]

    def words(self, text: str) -> list[str]:
        """The words of a text as the model reads them: lower-case, punctuation apart.

        Raises:
            UserError: the text holds half of a surrogate pair.
        """
        check_characters(text)
        return _split(self._word_piece, text)

    def unknown_words(self, text: str) -> list[str]:
        """The words that the pieces of the vocabulary cannot spell, each once."""
        return [word for word in dict.fromkeys(self.words(text)) if self.unk_id in self._ids(word)]

    def is_special(self, token: int) -> bool:
        """Whether `decode` leaves this token out."""
        return token in self._special_ids

    def _ids(self, text: str) -> list[int]:
        check_characters(text)
        return self._word_piece.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Joins the pieces up to the first `[SEP]`; special tokens are left out.

        Spaces next to Chinese characters and kanji are removed, except before and after a-z.
        """
        pieces: list[int] = []
        for i in ids:
            if i == self.sep_id:
                break
            if i not in self._special_ids:
                pieces.append(int(i))
        text = self._word_piece.decode(pieces, skip_special_tokens=False)
        text = text.removeprefix("##")  # of a shifted first token
        return text if text.isascii() else _NO_SPACE.sub("", text)


def check_characters(text: str, name: str = "") -> None:
    """Raises UserError if a text, called `name`, holds half of a surrogate pair."""
    if surrogate := lone_surrogate(text):
        where = f"{name}: " if name else ""
        raise UserError(
            f"{where}{show(text)} holds {surrogate}, half of a pair: no character in UTF-8"
        )


def read_vocab(path: str | Path, *, largest: int = LARGEST_VOCAB) -> list[str]:
    r"""The pieces of a `vocab.txt`, one a line, in the order of their ids.

    Lines end with "\n" or "\r\n" only: a piece may hold any other line separator of Unicode.

    Raises:
        UserError: there is no such file, it is not UTF-8, or has more than `largest` lines.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"no vocabulary at {path}: expected a vocab.txt with one piece a line, such as "
            "bert-base-uncased's (https://huggingface.co/google-bert/bert-base-uncased)"
        )
    text = read_text(path, largest=LARGEST_FILE).removesuffix("\n")
    count = text.count("\n") + 1  # before splitting, which takes many times the text's memory
    if count > largest:
        raise UserError(
            f"{path}: {count} pieces, expected at most {largest}: is it another captioner's?"
        )
    return [line.removesuffix("\r") for line in text.split("\n")]


def _word_piece(ids: dict[str, int], *, strip_accents: bool) -> WordPieceTokenizer:
    """BERT's uncased pipeline: clean, lower-case, strip accents, split, greedy longest pieces.

    Without stripping accents, text is normalised to NFC, so that a composed and a decomposed accent
    give the same pieces.
    """
    longest = BERTS_LONGEST_WORD if strip_accents else LONGEST_WORD
    tokenizer = WordPieceTokenizer(
        models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=longest)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    if not strip_accents:
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Replace(Regex(_CONTROL), ""),
                normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=True),
            ]
        )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def _split(tokenizer: WordPieceTokenizer, text: str) -> list[str]:
    """A text → its normalised words, not yet split into pieces."""
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
