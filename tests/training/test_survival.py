"""Stopped, killed, damaged, full: a run goes on as if nothing had happened, or says why not."""

import errno
import hashlib
import io
import json
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch
from helpers import ROOT, SMALL, TINY, config_of, differences, stop_after, train_in_bits, trainer_of
from kill_training import command, kill_and_resume
from zygote import until_it_prints, zygote

import train
from smile.config import load_config
from smile.errors import UserError
from smile.system.distributed import World
from smile.training.checkpointing import checkpoints as checkpoints_module
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.training.checkpointing.resume import change_of_epochs, check_about, check_same, identity
from smile.training.checkpointing.signals import Stopped, StopSignals
from smile.training.checkpointing.state import Progress, random_state, set_random_state
from smile.training.console import say
from smile.training.loader import NoNextBatch, read
from smile.training.schedule import Phase
from smile.training.splits import load_splits
from smile.weights.run_folder import load_run

# Everything that draws at random: dropout, stochastic depth, augmentation, random words.
RANDOM = ("data.augment=true", "loss.objective=random", "train.accumulate=2", "train.workers=0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    trainer_of(config_of(*RANDOM), folder, World()).run()
    return folder


def final_state(folder: Path) -> dict:
    checkpoints = Checkpoints(folder)
    return checkpoints.load(checkpoints.choose()[0])


def same(a, b) -> bool:
    """Whether two nested states are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.slow
def test_a_run_stopped_at_every_pause_ends_the_same(whole, tmp_path):
    """After each step, each batch of validation and each of captions.

    There are 2 steps, one batch and one of captions in each of 2 epochs, and then two captioners
    to compare. What is stopped in validation or captions does that part over again.
    """
    pauses = [1, 1, 1, 2, 3, 1, 1, 2, 3, 2]
    stops = train_in_bits(config_of(*RANDOM), tmp_path, World(), pauses)
    assert stops == len(pauses)
    assert differences(tmp_path, whole) == []
    ours, theirs = final_state(tmp_path), final_state(whole)
    for key in ("optimizer", "random", "vocab"):
        assert same(ours[key], theirs[key]), key


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_the_same(tmp_path):
    fewer = ("data.num_train=40", "data.num_val=12", "data.num_test=8", "train.caption_images=12")
    assert kill_and_resume(tmp_path, kills=3, settings=(*TINY, *fewer)).total() == 3


def arguments(out: Path, *more: str) -> list[str]:
    """Those of train.py for the tiny run of these tests."""
    return command(out, settings=(*SMALL, *RANDOM, *more))[1:]


# Signals ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(number, status, whole, tmp_path):
    """It goes to the whole group, as from a terminal or torchrun, with processes that load data."""
    out = tmp_path / "my run"
    words = [ROOT / "train.py", *arguments(out, "train.epochs=2000", "train.workers=1")]
    with open(tmp_path / "out", "w+") as printed, open(tmp_path / "err", "w+") as errors:
        process = zygote().start(
            words, cwd=tmp_path, stdout=printed, stderr=errors, new_session=True
        )
        while not (out / "log.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, number)
        try:
            process.wait(60)
        finally:
            process.kill()
        printed, errors = ((tmp_path / name).read_text() for name in ("out", "err"))
    assert process.returncode == status, errors[-2000:]
    assert "Traceback" not in errors
    *_, said, go_on = printed.splitlines()
    assert said.startswith(f"stopped by {signal.Signals(number).name} after epoch ")
    assert shlex.split(go_on) == ["python", *map(str, words), "--resume"]
    assert not list(out.rglob(".*"))
    # The config is that of another number of epochs, so `whole` has nothing to say; but it loads.
    state = final_state(out)
    assert state["progress"]["epoch"] >= 1


def at_first_step(monkeypatch, action) -> None:
    """Has a trainer do `action(trainer)` when its first step is done."""
    step = train.Trainer.step

    def acting(trainer, *args):
        result = step(trainer, *args)
        if trainer.progress.step == 0:
            action(trainer)
        return result

    monkeypatch.setattr(train.Trainer, "step", acting)


def loaders_of(trainer) -> list[int]:
    """The processes that load a trainer's batches."""
    return [worker.pid for worker in trainer.batches._iterator._workers]


@pytest.mark.slow
def test_a_closed_terminal_stops_a_run_in_good_order(run_main, tmp_path, monkeypatch):
    """The signal reaches the processes that load data, too: they go on until the step is saved."""

    def hang_up(trainer) -> None:
        for process in [*loaders_of(trainer), os.getpid()]:
            os.kill(process, signal.SIGHUP)

    at_first_step(monkeypatch, hang_up)
    as_before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where nohup runs the tests
    try:
        status, printed, _ = run_main(*arguments(tmp_path / "run", "train.workers=1"))
    finally:
        signal.signal(signal.SIGHUP, as_before)
    assert status == 129
    assert "stopped by SIGHUP after epoch 1, step 1, all saved; resume with:" in printed
    assert final_state(tmp_path / "run")["progress"]["step"] == 1


def test_nohup_is_heeded(monkeypatch):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.number == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_line_is_in_the_log_at_once(tmp_path, monkeypatch):
    with open(tmp_path / "log", "w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        say("a line")
        assert (tmp_path / "log").read_text() == "a line\n"


def test_a_terminal_that_is_gone_stops_nobody(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    for terminal in (Gone(), None):
        monkeypatch.setattr(sys, "stdout", terminal)
        say("a line")


def kill_a_loader(trainer) -> None:
    """Returns when it is dead, in the middle of the trainer's step."""
    process = loaders_of(trainer)[0]
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


@pytest.mark.slow
def test_a_killed_loader_is_said_and_all_is_saved(run_main, whole, tmp_path, monkeypatch):
    """As by the system, where memory runs out: in the middle of a step, noticed after it."""
    waiting = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(waiting, "__defaults__", (0.2,))  # seconds between looks; 5 as a rule
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_first_step(patch, kill_a_loader)
        # More batches than a loader has ready.
        words = arguments(out, "train.workers=1", "train.batch_size=1", "train.accumulate=1")
        status, printed, errors = run_main(*words)
    assert status == 2
    assert errors.count("\n") == 1 and "a process that reads images was killed" in errors
    assert "train.workers = 0" in errors
    *_, said, command_to_resume = printed.splitlines()
    assert said.startswith("stopped by an error after epoch 1, step ")
    assert command_to_resume.split()[-1] == "--resume"
    assert final_state(out)["progress"]["step"] >= 1


def test_what_ends_one_process_s_batches_ends_those_of_all():
    class Other(World):
        """Another process, whose loader has died."""

        def largest(self, numbers):
            return [1.0]

        def gather(self, value):
            return [value, "a process that reads images was killed"]

    loader = torch.utils.data.DataLoader([1, 2, 3])
    with pytest.raises(NoNextBatch, match="a process that reads images was killed"):
        next(read(loader, Other(0, 2)))
    assert len(list(read(loader, World()))) == 3


def test_a_second_ctrl_c_stops_at_once():
    """Where the step never ends, as with a device that hangs."""
    code = (
        "import os, signal\n"
        "from smile.training.checkpointing.signals import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert signals.number == signal.SIGTERM\n"
        "    signals.number = 0\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('noted', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('never')\n"
    )
    done = zygote().run(["-c", code])
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "noted\n"), done.stderr


# Damage, full disks -------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path):
    """Three saved, of which two are left."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save({"step": step, "weights": torch.full((1000,), step)}, {"run": {}})
    return checkpoints


def test_the_last_two_checkpoints_are_kept(checkpoints):
    assert checkpoints.numbers() == [2, 3]
    assert len(list(checkpoints.folder.iterdir())) == 4
    assert checkpoints.load(Checkpoints(checkpoints.folder.parent).choose()[0])["step"] == 3


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "gone", "no .json", "torn .json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(checkpoints, damage):
    path = checkpoints.path(3)
    data = bytearray(path.read_bytes())
    if damage == "a flipped bit":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut short":
        path.write_bytes(data[:-100])
    elif damage == "gone":
        path.unlink()
    elif damage == "no .json":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text('{"progr')
    found = Checkpoints(checkpoints.folder.parent)
    number, _, complaints = found.choose()
    assert found.load(number)["step"] == 2
    assert len(complaints) == (damage != "no .json")  # which is a save that was never finished
    assert all(str(path.with_suffix("")) in complaint for complaint in complaints)
    found.save({"step": 4}, {})  # the good one stays, the damaged one goes
    assert found.numbers()[0] == 2 and len(found.numbers()) == 2
    assert len(list(checkpoints.folder.iterdir())) == 4


def spoil(about: dict, what: str) -> str:
    """A checkpoint's .json with something missing or of a wrong type, or nested deep."""
    if what == "deep":
        return "[" * 100_000
    if what == "a list":
        return "[]"
    *path, key = what.removeprefix("no ").split(".")
    place = about
    for step in path:
        place = place[step]
    if what.startswith("no "):
        del place[key]
    else:
        place[key] = [1]
    return json.dumps(about)


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        *("deep", "a list", "bytes", "sha256", "progress", "processes", "run", "run.config"),
        *("run.config.train", "run.captions", "run.captions.val", "no bytes", "no sha256"),
        *("no progress", "no processes", "no run", "no run.config", "no run.captions"),
        "no run.captions.test",
    ],
)
def test_a_json_that_lacks_something_counts_as_damaged(what, whole, tmp_path):
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    [before, last] = sorted(tmp_path.glob("checkpoints/*.json"))
    last.write_text(spoil(json.loads(last.read_text()), what))
    number, _, complaints = Checkpoints(tmp_path).choose(check_about)
    assert number == int(before.stem)
    assert len(complaints) == 1 and str(last) in complaints[0] and "\n" not in complaints[0]


