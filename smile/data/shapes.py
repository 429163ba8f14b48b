"""Shapes: a captioning data set drawn from a seed, needing no files.

A scene holds one to three objects in the quarters of a picture and carries five captions, from
a glance ("a red circle") to one that names everything. Short captions outnumber long ones, as
human ones do, so that MLE learns to be brief and SMILE (arXiv 2306.13460) has something to add.

The scenes are designed for SMILE. It never penalises a word that is not in the caption, so a wrong
word is unlearned only if it competes with the right one in some caption. So every attribute of
every object has a word ("plain" as well as "striped"), the objects of a scene differ, backgrounds
share the colour words of the objects, and a lone object "and nothing else" still shows where "and"
does not go. A small ViT learns the scenes soon: colours are bright, and outlines, stripes and dots
are always dark ink, so a shape looks alike in every colour.

`check_caption` reads a caption back and says which of its statements are true of the scene.
"""

import hashlib
import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

from PIL import Image, ImageChops, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLORS = {
    "red": (235, 55, 50),
    "yellow": (250, 215, 40),
    "green": (50, 180, 80),
    "blue": (65, 130, 245),
    "pink": (250, 155, 205),
    "white": (250, 250, 250),
}
INK = (25, 20, 30)  # of outlines, stripes and dots
SIZES = {"small": (13, 15), "large": (20, 22)}  # smallest and largest diameter, in units
TEXTURES = ("plain", "striped", "dotted")
POSITIONS = ("top left", "top right", "bottom left", "bottom right")  # the order of naming
NUMBERS = {"two": 2, "three": 3}

# What a statement of a caption can be about; see `Statement`.
STATEMENT_KINDS = ("shape", "color", "size", "texture", "position", "background", "count", "others")

UNITS = 48  # a picture is UNITS x UNITS units, whatever its size in pixels
CELL = UNITS // 2
JITTER = 2  # how far an object may lie from the middle of its cell
SHADINGS = ("flat", "lighter below", "lighter above")  # of the background; never mentioned
SUPERSAMPLING = 8

SPLITS = {"train": range(0, 80), "val": range(80, 90), "test": range(90, 100)}  # in hundredths


@dataclass(frozen=True, kw_only=True)
class Object:
    """One object: what captions say of it, and where it is drawn (in units of 1/48 picture)."""

    shape: str
    color: str
    size: str
    texture: str
    position: str
    x: int  # left edge
    y: int  # top edge
    diameter: int  # side of its bounding box


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture of known content, with its captions; an `Example` of the data loaders."""

    name: str
    objects: tuple[Object, ...]  # in the order in which captions name them
    background: str
    shading: str
    captions: tuple[str, ...]
    image_size: int
    _drawn: dict[int, bytes] = field(default_factory=dict, compare=False, repr=False)

    def read(self, size: int | None = None) -> Image.Image:
        """The picture, RGB, `size` pixels wide and high (by default `image_size`).

        It is drawn once per size and kept, because training reads it every epoch; each call
        returns a new copy.
        """
        size = size or self.image_size
        if size not in self._drawn:
            self._drawn[size] = _draw(self, size).tobytes()
        return Image.frombytes("RGB", (size, size), self._drawn[size])


@dataclass(frozen=True)
class Statement:
    """One thing a caption says.

    `kind` is one of STATEMENT_KINDS ("count" is "two shapes", "others" is "nothing else"), or
    "unparsed" (a word that cannot be parsed, always false). `words` are the places of its words
    among the caption's.
    """

    kind: str
    text: str
    true: bool
    words: range = field(default=range(0), compare=False)


# Making scenes ------------------------------------------------------------------------------------


def make_scenes(split: str, count: int, *, seed: int = 0, image_size: int = UNITS) -> list[Scene]:
    """The first `count` scenes of a split ("train", "val" or "test"); the same at every call.

    What a scene shows decides its split (see `split_of`), so no scene of one split can be
    described like a scene of another, whatever the seeds. Raises ValueError on another split.
    """
    return list(islice(scenes(split, seed=seed, image_size=image_size), count))


def scenes(split: str, *, seed: int = 0, image_size: int = UNITS) -> Iterator[Scene]:
    """The scenes of `make_scenes`, an endless stream."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: expected one of {', '.join(SPLITS)}")
    rng = random.Random(f"{seed}/{split}")
    number = 0
    while True:
        objects, background = _draw_objects(rng)
        if split_of(objects, background) == split:
            yield Scene(
                name=f"shapes/{split}/{number}",
                objects=objects,
                background=background,
                shading=rng.choice(SHADINGS),
                captions=_write_captions(rng, objects, background),
                image_size=image_size,
            )
            number += 1


