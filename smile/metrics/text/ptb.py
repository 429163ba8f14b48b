"""The Penn Treebank tokenizer of the COCO caption scores, without Java.

Published BLEU, ROUGE and CIDEr numbers depend on one tokenizer: Stanford CoreNLP 3.4.1 with
lower-casing, after which `pycocoevalcap` removes a list of punctuation. This module gives the same
words. It was written from that program's observed behaviour on captions and on made-up punctuation,
not from its source.

At each position in the text every rule below is tried; the longest match wins, and among equals the
earlier rule. What a rule's second group matches counts for its length but is left for the next
token: so "isn't" becomes "is" + "n't", although "isn" would be the longer word.

Whitespace ends nearly every token, so the tokens of each piece between spaces are cached. Time
grows linearly with a text's length: a rule that may read far ahead without a match is not tried
again inside what it has read (`_AHEAD`).

Captions are tokenised one by one. pycocoevalcap passes them all as one text, where the first word
of the next line can decide whether a caption that ends in one letter ("vitamin c.") keeps its full
stop; here captions do not depend on their neighbours.

Two quirks of the original are kept: brackets remain as the words `-lrb-`, `-rrb-`, ... (the removal
list has them in capitals, after lower-casing), and so do runs like `??` and `!!`.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["tokenize", "tokenize_all"]

# The punctuation that pycocoevalcap removes, and variants that Stanford's program rewrites to it.
_APOSTROPHE = "\u2019"  # the curly one; a straight ' has other rules at the start of a word
_REMOVED = frozenset(
    [
        *("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"),  # the list itself
        *("....", "---", "----", '"', _APOSTROPHE, "\u2010", "\u2011"),
    ]
)
_RENAMED = {"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", f"n{_APOSTROPHE}t": "n't"}
_RENAMED |= {f"{_APOSTROPHE}{end}": f"'{end}" for end in ("s", "m", "d", "ll", "re", "ve")}

_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif
    capt cf cie cmdr co col colo conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc
    ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lt
    ltd maj mar md mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct
    okla penn pfc ph ph.d plc ppte ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev rt
    sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ
    va vs vt wed wis wisc wm wyo
"""
_STATES = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"  # abbreviations in this case only
_NUMBERED = "art ca fig figs no nos op pp prop"  # abbreviations before a number only
# After one letter and a point, these in capitals begin a sentence ("plan b. The dog").
_STARTERS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last
    Many More Now Once One Other Our She Since So Some Such That The Their Then There These They
    This We What When While Yet You
