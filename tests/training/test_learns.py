"""The project's claim in small: a captioner learns to say what is there, and SMILE to say more."""

from itertools import islice
from pathlib import Path

import pytest
import torch

import train
from smile.config import load_config
from smile.data.shapes import Scene, scenes
from smile.system.distributed import World
from smile.training.report import summarise
from smile.weights.run_folder import load_run

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "configs" / "shapes.toml"
# 150 steps of MLE and 50 of SMILE on scenes of one object: seconds.
SETTINGS = (
    "vit.image_size=24", "vit.patch_size=6", "vit.dim=64", "vit.depth=1", "vit.mlp_dim=128",
    "decoder.dim=64", "decoder.depth=1", "decoder.mlp_dim=128", "train.epochs=4",
    "loss.mle_epochs=3", "train.lr=5e-3", "train.warmup_steps=20", "train.device=cpu",
    "train.val_every=3", "train.caption_images=48", "generate.num_beams=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def of_one_object() -> dict[str, list[Scene]]:
    def choose(split: str, count: int) -> list[Scene]:
        found = (scene for scene in scenes(split, image_size=24) if len(scene.objects) == 1)
        return list(islice(found, count))

    return {"train": choose("train", 800), "val": choose("val", 48), "test": []}


def test_a_small_captioner_learns_what_is_there(of_one_object, quick_runs, tmp_path):
    """What is usual: 52 to 56 % of its statements true, and 35 % if said of the next picture.

    Captions have 3 to 5 words after MLE, and 14 after SMILE.
    """
    config = load_config(CONFIG, SETTINGS)
    torch.manual_seed(config.train.seed)
    trainer = train.start(config, tmp_path, of_one_object, World())
    trainer.run()
    *_, after_mle, after_smile = trainer.progress.records
    val, captioner = of_one_object["val"], load_run(tmp_path)
    captions = captioner.caption([scene.read() for scene in val])
    own, others = (
        summarise(dict(zip((scene.name for scene in val), said, strict=True)), val)["true_share"]
        for said in (captions, [*captions[1:], captions[0]])
    )
    assert own == after_smile["true_share"] > 0.44
    assert own > others + 0.08
    assert after_smile["caption_words"] > 1.5 * after_mle["caption_words"]