def signature(objects: tuple[Object, ...], background: str) -> str:
    """Everything a caption could say of the scene: its fullest description."""
    return _describe(objects, background, {"size", "texture", "color", "position", "background"})


def split_of(objects: tuple[Object, ...], background: str) -> str:
    """The one split that scenes of this content belong to."""
    digest = hashlib.blake2b(signature(objects, background).encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest) % 100
    return next(split for split, buckets in SPLITS.items() if bucket in buckets)


def _draw_objects(rng: random.Random) -> tuple[tuple[Object, ...], str]:
    """Objects of one scene, in reading order, and the colour of their background."""
    count = rng.choices((1, 2, 3), weights=(20, 45, 35))[0]
    background, *colors = rng.sample(tuple(COLORS), 1 + count)
    shapes = rng.sample(SHAPES, count)
    sizes = _differing(rng, tuple(SIZES), count)
    textures = _differing(rng, TEXTURES, count)
    positions = sorted(rng.sample(POSITIONS, count), key=POSITIONS.index)
    objects = []
    for i, position in enumerate(positions):
        diameter = rng.randint(*SIZES[sizes[i]])
        margin = (CELL - diameter) // 2
        jitter = min(JITTER, margin - 1)
        row, column = divmod(POSITIONS.index(position), 2)
        placed = Object(
            shape=shapes[i],
            color=colors[i],
            size=sizes[i],
            texture=textures[i],
            position=position,
            x=column * CELL + margin + rng.randint(-jitter, jitter),
            y=row * CELL + margin + rng.randint(-jitter, jitter),
            diameter=diameter,
        )
        objects.append(placed)
    return tuple(objects), background


