"""Words that no caption may hold: against every caption there is, and case by case."""

from itertools import product

import pytest
import torch

from smile.config import Config, DecoderConfig, ViTConfig
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.model.forbidden import Forbidden
from smile.model.tokenizer import Tokenizer

PIECES = ["cat", "##tle", "photo", "of", "##f", "a"]
SPECIAL = ["[PAD]", "[UNK]", "[SEP]"]


def make_captioner(pieces: list[str]) -> Captioner:
    """Random, opinionated, and sure to say none of the special tokens but [SEP]."""
    tokenizer = Tokenizer([*SPECIAL, *pieces])
    sizes = {"dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
    config = Config(
        vit=ViTConfig(image_size=16, patch_size=8, **sizes),
        decoder=DecoderConfig(
            vocab_size=tokenizer.vocab_size, features_dim=16, max_positions=40, **sizes
        ),
    )
    torch.manual_seed(0)
    captioner = Captioner(config=config, tokenizer=tokenizer).init_weights().eval()
    for parameter in captioner.parameters():
        parameter.data.mul_(5)
    for token in ("[PAD]", "[UNK]", "[DEC]", "[ENC]"):
        captioner.decoder.head_bias.data[tokenizer.ids[token]] = -1e4
    return captioner


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return make_captioner(PIECES)


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def holds(prompt: str, text: str, forbid: list[str]) -> bool:
    """Whether a text, after its prompt, ends a forbidden phrase somewhere."""
    before, words = prompt.split(), text.split()
    for phrase in (phrase.lower().split() for phrase in forbid):
        for end in range(1, len(words) + 1):
            if (before + words[:end])[-len(phrase) :] == phrase:
                return True
    return False


LISTS = [
    ["cat"],
    ["Photo OF", "a"],
    ["cattle"],
    ["cat", "cattle", "cattlef"],
    ["of of", "a cat a"],
    ["photo", "of", "off", "a"],
]


@torch.no_grad()
@pytest.mark.parametrize("forbid", LISTS, ids=" ".join)
@pytest.mark.parametrize("prompt", ["", "a photo"])
def test_many_beams_find_the_best_of_all_captions_without_the_words(captioner, forbid, prompt):
    tokenizer, images = captioner.tokenizer, pictures(1)
    start, sep = tokenizer.prompt_ids(prompt), tokenizer.sep_id
    captions = list(product(range(tokenizer.vocab_size), repeat=3))
    ids = torch.tensor([[*start, *caption] for caption in captions])
    logprobs = captioner(images, ids).log_softmax(dim=-1)[:, len(start) - 1 : -1]
    logprobs = logprobs.gather(2, ids[:, len(start) :, None])[..., 0].tolist()
    scores = {}
    for caption, row in zip(captions, logprobs, strict=True):
        said = caption[: caption.index(sep)] if sep in caption else caption
        if not holds(prompt, tokenizer.decode(said), forbid):
            total = sum(row[: len(said) + (len(said) < 3)])
            scores[said] = total / (len(start) + len(said))
    best = sorted(scores.items(), key=lambda item: -item[1])[:5]
    settings = {"num_beams": 100, "min_length": 0, "max_length": len(start) + 3}
    [found] = captioner.describe(images, prompts=prompt, num_return=5, forbid=forbid, **settings)
    pieces = [tuple(tokenizer.ids[piece] for piece, _ in caption.tokens) for caption in found]
    assert [tuple(i for i in ids if i != sep) for ids in pieces] == [ids for ids, _ in best]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1},
        {"num_beams": 3, "num_return": 3},
        {"num_beams": 2, "min_length": 8, "repetition_penalty": 1.3},
        {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3},
        {"top_p": 0.9, "num_return": 3},
        {"do_sample": True, "temperature": 1.5, "num_return": 3},
    ],
)
def test_no_search_says_them(captioner, settings):
    images, prompt = pictures(4), "a photo"
    settings = {"min_length": 0, "max_length": 9} | settings
    free = captioner.describe(images, prompts=prompt, **settings)
    words = max((c.text for captions in free for c in captions), key=len).split()
    lists = [*LISTS, words[:1], [" ".join(words[:2]), words[-1]], [" ".join(words[-3:])]]
    for forbid in lists:
        found = captioner.describe(images, prompts=prompt, forbid=forbid, **settings)
        texts = [caption.text for captions in found for caption in captions]
        assert not any(holds(prompt, text, forbid) for text in texts), (forbid, texts)


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 3}, {"top_p": 0.8}])
def test_what_would_not_be_said_changes_nothing(captioner, settings):
    images = pictures(4)
    free = captioner.describe(images, prompts="a", **settings)
    assert captioner.describe(images, prompts="a", forbid=["dog", "of zebras"], **settings) == free
    assert captioner.describe(images, prompts="a", forbid=[], **settings) == free


def test_a_batch_gives_what_each_image_gives_alone(captioner):
    images = pictures(5)
    for settings in ({"num_beams": 2}, {"top_k": 5, "num_return": 2}):
        settings |= {"forbid": ["photo of", "cat"], "min_length": 0, "max_length": 9}
        together = captioner.describe(images, prompts="a", seeds=range(5), **settings)
        for i in range(5):
            [alone] = captioner.describe(images[i : i + 1], prompts="a", seeds=[i], **settings)
            assert [c.text for c in alone] == [c.text for c in together[i]]


# What may follow ----------------------------------------------------------------------------------

OTHERS = [
    "!",
    "##!",
    "##s",
    "s",
    "猫",
    "##猫",
    "e",
    "##\u0301",
    "é",
    "don",
    "'",
    "t",
    "don't",
    "Of",
]


