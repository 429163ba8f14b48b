"""Two processes under torchrun do what one does with the whole of each batch."""

import json
import os
from itertools import chain
from pathlib import Path

import pytest
import torch
from helpers import ROOT, config_of, differences, trainer_of, walks_by_chance
from safetensors.torch import load_file
from several_processes import CASES, DROPOUT, train_noting_norms
from zygote import run_ranks

import train
from smile.data.batches import EpochBatches
from smile.data.shapes import make_scenes
from smile.errors import UserError
from smile.system.distributed import World


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder in which two processes have trained every case."""
    folder = tmp_path_factory.mktemp("two")
    with open(folder / "printed", "w+") as printed:
        script = ROOT / "tests" / "several_processes.py"
        ranks = run_ranks([script, folder], 2, stdout=printed, stderr=printed)
    assert [rank.returncode for rank in ranks] == [0, 0], (folder / "printed").read_text()[-3000:]
    return folder


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(case, two_processes, tmp_path):
    norms = train_noting_norms(config_of(*CASES[case]), tmp_path, World())
    assert json.loads((two_processes / case / "norms.json").read_text()) == pytest.approx(
        norms, rel=1e-3
    )
    ours, theirs = records(two_processes / case), records(tmp_path)
    for key in ("train_loss", "val_loss"):
        assert [r[key] for r in ours] == pytest.approx([r[key] for r in theirs], rel=1e-4)
    for part in ("mle", "last"):
        ours, theirs = (
            load_file(folder / part / "model.safetensors")
            for folder in (two_processes / case, tmp_path)
        )
        for name, tensor in theirs.items():
            if walks_by_chance(name):
                continue
            # AdamW's first steps follow the sign of the gradient: where it is about zero, rounding
            # decides, and a weight may be off by the rate. So nearly all must agree, none be far.
            close = torch.isclose(ours[name], tensor, rtol=1e-3, atol=1e-4)
            assert close.float().mean() > 0.97, name
            assert (ours[name] - tensor).abs().max() < 0.02, name


@pytest.mark.slow
def test_two_processes_resume_exactly(two_processes):
    assert int((two_processes / "stops").read_text()) == 3
    assert differences(two_processes / "stopped", two_processes / "whole") == []


@pytest.mark.slow
def test_one_process_goes_on_with_the_run_of_two(two_processes, capsys):
    """It says that this is not quite the same run any more."""
    checkpoints = two_processes / "whole" / "checkpoints"
    for path in sorted(checkpoints.iterdir())[2:]:  # of the two, leave the one before the last
        path.unlink()
    trainer = trainer_of(config_of(*DROPOUT), two_processes / "whole", World(), resume=True)
    assert "2 processes there, 1 now" in capsys.readouterr().out
    assert trainer.progress.epoch == 1
    trainer.run()
    assert trainer.progress.epoch == 2


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(("num_images", "batch_size", "k"), [(13, 5, 1), (11, 5, 3), (1, 7, 5)])
def test_each_caption_falls_to_one_process_once_an_epoch(size, num_images, batch_size, k):
    scenes = make_scenes("train", num_images, seed=0, image_size=8)

    def dealt(world: World, epoch: int, first: int = 0) -> list[list]:
        batches = EpochBatches(
            scenes, batch_size=batch_size, captions_per_image=k, seed=3, world=world
        )
        batches.set_epoch(epoch, first=first)
        return list(batches)

    for epoch in range(3):
        whole = dealt(World(), epoch)
        shares = [dealt(World(rank, size), epoch) for rank in range(size)]
        assert {len(share) for share in shares} == {len(whole)}
        together = [sorted(chain(*parts)) for parts in zip(*shares, strict=True)]
        assert together == [sorted(batch) for batch in whole]
        pairs = [(d.example, c) for batch in whole for d in batch for c in d.captions]
        assert len(pairs) == len(set(pairs)) == sum(len(scene.captions) for scene in scenes)
        assert dealt(World(), epoch, first=1) == whole[1:]


@pytest.mark.slow
def test_one_process_never_touches_torch_distributed(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("one process alone reached for torch.distributed")

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name in ("init_process_group", "all_reduce", "all_gather_object", "broadcast_object_list"):
        monkeypatch.setattr(torch.distributed, name, fail)
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", fail)
    trainer = trainer_of(config_of(*CASES["groups"]), tmp_path, World.join())
    assert trainer.model is trainer.objective
    trainer.run()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("variables", "wrong"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE x"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE 0"),
        ({"WORLD_SIZE": "2"}, "RANK missing, MASTER_ADDR missing"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE 0"),
    ],
)
def test_variables_that_torchrun_did_not_set_are_refused(variables, wrong, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{wrong}.*start several processes with torchrun"):
        World.join()


ALONE = """
import os, signal, sys, time
from smile.errors import UserError
from smile.system.distributed import World

def end():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)

try:
    World.join().first(end)
except UserError as error:
    sys.exit(f"{error}")
"""


@pytest.mark.slow
def test_who_waits_for_a_process_that_is_killed_says_so_in_a_line(tmp_path):
    with open(tmp_path / "said", "w+") as said:
        ranks = run_ranks(["-c", ALONE], 2, stderr=said)
    assert [rank.returncode for rank in ranks] == [-9, 1]
    lines = (tmp_path / "said").read_text().splitlines()
    assert lines == ["another process of this run has ended: see what it said"]


def test_more_processes_than_images_in_a_batch_are_refused(tmp_path):
    captioner = trainer_of(config_of(), tmp_path, World()).captioner
    examples = {"train": make_scenes("train", 3, seed=0, image_size=48)}
    with pytest.raises(UserError, match=r"train\.batch_size = 5: expected at least 6"):
        train.Trainer(captioner, tmp_path, examples, world=World(0, 6))
    assert "WORLD_SIZE" not in os.environ
