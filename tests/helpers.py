"""What several tests build on: tiny captioners and runs, pictures, servers; what counts as equal.

Fixtures are in `conftest.py`; processes are in `zygote.py`.
"""

import io
import json
import random
import signal
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import torch
from PIL import Image

import train
from smile.config import Config, DecoderConfig, GenerateConfig, ViTConfig, load_config
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.system.distributed import World
from smile.training.checkpointing.signals import Stopped
from smile.training.splits import load_splits
from smile.weights.run_folder import save_run

ROOT = Path(__file__).parent.parent

# Settings for configs/shapes.toml, and what they train --------------------------------------------

TINY = (
    "vit.dim=32", "vit.depth=2", "vit.num_heads=2", "vit.mlp_dim=64", "vit.patch_size=12",
    "vit.drop_path=0.2", "decoder.dim=32", "decoder.depth=1", "decoder.num_heads=2",
    "decoder.mlp_dim=64", "decoder.dropout=0.1", "data.num_train=101", "data.num_val=40",
    "data.num_test=20", "data.augment=true", "loss.objective=random", "loss.mle_epochs=2",
    "train.epochs=4", "train.batch_size=8", "train.accumulate=2", "train.warmup_steps=2",
    "train.caption_images=40", "generate.max_length=16", "generate.num_beams=2",
)  # fmt: skip
SMALL = (
    *TINY, "data.augment=false", "data.num_train=13", "data.num_val=5", "data.num_test=3",
    "train.batch_size=5", "train.caption_images=5", "train.epochs=2", "loss.mle_epochs=1",
    "loss.objective=smile", "train.workers=0", "train.grad_clip=0.5",
)  # fmt: skip
ONE_LAYER = (
    "vit.dim=32", "vit.depth=1", "vit.num_heads=2", "vit.mlp_dim=64", "vit.patch_size=12",
    "decoder.dim=32", "decoder.depth=1", "decoder.num_heads=2", "decoder.mlp_dim=64",
    "data.num_train=48", "data.num_val=6", "data.num_test=6", "train.batch_size=16",
    "train.warmup_steps=2", "generate.max_length=12", "generate.num_beams=2",
)  # fmt: skip


def config_of(*settings: str) -> Config:
    return load_config(ROOT / "configs" / "shapes.toml", [*SMALL, *settings])


