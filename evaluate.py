"""Score captions: every number of the SMILE paper, and the captioning field's.

python evaluate.py --model runs/shapes
python evaluate.py --compare runs/shapes/mle runs/shapes --paper
python evaluate.py --captions results.json --data configs/flickr8k.toml
python evaluate.py --captions captions.jsonl --references refs.json
python evaluate.py --human --data configs/flickr8k.toml    # people, scored against each other
python evaluate.py --agreement data/flickr8k               # do the metrics agree with people?
torchrun --nproc-per-node 4 evaluate.py --model runs/coco --split test

Prints a table and writes report.json and report.html: into the run's own folder, or evaluation/NAME
for anything but one run. A metric that cannot be computed is shown as missing, with the reason.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from smile.captioning.describe import Model, describe_all
from smile.captioning.options import (
    Options,
    Parser,
    about_bfloat16,
    add_caption_options,
    add_speed_options,
    fingerprint_for,
    labels,
    option_names,
    precision,
    prepare,
    speed,
    weights_dtype,
    whole_number,
)
from smile.config import DataConfig, load_config
from smile.data.flickr8k_folder import RATINGS, USUAL
from smile.data.splits import SPLITS
from smile.errors import UserError, counted, first_few, printable
from smile.evaluation.agreement import agreement_rows, score_rated
from smile.evaluation.agreement_report import AGREEMENT_FILE, agreement_text, write_agreement
from smile.evaluation.caption_files import is_caption_file, read_captions
from smile.evaluation.image_set import ImageSet, lies_outside, same_images
from smile.evaluation.models import NONE, ClipJudge, Gpt2Judge, RetrievalJudge, Weights
from smile.evaluation.rated_captions import load_ratings
from smile.evaluation.report import FILES, write_report
from smile.evaluation.rows import System, make_rows
from smile.evaluation.scoring import Family, Submission, human_outcomes, score
from smile.evaluation.table import published_table, table
from smile.metrics.bootstrap import Bootstrap
from smile.metrics.models.clip import load_clip
from smile.metrics.models.gpt2 import load_gpt2
from smile.model.captioner import Captioner
from smile.system.device import pick_device
from smile.system.distributed import World
from smile.system.files import check_writable, sha256
from smile.system.output import ReaderLeft, ending, prepare_output, say
from smile.training.provide import fetch
from smile.training.splits import find_broken
from smile.version import __version__
from smile.weights.arguments import add_model_options
from smile.weights.load import default_source, load
from smile.weights.needed import missing
from smile.weights.run_folder import is_run

SPLIT = "test"
DRAWS = 1000
MOST_DRAWN = 500_000_000  # images in all draws of the bootstrap: 1 GB
HUMAN = "human"
HUMAN_NOTE = (
    "each reference in turn against the image's others, and the mean of the turns; "
    "the caption shown is the first"
)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """What is scored on which images, by which metrics, and where the report goes."""

    model: str | None
    captions: str | None
    compare: tuple[str, ...] | None
    human: bool
    agreement: str | None
    data: str | None
    set: tuple[str, ...]
    references: str | None
    split: str
    limit: int | None
    only_captioned: bool
    embed_outside: bool
    clip: str | None
    gpt2: str | None
    judge: str | None
    paper: bool
    draws: int
    out: Path | None


def main() -> None:
    prepare_output()
    options = parse_options()
    with ending("evaluate.py", stopped="stopped; the report is written only at the end"):
        evaluate(options)


def evaluate(options: EvaluateOptions) -> None:
    """Everything from captions to reports. Of several processes, all write captions, one scores."""
    world = World.join()
    if options.agreement is not None:
        if world.rank == 0:
            agreement(options, options.agreement)
        world.leave()
        return
    device = pick_device(options.device)
    sources = find_sources(options)
    names = labels(sources)
    # Mistakes must show before any captioning.
    folder = out_folder(options, sources, names)
    for name in FILES:
        check_writable(folder / name)
    models = [name for name in sources if is_model(options, name)]
    for name in models:
        missing(name, own_vocab=not options.vocab)  # refuses what does not exist
    images = find_images(options, models, world)
    dtype = weights_dtype(options, device)
    captioners = {name: load_captioner(options, name, dtype=dtype) for name in models}
    check_draws(options, images)
    captioned = {s: read(options, s, images) for s in sources if s not in captioners}
    images = only_captioned(options, images, captioned)
    describers = [make_model(options, *item) for item in captioners.items()]
    if describers and not images.are_scenes:
        images = readable(images, world)
    line = about_bfloat16(options, device, is_long=bool(describers))
    if world.rank == 0 and line:
        print(f"evaluate.py: {line}", file=sys.stderr)
    judges = find_judges(options) if world.rank == 0 else None
    for model in describers:
        model.captioner.to(device)
        captioned[model.source] = describe(options, model, images, world)
    images = images.part(known_of_all(captioned))
    if judges is not None:
        labelled = {label: captioned[source] for label, source in zip(names, sources, strict=True)}
        systems = score_all(options, images, labelled, judges.families(images))
        report(options, images, systems, folder)
    world.leave()


# Options ------------------------------------------------------------------------------------------


def parse_options() -> EvaluateOptions:
    parser = Parser(usage="%(prog)s [options]", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--model",
        help="a run folder or anything else that sample.py takes (default: the newest run)",
    )
    what.add_argument(
        "--captions", metavar="FILE", help="captions made elsewhere: .json, .jsonl, .csv or .tsv"
    )
    what.add_argument(
        "--compare",
        nargs="+",
        metavar="A",
        help="models and files of captions side by side, each tested against the first",
    )
    what.add_argument(
        "--human",
        action="store_true",
        help="score the references: each against the other ones of its image, averaged",
    )
    what.add_argument(
        "--agreement",
        nargs="?",
        const="",
        metavar="FILE",
        help="whether the metrics order captions as experts do: Kendall's tau-c with Flickr8k's "
        f"{RATINGS}, a file or its folder (the folder of --data, or {USUAL})",
    )
    add_data_options(parser)
    add_metric_options(parser)
    add_model_options(parser)
    add_caption_options(parser)
    add_speed_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"for report.json and report.html, or {AGREEMENT_FILE} (the run's folder, or "
        "evaluation/NAME)",
    )
    return parser.parse(EvaluateOptions)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images and references", "default: the data set of the run")
    group.add_argument("--data", metavar="CONFIG.toml", help="a data set: its [data] is read")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="data.KEY=VALUE",
        help="change one setting of the data set; may be given again",
    )
    group.add_argument(
        "--references",
        metavar="FILE",
        help="instead of a data set: image -> list of captions (.json), COCO's file of "
        "annotations, or any table that training reads (.jsonl, .csv)",
    )
    group.add_argument("--split", choices=SPLITS, default=SPLIT, help=f"({SPLIT})")
    group.add_argument("--limit", type=whole_number(1), metavar="N", help="the first N images only")
    group.add_argument(
        "--only-captioned",
        action="store_true",
        help="leave out images that a file of captions lacks (default: an error)",
    )
    group.add_argument(
        "--embed-outside",
        action="store_true",
        help="show pictures in report.html even if they are outside the folder of the references "
        "or of the data set",
    )


def add_metric_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "metrics", "a model named here is downloaded if it is missing"
    )
    group.add_argument(
        "--clip",
        metavar="SOURCE",
        help="for CLIPScore and retrieval: clip-vit-b-32, clip-vit-l-14, a folder, or none "
        "(clip-vit-b-32 if an earlier run downloaded it)",
    )
    group.add_argument(
        "--gpt2",
        metavar="SOURCE",
        help="for PPL: gpt2, a folder, or none (gpt2 if an earlier run downloaded it)",
    )
    group.add_argument(
        "--judge", metavar="MODEL", help="a captioner that ranks the images for every caption"
    )
    group.add_argument(
        "--paper", action="store_true", help="also a table of published numbers next to ours"
    )
    group.add_argument(
        "--draws",
        type=whole_number(1),
        default=DRAWS,
        metavar="N",
        help=f"bootstrap resamples ({DRAWS})",
    )


# What is scored on what ---------------------------------------------------------------------------


def find_sources(options: EvaluateOptions) -> Sequence[str]:
    """What was asked for: models, files of captions, or people."""
    if options.human:
        return [HUMAN]
    if options.captions and not is_caption_file(options.captions):
        raise UserError(
            f"--captions {options.captions}: expected a .json, .jsonl, .csv or .tsv file"
        )
    if options.compare:
        return options.compare
    if options.captions:
        return [options.captions]
    if options.model:
        return [options.model]
    source, why = default_source()
    print(f"evaluate.py: nothing named: --model {source}, {why}", file=sys.stderr)
    return [source]


def is_model(options: EvaluateOptions, source: str) -> bool:
    return not options.human and not is_caption_file(source)


def load_captioner(
    options: EvaluateOptions, source: str, *, dtype: torch.dtype = torch.float32
) -> Captioner:
    return load(source, model_config=options.model_config, vocab=options.vocab, dtype=dtype)


def find_images(options: EvaluateOptions, models: Sequence[str], world: World) -> ImageSet:
    """The data set or references named, or the data set that the runs were trained on."""
    for change in options.set:
        if not change.strip().startswith("data."):
            raise UserError(f"--set {change}: expected data.KEY=VALUE; --num-beams and its like "
                            "change how captions are written")  # fmt: skip
    if options.references:
        if options.data or options.set:
            raise UserError("--references cannot go with --data or --set: give one or the other")
        return ImageSet.from_references(options.references, limit=options.limit)
    if options.data:
        data = load_config(options.data, options.set).data
        return load_images(options, data, models, world)
    runs = [name for name in models if is_run(name)]
    if not runs:
        raise UserError(
            "nothing says which images and references: add --data CONFIG.toml or --references FILE"
        )
    sets = [
        load_images(
            options, load_config(Path(name) / "config.toml", options.set).data, models, world
        )
        for name in runs
    ]
    if not same_images(sets):
        raise UserError(
            f"{', '.join(runs)} have different {options.split} images: say which with --data "
            "CONFIG.toml, such as a run's own config.toml"
        )
    return sets[0]


def check_draws(options: EvaluateOptions, images: ImageSet) -> None:
    """Raises UserError where the bootstrap would take more memory than anyone wants."""
    if (num_images := len(images.examples)) * options.draws > MOST_DRAWN:
        raise UserError(
            f"--draws {options.draws}: of {num_images} images at most {MOST_DRAWN // num_images} "
            "can be drawn; 1000 are usual"
        )


def load_images(
    options: EvaluateOptions, data: DataConfig, models: Sequence[str], world: World
) -> ImageSet:
    """A split of a data set, which is fetched first if it is missing and its config says so."""
    world.first(
        lambda: fetch(
            data,
            sources=models,
            vocab=options.vocab,
            try_out=lambda source: load_captioner(options, source),
        )
    )
    return ImageSet.from_data(data, options.split, limit=options.limit)


def out_folder(options: EvaluateOptions, sources: Sequence[str], names: list[str]) -> Path:
    if options.out:
        return options.out
    if len(sources) == 1 and is_model(options, sources[0]) and is_run(sources[0]):
        return Path(sources[0])
    return Path("evaluation") / "-vs-".join(re.sub(r"[^\w.+-]+", "_", name) for name in names)


# Agreement with experts ---------------------------------------------------------------------------


def agreement(options: EvaluateOptions, given: str) -> None:
    """The table on standard output, and agreement.json; `given` is the file of ratings, "" if none.

    Raises:
        UserError: another option does not go with it, or a file is missing or wrong.
    """
    useless = {
        "--references": options.references is not None,
        "--set without --data": bool(options.set) and options.data is None,
        "--limit": options.limit is not None,
        "--only-captioned": options.only_captioned,
        "--embed-outside": options.embed_outside,
        "--paper": options.paper,
        "--split": options.split != SPLIT,
        "--draws": options.draws != DRAWS,
    }
    if names := [name for name, was_given in useless.items() if was_given]:
        raise UserError(
            f"{names[0]} does not go with --agreement, which scores all captions that experts "
            "rated: leave it out"
        )
    folder = options.out or Path("evaluation") / "agreement"
    check_writable(folder / AGREEMENT_FILE)
    ratings = load_ratings(
        given, load_config(options.data, options.set).data if options.data else None
    )
    scores = score_rated(ratings, find_judges(options).families(ratings.images))
    rows = agreement_rows(ratings, scores)
    settings = {"clip": options.clip, "gpt2": options.gpt2, "judge": options.judge}
    with printed_anyway(agreement_text(ratings, rows)):
        written = write_agreement(folder, ratings, scores, rows, settings=settings)
    say(printable(f"\n→ {written}"))


# Captions -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SystemCaptions:
    """Captions by their image's number, and a record of their source."""

    captions: dict[int, str]
    record: dict


