"""Scenes are repeatable, well drawn and truly described, and the checker sees every falsehood."""

import dataclasses

import pytest
from PIL import ImageChops

from smile.data.shapes import (
    COLORS,
    SHAPES,
    SPLITS,
    TEXTURES,
    Object,
    Scene,
    check_caption,
    make_scenes,
    signature,
    split_of,
)


@pytest.fixture(scope="module")
def scenes():
    return {split: make_scenes(split, 600) for split in SPLITS}


def make_scene(*, background="white", **changes):
    """A small striped red circle top left and a large plain blue square bottom right."""
    circle = Object(
        shape="circle", color="red", size="small", texture="striped", position="top left",
        x=5, y=5, diameter=14,
    )  # fmt: skip
    square = Object(
        shape="square", color="blue", size="large", texture="plain", position="bottom right",
        x=25, y=25, diameter=21,
    )  # fmt: skip
    return Scene(
        name="scene",
        objects=(dataclasses.replace(circle, **changes), square),
        background=background,
        shading="flat",
        captions=(),
        image_size=48,
    )


FULL = (
    "a small striped red circle top left and a large plain blue square bottom right"
    " on a white background"
)


def false_kinds(caption, scene=None):
    return sorted(s.kind for s in check_caption(caption, scene or make_scene()) if not s.true)


# Scenes


def test_scenes_are_the_same_at_every_call():
    first, again = make_scenes("train", 40, seed=3), make_scenes("train", 40, seed=3)
    assert first == again
    assert [s.read().tobytes() for s in first] == [s.read().tobytes() for s in again]
    assert make_scenes("train", 10, seed=3) == first[:10]
    assert make_scenes("train", 40, seed=4) != first


def test_scenes_are_the_same_on_every_machine():
    # The seed's random numbers are Python's promise; a change here changes everybody's data set.
    scene = make_scenes("val", 1)[0]
    assert scene.name == "shapes/val/0"
    assert scene.captions == (
        "a large dotted green heart top left and a small plain blue triangle bottom right"
        " on a red background",
        "a green heart and a blue triangle",
        "a green heart and a blue triangle",
        "a green heart top left and a blue triangle bottom right on a red background",
        "a heart",
    )


@pytest.mark.slow
def test_splits_share_no_content(scenes):
    contents = {
        split: {
            signature(s.objects, s.background) for s in (*many, *make_scenes(split, 300, seed=1))
        }
        for split, many in scenes.items()
    }
    assert not contents["train"] & contents["val"]
    assert not contents["train"] & contents["test"]
    assert not contents["val"] & contents["test"]
    for split, many in scenes.items():
        assert {split_of(s.objects, s.background) for s in many} == {split}


def test_content_is_what_can_be_said_not_where_it_is_drawn():
    scene, moved, recolored = make_scene(), make_scene(x=9, diameter=13), make_scene(color="green")
    assert signature(scene.objects, "white") == signature(moved.objects, "white")
    assert signature(scene.objects, "white") != signature(recolored.objects, "white")
    assert signature(scene.objects, "white") != signature(scene.objects, "pink")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"'dev'.*train, val, test"):
        make_scenes("dev", 1)


@pytest.mark.slow
def test_objects_are_named_in_reading_order(scenes):
    places = ["top left", "top right", "bottom left", "bottom right"]
    for scene in scenes["train"]:
        order = [places.index(thing.position) for thing in scene.objects]
        assert order == sorted(order)
        for thing in scene.objects:
            left, top = thing.x + thing.diameter / 2 < 24, thing.y + thing.diameter / 2 < 24
            assert thing.position == f"{'top' if top else 'bottom'} {'left' if left else 'right'}"


def test_every_value_occurs(scenes):
    objects = [thing for scene in scenes["train"] for thing in scene.objects]
    assert {thing.shape for thing in objects} == set(SHAPES)
    assert {thing.color for thing in objects} == set(COLORS)
    assert {thing.texture for thing in objects} == set(TEXTURES)
    assert {len(scene.objects) for scene in scenes["train"]} == {1, 2, 3}
    assert {scene.background for scene in scenes["train"]} == set(COLORS)


def test_objects_lie_apart_in_the_frame_and_differ_from_the_background(scenes):
    for scene in scenes["train"]:
        boxes = [(o.x, o.y, o.x + o.diameter, o.y + o.diameter) for o in scene.objects]
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert left > 0 and top > 0 and right < 48 and bottom < 48
            for other in boxes[i + 1 :]:
                apart = (right < other[0], other[2] < left, bottom < other[1], other[3] < top)
                assert any(apart)
        assert scene.background not in {o.color for o in scene.objects}


# Pictures


@pytest.mark.parametrize("size", [32, 48, 96])
def test_pictures_have_the_size_asked_for(size):
    (scene,) = make_scenes("train", 1, image_size=size)
    assert scene.read().size == (size, size) and scene.read().mode == "RGB"
    assert scene.read(64).size == (64, 64)


def test_a_picture_handed_out_can_be_changed_freely():
    scene = make_scene()
    before = scene.read().tobytes()
    scene.read().paste((1, 2, 3), (0, 0, 48, 48))
    assert scene.read().tobytes() == before


