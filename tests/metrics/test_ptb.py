"""Our tokenizer gives the words of pycocoevalcap's: Stanford CoreNLP 3.4.1, less punctuation."""

import json
import random
import re
import time
from pathlib import Path

import pytest

from smile.metrics.text import ptb
from smile.metrics.text.ptb import tokenize, tokenize_all

GOLDEN = Path(__file__).parents[1] / "golden" / "coco_metrics.json"


def test_golden_captions():
    for item in json.loads(GOLDEN.read_text(encoding="utf-8"))["items"]:
        assert " ".join(tokenize(item["caption"])) == item["tokens"]
        said = [" ".join(tokens) for tokens in tokenize_all(item["references"])]
        assert said == item["reference_tokens"]


# Each line was checked against the Java program.
@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("", ""),
        (" . , ! ", ""),
        ("A dog, a cat; a man.", "a dog a cat a man"),
        ("It's the men's dogs' ball", "it 's the men 's dogs ball"),
        ("They isn't can't don't won't", "they is n't ca n't do n't wo n't"),
        ("I'd he'll we're they've I'm", "i 'd he 'll we 're they 've i 'm"),
        ("it\u2019s a \u201cred\u201d dog \u2014 isn\u2019t it\u2026", "it 's a red dog is n't it"),
        ("cannot gonna wanna gimme", "can not gon na wan na gim me"),
        ("'tis 'em 'til rock 'n' roll", "'t is 'em 'til rock 'n' roll"),
        ("O'Neil at 5 o'clock, y'all", "o'neil at 5 o'clock y' all"),
        ("the '80s and the 90's", "the '80s and the 90 's"),
        ("Mr. and mrs. Smith on St. John St.", "mr. and mrs. smith on st. john st."),
        ("at 5 p.m. in the U.S.", "at 5 p.m. in the u.s."),
        ("no. 5 is a no. and No. 6 not", "no. 5 is a no and no. 6 not"),
        ("vitamin c. The end", "vitamin c the end"),
        ("vitamin c. and", "vitamin c. and"),
        ("$5.99 or 1,000 or 2.5%", "$ 5.99 or 1,000 or 2.5 %"),
        ("10:30am 3rd 1/2 1 1/2 12/25/2000", "10:30 am 3rd 1/2 1 1/2 12/25/2000"),
        ("a 1,000-year-old U.S.-made t-shirt's", "a 1,000-year-old u.s.-made t-shirt 's"),
        ("pre- and post- -dog --", "pre and post dog"),
        ("and/or he/she w/ a / b", "and/or he/she w / a / b"),
        ("AT&T and r&b & B&B", "at&t and r & b & b&b"),
        ("(a) [b] {c} <d>", "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb- <d>"),
        ("what?! no!! yes? :)", "what ?! no !! yes :-rrb-"),
        ("a_b __ *** a*b #1 #dog @dog", "a_b __ *** a * b # 1 #dog @dog"),
        ("www.dog.cat/cow and a@b.com", "www.dog.cat/cow and a@b.com"),
        ("caf\u00e9 na\u00efve \u65e5\u672c", "caf\u00e9 na\u00efve \u65e5\u672c"),
        ("half \u00bd a \U0001f600 dog\U0001f600cat 5\u20ac", "half 1/2 a dog cat 5 $"),
        ("dog.The cat...dog", "dog.the cat dog"),
        ("a\tdog\nruns\u00a0far", "a dog runs far"),
    ],
)
def test_words(caption, words):
    assert " ".join(tokenize(caption)) == words


def test_tokens_hold_no_space():
    caption = '<a href="x"> call (555) 555-1234 1 1/2'
    assert all(token and not any(map(str.isspace, token)) for token in tokenize(caption))


def plain_tokenize(caption: str) -> list[str]:
    """The definition: at each place the first of the longest matches of all rules, no shortcut."""
    caption = caption.translate(ptb._CHARACTERS)
    caption = ptb._ENTITY.sub(lambda m: ptb._ENTITIES.get(m[1].lower(), " "), caption)
    over_spaces = re.search(r"<\S[^<>]*\s[^<>]*>|[.)] \d|\b[A-Za-z]\. [A-Z]", caption)
    tokens = []
    for text in [caption] if over_spaces else caption.split():
        start = 0
        while start < len(text):
            if text[start].isspace():
                start += 1
                continue
            matches = [match for rule in ptb._RULES if (match := rule.match(text, start))]
            best = max(matches, key=re.Match.end)
            start = best.end(1)
            if (token := best[1].lower()) not in ptb._REMOVED:
                token = ptb._RENAMED.get(token, token)
                tokens += token.replace("(", "-lrb-").replace(")", "-rrb-").split()
    return tokens


PIECES = (
    *("a", "A", "n", "t", "1", "é", "U.", "st.", "can", "not", "www", "www.", "com", ".com/", "/b"),
    *".-_@/<>'\u2019&#:;=()!?,+$*\"|[]\\%",
    *(" ", " ", "http://", "x=", "&amp;", "\t"),
)


def test_no_shortcut_changes_a_token():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 25))) * rng.choice([1, 1, 2, 3])
        assert tokenize(text) == plain_tokenize(text), text


@pytest.mark.parametrize(
    "text", ["1U." * 4000, "www.11." * 2000, "é_www." * 2500, "<a" + " a" * 15_000]
)
def test_time_grows_with_the_length_and_no_faster(text):
    """Each took seconds, and four times as long for twice the text."""
    start = time.process_time()
    tokenize(text)
    assert time.process_time() - start < 1.5