def read(options: EvaluateOptions, source: str, images: ImageSet) -> SystemCaptions:
    """What a file says of each image, or the first of the people who did."""
    if options.human:
        first = {n: texts[0] for n, texts in zip(images.numbers, images.references, strict=True)}
        return SystemCaptions(first, {"source": HUMAN, "note": HUMAN_NOTE})
    captions = read_captions(source, images, allow_missing=options.only_captioned)
    return SystemCaptions(captions, {"source": source, "sha256": sha256(source)})


def only_captioned(
    options: EvaluateOptions, images: ImageSet, captioned: dict[str, SystemCaptions]
) -> ImageSet:
    """With --only-captioned, the images for which every file has a caption, else all."""
    if not options.only_captioned:
        return images
    if not captioned:
        raise UserError("--only-captioned goes with files of captions, and none is named")
    return images.part(known_of_all(captioned))


def known_of_all(captioned: dict[str, SystemCaptions]) -> list[int]:
    """The numbers of the images that every system captioned."""
    common = set.intersection(*(set(one.captions) for one in captioned.values()))
    if not common:
        raise UserError(f"there is no image that all of {', '.join(captioned)} have a caption of")
    return sorted(common)


def make_model(options: EvaluateOptions, source: str, captioner: Captioner) -> Model:
    """A captioner and the settings it captions with. Raises UserError if they do not fit it."""
    with option_names():
        return Model(
            captioner=captioner,
            source=source,
            weights=fingerprint_for(options, source, captioner),
            prompt=options.prompt,
            settings=options.settings,
        )


