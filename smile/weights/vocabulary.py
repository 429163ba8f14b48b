"""The vocabulary of a foreign captioner, fitted to the rows of its embedding.

Four things may differ from a `vocab.txt` with a line for each row:

- The pieces may be in `tokenizer.json`, the only file that transformers 5 writes.
- Tokens may be added to a `vocab.txt` in `added_tokens.json`, as transformers 4 wrote slow
  tokenizers.
- Rows may have no piece, if the embedding was padded to a round number. They are removed, so they
  can never be generated.
- Captions may begin with another token than `[DEC]`. The row that they begin with is called `[DEC]`
  here.
"""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from smile.errors import UserError
from smile.model.tokenizer import ADDED, LARGEST_FILE, Tokenizer, read_vocab
from smile.system.files import expect, lone_surrogate, read_json, show

VOCAB, ADDED_TOKENS, TOKENIZER = "vocab.txt", "added_tokens.json", "tokenizer.json"
PADDED_TO = range(8, 1025)  # embeddings are padded to a multiple of such a power of two
BEGIN, END = ADDED[0], "[SEP]"

# Values of BERT's uncased WordPiece in a tokenizer.json; others would give other ids.
EXPECTED = (
    ("model", "type", "WordPiece"),
    ("model", "unk_token", "[UNK]"),
    ("model", "continuing_subword_prefix", "##"),
    ("normalizer", "type", "BertNormalizer"),
    ("normalizer", "lowercase", True),
    ("normalizer", "clean_text", True),
    ("normalizer", "handle_chinese_chars", True),
    ("pre_tokenizer", "type", "BertPreTokenizer"),
)


class Pieces(NamedTuple):
    """The piece of each row of the embedding, as far as a file gives it.

    special: rows of special tokens. strip_accents: None if the file does not say.
    """

    path: Path
    names: dict[int, str]
    special: frozenset[int] = frozenset()
    strip_accents: bool | None = None


class TokenIds(NamedTuple):
    """The rows that captions begin and end with, None if the source does not say."""

    begin: int | None = None
    end: int | None = None


class Vocabulary(NamedTuple):
    """The pieces in order, and the rows of the embedding that they belong to, None if all."""

    pieces: list[str]
    rows: list[int] | None


def read_pieces(folder: Path, *, num_rows: int) -> Pieces | None:
    """The pieces in a folder's vocabulary file, None if it has none.

    `vocab.txt` lacks tokens that were added later, unless `added_tokens.json` has them. So both are
    read only if they name every row, or if there is no `tokenizer.json`.

    Raises:
        UserError: a file is damaged, or of another kind of tokenizer.
    """
    plain, whole = folder / VOCAB, folder / TOKENIZER
    if plain.exists():
        pieces = pieces_of_file(plain, num_rows=num_rows)
        _add_tokens(pieces.names, folder / ADDED_TOKENS)
        if not whole.exists() or num_rows - len(pieces.names) in (0, _num_added(pieces.names)):
            return pieces
    return pieces_of_file(whole, num_rows=num_rows) if whole.exists() else None


def pieces_of_file(path: Path, *, num_rows: int) -> Pieces:
    """The pieces in a `vocab.txt`, of at most `num_rows` lines, or in a `tokenizer.json`."""
    if path.suffix == ".json":
        return _pieces_of_tokenizer(path)
    return Pieces(path, dict(enumerate(read_vocab(path, largest=num_rows))))


def _add_tokens(names: dict[int, str], path: Path) -> None:
    """Names the rows of an `added_tokens.json`, if there is one: token → row."""
    if not path.exists():
        return
    for token, row in read_json(path, largest=LARGEST_FILE).items():
        _add(names, row, token, where=f"{path}: {show(token)}")


def _num_added(names: Mapping[int, str]) -> int:
    """How many tokens BLIP adds to a vocabulary of BERT's."""
    return 0 if BEGIN in names.values() else len(set(ADDED) - set(names.values()))


def _pieces_of_tokenizer(path: Path) -> Pieces:
    """The pieces of a `tokenizer.json`, added tokens included."""
    whole = read_json(path, largest=LARGEST_FILE)
    parts = {part: _part(whole, part, path) for part, _, _ in EXPECTED}
    for part, key, expected in EXPECTED:
        found = parts[part].get(key, expected)
        if found != expected or type(found) is not type(expected):
            raise UserError(
                f"{path}: {part}.{key} is {show(found)}, expected {show(expected)}, as BERT's "
                "uncased tokenizer has it"
            )
    names: dict[int, str] = {}
    vocab = expect(parts["model"].get("vocab"), dict, where=f"{path}: model.vocab")
    for piece, number in vocab.items():
        _add(names, number, piece, where=f"{path}: model.vocab: {show(piece)}")
    special = set()
    added = expect(whole.get("added_tokens") or [], list, where=f"{path}: added_tokens")
    for place, token in enumerate(added):
        where = f"{path}: added_tokens[{place}]"
        expect(token, dict, where=where)
        piece = expect(token.get("content"), str, where=f"{where}.content")
        _add(names, token.get("id"), piece, where=f"{where}.id")
        if token.get("special") is True:
            special.add(token["id"])
    strip_accents = parts["normalizer"].get("strip_accents")
    if strip_accents is not None:
        expect(strip_accents, bool, where=f"{path}: normalizer.strip_accents")
    return Pieces(path, names, frozenset(special), strip_accents)


