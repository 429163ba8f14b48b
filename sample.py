"""Describe photos.

python sample.py dog.jpg
python sample.py holiday/ "more/**/*.png" --model runs/shapes --json
python sample.py photos/ --out captions.jsonl         # or captions.csv; the same command resumes
python sample.py photos/ --txt                        # a .txt beside each photo
torchrun --nproc-per-node 4 sample.py photos/ --out captions.jsonl
python sample.py "shards/{00000..00127}.tar" --out captions/    # or s3://…: a table per shard
python sample.py dog.jpg --explain words.png          # where it looked for each word
python sample.py photos/ --compare runs/shapes/mle runs/shapes --sheet side_by_side.png
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from smile.captioning.caption_file import (
    SUFFIXES,
    CaptionFile,
    Result,
    check_out,
    errors_path,
)
from smile.captioning.contact_sheet import TILE, Shown, Told, check_sheet, contact_sheet
from smile.captioning.describe import Model, TextFiles, Todo, describe_all
from smile.captioning.explain import explain
from smile.captioning.find_images import ImageNames
from smile.captioning.options import (
    Options,
    Parser,
    about_bfloat16,
    add_caption_options,
    add_speed_options,
    fingerprint_for,
    labels,
    one_line,
    option_names,
    precision,
    prepare,
    speed,
    usual_workers,
    weights_dtype,
    whole_number,
)
from smile.captioning.pictures import check_picture
from smile.data.batches import Broken
from smile.errors import UserError, counted, printable
from smile.model.captioner import Captioner
from smile.model.images import open_image
from smile.scale.shards import is_shard
from smile.system.device import pick_device
from smile.system.distributed import World
from smile.system.missing import Unavailable
from smile.system.output import ending, prepare_output, printing, say
from smile.system.processors import ContentionWatch
from smile.version import __version__
from smile.weights.arguments import add_model_options
from smile.weights.known import SMALL
from smile.weights.load import default_source, load, start_check

WHAT_ELSE = (
    "  to name one you have: python sample.py PHOTO --model RUN_FOLDER_OR_WEIGHTS\n"
    "  to try it on drawn scenes, without a download: python train.py configs/shapes.toml"
)
MANY = 32  # images, from which on a run is long enough to say how it could be faster
SHEET_IMAGES = 240  # on the pages of a contact sheet, at most


def main() -> None:
    is_heard = prepare_output()
    options = parse_options()
    remedy = "; the same command resumes from here" if options.out or options.txt else ""
    with ending("sample.py", stopped=f"stopped{remedy}"):
        if not (is_heard or options.out or options.txt or options.sheet or options.explain):
            raise UserError("standard output is closed: say with --out where captions should go")
        path = options.explain
        if shards_are_asked(options):
            failed = describe_units(options)
        else:
            failed = draw_attention(options, path) if path else describe(options)
    sys.exit(1 if failed else 0)


# Options ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Options):
    """What to describe, by which models, and where the captions go."""

    images: tuple[str, ...]
    model: str | None
    compare: tuple[str, str] | None
    json: bool
    json_tokens: bool
    out: str | None
    part_size: int | None
    engine: str | None
    ray_address: str | None
    cpus_per_actor: int | None
    txt: bool
    overwrite: bool
    prefix: str
    suffix: str
    sheet: Path | None
    explain: Path | None
    layer: int | None


def parse_options() -> SampleOptions:
    parser = Parser(usage="%(prog)s IMAGE [IMAGE ...] [options]", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, folders (and those in them), patterns in quotes; or shards: tars by path, "
        "pattern or address, such as 's3://bucket/{00000..00127}.tar'",
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--model",
        help="a run folder, a .pth, a transformers folder, a known name such as blip-base, or a "
        "hub id (default: the newest run under runs/ that is not of drawn scenes, else blip-base)",
    )
    models.add_argument(
        "--compare", nargs=2, metavar=("MODEL_A", "MODEL_B"), help="captions of both, side by side"
    )
    add_model_options(parser)
    add_output_options(parser)
    add_scale_options(parser)
    add_caption_options(parser)
    add_speed_options(parser)
    options = parser.parse(SampleOptions)
    if options.explain and (options.compare or options.out or options.txt or options.sheet):
        parser.error("--explain draws one image for one model, without --compare, --out and so on")
    if options.out == "":
        parser.error("--out has an empty name")
    if options.txt and options.compare:
        parser.error("--txt holds one model's captions: leave out --compare, or use --out")
    return options


def add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output", "default: captions on standard output")
    group.add_argument(
        "--json",
        action="store_true",
        help='standard output as lines of {"image", "captions": [{"text", "logprob"}]}',
    )
    group.add_argument(
        "--json-tokens",
        action="store_true",
        help="in lines of JSON, of --out too, also each token with its log-probability",
    )
    group.add_argument(
        "--out",
        metavar="FILE",
        help="captions.jsonl (lines as of --json) or .csv (a row per caption); images in it "
        "are not captioned again; images that cannot be read go to captions.jsonl.errors.jsonl; "
        "for shards: a folder or an address, for a table (parquet) per shard",
    )
    group.add_argument(
        "--txt",
        action="store_true",
        help="a .txt beside each image, a caption a line; images that have one are left alone",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace what --out and --txt find there"
    )
    for name, where in (("--prefix", "before"), ("--suffix", "after")):
        group.add_argument(
            name,
            type=one_line,
            default="",
            metavar="TEXT",
            help=f"put {where} each caption as it is, spaces too: such as a trigger word",
        )
    group.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE.png",
        help=f"also a picture of the first {SHEET_IMAGES} images and their captions; what does not "
        "fit goes to FILE-2.png and so on",
    )
    group.add_argument(
        "--explain",
        type=Path,
        metavar="FILE.png",
        help="for one image: a panel per word, bright where the model looked for it",
    )
    group.add_argument(
        "--layer", type=whole_number(0), metavar="N", help="--explain: one decoder layer (all)"
    )


def add_scale_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("shards and parts", "whose captions are tables")
    group.add_argument(
        "--part-size",
        type=whole_number(1, 1_000_000),
        metavar="N",
        help="cut a folder of images into parts of N, and write tables as for shards",
    )
    group.add_argument(
        "--engine",
        choices=["ray"],
        help="a captioner on each GPU of a Ray cluster, or on each few processors",
    )
    group.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a cluster that runs; auto: this machine's (default: RAY_ADDRESS, else this "
        "machine alone, without a cluster)",
    )
    group.add_argument(
        "--cpus-per-actor",
        type=whole_number(1, 1024),
        metavar="N",
        help="processors of each captioner (4, on a GPU 16, if machines have as many)",
    )


# Models -------------------------------------------------------------------------------------------


def find_models(options: SampleOptions) -> list[Model]:
    """The model named, or both of `--compare`, on the device."""
    device = pick_device(options.device)
    image = options.images[0]
    few = len(options.images) == 1 and os.path.isfile(image) and not is_shard(image)
    models = []
    names = labels(options.compare) if options.compare else [""]
    for source, label in zip(options.compare or [options.model], names, strict=True):
        source, captioner = find_captioner(options, source, weights_dtype(options, device))
        weights = fingerprint_for(options, source, captioner) if options.out else ""
        with option_names():
            model = Model(
                captioner=prepare(captioner.to(device), options, repack=not few),
                label=label,
                source=source,
                weights=weights,
                prompt=options.prompt,
                prefix=options.prefix,
                suffix=options.suffix,
                settings=options.settings,
            )
        models.append(model)
    return models


def find_captioner(
    options: SampleOptions, source: str | None, dtype: torch.dtype
) -> tuple[str, Captioner]:
    """The captioner named; without a name the newest run, or else blip-base, or else `SMALL`."""
    named = source is not None
    if source is None:
        source, why = default_source(for_photos=True)
        print(f"sample.py: no --model given: {source}, {why}", file=sys.stderr)
    try:
        return source, load(
            source,
            model_config=options.model_config,
            vocab=options.vocab,
            dtype=dtype,
            check=False,
        )
    except UserError as error:
        if named:
            raise
        if isinstance(error, Unavailable):
            return SMALL, load_small(options, source, error, dtype)
        raise UserError(f"{error}\n{WHAT_ELSE}") from error


def load_small(
    options: SampleOptions, source: str, problem: UserError, dtype: torch.dtype
) -> Captioner:
    """The captioner that comes along, for who looks at a photo and cannot have the usual one.

    Raises:
        UserError: captions are to be kept; nobody's files are filled by another model because a
            connection failed.
    """
    kept = options.out or options.txt or options.json or options.json_tokens
    asked = options.model_config or options.vocab
    if kept or asked:  # of several processes, each keeps its captions
        raise UserError(
            f"{problem}\n"
            f"  or --model {SMALL}: the small captioner of Flickr8k that comes along\n{WHAT_ELSE}"
        ) from problem
    captioner = load(SMALL, dtype=dtype, check=False)
    print(
        f"sample.py: {problem}\n"
        f"sample.py: so the captions here are by {SMALL}, a small model that comes along and was "
        f"trained on Flickr8k's 6000 photos alone; for BLIP's: --model {source}, once it is there",
        file=sys.stderr,
    )
    return captioner


def say_of_precision(options: SampleOptions, device: torch.device) -> None:
    """Says what bfloat16 costs on this processor, or would gain for many images."""
    is_long = sum(1 for _ in islice(ImageNames(options.images), MANY)) == MANY
    if line := about_bfloat16(options, device, is_long=is_long):
        print(f"sample.py: {line}", file=sys.stderr)


def warn_of_drawn(models: list[Model]) -> None:
    """Says which of the models, though named on purpose, make no sense of photos."""
    drawn = [m.source for m in models if m.captioner.config.model.trained_on == "shapes"]
    if drawn:
        print(
            f"sample.py: {' and '.join(drawn)}: trained on drawn scenes only; "
            "for photos, --model blip-base",
            file=sys.stderr,
        )


# One image, explained -----------------------------------------------------------------------------


def draw_attention(options: SampleOptions, path: Path) -> int:
    """Captions one image and draws to `path` where the model looked for each word."""
    names = list(islice(ImageNames(options.images), 2))
    if len(names) != 1:
        raise UserError("--explain: expected one image, not several or none")
    if World.join().size > 1:
        raise UserError("--explain: expected one process, not several")
    if isinstance(names[0], Broken):
        raise UserError(f"{names[0].name}: {names[0].reason}")
    check_outputs(options)
    image = open_image(names[0])
    [model] = models = find_models(options)
    start_check(model.source)()
    warn_of_drawn(models)
    say_of_precision(options, model.captioner.device)
    caption = explain(
        model.captioner,
        image,
        path,
        prompt=options.prompt,
        layer=options.layer,
        seeds=[options.seed],
        prefix=options.prefix,
        suffix=options.suffix,
        **model.settings,
    )
    say(f"{names[0]}: {caption.text}")
    return 0


# Describing ---------------------------------------------------------------------------------------


def describe(options: SampleOptions) -> int:
    """Describes everything asked for; returns how many images could not be."""
    names = ImageNames(options.images)
    check_outputs(options)
    world = World.join()
    if world.size > 1 and (options.sheet or not (options.out or options.txt)):
        raise UserError("several processes write --out and --txt only; do the rest in one")
    pick_device(options.device)  # refuses one that is not there
    if not options.out and (missing := all_missing(options.images)):
        complain(missing if world.rank == 0 else [], None)
        return len(missing)
    models = find_models(options)
    checks = [start_check(model.source) for model in models]
    if world.rank == 0:
        warn_of_drawn(models)
    texts = TextFiles(overwrite=options.overwrite) if options.txt else None
    out = open_out(options, Path(options.out), models, world) if options.out else None
    if world.rank == 0:
        say_of_precision(options, models[0].captioner.device)
    sheet = Sheet(options.sheet) if options.sheet else None
    done = None if out is None else out.done
    todo, ahead = (
        Todo(some, done=done, texts=texts, world=world)
        for some in (names, ImageNames(options.images))
    )
    num_described = num_broken = 0
    start = time.perf_counter()
    contention = ContentionWatch(models[0].captioner.device)
    bar = Progress(ahead, disable=None if shows_progress(options, world) else True)
    with bar, leaving_order(out, sheet):
        for results, broken in describe_all(todo, models, **speed(options, models[0].captioner)):
            for wait in checks:  # large weights are compared with their checksum meanwhile
                wait()
            # Texts first: what is in `out` counts as done.
            broken = broken + (texts.add(results) if texts else [])
            for sink in (out, sheet):
                if sink is not None:
                    sink.add(results)
            if not (options.out or options.txt):
                show(results, options)
            complain(broken, out)
            num_described += len(results)
            num_broken += len(broken)
            bar.update(len(results) + len(broken))
            say_if_shared(contention, world)
    if sheet is not None:
        sheet.save()
    if out is not None:
        out.close()
        world.wait()
        if world.rank == 0:
            out.finish((n for n in names if isinstance(n, str)), in_order=todo.in_order)
    totals = [world.total(n) for n in (num_described, todo.num_done, num_broken)]
    if world.rank == 0:
        report(options, *totals, left_out=names.left_out(), seconds=time.perf_counter() - start)
    world.leave(1 if totals[-1] else 0)
    return totals[-1]


def say_if_shared(contention: ContentionWatch, world: World) -> None:
    """Says, once, that other processes compete for the processors; called after each batch."""
    if world.rank == 0 and (line := contention.notice()):
        say_aside(line)


def all_missing(images: Sequence[str]) -> list[Broken]:
    """Why nothing can be described, if no argument names a file: known before a model is loaded."""
    missing = []
    for name in ImageNames(images):
        if isinstance(name, str) and os.path.lexists(name):
            return []
        missing.append(name if isinstance(name, Broken) else not_there(name))
    return missing


def not_there(name: str) -> Broken:
    """What `open_image` says of a file that does not exist."""
    try:
        open_image(name)
    except UserError as error:
        return Broken(name, str(error).removeprefix(f"{name}: "))
    raise AssertionError(f"{name} exists")


def check_outputs(options: SampleOptions) -> None:
    """Raises UserError, before any work, if what was asked for cannot be written.

    A picture that is to be described is no place for captions. It can be --out only where that is
    named as an image too, since folders and patterns give files with an image's suffix.
    """
    out = Path(options.out) if options.out else None
    if options.out:
        check_out(options.out)
    if options.sheet:
        check_sheet(options.sheet, SHEET_IMAGES)
    if options.explain:
        check_picture(options.explain)
    for path, names in (
        (out, options.images),
        (options.sheet or options.explain, ImageNames(options.images)),
    ):
        if path and path.exists():
            for name in names:
                if isinstance(name, str) and os.path.exists(name) and path.samefile(name):
                    raise UserError(f"{path} is one of the images to describe: name another file")


@contextlib.contextmanager
def leaving_order(out: CaptionFile | None, sheet: "Sheet | None") -> Iterator[None]:
    """Keeps the captions so far if the run ends early (Ctrl-C, full disk)."""
    try:
        yield
    except BaseException:
        if out is not None:
            out.stop()
        if sheet is not None and sheet.images:
            with contextlib.suppress(UserError):
                sheet.save()
        raise


def open_out(options: SampleOptions, path: Path, models: list[Model], world: World) -> CaptionFile:
    """The file of `--out`, at `path`, ready for more."""
    out = CaptionFile(
        path,
        run=run_record(options, models),
        captions_per_image=sum(model.options.num_return for model in models),
        labels=[model.label for model in models],
        tokens=options.json_tokens,
        rank=world.rank,
        world=world.size,
    )
    if not options.overwrite:
        out.check()
    world.wait()
    if world.rank == 0:
        out.prepare(overwrite=options.overwrite)
    world.wait()
    out.open()
    return out


def run_record(options: SampleOptions, models: list[Model]) -> dict[str, Any]:
    """Everything that the captions depend on."""
    return {
        "precision": precision(options, models[0].captioner.device),
        "models": [model.record(seed=options.seed) for model in models],
    }


# Shards and parts ---------------------------------------------------------------------------------


def shards_are_asked(options: SampleOptions) -> bool:
    """Whether tables are to be written, of shards or of parts of a folder.

    Raises:
        UserError: the options do not go with that.
    """
    shards = [image for image in options.images if is_shard(image)]
    if options.ray_address == "":
        raise UserError("--ray-address is empty: expected host:port, auto, or no --ray-address")
    if not options.engine and (options.ray_address or options.cpus_per_actor):
        raise UserError("--ray-address and --cpus-per-actor go with --engine ray")
    if not shards and options.part_size is None:
        if options.engine:
            raise UserError("--engine ray describes shards, or with --part-size a folder of images")
        return False
    if not options.out:
        raise UserError("shards become tables: say with --out FOLDER where they should go")
    if Path(options.out).suffix.lower() in SUFFIXES:
        raise UserError(f"--out {options.out}: expected a folder or an address, for tables")
    if shards and len(shards) < len(options.images):
        raise UserError(f"{shards[0]} is a shard, and others are not: name them in two commands")
    if shards and options.part_size:
        raise UserError("--part-size cuts a folder of images; shards are parts already")
    for name in ("compare", "json", "json_tokens", "txt", "overwrite", "sheet", "explain"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} does not go with tables: leave it out")
    return True


def describe_units(options: SampleOptions) -> int:
    """Describes shards, or a folder in parts; returns how many images and shards failed."""
    from smile.scale.command import Tables  # needs packages that nothing else does

    world = World.join()
    tables = Tables(
        str(options.out), options.images, part_size=options.part_size, world=world, say=say_aside
    )
    with started(options, world) as (run, caption_units, about_precision):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: tidily
        units = tables.open(run)
        if units and about_precision and world.rank == 0:
            say_aside(about_precision)
        bar = tqdm(unit=" images", disable=None if world.rank == 0 else True, dynamic_ncols=True)
        with bar:
            for _ in tables.caption(units, caption_units, progress=bar.update):
                bar.set_postfix_str(tables.progress())
    failed = world.total(tables.report())
    world.leave(1 if failed else 0)
    return failed


@contextlib.contextmanager
def started(options: SampleOptions, world: World) -> Iterator[tuple[dict[str, Any], Any, str]]:
    """What the captions of units depend on, `caption_units`, and a line about the precision.

    `caption_units` is that of this process or of Ray.
    """
    if options.engine == "ray":
        from smile.scale.on_ray import RayCluster  # needs one more package

        cluster = RayCluster(
            options.ray_address, device=options.device, cpus=options.cpus_per_actor, say=say_aside
        )
        model = find_model(replace(options, device="cpu", precision="float32"), world)
        # Ray tells on standard output, where no captions go here, of what is lost and replaced.
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), cluster:
            line = about_bfloat16(options, torch.device(cluster.device), is_long=True)
            if line:
                line = f"of this machine, and of Ray's others if they are alike: {line}"
            options = same_on_all_machines(options, model.source, cluster.device, cluster.cpus)
            ready = partial(ready_for_units, options)
            yield run_record(options, [model]), partial(cluster.caption_units, ready=ready), line
        return
    from smile.scale.work import caption_units

    model = find_model(options, world)
    device = model.captioner.device
    how = speed(options, model.captioner)
    contention = ContentionWatch(device)

    def watched(units: Any, output: Any, *, progress: Callable[[int], object]) -> Any:
        def after_batch(num_images: int) -> None:
            progress(num_images)
            say_if_shared(contention, world)

        return caption_units(units, output, model, progress=after_batch, **how)

    yield run_record(options, [model]), watched, about_bfloat16(options, device, is_long=True)


def find_model(options: SampleOptions, world: World) -> Model:
    pick_device(options.device)
    [model] = models = find_models(options)
    start_check(model.source)()
    if world.rank == 0:
        warn_of_drawn(models)
    return model


def same_on_all_machines(
    options: SampleOptions, source: str, device: str, cpus: int
) -> SampleOptions:
    """The options of captioners with so many processors, whatever their machines would choose."""
    place = torch.device(device)
    workers = usual_workers(place, cpus) if options.workers is None else options.workers
    found = precision(options, place)
    return replace(options, model=source, device=device, precision=found, workers=workers)


def ready_for_units(options: SampleOptions) -> tuple[Model, dict[str, Any], dict[str, Any]]:
    """A model for a process of Ray's, what its captions depend on, and how it is to work."""
    [model] = models = find_models(options)
    return model, run_record(options, models), speed(options, model.captioner)