def readable(images: ImageSet, world: World) -> ImageSet:
    """The images whose pictures can be read: each is opened once, before the first caption.

    Raises:
        UserError: there are others, and they are not to be skipped.
    """
    broken = find_broken(images.examples, world=world)
    skip_or_refuse(images, [problem.reason for problem in broken.values()], world)
    kept = [number for i, number in enumerate(images.numbers) if i not in broken]
    if not kept:
        raise UserError(f"{images.title}: no image can be read")
    return images.part(kept)


def skip_or_refuse(images: ImageSet, reasons: list[str], world: World) -> None:
    """Says which images cannot be read, or raises it as UserError unless they are to be skipped."""
    if not reasons:
        return
    problem = (
        f"{len(reasons)} of {len(images.examples)} images cannot be read: {first_few(reasons)}"
    )
    if images.data is None or not images.data.skip_broken:
        raise UserError(
            f"{problem}; put them right, take them out of the split, or leave them out with "
            "--set data.skip_broken=true"
        )
    if world.rank == 0:
        print(f"evaluate.py: {problem}: left out (data.skip_broken)", file=sys.stderr)


def describe(
    options: EvaluateOptions, model: Model, images: ImageSet, world: World
) -> SystemCaptions:
    """The captioner's best caption of each image; each process writes its share, all know all."""
    captioner = prepare(model.captioner, options)
    examples = images.at_size(captioner.config.vit.image_size)
    share = examples[world.rank :: world.size]
    captions: dict[str, str] = {}
    broken: list[str] = []
    bar = tqdm(
        total=len(share),
        desc=f"captions by {model.source}",
        unit=" images",
        leave=False,
        disable=True if world.rank else None,  # None: unless on a terminal
    )
    with bar:
        for results, unread in describe_all(share, [model], **speed(options, captioner)):
            captions |= {result.name: result.captions[""][0].text for result in results}
            broken += [f"{image.name}: {image.reason}" for image in unread]
            bar.update(len(results) + len(unread))
    parts = world.gather((captions, broken))
    captions = {name: text for part, _ in parts for name, text in part.items()}
    skip_or_refuse(images, [problem for _, part in parts for problem in part], world)
    record = model.record(seed=options.seed) | {"precision": precision(options, captioner.device)}
    names = zip(images.numbers, images.names, strict=True)
    return SystemCaptions(
        {number: captions[name] for number, name in names if name in captions}, record
    )


