"""Every setting matters: another value gives a run of its own, or a list says why it does not.

A setting that never reaches the run is a promise that train.py --help breaks in silence. So each
one is changed alone, in a run of two steps, and what came of it is compared with the run without
the change: weights, log, captions and files, without what only repeats the config.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import smile
import train
from smile.config import SETTINGS, load_config
from smile.model.captioner import Captioner
from smile.training.schedule import Phase
from smile.training.setup import make_captioner
from smile.training.splits import load_splits
from smile.weights.run_folder import save_run

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "configs" / "shapes.toml"
SMALLEST = (
    "vit.image_size=8", "vit.patch_size=4", "vit.dim=8", "vit.depth=1", "vit.num_heads=2",
    "vit.mlp_dim=8", "decoder.dim=8", "decoder.depth=1", "decoder.num_heads=2",
    "decoder.mlp_dim=8", "data.num_train=4", "data.num_val=2", "data.num_test=0",
    "data.captions_per_image=5", "train.batch_size=2", "train.epochs=1", "loss.mle_epochs=0",
    "train.warmup_steps=0", "train.device=cpu", "train.workers=0", "train.caption_images=4",
    "generate.num_beams=1", "generate.max_length=12", "generate.min_length=0",
)  # fmt: skip

# Where a setting needs others to matter at all.
SWITCH = ("train.epochs=2", "loss.mle_epochs=1")
TWO_EPOCHS = ("train.epochs=2",)
PHOTOS = ("data.format=folder", "data.root=photos")
SPLIT_BY_HASH = ("data.format=folder", "data.root=flat")
DEEP = ("vit.depth=2",)
SPEAKS = (  # captions of several lengths, that other settings change
    "model.init=start", "train.lr=1e-5", "train.min_lr=1e-5", "data.num_val=4",
    "generate.num_beams=3",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """Values that differ in their outcome from the one in `given` (or SMALLEST), and in pairs."""

    values: tuple[str, ...]
    given: tuple[str, ...] = ()


def to(*values: object, given: tuple[str, ...] = ()) -> Change:
    return Change(tuple(map(str, values)), given)


CHANGES = {
    "model.init": to("start"),
    "vit.image_size": to(12),
    "vit.patch_size": to(8),
    "vit.dim": to(16),
    "vit.depth": to(2),
    "vit.num_heads": to(4),
    "vit.mlp_dim": to(12),
    "vit.norm_eps": to(0.1),
    "vit.stem": to("conv"),
    "vit.drop_path": to(0.5, given=DEEP),
    "decoder.dim": to(16),
    "decoder.depth": to(2),
    "decoder.num_heads": to(4),
    "decoder.mlp_dim": to(12),
    "decoder.max_positions": to(50),
    "decoder.norm_eps": to(0.1),
    "decoder.dropout": to(0.5),
    "tokenizer.vocab": to("start/vocab.txt", given=PHOTOS),
    "tokenizer.vocab_size": to(60),
    "tokenizer.strip_accents": to("true", given=PHOTOS),
    "data.format": to("folder", given=("data.root=photos",)),
    "data.root": to("others", given=PHOTOS),
    "data.annotations": to("some.csv", given=PHOTOS),
    "data.prompt": to("a photo of "),
    "data.max_tokens": to(8),
    "data.max_words": to(2, given=PHOTOS),
    "data.captions_per_image": to(2),
    "data.augment": to("true"),
    "data.augment_on": to("device", given=("data.augment=true",)),
    "data.cache": to("cached"),
    "data.skip_broken": to("true", given=("data.format=folder", "data.root=broken")),
    "data.val_fraction": to(0.4, given=SPLIT_BY_HASH),
    "data.test_fraction": to(0.4, given=SPLIT_BY_HASH),
    "data.num_train": to(3),
    "data.num_val": to(0, 1),
    "data.num_test": to(2),
    "data.seed": to(1),
    "loss.objective": to("mle", "reverse", "random"),
    "loss.mle_epochs": to(1, given=TWO_EPOCHS),
    "loss.lr": to(1e-4, given=SWITCH),
    "loss.warmup_steps": to(2, given=SWITCH),
    "loss.mle_weight": to(0.5),
    "loss.label_smoothing": to(0.5, given=("loss.mle_weight=0.5",)),
    "loss.first_token": to("shift", "none"),
    "loss.selective_end": to("true"),
    "loss.num_random": to(3, given=("loss.objective=random",)),
    "train.epochs": to(2),
    "train.batch_size": to(3),
    "train.accumulate": to(2),
    "train.lr": to(1e-2),
    "train.ema": to(0.9),
    "train.min_lr": to(1e-4),
    "train.warmup_steps": to(2),
    "train.weight_decay": to(10.0),
    "train.betas": to("[0.5, 0.999]", "[0.9, 0.5]"),
    "train.grad_clip": to(0.01),
    "train.seed": to(1),
    "train.save_minutes": to(1e-9),
    "train.val_every": to(2, given=TWO_EPOCHS),
    "train.keep_captioners": to("true"),
    "train.caption_images": to(1, 0, given=("data.num_val=5",)),
    "train.precision": to("bfloat16"),
    "train.freeze": to("['vit']"),
    "generate.num_beams": to(1, given=SPEAKS),
    "generate.max_length": to(8, given=SPEAKS),
    "generate.min_length": to(9, given=SPEAKS),
    "generate.length_penalty": to(5.0, given=SPEAKS),
    "generate.early_stopping": to("true", given=(*SPEAKS, "generate.length_penalty=5.0")),
    "generate.repetition_penalty": to(5.0, given=SPEAKS),
    "generate.no_repeat_ngram_size": to(1, given=SPEAKS),
    "generate.forbid": to("['c w', 'pink']", given=SPEAKS),
    "generate.top_p": to(0.5, given=SPEAKS),
    "generate.top_k": to(2, given=SPEAKS),
    "generate.temperature": to(2.0, given=SPEAKS),
    "generate.do_sample": to("true", given=SPEAKS),
}

SAME_RESULT = {  # on purpose; what they do instead is tested at the end of this file
    "data.download": "the files are the same, fetched by this command or by hand",
    "train.workers": "who reads the pictures changes none",
    "train.checkpoint_blocks": "computing twice saves memory, and gives the same numbers",
    "train.compile": "the same captioner, after minutes of compiling",
    "train.device": "no other is sure to be there",
    "generate.num_return": "training shows one caption per image; it counts when the run is loaded",
    "model.trained_on": "train.py records it itself, whatever it is",
}
ONE_VALUE_FITS = {"decoder.vocab_size": 9, "decoder.features_dim": 9}  # the others are refused

ECHOES = {"epochs", "objective", "lr"}  # what a record repeats of the config
TIMES = {"seconds", "data_wait", "images_per_second"}


def test_each_setting_is_here_once():
    listed = [*CHANGES, *SAME_RESULT, *ONE_VALUE_FITS]
    assert sorted(listed) == sorted(SETTINGS), (
        "a new setting needs a line in CHANGES (a value that changes what comes of a run), or one "
        "in another list of this file that says why none does"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Photos in several folders, and `start`, a captioner of scenes."""
    place = tmp_path_factory.mktemp("place")
    for folder, shade in (("photos", 0), ("others", 100)):
        for number, split in enumerate(("train", "train", "val", "test")):
            save_photo(place / folder / split / f"{number}.png", 30 * number + shade)
    rows = [f"train/{n}.png,a dog,train" for n in (0, 1)] + ["val/2.png,a cat,val"]
    (place / "photos" / "some.csv").write_text("\n".join(["image,caption,split", *rows]))
    for number in range(8):
        save_photo(place / "flat" / f"{number}.png", 30 * number)
    for number in range(3):
        save_photo(place / "broken" / ("train", "train", "val")[number] / f"{number}.png", 90)
    (place / "broken" / "train" / "0.png").write_bytes(b"no picture")
    save_run(place / "start", captioner_that_stops())
    return place