def test_what_is_drawn_is_what_is_said():
    image = make_scene(texture="plain", diameter=14).read()
    assert image.getpixel((12, 12)) == COLORS["red"]
    assert image.getpixel((35, 35)) == COLORS["blue"]
    assert image.getpixel((35, 11)) == COLORS["white"]


@pytest.mark.parametrize(
    "change",
    [*({"shape": s} for s in SHAPES[1:]), {"color": "green"}, {"texture": "plain"},
     {"texture": "dotted"}, {"diameter": 20}, {"x": 9}, {"y": 9}, {"background": "pink"}],
    ids=str,
)  # fmt: skip
def test_every_attribute_shows(change):
    difference = ImageChops.difference(make_scene().read(), make_scene(**change).read())
    changed = sum(pixel != (0, 0, 0) for pixel in difference.get_flattened_data())
    assert changed > 12


def test_edges_are_smooth():
    image = make_scene(texture="plain").read().crop((0, 0, 24, 24))
    assert len(image.getcolors()) > 8


# Captions


def test_captions_range_from_brief_to_full(scenes):
    for scene in scenes["train"]:
        lengths = [len(caption.split()) for caption in scene.captions]
        assert len(lengths) == 5
        assert min(lengths) <= 11 and max(lengths) >= 14
        assert max(lengths) >= 2 * min(lengths)
        assert signature(scene.objects, scene.background) in scene.captions


def test_short_captions_are_the_common_ones(scenes):
    lengths = [len(c.split()) for scene in scenes["train"] for c in scene.captions]
    longest = [max(len(c.split()) for c in scene.captions) for scene in scenes["train"]]
    assert sum(n <= 11 for n in lengths) > 0.6 * len(lengths)
    assert 18 < sum(longest) / len(longest) < 24


def test_captions_are_plain_words_of_a_small_vocabulary(scenes):
    text = " ".join(c for scene in scenes["train"] for c in scene.captions)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert len(set(text.split())) < 50


@pytest.mark.slow
def test_every_caption_is_true(scenes):
    for scene in (scene for many in scenes.values() for scene in many):
        for caption in scene.captions:
            statements = check_caption(caption, scene)
            assert statements and all(s.true for s in statements), (caption, statements)


# The checker


def test_the_full_caption_says_everything_once():
    kinds = sorted(s.kind for s in check_caption(FULL, make_scene()))
    per_object = ["color", "position", "shape", "size", "texture"]
    assert kinds == sorted(["background", *per_object, *per_object])
    assert false_kinds(FULL) == []


@pytest.mark.parametrize(
    ("right", "wrong", "kind"),
    [
        ("circle", "star", "shape"),
        ("red", "green", "color"),
        ("small", "large", "size"),
        ("striped", "dotted", "texture"),
        ("top left", "top right", "position"),
        ("white", "pink", "background"),
        ("circle", "cat", None),
    ],
)
def test_a_wrong_word_makes_one_false_statement(right, wrong, kind):
    falsehoods = false_kinds(FULL.replace(right, wrong))
    assert falsehoods == [kind] if kind else set(falsehoods) == {"unparsed"}


@pytest.mark.parametrize(
    ("caption", "falsehoods"),
    [
        ("", []),
        ("a red circle", []),
        ("A  Red circle", []),
        ("a blue square and a red circle", []),  # order is style, not truth
        ("two shapes on a white background", []),
        ("three shapes", ["count"]),
        ("a blue circle", ["color"]),
        ("a star", ["shape"]),
        ("a red circle and a red circle", ["color", "shape"]),
        ("a circle and a circle and a circle", ["shape", "shape"]),
        ("a red circle on a white background on a white background", ["background"]),
        ("two shapes two shapes", ["count"]),
        ("a red circle on a white background and nothing else", ["others"]),
        ("a red circle and a blue square and nothing else", []),
        ("red circle", ["unparsed"] * 2),
        ("a striped small circle", ["unparsed"] * 4),
        ("a red circle and", ["unparsed"]),
        ("and a red circle", ["unparsed"]),
        ("a red circle top", ["unparsed"]),
        ("a red circles", ["unparsed"] * 3),
        ("red red the a on background circle", ["unparsed"] * 7),
    ],
)
def test_falsehoods_are_found(caption, falsehoods):
    assert false_kinds(caption) == falsehoods


@pytest.mark.parametrize(
    ("caption", "false"),
    [
        (FULL, []),
        ("A  red  STAR", [2]),
        ("a red circle top right on a pink background", [3, 4, 5, 6, 7, 8]),
        ("a red circle and nothing else", [3, 4, 5]),
        ("a green circle and a blue star", [1, 6]),
        ("a red cat", [0, 1, 2]),
    ],
)
def test_a_false_statement_knows_its_words(caption, false):
    statements = check_caption(caption, make_scene())
    assert [n for s in statements if not s.true for n in s.words] == false


def test_phrases_are_bound_so_that_most_is_true():
    # Taken one after the other, "a red circle" would use up the only striped circle.
    scene = make_scene(color="blue")
    statements = check_caption("a red circle and a striped circle", scene)
    assert [s.true for s in statements if s.kind == "texture"] == [True]
    assert sum(s.true for s in statements) == 2