def trainer_of(config: Config, folder: Path, world: World, *, resume: bool = False):
    """A trainer as train.py makes it; None if the run is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.train.seed)
    examples = load_splits(config)
    return (train.resume if resume else train.start)(config, folder, examples, world)


def stop_after(trainer, pauses: int) -> None:
    """Lets a signal come to the last process, once it has paused so many times."""
    manager, between_steps = trainer.manager, trainer.manager.between_steps

    def counting() -> None:
        nonlocal pauses
        pauses -= 1
        if pauses == 0 and manager.world.rank == manager.world.size - 1:
            manager.signals.number = signal.SIGTERM
        between_steps()

    manager.between_steps = counting


def train_in_bits(config: Config, folder: Path, world: World, pauses: Iterable[int]) -> int:
    """Trains, stopped after so many pauses, resumed, stopped after so many more …, to the end.

    Returns how often it was stopped.
    """
    trainer, stops = trainer_of(config, folder, world), 0
    for count in pauses:
        stop_after(trainer, count)
        try:
            trainer.run()
        except Stopped:
            stops += 1
        trainer = trainer_of(config, folder, world, resume=True)
    trainer.run()
    return stops


# Whether two runs are the same --------------------------------------------------------------------

WEIGHTS = ("model.safetensors", "last/model.safetensors", "mle/model.safetensors")
TIMES = {"seconds", "data_wait", "images_per_second"}  # of a record, the part that may differ


def differences(ours: Path, theirs: Path) -> list[str]:
    """Which results of two finished runs are not the same."""
    found = [name for name in WEIGHTS if (ours / name).read_bytes() != (theirs / name).read_bytes()]
    logs = []
    for folder in (ours, theirs):
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in line.items() if k not in TIMES} for line in lines])
    if logs[0] != logs[1]:
        found.append("log.jsonl")
    if left := [path for path in ours.rglob(".*") if path.is_file()]:
        found.append(f"left over: {left}")
    return found


def walks_by_chance(name: str) -> bool:
    """Whether a weight learns nothing, so that rounding alone moves it.

    A key's bias adds the same to all scores of a query, which a softmax does not see
    (`test_model.test_a_key_s_bias_changes_nothing`): its gradient is zero but for rounding, and
    AdamW, which divides a gradient by its own size, makes whole steps of that. Two runs whose sums
    are rounded otherwise (several processes, another instruction set) need not agree on it.
    """
    return name.endswith("key.bias")


def same_captions(first: Path, second: Path) -> bool:
    """Whether two files hold the same images and words in the same order, as surely.

    Log-probabilities agree to a rounding error, which depends on what shared an image's batch.
    """
    ours, theirs = (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (first, second)
    )

    def words(records: list[dict]) -> list:
        return [
            (record["image"], caption["text"])
            for record in records
            for caption in record["captions"]
        ]

    def numbers(records: list[dict]) -> list[float]:
        return [caption["logprob"] for record in records for caption in record["captions"]]

    return words(ours) == words(theirs) and all(
        abs(a - b) < 1e-4 for a, b in zip(numbers(ours), numbers(theirs), strict=True)
    )


# A captioner of random weights, and pictures for it -----------------------------------------------

WORDS = (
    "a",
    "photo",
    "of",
    "picture",
    "red",
    "blue",
    "dog",
    "cat",
    "tree",
    "on",
    "in",
    "the",
    "and",
)


def make_run(folder: Path, *, seed: int = 0, image_size: int = 16) -> Path:
    """A run folder with a tiny captioner of random weights, whose captions differ by image."""
    tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    config = Config(
        vit=ViTConfig(
            image_size=image_size, patch_size=8, dim=16, depth=1, num_heads=2, mlp_dim=32
        ),
        decoder=DecoderConfig(
            vocab_size=tokenizer.vocab_size,
            dim=16,
            features_dim=16,
            depth=1,
            num_heads=2,
            mlp_dim=32,
            max_positions=40,
        ),
        generate=GenerateConfig(num_beams=2, max_length=16, min_length=8),
    )
    torch.manual_seed(seed)
    captioner = Captioner(config=config, tokenizer=tokenizer).init_weights()
    for parameter in captioner.parameters():  # larger, so that the image matters
        parameter.data.mul_(3)
    save_run(folder, captioner)
    return folder


def make_photos(folder: Path, count: int) -> list[Path]:
    """Small pictures of noise, in folders, with awkward names; in the order of their names."""
    rng = random.Random(0)
    awkward = ['a "b", c', "new\nline", "ümläut", "comma,"]
    for i in range(count):
        place = folder / f"{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        name = f"{i:04}{awkward[i] if i < len(awkward) else ''}.png"
        pixels = rng.randbytes(16 * 16 * 3)
        Image.frombytes("RGB", (16, 16), pixels).save(place / name)
    return sorted(folder.rglob("*.png"))


def image_bytes(colour="red", size=(12, 8), form="PNG", **options) -> bytes:
    """The bytes of an image file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form, **options)
    return buffer.getvalue()


def colours_of(path: Path, box=None) -> set[tuple[int, int, int]]:
    """The colours in a box of a picture: left, upper, right, lower."""
    with Image.open(path) as image:
        return set(image.convert("RGB").crop(box).get_flattened_data())


def ramp(size: int) -> Image.Image:
    """A picture that grows redder to the right and greener downwards, evenly."""
    steps = torch.linspace(0, 255, size).round().to(torch.uint8)
    channels = steps.expand(size, size), steps[:, None].expand(size, size)
    return Image.fromarray(torch.stack([*channels, channels[0] * 0], dim=2).numpy())