def _part(whole: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    return expect(whole.get(key), dict, where=f"{path}: {key}")


def _add(names: dict[int, str], number: Any, piece: str, *, where: str) -> None:
    """Names a row, which must not have another name yet."""
    expect(number, int, where=where)
    if number < 0 or names.get(number, piece) != piece:
        raise UserError(f"{where}: found {number}, expected a row of its own")
    if "\n" in piece or "\r" in piece or lone_surrogate(piece):
        raise UserError(f"{where}: the piece {piece!a} cannot be a line of a vocab.txt")
    names[number] = piece


def fit_vocabulary(
    pieces: Pieces,
    *,
    num_rows: int,
    ids: TokenIds,
    source: object,
) -> Vocabulary:
    """The vocabulary for an embedding of `num_rows` rows.

    Args:
        source: where the weights come from, for error messages.

    Raises:
        UserError: pieces and rows do not fit together.
    """
    names, (bos_id, sep_id) = dict(pieces.names), ids
    for row in pieces.special:
        if row >= num_rows:  # these weights can neither read nor generate it
            del names[row]
    if bos_id is not None and not 0 <= bos_id < num_rows:
        raise UserError(
            f"{source}: text_config.bos_token_id is {show(bos_id)}, expected one of the "
            f"{num_rows} rows of the weights"
        )
    for token in ("[PAD]", "[UNK]", END, BEGIN):
        if list(names.values()).count(token) > 1:
            raise UserError(f"{pieces.path}: {token} occurs more than once")
    if sep_id is not None and names.get(sep_id) != END:
        raise UserError(
            f"{source}: text_config.sep_token_id is {sep_id}, which {pieces.path} calls "
            f"{show(names.get(sep_id))}, expected {END}, which ends captions"
        )
    knows_begin = bos_id is not None or BEGIN in names.values()
    _add_blips_tokens(names, bos_id)
    if knows_begin:  # else [DEC] is indispensable
        names = {row: name for row, name in names.items() if row < num_rows or name not in ADDED}
    if bos_id is not None:
        _call_begin(names, bos_id)
    padding = num_rows - len(names)
    multiple = min(num_rows & -num_rows, PADDED_TO[-1])  # the largest power of two that divides it
    is_padded = knows_begin and multiple in PADDED_TO and 0 <= padding < multiple
    if max(names) >= num_rows or (padding and not is_padded):
        raise UserError(
            f"{pieces.path}: {len(names)} entries with {' and '.join(ADDED)}, but the weights in "
            f"{source} have {num_rows}; name the right one with vocab=… (--vocab)"
        )
    rows = sorted(names)
    return Vocabulary([names[row] for row in rows], rows if padding else None)


def _add_blips_tokens(names: dict[int, str], bos_id: int | None) -> None:
    """Names the rows of the two tokens that BLIP adds after BERT's, if no file does."""
    behind = max(names, default=-1) + 1
    for token in ADDED:
        if token not in names.values():
            row = next(row for row in count(behind) if row not in names)
            if token == BEGIN and bos_id is not None and bos_id not in names:
                row = bos_id
            names[row] = token


def _call_begin(names: dict[int, str], bos_id: int) -> None:
    """Names the row that captions begin with `[DEC]`; a row of that name takes the other's."""
    for row, name in names.items():
        if name == BEGIN and row != bos_id:
            names[row] = names[bos_id]
    names[bos_id] = BEGIN


def make_tokenizer(vocabulary: Vocabulary, path: Path, *, strip_accents: bool) -> Tokenizer:
    """The tokenizer over a vocabulary that was read from `path`."""
    try:
        return Tokenizer(vocabulary.pieces, strip_accents=strip_accents)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def keep_rows(weights: dict[str, Tensor], rows: list[int] | None) -> None:
    """Keeps only those rows of the weights that have a row for each token."""
    if rows is None:
        return
    kept = slice(len(rows)) if rows[-1] == len(rows) - 1 else rows  # the former copies nothing
    for name in ("decoder.word_embed.weight", "decoder.head_bias"):
        weights[name] = weights[name][kept]