# What people see ----------------------------------------------------------------------------------


class Progress(tqdm):
    """A progress bar over images. How many there are is counted while the first are described."""

    def __init__(self, images: Iterable[object], *, disable: bool | None) -> None:
        super().__init__(unit=" images", disable=disable, smoothing=0.1, dynamic_ncols=True)
        self.counting = threading.Thread(target=self.count, args=(images,), daemon=True)

    def count(self, images: Iterable[object]) -> None:
        self.total = sum(1 for _ in images)

    def update(self, n: int = 1) -> None:
        if not self.disable and self.counting.ident is None:  # not started yet
            self.counting.start()
        super().update(n)


def shows_progress(options: SampleOptions, world: World) -> bool:
    """Whether a bar would be of use: not between captions on the same terminal."""
    to_files = bool(options.out or options.txt)
    return world.rank == 0 and (to_files or not sys.stdout.isatty())


def show(results: list[Result], options: SampleOptions) -> None:
    """Captions on standard output; those of several models beneath the image's name."""
    for result in results:
        if options.json or options.json_tokens:
            with printing():
                sys.stdout.buffer.write(result.json_line(tokens=options.json_tokens))
                sys.stdout.flush()
        elif "" in result.captions:
            for line in result.lines():
                say(f"{result.name}: {line}")
        else:
            for line in (result.name, *(f"  {line}" for line in result.lines())):
                say(line)