def crop_shares(crops: torch.Tensor, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much of a `ramp`'s width and height each crop shows; a negative width is mirrored.

    crops: (B, 3, S, S). whole: (3, S, S), the same picture uncropped.
    """
    across, down = (slice(None), 0, 8, slice(2, -2)), (slice(None), 1, slice(2, -2), 8)
    slopes = [
        (pixels[across].diff().mean(dim=1), pixels[down].diff().mean(dim=1))
        for pixels in (crops, whole[None])
    ]
    (widths, heights), (width, height) = slopes
    return widths / width, heights / height


# Captioners of the transformers library -----------------------------------------------------------

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "of", "dog", "on", "the", "beach"]


def write_vocab(path: Path, size: int) -> None:
    words = PIECES + [f"word{i}" for i in range(size - len(PIECES) - 2)] + ["[DEC]", "[ENC]"]
    path.write_text("".join(word + "\n" for word in words))


def make_transformers(folder: Path, *, seed: int = 0, **sizes):
    """A random BLIP of the transformers library, saved with a vocabulary in `folder`.

    Skips the test that asks for it where the library is not installed.
    """
    import pytest  # here, because benchmarks use this file too

    transformers = pytest.importorskip("transformers")
    sizes = {"image": 32, "vit": (32, 2, 2), "text": (32, 2, 2), "vocab": 60, "eps": 1e-5} | sizes
    (vit_dim, vit_depth, vit_heads), (dim, depth, heads) = sizes["vit"], sizes["text"]
    config = transformers.BlipConfig(
        vision_config={
            "image_size": sizes["image"],
            "patch_size": 16,
            "hidden_size": vit_dim,
            "num_hidden_layers": vit_depth,
            "num_attention_heads": vit_heads,
            "intermediate_size": 4 * vit_dim,
            "layer_norm_eps": sizes["eps"],
        },
        text_config={
            "vocab_size": sizes["vocab"],
            "hidden_size": dim,
            "encoder_hidden_size": vit_dim,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * dim,
            "max_position_embeddings": 64,
            "bos_token_id": sizes["vocab"] - 2,
            "sep_token_id": 3,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
    )
    torch.manual_seed(seed)
    model = transformers.BlipForConditionalGeneration(config).eval()
    with (
        torch.no_grad()
    ):  # transformers starts biases and norms at 0 and 1, which would hide errors
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    write_vocab(folder / "vocab.txt", sizes["vocab"])
    return model


def as_transformers_5(folder: Path) -> None:
    """Turns what `export` wrote into what `save_pretrained` of transformers 5 leaves."""
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    pieces = (folder / "vocab.txt").read_text().split("\n")[:-1]
    (folder / "vocab.txt").unlink()
    model = {"type": "WordPiece", "vocab": {piece: i for i, piece in enumerate(pieces)}}
    whole = {
        "model": model,
        "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole))


# Servers ------------------------------------------------------------------------------------------


class Loopback:
    """An HTTP server in a thread; `answer(handler)` is the subclass's."""

    def __init__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.requests = []
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class FileServer(Loopback):
    """Serves files by their paths, whole or from a byte on; its attributes say how.

    `requests` lists the ranges that were asked for, None for a whole file, and `paths` of what.
    """

    def __init__(self, files: dict[str, bytes] | None = None):
        super().__init__()
        self.files = files or {}
        self.paths = []
        self.logins = []
        self.etag = '"v1"'
        self.kind = "application/octet-stream"
        self.ranges = True  # False: ignores Range, as simple servers do
        self.obeys_if_range = True
        self.says_version_of_parts = True
        self.cuts = []  # bytes after which each of the next responses is cut
        self.holds = []  # bytes after which each of the next responses waits for `close`
        self.status = 200
        self.closing = threading.Event()

    def close(self) -> None:
        self.closing.set()
        super().close()

    def answer(self, handler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        self.paths.append(handler.path)
        self.logins.append(handler.headers.get("Authorization"))
        content = self.files.get(urlsplit(handler.path).path)
        if self.status != 200 or content is None:
            handler.send_error(404 if self.status == 200 else self.status)
            return
        fresh = handler.headers.get("If-Range") == self.etag or not self.obeys_if_range
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if not (asked and self.ranges and fresh):
            start, status = 0, 200
        else:
            status = 416 if start >= len(content) else 206
        body = content[start:]
        handler.send_response(status)
        handler.send_header("Content-Type", self.kind)
        handler.send_header("Content-Length", str(len(body)))
        if self.etag and (status == 200 or self.says_version_of_parts):
            handler.send_header("ETag", self.etag)
        if status == 206:
            span = f"{start}-{len(content) - 1}"
            handler.send_header("Content-Range", f"bytes {span}/{len(content)}")
        if status == 416:
            handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.end_headers()
        if self.holds:
            handler.wfile.write(body[: self.holds.pop(0)])
            self.closing.wait(20)
        else:
            handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)
