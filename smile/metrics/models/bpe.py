"""Text → ids for CLIP and GPT-2: byte-level byte-pair encoding (Sennrich et al. 2016).

Text is split into words, words into bytes, and pairs of pieces are merged in the order in which
the merges were learned. `vocab.json` numbers the pieces and `merges.txt` lists the merges in that
order; a `tokenizer.json` holds both.
"""

from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from smile.errors import UserError
from smile.system.files import expect, read_text
from smile.weights.transformers_folder import find_json

BEGIN, END = "<|startoftext|>", "<|endoftext|>"

# CLIP's words: contractions, runs of letters, single digits, runs of anything else but spaces.
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

Merges = list[tuple[str, str]]


class ClipTokenizer:
    """CLIP's tokenizer: lower case, pieces that end a word marked `</w>`, at most 77 ids.

    Args:
        vocab: piece → id.
        merges: pairs of pieces, in the order of merging.

    Raises:
        UserError: if the vocabulary lacks the tokens that begin and end a text, or a merged piece.
    """

    def __init__(self, vocab: dict[str, int], merges: Merges):
        _require(vocab, BEGIN, END)
        self.begin_id, self.end_id = vocab[BEGIN], vocab[END]
        self._pieces = _byte_pairs(vocab, merges, end_of_word_suffix="</w>", unk_token=END)
        self._pieces.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._pieces.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ClipTokenizer":
        """Reads `vocab.json` and `merges.txt`, or else `tokenizer.json`."""
        return cls(*read_byte_pairs(folder))

    def encode(self, text: str, *, max_tokens: int = 77) -> list[int]:
        """`<|startoftext|>`, the text, `<|endoftext|>`; cut to `max_tokens`, both included."""
        pieces = self._pieces.encode(text, add_special_tokens=False).ids
        return [self.begin_id, *pieces[: max_tokens - 2], self.end_id]


class Gpt2Tokenizer:
    """GPT-2's tokenizer: keeps case and all characters; a space belongs to the word after it.

    Args:
        vocab, merges: as `ClipTokenizer`'s.
    """

    def __init__(self, vocab: dict[str, int], merges: Merges):
        _require(vocab, END)
        self.begin_id = vocab[END]  # it separates the training texts, so it comes before each
        self._pieces = _byte_pairs(vocab, merges)
        self._pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Gpt2Tokenizer":
        """Reads `vocab.json` and `merges.txt`, or else `tokenizer.json`."""
        return cls(*read_byte_pairs(folder))

    def encode(self, text: str) -> list[int]:
        """The text's ids, without special tokens; none for an empty text."""
        return self._pieces.encode(text, add_special_tokens=False).ids


def read_byte_pairs(folder: str | Path) -> tuple[dict[str, int], Merges]:
    """Vocabulary and merges of a folder.

    Raises:
        UserError: if the files are missing or do not hold byte pairs.
    """
    folder = Path(folder)
    merges_file = folder / "merges.txt"
    if (vocab := find_json(folder / "vocab.json")) is not None and merges_file.is_file():
        source = merges_file
        lines = read_text(source).split("\n")
        lines = lines[lines[0].startswith("#version") :]
        merges = [line.split(" ") for line in lines if line]
    elif (whole := find_json(source := folder / "tokenizer.json")) is not None:
        model = expect(whole.get("model", {}), dict, where=f"{source}: model")
        vocab = model.get("vocab")
        merges = expect(model.get("merges") or [], list, where=f"{source}: model.merges")
        # Older files have "a b", newer ones ["a", "b"].
        merges = [m.split(" ") if isinstance(m, str) else m for m in merges]
        merges = [m if isinstance(m, list) else [] for m in merges]
    else:
        raise UserError(
            f"no tokenizer in {folder}: expected vocab.json and merges.txt, or tokenizer.json, "
            "which the hub has beside the weights"
        )
    ids = list(vocab.values()) if isinstance(vocab, dict) else [None]
    if any(type(i) is not int or not 0 <= i < 2**31 for i in ids) or any(
        len(merge) != 2 or not all(isinstance(part, str) for part in merge) for merge in merges
    ):
        raise UserError(f"{source}: expected pieces and pairs of pieces (byte-pair encoding)")
    return vocab, [(first, second) for first, second in merges]


def _byte_pairs(vocab: dict[str, int], merges: Merges, **options) -> Tokenizer:
    try:
        return Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    except Exception as error:  # the library raises bare Exceptions
        reason = " ".join(str(error).split())
        raise UserError(f"vocabulary and merges do not fit together: {reason}") from error


def _require(vocab: dict[str, int], *tokens: str) -> None:
    missing = [token for token in tokens if token not in vocab]
    if missing:
        raise UserError(f"vocabulary of {len(vocab)} pieces lacks {', '.join(missing)}")
