"""Captions for the batches of other libraries: Ray Data's `map_batches`, `map` of `datasets`.

    dataset.map(smile.Describer("blip-base"), batched=True)

A `Describer` is only its settings: those travel to other processes, and each of them loads the
captioner when its first batch comes.
"""

import contextlib
import hashlib
import math
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from smile.captioning.batch_images import BatchImage, Column, images_of, row_of
from smile.captioning.describe import Model, describe_all
from smile.captioning.options import PRECISION_NAMES, Options, prepare, speed, weights_dtype
from smile.config import Config, DecoderConfig, GenerateConfig, check_setting
from smile.errors import UserError
from smile.model.captioner import Caption
from smile.model.generate import asked_options, check_options
from smile.model.tokenizer import check_characters
from smile.system.device import pick_device
from smile.weights.load import load
from smile.weights.needed import check_source, local
from smile.weights.run_folder import is_run, run_config

MOST_LOADED = 2  # captioners that a process keeps, for batches that alternate between two

# A captioner that can do whatever any captioner can: what it refuses, none can do.
ANY = Config(
    decoder=DecoderConfig(max_positions=65536),
    generate=GenerateConfig(min_length=0, max_length=65536, num_beams=1000),
)


@dataclass(frozen=True, kw_only=True)
class _Asked(Options):
    """Which captioner, how it is to caption; `stamp` changes when the model's files do."""

    model: str
    stamp: str
    prefix: str
    suffix: str


class Describer:
    """Describes the images of a batch: `{"image": [...]}` → `{"caption": [...], "error": [...]}`.

        dataset.map(Describer("blip-base"), batched=True)           # of `datasets`
        dataset.map_batches(Describer, fn_constructor_kwargs={"model": "blip-base"},
                            compute=ray.data.ActorPoolStrategy(size=2))    # of Ray Data

    It pickles as its settings, a few hundred bytes, and has the same fingerprint in every process;
    `datasets` describes again what it has in its cache when a file of the model has changed. The
    captioner is loaded with the first batch, once in a process. Ray Data wants the class, as above,
    for actors, and an instance for tasks; a class is only made on the cluster, so make an instance
    first if wrong settings are to be told before.

    An image is a path, the bytes of a file, a dict of both as `datasets` stores it (`{"bytes": …,
    "path": …}`), a Pillow image, or an (H, W, 3) or (H, W) array of uint8. One that cannot be read,
    `None` for one, does not end the job: its caption is "", its log-probability NaN, and its error
    says why. Of all others the error is "".

    Args:
        model: what `smile.load` takes: a path, a known name or a hub id. Other machines need the
            file or folder at the same path.
        image: the column of images.
        caption, logprob, error: the columns to add; no log-probabilities unless named.
        prompt, prefix, suffix: as in `Captioner.caption`.
        seed: of sampling; each image's seed comes from it and the image's file name, as in
            `sample.py`, or from its content where it has no name.
        batch_size: images that are captioned at once, of whatever number comes; 8, on CUDA 64.
        device: "auto", "cpu", "cuda", "cuda:1", "mps". "auto" is the fastest there is.
        precision: "auto", "float32", "bfloat16", "int8". "auto" is bfloat16 on CUDA, else float32.
        compile: compile the image encoder, which pays on long runs.
        vocab, model_config: as in `smile.load`.
        settings: any of `[generate]`, such as `num_beams=1`. With `num_return` above 1, captions
            and log-probabilities are lists, best first.

    Raises:
        UserError: there is no such model, or a setting is unknown or impossible.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        image: str = "image",
        caption: str = "caption",
        logprob: str | None = None,
        error: str = "error",
        prompt: str | None = None,
        prefix: str = "",
        suffix: str = "",
        seed: int = 0,
        batch_size: int | None = None,
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
        vocab: str | os.PathLike[str] | None = None,
        model_config: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        self.image, self.caption, self.logprob, self.error = image, caption, logprob, error
        _check_columns(image=image, caption=caption, logprob=logprob, error=error)
        _check_texts(prompt=prompt, prefix=prefix, suffix=suffix)
        _check_speed(seed, batch_size, device, precision)
        source = _source(model)
        files = [_file("vocab", vocab), _file("model_config", model_config)]
        self.asked = _Asked(
            model=source,
            stamp=_stamp([local(source), *(Path(file) for file in files if file)]),
            prompt=prompt,
            prefix=prefix,
            suffix=suffix,
            settings=_checked(settings, local(source), exactly=model_config is None),
            seed=seed,
            batch_size=batch_size,
            workers=0,
            device=device,
            precision=precision,
            compile=bool(compile),
            vocab=files[0],
            model_config=files[1],
        )

    def __call__(self, batch: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """The batch with its captions. Of a batch of `datasets`, only the new columns.

        Args:
            batch: columns, each a list or an array.
            rank: number of the process, from `map(…, with_rank=True)` of `datasets`; it gets the
                GPU of that number.

        Raises:
            UserError: there is no such column, a new one is there already, the captioner cannot be
                loaded, or there is too little memory.
        """
        images = images_of(batch, self.image)
        names = (self.caption, self.error, self.logprob)
        if taken := [name for name in names if name in batch]:
            raise UserError(
                f"smile.Describer: the batch has a column {taken[0]!r} already, and nothing is "
                "overwritten: give the new one another name, by caption=…, error=… or logprob=…"
            )
        columns = self._describe(images, rank) if len(images) else ([], [], [])
        added = {name: column for name, column in zip(names, columns, strict=True) if name}
        return {**batch, **added} if isinstance(batch, dict) else added

    def _describe(self, images: Column, rank: int | None) -> tuple[list[Any], list[str], list[Any]]:
        """Captions, errors and log-probabilities of the images."""
        model = _loaded(self.asked, _device_name(self.asked.device, rank))
        given = [BatchImage(*row, named=model.options.samples) for row in enumerate(images)]
        several = model.options.num_return
        found: dict[int, list[Caption]] = {}
        errors = [""] * len(given)
        with _python_names():
            how = speed(self.asked, model.captioner)
            for results, broken in describe_all(given, [model], **how):
                for result in results:
                    found[row_of(result.name)] = result.captions[model.label]
                for image in broken:
                    found[row_of(image.name)] = [Caption("", math.nan, [])] * several
                    errors[row_of(image.name)] = image.reason
        rows = [found[row] for row in range(len(given))]
        texts = [[caption.text for caption in row] for row in rows]
        numbers = [[caption.logprob for caption in row] for row in rows]
        if several > 1:
            return texts, errors, numbers
        return [best for [best] in texts], errors, [best for [best] in numbers]


# Settings -----------------------------------------------------------------------------------------


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    raise UserError(f"smile.Describer: {name} = {value!r:.80}: expected {expected}")


def _check_columns(**columns: Any) -> None:
    for name, column in columns.items():
        if not (isinstance(column, str) and column) and (name, column) != ("logprob", None):
            _refuse(name, column, "the name of a column")
    names = [column for column in columns.values() if column]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UserError(f"smile.Describer: two columns are called {twice!r}: expected four names")


def _check_texts(prompt: Any, prefix: Any, suffix: Any) -> None:
    for name, text in (("prompt", prompt or ""), ("prefix", prefix), ("suffix", suffix)):
        if not isinstance(text, str):
            _refuse(name, text, "text")
        check_characters(text, f"smile.Describer: {name}")


def _check_speed(seed: Any, batch_size: Any, device: Any, precision: Any) -> None:
    if type(seed) is not int:
        _refuse("seed", seed, "a whole number")
    if batch_size is not None and not (type(batch_size) is int and 1 <= batch_size <= 4096):
        _refuse("batch_size", batch_size, "a whole number from 1 to 4096")
    if precision not in PRECISION_NAMES:
        _refuse("precision", precision, f"one of {', '.join(PRECISION_NAMES)}")
    try:
        torch.device("cpu" if device == "auto" else device)
    except (RuntimeError, TypeError):
        _refuse("device", device, "auto, cpu, cuda, cuda:1 or mps")


def _source(model: Any) -> str:
    """A model's name, or the whole path of its file or folder: a process may run elsewhere."""
    if not isinstance(model, str | os.PathLike) or not os.fspath(model):
        _refuse("model", model, "a path, a known name or a hub id, which each process loads itself")
    check_source(os.fspath(model))
    path = os.path.expanduser(model)
    return os.path.abspath(path) if os.path.exists(path) else str(model)


