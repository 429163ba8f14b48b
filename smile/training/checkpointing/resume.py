"""Resumes a run from its last good checkpoint: which settings must match, which may change."""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smile.config import SETTINGS, Config, config_to_toml, load_config
from smile.data.splits import SPLITS
from smile.errors import UserError, counted, first_few
from smile.model.captioner import Captioner
from smile.system.distributed import World
from smile.system.files import expect, show, write_text, writing
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.training.checkpointing.folder import check_captioners
from smile.training.checkpointing.state import (
    Progress,
    RunState,
    captioner_of,
    completed_settings,
    restoring,
)
from smile.training.comparison import COMPARISON
from smile.training.console import say
from smile.training.schedule import Phase
from smile.training.splits import Splits
from smile.weights.run_folder import (
    CONFIG,
    LAST_FOLDER,
    MLE_FOLDER,
    is_run,
    kept_captioners,
)

# Settings that may change: they do not affect what is learned, or only for how long. The data may
# be moved: the captions are compared instead.
FREE = {
    "model.trained_on",
    "data.root",
    "data.download",
    "data.annotations",
    "data.skip_broken",
    "train.epochs",
    "train.device",
    "train.workers",
    "train.save_minutes",
    "train.compile",
    "train.checkpoint_blocks",
    "train.caption_images",
    "train.keep_captioners",
    *(name for name in SETTINGS if name.startswith("generate.")),
}
MAY_CHANGE = ", ".join(
    sorted(name for name in FREE if not name.startswith(("model.", "generate.")))
)


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run that is to be resumed: its state, whence, and what its checkpoint says about it."""

    folder: Path
    captioner: Captioner
    state: dict[str, Any]
    source: Path
    about: dict[str, Any]
    identity: dict[str, Any]
    checkpoints: Checkpoints

    def restore(self, to: RunState, *, steps: int) -> None:
        """Brings `to` where the run was. `steps`: in an epoch."""
        with restoring(self.source):
            to.restore(self.state)
            to.progress.check(epochs=self.captioner.config.train.epochs, steps=steps)

    def lines(self, *, steps: int, processes: int) -> list[str]:
        """What to say about a run that goes on, with so many processes, from here."""
        config, progress = self.captioner.config, Progress(**self.state["progress"])
        lines = [f"resuming {self.folder} after {progress}"]
        if (before := self.about["processes"]) != processes:
            lines.append(
                f"{before} processes there, {processes} now: the same batches, but other rounding "
                "and dropout, so no longer the very same run"
            )
        old = self.about["run"]["config"]["train"].get("epochs", config.train.epochs)
        if line := change_of_epochs(old, config, progress, steps=steps):
            lines.append(line)
        return lines


def find_run(config: Config, folder: Path, examples: Splits, world: World) -> FoundRun | None:
    """The run in `folder`, by its last good checkpoint; None, which it says, if it is finished.

    Raises:
        UserError: no checkpoint is good, or the run was begun with other settings or captions.
    """
    checkpoints = Checkpoints(folder)
    number, about, complaints = world.first(lambda: checkpoints.choose(check_about))
    now = identity(config, examples)
    state, source = checkpoints.load(number), checkpoints.path(number)
    with restoring(source):
        completed = completed_settings(state)
        world.first(lambda: check_same(about["run"], now, completed=completed))
        world.first(lambda: check_captioners(folder))
        # Noted as the run was begun with, so that the next `--resume` may name either, too.
        before = about["run"]["config"]
        now["config"] |= {section: before[section] for section in completed.keys() & before.keys()}
        captioner = captioner_of(state, config, source=source)
        progress = Progress(**state["progress"])
        world.first(lambda: check_epochs(progress, config.train.epochs))
    if world.is_first:
        for complaint in complaints:
            print(f"{complaint}: taking the one before", file=sys.stderr)
    compares = bool(examples["test"])
    if not world.first(lambda: has_work_left(folder, config, progress, compares=compares)):
        if world.is_first:
            epochs = counted(progress.epoch, "epoch")
            say(f"{folder} is finished: {progress.epoch} of {epochs} done")
        return None
    return FoundRun(
        folder=folder,
        captioner=captioner,
        state=state,
        source=source,
        about=about,
        identity=now,
        checkpoints=checkpoints,
    )


def identity(config: Config, examples: Splits) -> dict[str, Any]:
    """What identifies a run: its config, and a hash of all captions of each split."""
    hashes = {}
    for split, part in examples.items():
        text = json.dumps([example.captions for example in part])
        hashes[split] = hashlib.sha256(text.encode()).hexdigest()
    return {"config": _plain(config), "captions": hashes}


def check_about(about: dict[str, Any], where: str) -> None:
    """Raises UserError unless a checkpoint's .json, called `where`, has all fields of `save`."""
    expect(about.get("progress"), str, where=f"{where}: progress")
    if expect(about.get("processes"), int, where=f"{where}: processes") < 1:
        raise UserError(f"{where}: processes: found {about['processes']}, expected at least 1")
    run = expect(about.get("run"), dict, where=f"{where}: run")
    config = expect(run.get("config"), dict, where=f"{where}: run.config")
    for section, settings in config.items():
        expect(settings, dict, where=f"{where}: run.config.{section}")
    captions = expect(run.get("captions"), dict, where=f"{where}: run.captions")
    for split in SPLITS:
        expect(captions.get(split), str, where=f"{where}: run.captions.{split}")