@pytest.mark.slow
def test_what_no_run_could_have_reached_is_refused(whole, tmp_path):
    """In a checkpoint whose seal is right: somebody changed it on purpose, or by a fault."""
    shutil.copytree(whole, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    number, about, _ = checkpoints.choose()
    state = checkpoints.load(number)
    progress = state["progress"]
    for spoilt in (
        state | {"progress": progress | {"epoch": 1, "step": 10**9}},
        state | {"progress": progress | {"epoch": 0, "records": [], "step": -1}},
        state | {"progress": progress | {"epoch": 1, "records": [{}, {}]}},
        state | {"progress": progress | {"epoch": "1"}},
        state | {"progress": progress | {"epoch": 0, "records": [], "tokens": -5}},
        {key: value for key, value in state.items() if key != "random"},
        state | {"vit": {"width": 3}},
        state | {"optimizer": {}},
    ):
        checkpoints.save(spoilt, {key: about[key] for key in ("progress", "processes", "run")})
        (tmp_path / "run" / "comparison.png").unlink(missing_ok=True)
        with pytest.raises(
            UserError, match=r"\.pt: not a state of this run: .*; remove it"
        ) as error:
            trainer_of(config_of(*RANDOM), tmp_path / "run", World(), resume=True)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["000003.pt", "000003.json", "000004.pt", "000001.json"])