def _differing(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
    """`count` values, not all the same if there are several."""
    while True:
        drawn = rng.choices(values, k=count)
        if count == 1 or len(set(drawn)) > 1:
            return drawn


# Writing captions ---------------------------------------------------------------------------------


def _write_captions(
    rng: random.Random, objects: tuple[Object, ...], background: str
) -> tuple[str, ...]:
    """Five captions in random order: one is brief, one says everything, the others vary."""
    others = rng.choices(("glance", "names", "details"), weights=(15, 60, 25), k=3)
    levels = [rng.choices(("glance", "names"), weights=(40, 60))[0], "everything", *others]
    rng.shuffle(levels)
    return tuple(_write_caption(rng, level, objects, background) for level in levels)


def _write_caption(
    rng: random.Random, level: str, objects: tuple[Object, ...], background: str
) -> str:
    """A caption of one level of richness: glance < names < details < everything."""
    if level == "everything":
        return signature(objects, background)
    if level == "details":
        named = rng.sample(("size", "texture", "position", "background"), rng.randint(1, 2))
        return _describe(objects, background, {"color", *named})
    if level == "names":
        return _describe(objects, background, {"color"})
    glances = [
        _describe(objects[:1], background, {"color"}),
        _describe(objects[:1], background, set()),
        _describe(objects, background, set()),
    ]
    for word, number in NUMBERS.items():
        if number == len(objects):
            glances.append(f"{word} shapes")
            glances.append(f"{word} shapes on a {background} background")
    return rng.choice(glances)


def _describe(objects: Sequence[Object], background: str, named: set[str]) -> str:
    """Name the objects with the attributes in `named`, always in the same word order."""
    phrases = []
    for thing in objects:
        adjectives = [
            getattr(thing, kind) for kind in ("size", "texture", "color") if kind in named
        ]
        place = [thing.position] if "position" in named else []
        phrases.append(" ".join(["a", *adjectives, thing.shape, *place]))
    caption = " and ".join(phrases)
    if "background" in named:
        caption += f" on a {background} background"
        if len(objects) == 1:
            caption += " and nothing else"
    return caption


# Drawing ------------------------------------------------------------------------------------------


def _draw(scene: Scene, size: int) -> Image.Image:
    """Paste the scene's objects on its background."""
    image = _background(scene.background, scene.shading, size).copy()
    scale = size / UNITS
    for thing in scene.objects:
        diameter = max(1, round(thing.diameter * scale))
        body, ink = _sprite(thing.shape, thing.texture, diameter, size)
        corner = (round(thing.x * scale), round(thing.y * scale))
        image.paste(COLORS[thing.color], corner, body)
        image.paste(INK, corner, ink)
    return image


@cache
def _background(color: str, shading: str, size: int) -> Image.Image:
    """A plain or softly shaded background. Cached: callers copy it."""
    base = COLORS[color]
    if shading == "flat":
        return Image.new("RGB", (size, size), base)
    r, g, b = base
    shade = (round(r * 0.85), round(g * 0.85), round(b * 0.85))
    column = Image.linear_gradient("L").resize((size, size))
    first, second = (base, shade) if shading == "lighter above" else (shade, base)
    return Image.composite(
        Image.new("RGB", (size, size), second), Image.new("RGB", (size, size), first), column
    )


@cache
def _sprite(shape: str, texture: str, diameter: int, size: int) -> tuple[Image.Image, Image.Image]:
    """Masks ("L") of an object's body and of the ink on it. Cached: do not change."""
    side = diameter * SUPERSAMPLING
    half = side / 2
    unit = size / UNITS * SUPERSAMPLING
    points = [(half + x * half, half + y * half) for x, y in outline(shape)]
    body = Image.new("L", (side, side))
    ImageDraw.Draw(body).polygon(points, fill=255)
    ink = Image.new("L", (side, side))
    pen = ImageDraw.Draw(ink)
    pen.line([*points, *points[:2]], fill=255, width=round(2 * unit), joint="curve")
    middle = diameter // 2 * SUPERSAMPLING  # the edge of a pixel: crisp stripes
    steps = _centered_steps(middle, 5 * unit, side)
    if texture == "striped":
        for y in steps:
            pen.rectangle((0, y - 0.9 * unit, side, y + 0.9 * unit), fill=255)
    elif texture == "dotted":
        for x in steps:
            for y in steps:
                pen.circle((x, y), 1.1 * unit, fill=255)
    ink = ImageChops.multiply(ink, body)  # the inner half of the line remains
    return body.reduce(SUPERSAMPLING), ink.reduce(SUPERSAMPLING)


def _centered_steps(center: float, step: float, end: float) -> list[float]:
    """The positions `center` ± multiples of `step` that are between 0 and `end`."""
    reach = math.ceil(end / step)
    return [center + k * step for k in range(-reach, reach + 1) if 0 < center + k * step < end]


def outline(shape: str) -> list[tuple[float, float]]:
    """The corners of a shape, scaled to fill the square from -1 to 1 (y points down)."""
    turns = [2 * math.pi * k / 60 for k in range(60)]
    if shape == "circle":
        points = [(math.cos(t), math.sin(t)) for t in turns]
    elif shape == "square":
        points = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    elif shape == "triangle":
        points = [(0, -1), (1, 0.85), (-1, 0.85)]
    elif shape == "star":
        tips = [(math.pi * k / 5, 0.5 if k % 2 else 1.0) for k in range(10)]
        points = [(r * math.sin(t), -r * math.cos(t)) for t, r in tips]
    elif shape == "cross":
        w = 0.38
        arm = [(-w, -w), (-w, -1), (w, -1)]  # the upper one; the others are its quarter turns
        points = arm + [(-y, x) for x, y in arm] + [(-x, -y) for x, y in arm]
        points += [(y, -x) for x, y in arm]
    else:
        points = [
            (16 * math.sin(t) ** 3, -13 * math.cos(t) + 5 * math.cos(2 * t) + 2 * math.cos(3 * t))
            for t in turns
        ]
    (left, right), (top, bottom) = ((min(c), max(c)) for c in zip(*points, strict=True))
    reach = max(right - left, bottom - top) / 2
    return [((x - (left + right) / 2) / reach, (y - (top + bottom) / 2) / reach) for x, y in points]


# Checking captions --------------------------------------------------------------------------------

Claim = dict[str, str]  # kind -> words; a noun phrase has a "shape" and whatever else it names


def _one_of(words: Iterable[str]) -> str:
    return "(?:" + "|".join(words) + ")"


CLAIM = re.compile(
    rf"""(?: (?P<others> and\ nothing\ else)
    | (?P<background> on\ a\ {_one_of(COLORS)}\ background)
    | (?P<count> {_one_of(NUMBERS)}\ shapes)
    | (?: (?<=\S\ ) and\ )? a
      (?: \ (?P<size> {_one_of(SIZES)}) )?
      (?: \ (?P<texture> {_one_of(TEXTURES)}) )?
      (?: \ (?P<color> {_one_of(COLORS)}) )?
      \ (?P<shape> {_one_of(SHAPES)})
      (?: \ (?P<position> {_one_of(POSITIONS).replace(" ", chr(92) + " ")}) )?
    | (?P<unparsed> \S+) ) (?!\S)""",
    re.VERBOSE,
)


def check_caption(caption: str, scene: Scene) -> list[Statement]:
    """The statements of a caption, each with whether it is true; an empty caption makes none.

    Each noun phrase is bound to a different object, such that most statements are true. A phrase
    without an object makes only false statements, and so does a second background or count.
    "Nothing else" is true if the caption names as many objects as there are.
    """
    parsed = list(_parse(" ".join(caption.lower().split())))
    phrases = [claim for claim, _ in parsed if "shape" in claim]
    bound = iter(_bind(phrases, scene.objects))
    facts = {
        "background": f"on a {scene.background} background",
        "count": next((f"{n} shapes" for n, k in NUMBERS.items() if k == len(scene.objects)), None),
        "others": "and nothing else" if len(phrases) == len(scene.objects) else None,
    }
    statements = []
    for claim, places in parsed:
        if "shape" in claim:
            thing = next(bound)
            for kind, value in claim.items():
                text = f"a {value}" if kind == "shape" else f"the {claim['shape']} is {value}"
                true = getattr(thing, kind, None) == value
                statements.append(Statement(kind, text, true, places[kind]))
        else:
            ((kind, text),) = claim.items()
            true = facts.pop(kind, None) == text
            statements.append(Statement(kind, text, true, places[kind]))
    return statements


def true_statements(scene: Scene) -> list[str]:
    """Everything that a caption can truly say of the scene, in `check_caption`'s words."""
    counts = [f"{word} shapes" for word, n in NUMBERS.items() if n == len(scene.objects)]
    phrases = [signature(scene.objects, scene.background), *counts, "and nothing else"]
    return [s.text for s in check_caption(" ".join(phrases), scene) if s.true]


def _parse(caption: str) -> Iterator[tuple[Claim, dict[str, range]]]:
    """Split a caption into claims, from the left; a word that begins none is unparsed.

    With each claim come the places of its words in the caption, whose spaces are single, by kind.
    """
    for match in CLAIM.finditer(caption):
        claim = {kind: text for kind, text in match.groupdict().items() if text}
        places = {}
        for kind, text in claim.items():
            first = caption.count(" ", 0, match.start(kind))
            places[kind] = range(first, first + len(text.split()))
        yield claim, places


def _bind(phrases: list[Claim], objects: Sequence[Object]) -> list[Object | None]:
    """A different object or None for each phrase, such that most claims are true."""

    @cache
    def best(i: int, free: tuple[int, ...]) -> tuple[int, tuple[int | None, ...]]:
        if i == len(phrases):
            return 0, ()
        options = []
        for k in (*free, None):
            score, rest = best(i + 1, tuple(j for j in free if j != k))
            if k is not None:
                score += sum(getattr(objects[k], kind) == v for kind, v in phrases[i].items())
            options.append((score, (k, *rest)))
        return max(options, key=lambda option: option[0])  # the first of equals

    _, chosen = best(0, tuple(range(len(objects))))
    return [None if k is None else objects[k] for k in chosen]