def cannot_follow(
    caption: str,
    forbid: list[str],
    *,
    prompt: str = "",
    is_last: bool = False,
    accents: bool = True,
) -> set[str]:
    """The pieces that may not come after those of a caption, beside those that never may."""
    tokenizer = Tokenizer([*SPECIAL, *PIECES, *OTHERS], strip_accents=not accents)
    ids = [tokenizer.ids[piece] for piece in f"{prompt} {caption}".split()]
    length = len(prompt.split())
    forbidden = Forbidden(
        forbid, tokenizer, prompt_length=length, max_length=len(ids) + 1 if is_last else 99
    )
    scores = torch.zeros(1, tokenizer.vocab_size)
    forbidden.mask(scores, torch.tensor([ids]))
    found = {tokenizer.vocab[i] for i in scores[0].isinf().nonzero()[:, 0]}
    assert "don't" in found  # the tokenizer splits it, so this piece never stands for it
    return found - {"don't"}


INNER = {"##tle", "##f", "##s", "##\u0301"}


@pytest.mark.parametrize(
    ("caption", "forbid", "how"),
    [
        ("a cat", ["cat"], {}),
        ("a cat", ["CAT"], {}),
        ("cat ##tle", ["cattle"], {}),
        ("photo [UNK] of", ["photo of"], {}),  # the text has no [UNK]
        ("photo Of", ["photo of"], {}),
        ("of", ["photo of"], {"prompt": "a photo"}),
        ("##s", ["s"], {"prompt": "cat"}),  # a caption's text does not go on the prompt's word
        ("of of", ["of of of", "of of"], {}),
        ("don ' t", ["Don't"], {}),
        ("e", ["É"], {"accents": False}),
        ("é", ["e\u0301"], {}),
        ("e ##\u0301", ["É"], {}),
    ],
)
def test_after_a_forbidden_word_only_a_longer_one_may_follow(caption, forbid, how):
    allowed = {*SPECIAL, "[DEC]", "[ENC]", *PIECES, *OTHERS} - {"don't"}
    allowed -= cannot_follow(caption, forbid, **how)
    assert allowed == (INNER if how.get("accents", True) else INNER - {"##\u0301"})


@pytest.mark.parametrize(
    ("caption", "forbid", "how", "pieces"),
    [
        ("a", ["cat"], {}, set()),
        ("a", ["cat"], {"is_last": True}, {"cat"}),
        ("cat", ["cattle"], {"is_last": True}, {"##tle"}),
        ("cat ##tle", ["cat"], {"is_last": True}, {"cat"}),
        ("a photo", ["photo of"], {"is_last": True}, {"of", "Of"}),
        ("photo a", ["photo of"], {"is_last": True}, set()),
        ("photo cat", ["photo cattle"], {"is_last": True}, {"##tle"}),
        ("a cat", ["photo cattle"], {"is_last": True}, set()),
        ("a", ["photo of"], {"prompt": "photo", "is_last": True}, set()),
        ("", ["photo of"], {"prompt": "a photo", "is_last": True}, {"of", "Of"}),
        ("", ["cattle"], {"prompt": "cat", "is_last": True}, set()),
        ("", ["s"], {"prompt": "cat", "is_last": True}, {"s", "##s"}),
        ("", ["cat"], {"prompt": "a cat"}, set()),  # who prompts with it wants it
        ("cat", ["猫"], {"is_last": True}, {"猫", "##猫"}),
        ("猫", ["s"], {"is_last": True}, {"s", "##s"}),  # nothing goes on a Chinese character
        ("cat", ["cat!"], {"is_last": True}, {"!", "##!"}),
        ("e", ["é"], {"is_last": True}, {"é", "##\u0301"}),
        ("a", ["é"], {"is_last": True, "accents": False}, {"e", "é"}),
        ("a", ["dog"], {"is_last": True}, set()),
    ],
)
def test_where_nothing_follows_the_word_itself_is_forbidden(caption, forbid, how, pieces):
    assert cannot_follow(caption, forbid, **how) == pieces


@pytest.mark.parametrize(
    ("forbid", "said"),
    [
        (["cat", " "], r'forbid = " ": expected a word'),
        (["\x00"], "expected a word or a phrase"),
        (["\ud83d"], "half of a pair"),
        ("cat", r'forbid = "cat": expected a list of texts in quotes'),
        ([3], "expected a list of texts"),
    ],
)
def test_a_list_without_words_is_refused(captioner, forbid, said):
    with pytest.raises(UserError, match=said):
        captioner.describe(pictures(1), forbid=forbid)


def test_a_list_that_leaves_no_word_is_refused():
    words = [piece for piece in PIECES if not piece.startswith("##")]
    tokenizer = Tokenizer([*SPECIAL, *words])
    lengths = {"prompt_length": 1, "max_length": 9}
    Forbidden(words[1:], tokenizer, **lengths)
    with pytest.raises(UserError, match="leaves no word"):
        Forbidden(words, tokenizer, **lengths)


@pytest.mark.parametrize(
    "settings", [{"num_beams": 1}, {"num_beams": 2, "num_return": 2}, {"do_sample": True}]
)
def test_a_dead_end_is_one_line(settings):
    """A captioner that says these two pieces only; what is left shows at the last position."""
    captioner = make_captioner(["cat", "##s"])
    sayable = [captioner.tokenizer.ids[piece] for piece in ("cat", "##s")]
    bias = captioner.decoder.head_bias.data.clone()
    captioner.decoder.head_bias.data.fill_(-torch.inf)[sayable] = bias[sayable]
    forbid = ["cat", "cats", "catss", "s", "ss", "sss"]
    lengths = {"min_length": 4, "max_length": 4}
    with pytest.raises(UserError, match="forbid leaves fewer captions than num_return = "):
        captioner.describe(pictures(1), prompts="", forbid=forbid, **lengths, **settings)
