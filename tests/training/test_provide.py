"""Training and scoring on Flickr8k from an empty folder: what is missing is fetched, or all named.

The archives come from a server on the loopback, with drawn pictures in them.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from flickr8k_server import PHOTOS, TEXT, Flickr8kServer
from helpers import ROOT, make_run
from huggingface_hub import constants
from zygote import run_ranks

import evaluate
from smile.config import DataConfig, load_config
from smile.data.flickr8k_archives import MIRROR, TERMS
from smile.errors import UserError
from smile.system import download
from smile.system.distributed import World
from smile.training import provide as providing
from smile.training.provide import fetch, provide
from smile.weights.export import export_transformers
from smile.weights.run_folder import LOG, load_run

FLICKR8K, SCRATCH = (ROOT / "configs" / f"{name}.toml" for name in ("flickr8k", "flickr8k_scratch"))
SHORT = (
    "train.epochs=1", "train.batch_size=4", "train.workers=0", "train.caption_images=1",
    "train.warmup_steps=0", "data.augment=false", "vit.image_size=16", "generate.num_beams=1",
    "generate.min_length=0", "generate.max_length=12",
)  # fmt: skip
TINY = (
    *SHORT, "loss.mle_epochs=0", "vit.dim=16", "vit.depth=1", "vit.num_heads=2", "vit.mlp_dim=16",
    "decoder.dim=16", "decoder.depth=1", "decoder.num_heads=2", "decoder.mlp_dim=16",
    "tokenizer.vocab_size=100",
)  # fmt: skip


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture
def empty(tmp_path, empty_caches, monkeypatch) -> Path:
    """An empty working directory on a machine with empty caches, from which no hub is reached."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    closed = "http://127.0.0.1:9"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, closed)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    monkeypatch.setattr(download, "wait", lambda seconds: None)
    return folder


@pytest.fixture
def server(empty, monkeypatch):
    server = Flickr8kServer()
    monkeypatch.setenv(MIRROR, server.address)
    yield server
    server.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("random") / "run")


@pytest.fixture(scope="module")
def transformers_folder(run) -> Path:
    """Random weights with a vocabulary of their own, as `transformers` saves them."""
    export_transformers(load_run(run), run.parent / "transformers")
    return run.parent / "transformers"


def archives(server: Flickr8kServer) -> list[str]:
    """The archives that were asked for, in this order."""
    return [path[1:] for path in server.paths if path.endswith(".zip")]


# --- from an empty folder ----------------------------------------------------------------------


@pytest.mark.slow
def test_one_command_trains_from_an_empty_folder(server, empty, run_main, quick_runs):
    status, out, errors = run_main(SCRATCH, *sets(*TINY))
    assert status == 0, errors
    assert archives(server) == [TEXT, PHOTOS]
    [line] = [line for line in errors.splitlines() if TERMS in line]
    assert f"from {server.address} to data/flickr8k" in line
    assert "8 train, 3 val, 3 test" in out and sorted(os.listdir()) == ["data", "runs"]
    [record] = map(json.loads, Path("runs/flickr8k_scratch", LOG).read_text().splitlines())
    assert record["epoch"] == 1
    # The data are there now, for the other commands too.
    server.paths.clear()
    shutil.rmtree("runs")
    assert run_main(SCRATCH, *sets(*TINY), "--dry-run")[0] == 0
    assert server.paths == [] and os.listdir() == ["data"]


@pytest.mark.slow
def test_weights_bring_their_vocabulary(server, empty, transformers_folder, run_main, quick_runs):
    init = f"model.init={transformers_folder}"
    status, _, errors = run_main(FLICKR8K, *sets(init, *SHORT))
    assert status == 0, errors
    assert archives(server) == [TEXT, PHOTOS]
    vocab = Path("runs/flickr8k/vocab.txt").read_bytes()
    assert vocab == (transformers_folder / "vocab.txt").read_bytes()


@pytest.mark.slow
def test_one_of_two_processes_fetches(server, empty):
    with open("said", "w+") as said:
        words = [ROOT / "train.py", SCRATCH, *sets(*TINY), "--dry-run"]
        ranks = run_ranks(words, 2, stdout=said, stderr=said)
        said.seek(0)
        text = said.read()
    assert [rank.returncode for rank in ranks] == [0, 0], text
    assert archives(server) == [TEXT, PHOTOS]
    assert text.count("downloading") == 3 and "waiting" not in text


@pytest.mark.slow
def test_a_score_fetches_its_data(server, empty, run, run_script):
    short = ("--draws", "9", "--out", "report")
    status, _, errors = run_script(evaluate.main, "--human", "--data", FLICKR8K, *short)
    assert status == 0, errors
    assert archives(server) == [TEXT, PHOTOS]
    shutil.rmtree("data")
    words = ("--model", run, "--data", FLICKR8K, "--limit", "1", "--num-beams", "1", *short)
    status, _, errors = run_script(evaluate.main, *words)
    assert status == 0, errors
    assert Counter(archives(server)) == {TEXT: 2, PHOTOS: 2}


