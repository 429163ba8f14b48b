"""The tokenizer against transformers' BertTokenizer, and round trips."""

import pytest
from transformers import BertTokenizer

from smile.errors import UserError
from smile.tokenizer import Tokenizer

CAPTIONS = [
    "a small red circle to the left of two large striped squares",
    "three people in front of a cafe , one of them laughing",
    "a skateboarder in mid-air above the skatepark 's ramp",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, vocab_size=200)


def test_round_trips(tokenizer):
    for caption in CAPTIONS:
        ids = tokenizer.encode(caption, prompt="a picture of ", max_tokens=100)
        prompt = tokenizer.prompt_ids("a picture of ")
        assert ids[: len(prompt)] == prompt
        assert ids[-1] == tokenizer.sep_id
        text = tokenizer.decode(ids[len(prompt) :])
        assert text.replace(" ", "") == caption.replace(" ", "")
        if "," not in caption and "-" not in caption:
            assert text == caption


def test_same_ids_as_bert(tokenizer, tmp_path):
    """Accents, capitals, punctuation, unknown characters: the pieces BERT's own tokenizer gives."""
    tokenizer.save(tmp_path / "vocab.txt")
    bert = BertTokenizer(str(tmp_path / "vocab.txt"))
    for text in [
        *CAPTIONS,
        "Crème BRÛLÉE, in-the-air!",
        "ein 我 猫 🙂 x",
        "",
        "tab\tand\u200bzero",
    ]:
        ours = tokenizer.encode(text, max_tokens=100)
        assert ours[1:-1] == bert(text, add_special_tokens=False).input_ids, text
    assert bert.convert_ids_to_tokens(tokenizer.bos_id) == "[DEC]"


def test_special_tokens(tokenizer):
    assert tokenizer.pad_id == 0
    assert tokenizer.vocab[tokenizer.bos_id] == "[DEC]"
    assert tokenizer.vocab[-2:] == ["[DEC]", "[ENC]"]
    assert tokenizer.vocab_size <= 200
    # They cannot be smuggled in as text, and never come out of decoding.
    assert tokenizer.sep_id not in tokenizer.encode("[SEP]")[:-1]
    ids = [tokenizer.bos_id, *tokenizer.encode("a circle")[1:-1], tokenizer.pad_id]
    assert tokenizer.decode(ids) == "a circle"
    assert (
        tokenizer.decode([*tokenizer.encode("a circle"), *tokenizer.encode("left")]) == "a circle"
    )


def test_truncation_keeps_both_ends(tokenizer):
    ids = tokenizer.encode(CAPTIONS[0], prompt="a picture of ", max_tokens=9)
    assert len(ids) == 9
    assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.sep_id)


def test_first_token_shifting(tokenizer):
    plain = tokenizer.encode("circle to the left", prompt="a ")
    shifted = tokenizer.encode("circle to the left", prompt="a ", shift_first=True)
    start = len(tokenizer.prompt_ids("a "))
    changed = [i for i, (a, b) in enumerate(zip(plain, shifted, strict=True)) if a != b]
    assert changed == [start]
    word = tokenizer.vocab[plain[start]]
    assert tokenizer.vocab[shifted[start]] in ("##" + word, "[UNK]")
    vocabulary = Tokenizer([*tokenizer.vocab[:-2], "##circle", "[DEC]", "[ENC]"])
    shifted = vocabulary.encode("circle to the left", prompt="a ", shift_first=True)
    assert vocabulary.vocab[shifted[start]] == "##circle"
    assert vocabulary.decode(shifted[start:]) == "circle to the left"


def test_training_is_deterministic_and_saved_whole(tokenizer, tmp_path):
    assert Tokenizer.train(CAPTIONS, vocab_size=200).vocab == tokenizer.vocab
    tokenizer.save(tmp_path / "vocab.txt")
    assert Tokenizer.from_vocab(tmp_path / "vocab.txt").vocab == tokenizer.vocab


def test_bert_vocabulary_becomes_blips():
    """30522 entries without the two tokens become 30524, [DEC] and [ENC] at the end."""
    bert = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    bert += [f"word{i}" for i in range(30522 - len(bert))]
    tokenizer = Tokenizer(bert)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.sep_id) == (30524, 30522, 102)


def test_bad_vocabularies_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no vocabulary at .*missing\.txt.*bert-base-uncased"):
        Tokenizer.from_vocab(tmp_path / "missing.txt")
    with pytest.raises(UserError, match=r"lacks \[SEP\]"):
        Tokenizer(["[PAD]", "[UNK]"])
    with pytest.raises(UserError, match=r"\[PAD\] is entry 1"):
        Tokenizer(["a", "[PAD]", "[UNK]", "[SEP]"])