"""


def _any(words: str) -> str:
    longest_first = sorted(words.split(), key=len, reverse=True)
    return f"(?:{'|'.join(map(re.escape, longest_first))})"


# Parts of the rules; matching ignores case except inside (?-i:...). When rules are applied, every
# non-ASCII character in the text is a letter, a symbol between spaces, or _APOSTROPHE.
_Q = rf"['{_APOSTROPHE}]"
_L = r"[a-z\x80-\u2018\u201a-\uffff]"
_A = r"[0-9a-z\x80-\u2018\u201a-\uffff]"
_NAME = rf"(?:[dlno]{_Q}|(?-i:[A-HJ-XZ]){_Q}){_L}{{2,}}"  # o'clock, l'oreal, K'nex
_ADDRESS = rf"{_A}+(?:[._-]{_A}+)*"
_MAIL = rf"{_ADDRESS}(?:@{_ADDRESS})+"
_WWW = rf"www(?:\.{_A}{{2,}})+"
_SITE = rf"(?:{_A}+\.)+(?:com|net|org|edu)"
_PAGE = rf"/[^\s\"<>()]+(?:{_A}|/)"

_RULES = [
    re.compile(rule, re.IGNORECASE)
    for rule in (
        r"('')",
        # One word that becomes two: isn't, dog's, cannot, gonna, 'tis.
        rf"({_L}*(?!n){_L})(n(?:{_Q}|`)t)",
        rf"({_A}+)({_Q}(?:s|m|d|ll|re|ve)(?!{_L}))",
        rf"(can(?=not)|[gl][ie]m(?=me)|[gw][oa]n(?=na)|got(?=ta))(not|me|na|ta)(?!{_A})",
        r"('t)(is|was)",
        # The second of the two, and other words that start or end with an apostrophe.
        rf"({_Q}(?:s|m|d|ll|re|ve)(?!{_L})|{_Q}n(?:{_Q}|(?!{_L})))",
        rf"(n(?:{_Q}|`)t)",
        rf"({_Q}(?:em|till?|cause)|{_Q}\d\d(?:s|(?=\s|$))|[djl]{_Q}|y{_Q}(?={_L}))",
        rf"((?:ol|somethin|dunkin)'(?!{_A})|c'mon|e'er|ev'ry|li'l|nat'l|nor'easter|s'mores)",
        rf"({_NAME}|{_L}+[aeiouy]{_Q}[aeiou]{_L}*)",
        # Letters with points.
        r"((?:[a-z]\.)+)",
        rf"([a-z])(\.\s(?-i:{_any(_STARTERS)})(?=\s|$))",
        rf"({_any(_ABBREVIATIONS)}\.|(?-i:{_any(_STATES)})\.)",
        rf"({_any(_NUMBERED)}\.)(\s?\d)",
        rf"({_A}+(?:-{_A}+)*\.)([,;:])",
        # Words and numbers, plain and joined.
        rf"({_A}+)",
        r"(\d+-\d+/\d+|[+-]?(?:\d*(?:[.,:]\d+)+|\d+))",
        rf"({_L}{_A}*(?:[.!?]{_L}{_A}*)+)",  # dog.cat
        rf"((?:{_NAME}|{_A}+)(?:[-_](?:{_NAME}|{_A}+))+)",  # red-and-white
        # 1,000-year-old, u.s.-made
        rf"((?:\d+(?:[.,]\d+)*\.?|(?:{_L}{_A}*\.)+{_A}*|{_A}+)(?:-(?:(?:{_L}\.){{2,}}|{_A}+))+)",
        rf"({_A}+(?:-{_L}+)?(?:/{_A}+(?:-{_L}+)?){{1,2}})",  # and/or
        r"((?-i:[A-Z]+(?:[&+][A-Z]+)+|[A-Z]{1,3}\$)|c\+\+|[cf]#)",
        # The web: addresses, tags, faces.
        rf"({_MAIL}|@(?:_|{_L})(?:_|{_A})*|#{_L}+|&#\d+;)",
        r"""((?-i:https?)://[^\s"<>()]+[^\s"<>()\[\]{}.,:;!?'\u2019])""",
        rf"({_WWW}{_PAGE})",
        rf"({_SITE}{_PAGE})",
        rf"""(</?{_L}{_A}*(?:\ +{_L}+(?:=(?:"[^"<>]*"|'[^'<>]*'|[^\s<>"']+))?)*\ */?>|<![^<>]*>)""",
        rf"([<>]?[:;=]['*]?-?(?:[]()\[|{{\\dp03]|(?-i:O))(?!{_A}))",
        # Everything else.
        r"(\(\d{3}\)\ ?\d{3}-\d{4})",
        r"([?!]{2,}|\.{3,4}|_+|\*+|\#{2,}|-{5,}|-{2,4}|<<|>>|\S)",
    )
]

_BEGINNINGS = {_MAIL: _ADDRESS, f"({_WWW}": _WWW, f"({_SITE}": rf"{_A}+(?:\.{_A}+)*"}
# The beginnings of three rules, None for the others. A beginning ends at the same position wherever
# in it one starts. So if a rule fails because of what follows that end, it fails at every start
# before it.
_AHEAD = [
    next((re.compile(ahead, re.I) for begins, ahead in _BEGINNINGS.items() if begins in rule), None)
    for rule in (rule.pattern for rule in _RULES)
]