def captioner_that_stops() -> Captioner:
    """One that has learned nothing, but is sure of itself, and says [SEP] now and then."""
    config = load_config(CONFIG, SMALLEST)
    torch.manual_seed(0)
    captioner = make_captioner(config, load_splits(config)["train"])
    captioner.decoder.word_embed.weight.data *= 3
    captioner.decoder.head_bias.data[captioner.tokenizer.sep_id] += 3
    return captioner


def save_photo(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8), (shade, 90, 200)).save(path)
    path.with_suffix(".txt").write_text(f"a caf\u00e9 by the sea\nwe see {shade} birds", "utf-8")


@pytest.fixture
def outcome(place, quick_runs, tmp_path_factory, monkeypatch, capfd):
    """Trains with some settings in a new folder; what came of it, as things to compare."""

    def outcome(*settings: str) -> dict[str, object]:
        folder = tmp_path_factory.mktemp("run")
        monkeypatch.chdir(folder)
        for entry in place.iterdir():
            Path(entry.name).symlink_to(entry)
        options = [word for s in (*SMALLEST, *settings) for word in ("--set", s)]
        monkeypatch.setattr(sys, "argv", ["train.py", str(CONFIG), "--out", "run", *options])
        quick_runs.clear()
        try:
            train.main()
        except SystemExit:
            return {"refused": capfd.readouterr().err}
        capfd.readouterr()
        return {
            "weights": [digest(path) for path in sorted(Path("run").rglob("*.safetensors"))],
            "log": [record_of(line) for line in Path("run/log.jsonl").read_text().splitlines()],
            "files": sorted(str(path) for path in Path().rglob("*") if not path.is_symlink()),
            "checkpoints": len(quick_runs),
        }

    return outcome