def say_aside(line: str) -> None:
    """Shows a line on standard error, above the bar."""
    tqdm.write(f"sample.py: {printable(line)}", file=sys.stderr)


def complain(broken: list[Broken], out: CaptionFile | None) -> None:
    for image in broken:
        say_aside(f"{image.name}: {image.reason}")
    if out is not None:
        out.add_errors(broken)


def report(
    options: SampleOptions,
    num_described: int,
    num_done: int,
    num_broken: int,
    *,
    left_out: list[str],
    seconds: float,
) -> None:
    """One line about a run whose captions went to files, or that left something out."""
    parts = []
    if options.out or options.txt:
        rate = f" ({num_described / seconds:.1f} a second)" if num_described else ""
        parts.append(f"{counted(num_described, 'image')} described in {seconds:.1f} s{rate}")
        if num_done:
            parts.append(f"{num_done} had {'its' if num_done == 1 else 'their'} captions already")
        if num_broken:
            where = f", see {errors_path(options.out)}" if options.out else ""
            parts.append(f"{num_broken} failed{where}")
    parts += left_out
    if parts:
        print(f"sample.py: {printable('; '.join(parts))}", file=sys.stderr)


class Sheet:
    """The picture of `--sheet`: what is described first, each image kept no larger than needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: list[Shown] = []
        self.num_left_out = 0

    def add(self, results: list[Result]) -> None:
        for result in results:
            if len(self.images) == SHEET_IMAGES:
                self.num_left_out += 1
                continue
            image = open_image(result.name)
            image.thumbnail((TILE, TILE))
            told = [
                Told(text=caption.text, label=label)
                for label, captions in result.captions.items()
                for caption in captions
            ]
            self.images.append(Shown(image=image, name=result.name, captions=told))

    def save(self) -> None:
        if not self.images:
            print(
                f"sample.py: {self.path}: nothing new was described, so no sheet", file=sys.stderr
            )
            return
        pages = contact_sheet(self.images, self.path)
        parts = [f"{len(pages)} pages, the last {pages[-1].name}"] if len(pages) > 1 else []
        if self.num_left_out:
            parts.append(f"the first {SHEET_IMAGES} images, {self.num_left_out} more not shown")
        if parts:
            said = printable(f"{self.path}: {'; '.join(parts)}")
            print(f"sample.py: {said}", file=sys.stderr)


if __name__ == "__main__":
    main()
