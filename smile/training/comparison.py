"""Captions of the test images by a run's captioners: before, between, after."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from smile.config import Config
from smile.data.batches import Example
from smile.errors import UserError, counted
from smile.model.captioner import Captioner
from smile.training.report import command_to_try, draw_captions, summarise, summary_line
from smile.training.setup import make_captioner
from smile.weights.run_folder import LOG, MLE_FOLDER, is_run, load_run

COMPARISON = "comparison.png"  # the last thing a run writes


def compare(
    config: Config,
    folder: Path,
    train_examples: Sequence[Example],
    shown: list[Example],
    *,
    describe: Callable[[Captioner, list[Example]], dict[str, str]],
    write: Callable[[Callable[[], None]], None],
    say: Callable[[str], None],
) -> None:
    """Describes test images by the captioners before and after: a line each, and a picture.

    Args:
        shown: the test images.
        describe: a captioner's captions of examples, by the examples' names.
        write: calls a function that writes to the run's folder.
    """
    say(f"\non {counted(len(shown), 'test image')}:")
    columns = {}
    for label, captioner in contenders(config, folder, train_examples, say=say):
        columns[label] = captions = describe(captioner, shown)
        say(f"  {label:<6} {summary_line(summarise(captions, shown))}")
    path, skip_broken = folder / COMPARISON, config.data.skip_broken
    write(lambda: draw_captions(path, shown, columns, skip_broken=skip_broken))


def contenders(
    config: Config,
    folder: Path,
    train_examples: Sequence[Example],
    *,
    say: Callable[[str], None],
) -> Iterator[tuple[str, Captioner]]:
    """The captioners to compare, each with its label, one at a time: memory need not hold two.

    First, as "before", the weights of `model.init`, if it is set; then the captioner at the end of
    the epochs of MLE, if there were any; last the captioner that the run trained.
    """
    if config.model.init:
        try:
            before = make_captioner(config, train_examples)
        except UserError as error:
            say(f"no captions from before training: {error}")
        else:
            yield "before", before.eval()
            del before
    if is_run(folder / MLE_FOLDER):
        yield "MLE", load_run(folder / MLE_FOLDER)
    yield config.loss.objective.upper(), load_run(folder)


def closing_words(folder: Path, example: Example) -> str:
    """What a finished run has made, and a command that shows it on an image like `example`."""
    names = (LOG, "samples.png", COMPARISON, "loss.png")
    made = [name for name in names if (folder / name).exists()]
    return (
        f"\n{folder} holds the captioner, {', '.join(made)}\n"
        f"try it: {command_to_try(folder, example)}"
    )
