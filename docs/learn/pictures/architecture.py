"""The whole on one page: from an image to words, the losses, and the file that holds each part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svg import Canvas

from pictures.scene import draw_scene, scene_data
from smile.config import Config, DecoderConfig, ViTConfig, load_config, with_settings
from smile.data.shapes import make_scenes
from smile.model.tokenizer import Tokenizer

CAPTIONER = Path(__file__).parents[1] / "captioner"
WIDTH, HEIGHT = 960, 640


def data(_: Mapping[str, Any]) -> Any:
    """The scene, a caption of it, and the sizes of the lesson's captioner and of BLIP base.

    The picture stands at the top, before any code, so it reads the captioner's files itself.
    """
    [scene] = make_scenes("test", 1)
    caption = min(scene.captions, key=len)
    config = load_config(CAPTIONER / "config.toml")
    tokenizer = Tokenizer.from_vocab(CAPTIONER / "vocab.txt")
    pieces = [tokenizer.vocab[i] for i in tokenizer.encode(caption, prompt=config.data.prompt)]
    start = len(tokenizer.prompt_ids(config.data.prompt))
    blip = with_settings(Config(), {"vit.image_size": 384})
    return {
        "scene": scene_data(scene),
        "caption": caption,
        "prompt": pieces[:start],
        "words": pieces[start:],
        "lesson": _sizes(config.vit, config.decoder),
        "blip": _sizes(blip.vit, blip.decoder),
    }


def _sizes(vit: ViTConfig, decoder: DecoderConfig) -> dict[str, int]:
    return {
        "pixels": vit.image_size,
        "vectors": 1 + (vit.image_size // vit.patch_size) ** 2,
        "dim": vit.dim,
        "blocks": vit.depth,
        "decoder_blocks": decoder.depth,
        "vocabulary": decoder.vocab_size,
    }


def draw(drawn: Any) -> Canvas:
    canvas = Canvas(WIDTH, HEIGHT)
    _encoder(canvas, drawn)
    _decoder(canvas, drawn)
    _training(canvas)
    _captioning(canvas, drawn["caption"])
    _rooms(canvas)
    return canvas


def _box(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    title: str,
    *lines: str,
    file: str = "",
    color: str = "",
) -> None:
    """A box with a title, lines, and the file that holds it at its foot."""
    x, y, width, height = box
    canvas.rect(
        x, y, width, height, fill=f"{color}-pale" if color else "panel", stroke=color or "edge"
    )
    middle = x + width / 2
    canvas.text(middle, y + 21, title, bold=True, anchor="middle", size=14)
    for n, line in enumerate(lines):
        canvas.text(middle, y + 41 + 17 * n, line, anchor="middle", size=12)
    if file:
        _file(canvas, middle, y + height - 9, file, color or "soft")


def _file(canvas: Canvas, x: float, y: float, name: str, color: str = "soft") -> None:
    canvas.text(x, y, name, size=11, anchor="middle", mono=True, color=color)


def _encoder(canvas: Canvas, drawn: Any) -> None:
    small, large = drawn["lesson"], drawn["blip"]
    draw_scene(canvas, drawn["scene"], 24, 44, 104)
    canvas.text(76, 32, "image", bold=True, anchor="middle", size=14)
    _file(canvas, 76, 166, "model/images.py", "image")
    canvas.arrow((134, 96), (166, 96), color="image")
    patches = (f"{small['vectors'] - 1} patches → vectors,", "one matrix for all of them;")
    patches += ("class token, positions",)
    _box(canvas, (170, 44, 180, 104), "patches", *patches, color="image")
    canvas.line((170, 38), (170, 32), (590, 32), (590, 38), color="image")
    canvas.text(372, 24, "ViT", bold=True, anchor="end", size=14)
    _file(canvas, 426, 24, "model/vit.py", "image")
    canvas.arrow((354, 96), (386, 96), color="image")
    blocks = f"{small['blocks']} blocks of"
    lines = (blocks, "self-attention and MLP")
    _box(canvas, (390, 44, 200, 104), "blocks", *lines, file="model/layers.py", color="image")
    canvas.arrow((594, 96), (626, 96), color="image")
    for n in range(small["vectors"]):
        canvas.rect(632 + 8.5 * n, 58, 6, 76, fill="image", radius=1.5, opacity=0.75)
    canvas.text(704, 48, "features", bold=True, anchor="middle", size=14)
    shape = f"{small['vectors']} × {small['dim']}"
    _file(canvas, 704, 150, f"{shape} numbers", "image")
    canvas.text(800, 74, "computed once,", size=12, color="soft")
    canvas.text(800, 91, "for all captions", size=12, color="soft")
    canvas.text(800, 116, f"BLIP base, {large['pixels']} pixels:", size=11, color="soft")
    canvas.text(800, 131, f"{large['vectors']} × {large['dim']}", size=11, color="soft")


def _decoder(canvas: Canvas, drawn: Any) -> None:
    small, large = drawn["lesson"], drawn["blip"]
    canvas.text(76, 232, "caption", bold=True, anchor="middle", size=14)
    canvas.text(76, 254, f"“{drawn['caption']}”", size=13, anchor="middle", color="text")
    _file(canvas, 76, 278, "data/", "text")
    canvas.arrow((134, 250), (166, 250), color="text")
    canvas.rect(170, 198, 180, 116, fill="text-pale", stroke="text")
    canvas.text(260, 217, "token ids", bold=True, anchor="middle", size=14)
    lines = (("prompt", "the prompt,"), ("words", "and in training the caption"))
    for n, (part, words) in enumerate(lines):
        y, pieces = 238 + 32 * n, " ".join(drawn[part])
        canvas.text(260, y, pieces, size=12, anchor="middle", mono=True)
        canvas.text(260, y + 14, words, size=11, anchor="middle", color="soft")
    _file(canvas, 260, 305, "model/tokenizer.py", "text")
    canvas.arrow((354, 250), (386, 250), color="text")
    _box(
        canvas,
        (390, 186, 340, 128),
        "decoder",
        f"{small['decoder_blocks']} blocks (BLIP base: {large['decoder_blocks']}) of",
        "causal self-attention: to the tokens before",
        "cross-attention: to the features",
        "MLP",
        file="model/decoder.py",
        color="text",
    )
    canvas.arrow((704, 156), (704, 182), color="image", width=2.5)
    canvas.text(170, 176, "ViT and decoder together:", size=11, color="soft")
    _file(canvas, 353, 176, "model/blip.py")
    canvas.arrow((734, 250), (766, 250), color="text")
    canvas.rect(770, 198, 168, 104, fill="text-pale", stroke="text")
    canvas.text(854, 219, "logits", bold=True, anchor="middle", size=14)
    canvas.text(854, 240, "at each position, a score", size=12, anchor="middle")
    canvas.text(854, 257, f"for each of {small['vocabulary']} tokens", size=12, anchor="middle")
    canvas.text(854, 274, f"(BLIP: {large['vocabulary']})", size=11, anchor="middle", color="soft")
    _file(canvas, 854, 293, "model/decoder.py", "text")


def _training(canvas: Canvas) -> None:
    """The right half below: logits and labels make a loss."""
    canvas.text(500, 354, "TRAINING", size=11, bold=True, color="soft")
    canvas.rect(500, 366, 438, 118, fill="panel", stroke="edge")
    canvas.line((894, 302), (894, 346), width=2)
    canvas.line((614, 346), (894, 346), width=2)
    for x in (614, 824):
        canvas.line((x, 346), (x, 356), width=2)
        canvas.arrow((x, 356), (x, 380), width=2)
    mle = "softmax over all tokens:", "every other word is punished"
    _box(canvas, (516, 382, 196, 70), "MLE", *mle, color="down")
    smile = "over the caption’s words:", "more detail is free"
    _box(canvas, (726, 382, 196, 70), "SMILE", *smile, color="up")
    _file(canvas, 719, 472, "loss.py, training/, train.py")


def _captioning(canvas: Canvas, caption: str) -> None:
    """The left half below: logits, a search, and words that are read again."""
    canvas.text(24, 354, "CAPTIONING", size=11, bold=True, color="soft")
    canvas.line((814, 302), (814, 328), color="up", width=2)
    canvas.line((814, 328), (360, 328), (360, 340), color="up", width=2)
    canvas.arrow((360, 340), (360, 364), color="up", width=2)
    canvas.rect(24, 366, 452, 118, fill="panel", stroke="edge")
    search = "greedy, beams or sampling", "choose the next token"
    _box(canvas, (250, 382, 210, 70), "search", *search, color="up")
    _file(canvas, 355, 472, "model/generate.py, cache.py")
    canvas.arrow((246, 417), (216, 417), color="up", width=2)
    canvas.text(128, 410, f"“{caption}”", size=13, anchor="middle", color="text")
    canvas.text(128, 430, "until [SEP]", size=12, anchor="middle", color="soft")
    _file(canvas, 128, 472, "model/captioner.py")
    canvas.line((120, 366), (120, 340), color="text", dashed=True)
    canvas.line((120, 340), (240, 340), color="text", dashed=True)
    canvas.arrow((240, 340), (240, 318), color="text")
    canvas.text(176, 334, "one more token", size=11, anchor="middle", color="soft")


def _rooms(canvas: Canvas) -> None:
    """What stands around the model: files in and out, many images, measuring."""
    rooms = (
        ("weights/", "BLIP’s weights,", "runs, export"),
        ("data/", "Flickr8k, COCO,", "drawn scenes"),
        ("captioning/", "many images:", "sample.py"),
        ("metrics/", "BLEU, CIDEr,", "retrieval, truth"),
        ("evaluation/", "tables, reports:", "evaluate.py"),
        ("page/", "web page, book:", "app.py"),
        ("system/", "files, devices,", "processes"),
    )
    canvas.text(24, 518, "AROUND IT", size=11, bold=True, color="soft")
    width = (WIDTH - 48 - 12 * (len(rooms) - 1)) / len(rooms)
    for n, (name, *lines) in enumerate(rooms):
        x = 24 + (width + 12) * n
        canvas.rect(x, 530, width, 76, fill="panel", stroke="edge")
        canvas.text(x + width / 2, 551, name, size=12, anchor="middle", mono=True, bold=True)
        for k, line in enumerate(lines):
            canvas.text(x + width / 2, 573 + 17 * k, line, size=12, anchor="middle")
    canvas.text(
        24,
        626,
        "All paths are below smile/, but for train.py, sample.py, evaluate.py and app.py.",
        size=11,
        color="soft",
    )
