"""The tokenizer against transformers' BertTokenizer, and round trips."""

import unicodedata

import pytest

from smile.data.captions import clean_caption
from smile.errors import UserError
from smile.model.tokenizer import LONGEST_WORD, Tokenizer, read_vocab

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


@pytest.mark.parametrize("strip_accents", [True, False])
def test_same_ids_as_bert(tokenizer, tmp_path, strip_accents):
    """Accents, capitals, punctuation, unknown characters: the pieces BERT's own tokenizer gives."""
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer(tokenizer.vocab, strip_accents=strip_accents)
    tokenizer.save(tmp_path / "vocab.txt")
    bert = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), strip_accents=strip_accents)
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
    (tmp_path / "bad.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"bad\.txt: vocabulary of 4 pieces lacks \[PAD\]"):
        Tokenizer.from_vocab(tmp_path / "bad.txt")


CAPTIONS_OF_THE_WORLD = {
    "Hindi": "एक लड़की घास में दौड़ रही है",
    "Thai": "เด็กผู้หญิงกำลังปีนบันได",
    "Spanish": "una niña pequeña sube los escalones",
    "German": "ein mädchen möchte über die brücke",
    "Japanese": "公園で犬が走る、プールの3人も。",
    "Russian": "ёлка и йод",
    "Chinese": "一个小女孩爬上楼梯。",
    "Vietnamese": "một bé gái đang leo cầu thang",
    "Arabic": "طِفلٌ يَجري في الحديقة",
    "Persian": "پسر می‌دود",  # with a joiner that keeps two letters apart
    "Korean": "소녀가 계단을 오른다",
    "Turkish": "İstanbul'da ışık",  # noqa: RUF001
    "Greek": "ένα κορίτσι ανεβαίνει",
}


@pytest.mark.parametrize("language", CAPTIONS_OF_THE_WORLD)
def test_no_language_loses_letters(language, tmp_path):
    """Text → ids → text, with a vocabulary trained here and after saving it."""
    text = clean_caption(CAPTIONS_OF_THE_WORLD[language])
    trained = Tokenizer.train([text] * 3, vocab_size=500)
    trained.save(tmp_path / "vocab.txt")
    saved = Tokenizer.from_vocab(tmp_path / "vocab.txt", strip_accents=False)
    for tokenizer in (trained, saved):
        ids = tokenizer.encode(text, max_tokens=80)
        assert tokenizer.decode(ids).replace(" '", "'").replace("' ", "'") == text
        assert tokenizer.unk_id not in ids
        # However the accents are coded, the pieces are the same.
        assert tokenizer.encode(unicodedata.normalize("NFD", text), max_tokens=80) == ids


def test_a_caption_without_spaces_is_not_one_unknown_word():
    text = "เด็กผู้หญิงกำลังปีนบันได" * 20
    assert 100 < len(text) <= LONGEST_WORD
    tokenizer = Tokenizer.train([text], vocab_size=500)
    ids = tokenizer.encode(clean_caption(text, max_words=1), max_tokens=1000)
    assert tokenizer.decode(ids) == text


def test_with_accents_stripped_it_is_berts_tokenizer():
    tokenizer = Tokenizer.train(["una niña"], vocab_size=100, strip_accents=True)
    assert tokenizer.decode(tokenizer.encode("una niña")) == "una nina"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_only_line_ends_end_lines(tmp_path, end, mark):
    pieces = ["[PAD]", "[UNK]", "[SEP]", "a\u2028b", "\u0085", "\x1c", "c\x0bd\x0c", "\u2029", ""]
    path = tmp_path / "vocab.txt"
    path.write_bytes((mark + "".join(piece + end for piece in pieces)).encode())
    assert read_vocab(path) == pieces
    path.write_bytes((mark + end.join([*pieces, "z"])).encode())  # no line end at the end
    assert read_vocab(path) == [*pieces, "z"]


def test_a_vocabulary_that_is_no_such_file_gets_one_line(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(UserError, match=r"vocab\.txt: not UTF-8 text"):
        Tokenizer.from_vocab(path)
    path.write_text("a\n" * 200_000)
    with pytest.raises(UserError, match=r"200000 pieces, expected at most 30524"):
        Tokenizer.from_vocab(path, largest=30524)
    with pytest.raises(UserError, match="it is a folder"):
        Tokenizer.from_vocab(tmp_path)
