"""Text ↔ token ids: BERT's WordPiece (uncased), with BLIP's `[DEC]` and `[ENC]`.

`[DEC]` begins a caption, `[SEP]` ends it, `[PAD]` fills a batch. The vocabulary is a `vocab.txt`,
one piece a line, either bert-base-uncased's (whose 30522 entries become BLIP's 30524 with the two
added) or one trained on the captions at hand.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as WordPieceTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from smile.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ADDED = ["[DEC]", "[ENC]"]


class Tokenizer:
    """BERT's uncased WordPiece over a vocabulary that holds BLIP's special tokens.

    Args:
        vocab: the pieces in the order of their ids; `[DEC]` and `[ENC]` are appended if absent.

    Raises:
        UserError: if `[PAD]`, `[UNK]` or `[SEP]` is missing or `[PAD]` is not the first.
    """

    def __init__(self, vocab: Sequence[str]):
        vocab = [*vocab, *(token for token in ADDED if token not in vocab)]
        ids = {piece: i for i, piece in enumerate(vocab)}
        missing = [token for token in ("[PAD]", "[UNK]", "[SEP]") if token not in ids]
        if missing:
            raise UserError(f"vocabulary of {len(vocab)} pieces lacks {', '.join(missing)}")
        if ids["[PAD]"] != 0:
            raise UserError(f"[PAD] is entry {ids['[PAD]']} of the vocabulary, expected the first")
        self.vocab = vocab
        self.ids = ids
        self.pad_id, self.unk_id = ids["[PAD]"], ids["[UNK]"]
        self.bos_id, self.sep_id = ids["[DEC]"], ids["[SEP]"]
        self._special_ids = {ids[token] for token in SPECIAL + ADDED if token in ids}
        self._pieces = _word_piece(ids)

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    @classmethod
    def from_vocab(cls, path: str | Path) -> "Tokenizer":
        """Reads a `vocab.txt`, one piece a line."""
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"no vocabulary at {path}: expected a vocab.txt with one piece a line, such as "
                "bert-base-uncased's (https://huggingface.co/google-bert/bert-base-uncased)"
            )
        return cls(path.read_text(encoding="utf-8").splitlines())

    @classmethod
    def train(cls, captions: Iterable[str], *, vocab_size: int) -> "Tokenizer":
        """Learns about `vocab_size` pieces from captions; the same captions give the same ones."""
        learner = _word_piece({token: i for i, token in enumerate(SPECIAL)})
        captions = list(captions)
        words = {word for caption in captions for word in _split(learner, caption)}
        # The trainer numbers letters as a hash map hands them out, and breaks ties by number. Given
        # beforehand, in order, they make its choice of pieces the same each time.
        letters = sorted({letter for word in words for letter in word})
        inner = sorted({"##" + letter for word in words for letter in word[1:]})
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size - len(ADDED),
            special_tokens=[*SPECIAL, *letters, *inner],
            show_progress=False,
        )
        learner.train_from_iterator(captions, trainer)
        ids = learner.get_vocab(with_added_tokens=True)
        return cls(sorted(ids, key=ids.get))

    def save(self, path: str | Path) -> None:
        """Writes a `vocab.txt`, all that is needed to load it again here or in `transformers`."""
        text = "".join(piece + "\n" for piece in self.vocab)
        Path(path).write_text(text, encoding="utf-8")

    def encode(
        self, text: str, *, prompt: str = "", max_tokens: int = 40, shift_first: bool = False
    ) -> list[int]:
        """`[DEC]`, the prompt, the text, `[SEP]`; cut to `max_tokens`, prompt and ends included.

        Args:
            shift_first: the text's first piece `word` becomes `##word` ("first-token shifting"),
                or `[UNK]` where the vocabulary has no such piece.
        """
        start = self.prompt_ids(prompt)
        pieces = self._pieces.encode(text, add_special_tokens=False).ids
        if shift_first and pieces:
            pieces[0] = self.ids.get("##" + self.vocab[pieces[0]], self.unk_id)
        return [*[*start, *pieces][: max_tokens - 1], self.sep_id]

    def prompt_ids(self, prompt: str) -> list[int]:
        """`[DEC]` and the prompt's pieces: what generation starts from."""
        return [self.bos_id, *self._pieces.encode(prompt, add_special_tokens=False).ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Pieces joined to words up to the first `[SEP]`; special tokens left out."""
        words: list[int] = []
        for i in ids:
            if i == self.sep_id:
                break
            if i not in self._special_ids:
                words.append(int(i))
        return self._pieces.decode(words, skip_special_tokens=False).removeprefix("##")


def _word_piece(ids: dict[str, int]) -> WordPieceTokenizer:
    """BERT's uncased pipeline: clean, lower-case, strip accents, split, greedy longest pieces."""
    tokenizer = WordPieceTokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def _split(tokenizer: WordPieceTokenizer, text: str) -> list[str]:
    """The words that pieces are looked for in."""
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