# Scores -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judges:
    """The models that metrics ask."""

    clip: Weights
    gpt2: Weights
    captioner: Captioner | None
    name: str

    def families(self, images: ImageSet) -> dict[str, Family]:
        """The metrics that ask them, of these images."""
        return {
            "clip": ClipJudge(images, self.clip),
            "gpt2": Gpt2Judge(self.gpt2),
            "judge": RetrievalJudge(images, self.captioner, name=self.name),
        }


def find_judges(options: EvaluateOptions) -> Judges:
    """Loads the named models; CLIP and GPT-2 otherwise at first use."""
    captioner = None
    if options.judge:
        captioner = prepare(
            load_captioner(options, options.judge).to(pick_device(options.device)), options
        )
    clip, gpt2 = weights(options, "clip", "clip-vit-b-32"), weights(options, "gpt2", "gpt2")
    for judge, load_judge in ((clip, load_clip), (gpt2, load_gpt2)):
        if judge.asked not in (None, NONE):
            judge.load(load_judge)
    return Judges(clip, gpt2, captioner, options.judge or "")


def score_all(
    options: EvaluateOptions,
    images: ImageSet,
    captioned: dict[str, SystemCaptions],
    models: dict[str, Family],
) -> list[System]:
    """Every metric of every system."""
    systems = []
    for label, one in tqdm(captioned.items(), desc="scores", leave=False, disable=None):
        captions = [one.captions[number] for number in images.numbers]
        if options.human:
            outcomes = human_outcomes(images)
        else:
            outcomes = score(
                Submission(
                    images=images,
                    captions=captions,
                    references=images.references,
                    models=models,
                )
            )
        systems.append(System(label=label, captions=captions, outcomes=outcomes, record=one.record))
    return systems