def test_weights_that_cannot_be_loaded_show_before_any_download(
    server, empty, run, transformers_folder, run_main, run_script
):
    init = f"model.init={transformers_folder}"
    status, _, errors = run_main(FLICKR8K, *sets(init, "vit.image_size=17"))
    assert status == 2 and "vit.image_size = 17" in errors
    words = ("--model", run, "--data", FLICKR8K, "--model-config", ROOT / "pyproject.toml")
    status, _, errors = run_script(evaluate.main, *words)
    assert status == 2 and "pyproject.toml" in errors
    assert server.paths == [] and os.listdir() == []


def test_a_run_that_resumes_needs_no_weights(server, empty):
    config = load_config(FLICKR8K)
    assert len(provide(config, World(), resumes=True)["train"]) == 8
    with pytest.raises(UserError, match="Salesforce/blip-image-captioning-base"):
        provide(config, World())


def test_small_files_come_before_large_ones(server, empty, monkeypatch):
    order = []
    monkeypatch.setattr(
        providing.needed, "fetch_small", lambda source, own_vocab: order.append(source)
    )
    monkeypatch.setattr(
        providing, "load_splits", lambda config: order.extend([*archives(server), "read"])
    )
    provide(load_config(FLICKR8K), World())
    assert order == ["blip-base", TEXT, PHOTOS, "read"]


def test_nothing_is_downloaded_for_photos_of_one_s_own(server, empty, run, run_main):
    data = ("data.format=folder", "data.root=photos")
    status, _, errors = run_main(FLICKR8K, *sets(*data, f"model.init={run}"))
    assert status == 2 and "photos: there is no such data folder" in errors
    assert server.paths == [] and os.listdir() == []


# --- a start that fails ------------------------------------------------------------------------

BOTH = ("the captions, split lists", "the photos of Flickr8k", TEXT, PHOTOS)
WEIGHTS = "vocab.txt, pytorch_model.bin of Salesforce/blip-image-captioning-base (990 MB)"


@pytest.mark.parametrize(
    ("config", "settings", "expected"),
    [
        (FLICKR8K, ["model.init=blip-bse"], ["blip-bse: no such file", "did you mean blip-base?"]),
        (FLICKR8K, ["tokenizer.vocab=vocab.txt"], ["vocab.txt: there is no such vocabulary"]),
        (SCRATCH, ["tokenizer.vocab=vocab.txt"], ["vocab.txt: there is no such vocabulary"]),
        (SCRATCH, ["train.epoch=1"], ["did you mean train.epochs?"]),
        (FLICKR8K, ["data.download=false"], ["data.download = true", *BOTH, WEIGHTS]),
        (
            ROOT / "configs" / "coco.toml",
            [],
            ["dataset_coco", "train2014", "val2014", "896 MB"],
        ),
        (ROOT / "configs" / "flickr30k.toml", [], ["flickr30k-images", "vocab.txt of bert"]),
    ],
)
def test_mistakes_and_missing_data_show_before_any_download(
    server, empty, run_main, config, settings, expected
):
    status, _, errors = run_main(config, *sets(*settings))
    assert status == 2 and errors.count("\n") == 1
    assert all(words in errors for words in expected), errors
    assert server.paths == [] and os.listdir() == []


@pytest.mark.parametrize("offline", ["", "SMILE_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize(
    ("config", "expected"),
    [(FLICKR8K, (*BOTH, WEIGHTS, "hf download")), (SCRATCH, BOTH)],
)
def test_without_a_network_all_that_is_missing_is_named(
    server, empty, monkeypatch, run_main, offline, config, expected
):
    server.close()
    if offline:
        monkeypatch.setenv(offline, "1")
    status, _, errors = run_main(config)
    *_, last = errors.splitlines()
    assert status == 2 and last.startswith("train.py: ") and last.count("missing:") == 1
    assert ("downloads are off" if offline else "cannot be reached") in last
    assert all(words in last for words in expected), last
    assert os.listdir() == []


def test_a_half_of_the_data_is_kept_and_the_other_is_named(server, empty, run_main):
    """Here the photos cannot be had: what came is not lost, and the next try goes on."""
    photos = server.files.pop(f"/{PHOTOS}")
    status, _, errors = run_main(SCRATCH, *sets(*TINY))
    assert status == 2 and PHOTOS in errors.splitlines()[-1]
    assert os.listdir() == ["data"]
    server.files[f"/{PHOTOS}"] = photos
    fetch(DataConfig(format="flickr8k", root="data/flickr8k", download=True))
    assert archives(server) == [TEXT, PHOTOS, PHOTOS]


def test_captions_without_lists_are_split_by_a_hash_where_nothing_is_to_be_fetched(server, empty):
    fetch(DataConfig(format="flickr8k", root="kaggle", download=True))
    for path in Path("kaggle").glob("*Images.txt"):
        path.unlink()
    config = load_config(SCRATCH, ["data.root=kaggle", "data.download=false"])
    server.paths.clear()
    assert len(provide(config, World())["train"]) > 8 and server.paths == []