def digest(path: Path) -> str:
    tensors = load_file(path)
    parts = (f"{name} {list(tensors[name].shape)}".encode() for name in sorted(tensors))
    data = b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(b"".join(parts) + data).hexdigest()


def record_of(line: str) -> dict[str, object]:
    return {k: v for k, v in json.loads(line).items() if k not in ECHOES | TIMES}


@pytest.fixture(scope="module")
def unchanged() -> dict[tuple[str, ...], dict]:
    """Outcomes of runs without a change, by what they were given."""
    return {}


@pytest.mark.parametrize("name", CHANGES)
def test_another_value_gives_another_run(name, outcome, unchanged):
    values, given = CHANGES[name].values, CHANGES[name].given
    if given not in unchanged:
        unchanged[given] = outcome(*given)
    outcomes = [unchanged[given], *(outcome(*given, f"{name}={value}") for value in values)]
    assert not any("refused" in found for found in outcomes[1:]), outcomes
    for number, found in enumerate(outcomes):
        assert found not in outcomes[:number], f"{name}: {values} and what it was"


# What the others do -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_VALUE_FITS)
def test_a_size_that_does_not_fit_is_refused(name, outcome):
    assert name in outcome(f"{name}={ONE_VALUE_FITS[name]}")["refused"]


def test_the_device_is_the_one_asked_for(outcome, monkeypatch):
    asked = []
    monkeypatch.setattr(train, "pick_device", lambda name: asked.append(name) or device)
    device = torch.device("cpu")
    outcome("train.device=mps")
    assert set(asked) == {"mps"}


@pytest.fixture
def trainer_of(tmp_path):
    def trainer_of(*settings: str) -> train.Trainer:
        config = load_config(CONFIG, [*SMALLEST, *settings])
        examples = load_splits(config)
        return train.Trainer(make_captioner(config, examples["train"]), tmp_path, examples)

    return trainer_of


def test_workers_read_the_pictures(trainer_of):
    assert trainer_of("train.workers=2").batches.num_workers == 2


@pytest.mark.parametrize(("count", "times"), [(0, [1, 1]), (1, [1, 2]), (2, [2, 2])])
def test_checkpointed_blocks_are_computed_twice(count, times, trainer_of):
    trainer = trainer_of(*DEEP, f"train.checkpoint_blocks={count}")
    computed = [0, 0]
    for number, block in enumerate(trainer.captioner.vit.blocks):

        def note(block, inputs, number=number):
            computed[number] += 1

        block.register_forward_pre_hook(note)
    trainer.step([next(iter(trainer.batches))], Phase.of(trainer.config, 0), lr=1e-3)
    assert computed == times


def test_compiled_blocks_are_all_blocks(trainer_of, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **_: compiled.append(block))
    captioner = trainer_of("train.compile=true").captioner
    assert compiled == [*captioner.vit.blocks, *captioner.decoder.blocks]


def test_what_is_saved_describes_as_the_run_says(outcome, place):
    outcome("generate.num_return=2", "generate.num_beams=2", "model.trained_on=photos")
    captioner = smile.load("run")
    assert captioner.config.model.trained_on == "shapes"
    captions = captioner.caption(place / "photos" / "train" / "0.png")
    assert len(captions) == len(set(captions)) == 2