def test_a_folder_that_bears_a_checkpoint_s_name_is_left_alone(name, checkpoints, capsys):
    folder = checkpoints.folder / name
    if folder.exists():
        folder.unlink()
    folder.mkdir()
    found = Checkpoints(checkpoints.folder.parent)
    number, _, complaints = found.choose()
    assert number == (2 if "3" in name else 3)
    assert all(str(folder) in complaint for complaint in complaints)
    for step in (4, 5, 6):
        found.save({"step": step}, {})
    assert folder.is_dir()
    assert found.load(Checkpoints(checkpoints.folder.parent).choose()[0])["step"] == 6
    assert (
        capsys.readouterr().out == f"{folder}: a folder with a checkpoint's name: left as it is\n"
    )


def test_no_good_checkpoint_at_all_is_one_line(checkpoints):
    for number in (2, 3):
        checkpoints.path(number).write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint to resume from: .*000003.*; .*000002"):
        Checkpoints(checkpoints.folder.parent).choose()


def test_a_write_that_fails_halfway_harms_nothing(checkpoints):
    """A real one: the system refuses to let the file grow."""
    before = {path: path.read_bytes() for path in checkpoints.folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"000004.*cannot write: file too large"):
            checkpoints.save({"weights": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in checkpoints.folder.iterdir()} == before


def fail_to_save(monkeypatch) -> None:
    def fail(state, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints_module, "_save", fail)


def test_a_full_disk_in_mid_epoch_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    trainer = trainer_of(config_of(*RANDOM, "train.save_minutes=1e-9"), tmp_path, World())
    number = trainer.manager.checkpoints.number
    with monkeypatch.context() as patch:
        fail_to_save(patch)
        trainer.manager.between_steps()
        said = capsys.readouterr().out
        assert said.count("\n") == 1 and "no space left on device" in said
        assert f"{number:06}.pt; training continues, next try" in said
        trainer.manager.signals.number = signal.SIGTERM
        with pytest.raises(UserError, match=r"no space left.*the last good checkpoint is .*000001"):
            trainer.manager.between_steps()
        trainer.manager.signals.number = 0
    assert trainer_of(config_of(*RANDOM), tmp_path, World(), resume=True) is not None
    trainer.manager.between_steps()  # there is room again
    assert trainer.manager.checkpoints.number == number + 1


@pytest.mark.slow
def test_a_full_disk_at_an_epoch_s_end_stops_it_and_loses_nothing(whole, tmp_path, monkeypatch):
    trainer = trainer_of(config_of(*RANDOM), tmp_path, World())
    with monkeypatch.context() as patch:
        fail_to_save(patch)
        with pytest.raises(UserError, match=r"no space left.*the last good checkpoint is .*000001"):
            trainer.run()
    trainer_of(config_of(*RANDOM), tmp_path, World(), resume=True).run()
    assert differences(tmp_path, whole) == []


# What cannot be resumed ---------------------------------------------------------------------------


def test_another_config_is_refused_by_its_keys(whole, tmp_path):
    old = config_of(*RANDOM)
    new = config_of(*RANDOM, "train.lr=0.5", "vit.mlp_dim=96", "train.workers=1")
    examples = {"train": [], "val": [], "test": []}
    with pytest.raises(UserError) as refused:
        check_same(identity(old, examples), identity(new, examples))
    assert "train.lr = 0.001 there, 0.5 now; vit.mlp_dim = 64 there, 96 now;" in str(refused.value)
    assert "train.workers =" not in str(refused.value) and "\n" not in str(refused.value)
    assert "(may change: [generate], data.annotations, " in str(refused.value)
    free = (
        *("train.workers=1", "train.save_minutes=3", "train.device=cpu", "train.caption_images=1"),
        *("data.skip_broken=true", "train.epochs=9", "generate.num_beams=5", "generate.top_p=0.5"),
    )
    check_same(identity(old, examples), identity(config_of(*RANDOM, *free), examples))
    with pytest.raises(UserError, match=r"train\.seed = 0 there, 1 now"):
        trainer_of(config_of(*RANDOM, "train.seed=1"), whole, World(), resume=True)


def test_a_run_resumes_with_the_config_that_its_folder_has(whole, tmp_path):
    """There the sizes that were found in the data stand in place of 0; either way resumes."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    longer = f"train.epochs={config_of().train.epochs + 1}"
    config = load_config(folder / "config.toml", [longer])
    assert config.decoder.vocab_size > config_of().decoder.vocab_size == 0
    trainer_of(config, folder, World(), resume=True).run()
    for finished in (config, config_of(*RANDOM, longer)):
        assert trainer_of(finished, folder, World(), resume=True) is None
    other = load_config(folder / "config.toml", [longer, "decoder.vocab_size=9"])
    with pytest.raises(UserError, match=r"decoder\.vocab_size = 0 there, 9 now"):
        trainer_of(other, folder, World(), resume=True)


def test_a_run_older_than_a_setting_was_trained_by_its_default():
    examples = {"train": [], "val": [], "test": []}
    old = identity(config_of(), examples)
    del old["config"]["loss"]["label_smoothing"]
    check_same(old, identity(config_of(), examples))
    with pytest.raises(UserError, match=r"loss\.label_smoothing = 0\.0 there, 0\.5 now"):
        check_same(old, identity(config_of("loss.label_smoothing=0.5"), examples))


def rates_of(trainer) -> list[float]:
    """Trains to the end; the learning rate of each step."""
    rates, step = [], trainer.step

    def noting(batches, phase, lr):
        rates.append(lr)
        return step(batches, phase, lr)

    trainer.step = noting
    trainer.run()
    return rates


@pytest.mark.slow
@pytest.mark.parametrize("pauses", [5, None], ids=["in its last phase", "finished"])
def test_epochs_may_be_added(pauses, tmp_path, capsys):
    """Two steps an epoch. What is done stays; the rest is what the longer run would have done."""
    quick = ("train.accumulate=2", "train.caption_images=1", "generate.max_length=7")
    shorter, longer = (config_of(*quick, f"train.epochs={n}") for n in (2, 4))
    trainer = trainer_of(shorter, tmp_path, World())
    if pauses is None:
        trainer.run()
    else:
        stop_after(trainer, pauses)
        with pytest.raises(Stopped):
            trainer.run()
    done = 2 * trainer.progress.epoch + trainer.progress.step
    records = list(trainer.progress.records)
    capsys.readouterr()
    drawn = tmp_path / "comparison.png"
    before = drawn.stat().st_mtime_ns if drawn.exists() else 0
    resumed = trainer_of(longer, tmp_path, World(), resume=True)
    said = capsys.readouterr().out
    assert not drawn.exists()  # until the longer run has its own
    rates = rates_of(resumed)
    expected = [
        Phase.of(longer, epoch).learning_rate(longer.train, epoch=epoch, step=step, steps=2)
        for epoch in range(4)
        for step in range(2)
    ]
    assert rates == expected[done:]
    assert "train.epochs: 2 there, 4 now: " in said
    assert f"from a learning rate of {rates[0]:.1e}" in said
    assert resumed.progress.records[: len(records)] == records
    totals = [record["epochs"] for record in resumed.progress.records]
    assert totals == [2] * len(records) + [4] * (4 - len(records))
    assert drawn.stat().st_mtime_ns > before
    assert trainer_of(longer, tmp_path, World(), resume=True) is None


def test_epochs_added_before_the_last_phase_change_that_alone():
    longer = config_of("train.epochs=4")
    said = change_of_epochs(2, longer, Progress(epoch=0, step=1), steps=2)
    assert said == "train.epochs: 2 there, 4 now: only the phase after that of mle changes"
    assert change_of_epochs(4, longer, Progress(epoch=0, step=1), steps=2) == ""


def test_what_is_done_cannot_be_taken_back(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for setting, said in (
        ("train.epochs=1", r"train\.epochs = 1: expected at least 2, those done or started"),
        ("loss.mle_epochs=2", r"loss\.mle_epochs = 1 there, 2 now"),
    ):
        with pytest.raises(UserError, match=said):
            trainer_of(config_of(*RANDOM, setting), tmp_path / "run", World(), resume=True)


@pytest.mark.slow
def test_a_finished_run_takes_other_search_settings(whole, tmp_path, capsys):
    """Its captioners have them from then on, and its comparison is made again."""
    shutil.copytree(whole, tmp_path / "run")
    config = config_of(*RANDOM, "generate.num_beams=1", "generate.max_length=9")
    trainer = trainer_of(config, tmp_path / "run", World(), resume=True)
    trainer.run()
    assert "on 3 test images:" in capsys.readouterr().out
    for place in ("", "last", "mle"):
        assert load_run(tmp_path / "run" / place).config.generate == config.generate
    assert trainer_of(config, tmp_path / "run", World(), resume=True) is None


def test_other_captions_are_refused():
    config = config_of()
    trainer_examples = load_splits(config)
    others = trainer_examples | {"train": trainer_examples["train"][:-1]}
    with pytest.raises(UserError, match="captions of train differ from those"):
        check_same(identity(config, trainer_examples), identity(config, others))


def test_a_finished_run_says_so(whole, run_main):
    status, printed, _ = run_main(*arguments(whole), "--resume")
    assert status == 0 and printed == f"{whole} is finished: 2 of 2 epochs done\n"


def test_there_is_nothing_to_resume(run_main, tmp_path):
    status, _, errors = run_main(*arguments(tmp_path / "none"), "--resume")
    assert status == 2 and errors.count("\n") == 1 and "no interrupted run" in errors


def test_two_runs_cannot_write_one_folder(run_main, tmp_path):
    code = (
        "import time; from pathlib import Path; from smile.system.lock import ProcessLock\n"
        f"assert ProcessLock(Path({str(tmp_path / '.lock')!r})).acquire()\n"
        "print(flush=True); time.sleep(60)"
    )
    with until_it_prints(code):
        status, _, errors = run_main(*arguments(tmp_path))
    assert status == 2 and errors.count("\n") == 1 and "another run is writing it" in errors
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])


def test_a_folder_with_weights_is_not_overwritten(run_main, whole, tmp_path):
    for name in ("model.safetensors", "config.toml", "vocab.txt"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    status, _, errors = run_main(*arguments(tmp_path))
    assert status == 2 and "holds a run" in errors


# Going wrong --------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss nan", "loss inf", "gradient", "validation"])
def test_a_loss_that_is_no_number_stops_the_run(what, tmp_path):
    trainer = trainer_of(config_of(*RANDOM, "train.save_minutes=1e-9"), tmp_path, World())
    forward, calls = trainer.objective.forward, 0

    def poisoned(batch, objective):
        nonlocal calls
        calls += 1
        loss = forward(batch, objective)
        if what == "validation":
            return loss if torch.is_grad_enabled() else loss * float("nan")
        if calls <= 2:  # the first step's
            return loss
        if what == "gradient":  # infinite, of a loss that is not
            loss.register_hook(lambda gradient: gradient * float("inf"))
            return loss
        return loss * float(what.removeprefix("loss "))

    trainer.objective.forward = poisoned
    epoch_end = trainer.finish_epoch
    before = {}

    def remember(*args):
        before.update(contents(tmp_path))
        return epoch_end(*args)

    trainer.finish_epoch = remember
    with pytest.raises(UserError) as stopped:
        trainer.run()
    message = str(stopped.value)
    assert "\n" not in message and "train.lr = 0.001" in message
    assert f"the last good checkpoint is {tmp_path}" in message
    if what == "validation":
        assert message.startswith("epoch 1, validation: the loss is nan")
        # Only the checkpoint of the last step, which was good, has been renewed since.
        renewed = contents(tmp_path).keys() - before.keys()
        assert all("checkpoints" in name for name in renewed)
    else:
        assert message.startswith("epoch 1, step 2: the loss is ")
        assert final_state(tmp_path)["progress"]["step"] == 1
    weights = final_state(tmp_path)["model"].values()
    assert all(weight.isfinite().all() for weight in weights)
    assert not (tmp_path / "last").exists()


# Trying out ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dry_run_writes_nothing(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, _ = run_main(*arguments(tmp_path / "out"), "--dry-run")
    assert status == 0 and list(tmp_path.iterdir()) == []
    for word in ("parameters on cpu", "steps an epoch", "1 batch of", "memory", "an epoch, "):
        assert word in printed
    # 13 images of 5 captions each, 5 images a batch, two batches a step: 2 steps.
    assert "10 images with 50 captions" in printed and "2 steps an epoch" in printed


# Randomness ---------------------------------------------------------------------------------------


def test_every_generator_goes_back():
    def draw() -> tuple:
        return torch.rand(1).item(), random.random(), numpy.random.rand()

    state = random_state(torch.device("cpu"))
    drawn = [draw() for _ in range(3)]
    set_random_state(state, torch.device("cpu"))
    assert [draw() for _ in range(3)] == drawn


def test_the_weights_of_a_run_load(whole):
    load_run(whole)
    records = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [record["objective"] for record in records] == ["mle", "random"]