def _file(name: str, path: Any) -> str | None:
    if path is None:
        return None
    if not (isinstance(path, str | os.PathLike) and os.path.isfile(path)):
        _refuse(name, path, "the path of a file")
    return os.path.abspath(path)


def _stamp(paths: list[Path]) -> str:
    """Changes when a file is written: `datasets` must not take its captions for a new model's."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    facts = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest() if facts else ""


def _checked(settings: dict[str, Any], model: Path, *, exactly: bool) -> dict[str, Any]:
    """The `[generate]` settings as their types; refused if this captioner, or any, cannot."""
    checked = {
        name: check_setting(f"generate.{name}", value, place="smile.Describer", called=name)
        for name, value in settings.items()
    }
    config = run_config(model) if exactly and is_run(model) else ANY
    check_options(asked_options(config, checked), prompt_length=0)
    return checked


# Captioners ---------------------------------------------------------------------------------------

_captioners: list[
    tuple[tuple[int, str, _Asked], Model]
] = []  # loaded by this process, the last used first
_loading = threading.Lock()
_imported_by = os.getpid()


def _device_name(name: str, rank: int | None) -> str:
    """The device of one of several processes on a machine, or of the only one."""
    if not (rank is None or type(rank) is int):
        _refuse("rank", rank, "the number of a process, from map(…, with_rank=True)")
    if rank is None or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    return f"cuda:{rank % torch.cuda.device_count()}"


def _loaded(asked: _Asked, device_name: str) -> Model:
    """The captioner asked for, loaded unless this process has it."""
    key = (os.getpid(), device_name, asked)  # a forked process has none
    with _loading:
        known = next((model for other, model in _captioners if other == key), None)
        model = known or _load(asked, device_name)
        others = [pair for pair in _captioners if pair[1] is not model and pair[0][0] == key[0]]
        _captioners[:] = [(key, model), *others][:MOST_LOADED]
    return model


def _load(asked: _Asked, device_name: str) -> Model:
    if os.getpid() != _imported_by:  # a fork has no threads of OpenMP's, and would wait for them
        torch.set_num_threads(1)
    device = pick_device(device_name)
    with _python_names():
        dtype = weights_dtype(asked, device)
    captioner = load(asked.model, vocab=asked.vocab, model_config=asked.model_config, dtype=dtype)
    return Model(
        captioner=prepare(captioner.to(device), asked),
        source=asked.model,
        prompt=asked.prompt,
        prefix=asked.prefix,
        suffix=asked.suffix,
        settings=asked.settings,
    )


@contextlib.contextmanager
def _python_names() -> Iterator[None]:
    """Lets a UserError name `batch_size=8` where it says `--batch-size 8`."""
    try:
        yield
    except UserError as error:
        message = str(error).replace("--batch-size ", "batch_size=").replace("--device ", "device=")
        message = message.replace("--precision int8", "precision=int8").replace("--", "")
        raise UserError(message) from error