def weights(options: EvaluateOptions, kind: str, usual: str) -> Weights:
    return Weights(
        option=f"--{kind}",
        usual=usual,
        asked=getattr(options, kind),
        device=pick_device(options.device),
    )


def report(options: EvaluateOptions, images: ImageSet, systems: list[System], folder: Path) -> None:
    """The files of the report, and the tables on standard output."""
    bootstrap = Bootstrap(num_images=len(images.examples), draws=options.draws)
    rows = make_rows(systems, bootstrap)
    names = [system.label for system in systems]
    number, of = len(images.examples), images.num_in_split
    size = counted(of, "image") if number == of else f"{number} of {counted(of, 'image')}"
    parts = [f"{images.title}: {size}"]
    if options.human:
        parts.append(f"{HUMAN}: {HUMAN_NOTE}")
    parts.append(table(rows, names))
    if options.paper:
        parts.append(published_table(rows, names))
    settings = {
        "limit": options.limit,
        "draws": options.draws,
        "clip": options.clip,
        "gpt2": options.gpt2,
    }
    settings |= {"judge": options.judge, "split": options.split if images.data else None}
    settings |= {"only_captioned": options.only_captioned}
    with printed_anyway("\n\n".join(parts)):
        paths = write_report(
            folder,
            images,
            systems,
            rows,
            settings=settings,
            published=options.paper,
            embed_outside=options.embed_outside,
        )
    say(printable(f"\n→ {' and '.join(map(str, paths))}"))
    left_out = sum(lies_outside(example) for example in images.examples)
    if left_out and not options.embed_outside:
        print(
            f"evaluate.py: {left_out} of {len(images.examples)} pictures lie outside the folder of "
            "the references or data and are left out of report.html: --embed-outside shows them",
            file=sys.stderr,
        )


@contextlib.contextmanager
def printed_anyway(tables: str) -> Iterator[None]:
    """Prints the scores after the files are written inside, and also if those cannot be written.

    Hours of captioning stand behind the scores. So neither is lost if the other fails.
    """
    try:
        yield
    except UserError:
        with contextlib.suppress(UserError, ReaderLeft):  # what is raised again matters more
            say(printable(tables))
        raise
    say(printable(tables))


if __name__ == "__main__":
    main()