# Only here do rules match across a space; captions without such a part are split at every space.
_STRETCHES = re.compile(r"<\S(?=[^<>]*>)[^<>]*\s|[.)] \d|\b[A-Za-z]\. [A-Z]")
_ENTITIES = {"amp": "&", "lt": " < ", "gt": " > ", **dict.fromkeys(("quot", "apos"), " ' ")}
_ENTITY = re.compile(r"&(amp|lt|gt|quot|apos|nbsp|mdash|ndash);", re.IGNORECASE)

_SPELLED = {
    # Quotes, dashes and the ellipsis, also in Windows-1252: all would be removed.
    **dict.fromkeys("\x91\x93\x94\x96\x97\xab\xbb\u2018\u201b\u2039\u203a\u201c\u201d", " "),
    **dict.fromkeys("\u2013\u2014\u2015\u2026", " "),
    **{"\x92": _APOSTROPHE, _APOSTROPHE: _APOSTROPHE, "\xad": ""},  # \xad: a place to hyphenate
    **{"\u2010": "\u2010", "\u2011": "\u2011"},  # hyphens that belong to the word
    **{"£": " # ", "¢": " cents ", **dict.fromkeys("\x80¤₠€", " $ ")},
    **{"¼": " 1/4 ", "½": " 1/2 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 "},
}
_SYMBOLS = (
    *(range(0xA1, 0xC0), range(0xD7, 0xD8), range(0xF7, 0xF8), range(0x2016, 0x2018)),
    *(range(0x201A, 0x2024), range(0x2030, 0x2039), range(0x203B, 0x203C), range(0x203E, 0x2043)),
    *(range(0x2070, 0x208F), range(0x2100, 0x2160), range(0x2190, 0x244B), range(0x2460, 0x2C00)),
    *(range(0x3001, 0x3003), range(0x3012, 0x3013), range(0x30FB, 0x30FC), range(0xFF01, 0xFFE7)),
)


class _Characters(dict):
    """Character → its replacement, computed when first used (for `str.translate`)."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if code < 0x80:
            read = char if code >= 0x20 else " "
        elif char in _SPELLED:
            read = _SPELLED[char]
        elif code > 0xFFFF:  # emoji and rarer scripts: the tokenizer knows none of them
            read = " "
        elif char.isalpha() or (code < 0x2000 and unicodedata.category(char) in ("Nd", "Mn", "Mc")):
            read = char
        elif any(code in symbols for symbols in _SYMBOLS):
            read = f" {char} "
        else:
            read = " "
        self[code] = read
        return read


_CHARACTERS = _Characters()


def tokenize(caption: str) -> list[str]:
    """The lower-case words of `caption`, punctuation removed; [] for an empty caption."""
    if not (caption.isascii() and caption.isprintable()):
        caption = caption.translate(_CHARACTERS)
    if "&" in caption:
        caption = _ENTITY.sub(lambda m: _ENTITIES.get(m[1].lower(), " "), caption)
    if _STRETCHES.search(caption):
        return list(_tokens(caption))
    return [token for piece in caption.split() for token in _tokens(piece)]


def tokenize_all(captions: Iterable[str]) -> list[list[str]]:
    """`tokenize` of each caption."""
    return [tokenize(caption) for caption in captions]


@lru_cache(maxsize=1 << 17)
def _tokens(text: str) -> tuple[str, ...]:
    tokens: list[str] = []
    start = 0
    dead = [0] * len(_RULES)  # the position before which a rule cannot match
    while start < len(text):
        if text[start].isspace():
            start += 1
            continue
        matches = []
        for number, rule in enumerate(_RULES):
            if start < dead[number]:
                continue
            if match := rule.match(text, start):
                matches.append(match)
            elif (ahead := _AHEAD[number]) and (read := ahead.match(text, start)):
                dead[number] = read.end()
        best = max(matches, key=re.Match.end)  # the first of the longest
        start = best.end(1)
        if (token := best[1].lower()) not in _REMOVED:
            token = _RENAMED.get(token, token).replace("(", "-lrb-").replace(")", "-rrb-")
            tokens.extend(token.split())
    return tuple(tokens)