def check_same(
    old: dict[str, Any], new: dict[str, Any], *, completed: dict[str, dict[str, Any]] | None = None
) -> None:
    """Raises UserError, naming keys and both values, if two runs' `identity` differs.

    `completed` has the old run's settings that data or weights have completed, by section. A config
    may name them in place of those the run was begun with: the config.toml in its folder does.
    """
    # A run from before a setting existed was trained with its default.
    defaults, before, after = (
        _flat(config) for config in (_plain(Config()), old["config"], new["config"])
    )
    before = defaults | before
    found = before | _flat(completed or {})
    changed = [
        f"{key} = {show(before.get(key))} there, {show(after.get(key))} now"
        for key in before.keys() | after.keys()
        if key not in FREE and after.get(key) not in (before.get(key), found.get(key))
    ]
    if changed:
        raise UserError(
            f"--resume: the run was started with other settings: {first_few(changed, 8)}; resume "
            "with those, as the config.toml in the run's folder has them, or start another run "
            f"with --out (may change: [generate], {MAY_CHANGE})"
        )
    splits = [
        split for split in new["captions"] if old["captions"][split] != new["captions"][split]
    ]
    if splits:
        raise UserError(
            f"--resume: the captions of {', '.join(splits)} differ from those the run started "
            "with; restore them, or start another run with --out"
        )


def check_epochs(progress: Progress, epochs: int) -> None:
    """Raises UserError if a run has already started more than `epochs` epochs."""
    begun = progress.epoch + (progress.step > 0)
    if begun > epochs:
        raise UserError(
            f"--resume: train.epochs = {epochs}: expected at least {begun}, those done or started"
        )


def change_of_epochs(old: int, config: Config, progress: Progress, *, steps: int) -> str:
    """The message if a run of `old` epochs now has another number of them, else "".

    The current phase continues with the learning rate that the new cosine has at this step.
    """
    if config.train.epochs == old:
        return ""
    start = f"train.epochs: {old} there, {config.train.epochs} now"
    phase = Phase.of(config, min(progress.epoch, config.train.epochs - 1))
    if phase.first_epoch + phase.epochs < config.train.epochs:
        return f"{start}: only the phase after that of {phase.objective} changes"
    position = {"epoch": progress.epoch, "step": progress.step, "steps": steps}
    rate = phase.learning_rate(config.train, **position)
    return (
        f"{start}: the rest of the phase of {phase.objective} follows the cosine to its new end, "
        f"from a learning rate of {rate:.1e}"
    )


def has_work_left(folder: Path, config: Config, progress: Progress, *, compares: bool) -> bool:
    """Whether a resumed run has anything left to do: epochs, or its comparison.

    Its captioners get the current `[generate]`. If that changed, or epochs were added, the
    comparison from the end of the run is out of date and is removed.

    Args:
        compares: whether there are test images.
    """
    finished = progress.epoch == config.train.epochs
    comparison = folder / COMPARISON
    with writing(folder):
        renewed = _renew_settings(folder, config)
        if renewed or not finished:
            comparison.unlink(missing_ok=True)
    return not finished or (compares and not comparison.exists())


def _renew_settings(folder: Path, config: Config) -> bool:
    """Gives the captioners in a run's folder the current `[generate]`; whether any changed."""
    renewed = False
    kept = kept_captioners(folder).values()
    for place in (folder, folder / LAST_FOLDER, folder / MLE_FOLDER, *kept):
        if is_run(place):
            theirs = load_config(place / CONFIG)
            ours = replace(theirs, generate=config.generate)
            if ours != theirs:
                write_text(place / CONFIG, config_to_toml(ours))
                renewed = True
    return renewed


def _plain(config: Config) -> dict[str, Any]:
    """A config as plain JSON values, with lists for tuples."""
    return json.loads(json.dumps(asdict(config)))


def _flat(config: dict[str, dict]) -> dict[str, Any]:
    return {f"{section}.{key}": v for section, keys in config.items() for key, v in keys.items()}
