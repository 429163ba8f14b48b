"""Score captions: every number of the SMILE paper, and the captioning field's.

python evaluate.py --model runs/shapes
python evaluate.py --compare runs/shapes/mle runs/shapes --paper
python evaluate.py --captions results.json --data configs/flickr8k.toml
python evaluate.py --captions captions.jsonl --references refs.json
python evaluate.py --human --data configs/flickr8k.toml    # people, measured by each other
torchrun --nproc-per-node 4 evaluate.py --model runs/coco --split test

Prints a table and writes report.json and report.html: into the run's own folder, or evaluation/NAME
for anything but one run. A metric that cannot be computed is shown as missing, with the reason.
"""

import argparse
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from smile.bulk import Model, describe_all, fingerprint
from smile.captioner import Captioner
from smile.checkpoint import is_run
from smile.config import DataConfig, load_config
from smile.data.splits import SPLITS
from smile.device import pick_device
from smile.distributed import World
from smile.errors import UserError, first_few
from smile.evaluation.caption_files import is_caption_file, read_captions
from smile.evaluation.image_set import ImageSet, same_images
from smile.evaluation.models import ClipJudge, Gpt2Judge, RetrievalJudge, Weights
from smile.evaluation.report import write_report
from smile.evaluation.rows import System, make_rows
from smile.evaluation.scoring import Family, Trial, human_outcomes, score
from smile.evaluation.table import published_table, table
from smile.metrics import Bootstrap
from smile.options import (
    Parser,
    add_caption_options,
    add_speed_options,
    caption_settings,
    labels,
    option_names,
    prepare,
    speed,
    wants_bfloat16,
    whole_number,
)
from smile.pretrained import add_model_options, default_source, load
from smile.version import __version__

HUMAN = "human"
HUMAN_NOTE = (
    "each reference in turn against the image's others, and the mean of the turns; "
    "the caption shown is the first"
)


def main() -> None:
    args = parse_args()
    try:
        evaluate(args)
    except UserError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("evaluate.py: stopped; nothing was written", file=sys.stderr)
        sys.exit(130)


def evaluate(args: argparse.Namespace) -> None:
    """Everything from captions to reports. Of several processes, all write captions, one scores."""
    world = World.join()
    device = pick_device(args.device)
    caption_settings(args)  # what is impossible is refused before anything is loaded
    sources = find_sources(args)
    names = labels(sources)
    captioners = {name: load_captioner(args, name) for name in sources if is_model(args, name)}
    images = find_images(args, captioners)
    models = find_models(args, images) if world.rank == 0 else {}
    # Files first: what is wrong with them shows before any captioning.
    said = {s: read(args, s, images) for s in sources if s not in captioners}
    for source, captioner in captioners.items():
        said[source] = describe(args, source, captioner.to(device), images, world)
    said = {label: said[source] for label, source in zip(names, sources, strict=True)}
    if world.rank == 0:
        systems = score_all(args, images, said, models)
        report(args, images, systems, out_folder(args, sources, names))
    world.leave()


# Options ------------------------------------------------------------------------------------------


def parse_args() -> argparse.Namespace:
    parser = Parser(usage="%(prog)s [options]", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--model",
        help="a run folder or anything else that sample.py takes (default: the newest run)",
    )
    what.add_argument(
        "--captions", metavar="FILE", help="captions made elsewhere: .json, .jsonl or .csv"
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
        help="the references themselves, each in turn against an image's others, averaged",
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
        help="for report.json and report.html (the run's folder, or evaluation/NAME)",
    )
    return parser.parse_args()


def add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images and references", "default: the run's own data set")
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
        metavar="FILE.json",
        help="instead of a data set: image -> list of captions, or COCO's file of annotations",
    )
    group.add_argument("--split", choices=SPLITS, default="test", help="(test)")
    group.add_argument("--limit", type=whole_number(1), metavar="N", help="the first N images only")


def add_metric_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "metrics", "models that are named are downloaded if need be; otherwise nothing is"
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
        "--paper", action="store_true", help="also a table of published numbers beside ours"
    )
    group.add_argument(
        "--draws", type=whole_number(1), default=1000, metavar="N", help="of the bootstrap (1000)"
    )


# What is scored on what ---------------------------------------------------------------------------


def find_sources(args: argparse.Namespace) -> list[str]:
    """What was asked for: models, files of captions, or people."""
    if args.human:
        return [HUMAN]
    if args.captions and not is_caption_file(args.captions):
        raise UserError(f"--captions {args.captions}: expected a .json, .jsonl or .csv file")
    if args.captions or args.compare:
        return args.compare or [args.captions]
    if args.model:
        return [args.model]
    source, why = default_source()
    print(f"evaluate.py: nothing named: --model {source}, {why}", file=sys.stderr)
    return [source]


def is_model(args: argparse.Namespace, source: str) -> bool:
    return not args.human and not is_caption_file(source)


def load_captioner(args: argparse.Namespace, source: str) -> Captioner:
    return load(source, model_config=args.model_config, vocab=args.vocab)


def find_images(args: argparse.Namespace, captioners: dict[str, Captioner]) -> ImageSet:
    """The data set or references named, or the data set that the runs were trained on."""
    for change in args.set:
        if not change.strip().startswith("data."):
            raise UserError(f"--set {change}: expected data.KEY=VALUE; --num-beams and its like "
                            "change how captions are written")  # fmt: skip
    if args.references:
        if args.data or args.set:
            raise UserError("--references is for where there is no data set: leave out the others")
        return ImageSet.from_references(args.references, limit=args.limit)
    if args.data:
        return load_images(args, load_config(args.data, args.set).data)
    runs = {name: captioner for name, captioner in captioners.items() if is_run(name)}
    if not runs:
        raise UserError(
            "nothing says which images and references: add --data CONFIG.toml or --references FILE"
        )
    sets = [
        load_images(args, load_config(Path(name) / "config.toml", args.set).data) for name in runs
    ]
    if not same_images(sets):
        raise UserError(
            f"{', '.join(runs)} have different {args.split} images: say which with --data "
            "CONFIG.toml, such as a run's own config.toml"
        )
    return sets[0]


def load_images(args: argparse.Namespace, data: DataConfig) -> ImageSet:
    return ImageSet.from_data(data, args.split, limit=args.limit)


def out_folder(args: argparse.Namespace, sources: list[str], names: list[str]) -> Path:
    if args.out:
        return args.out
    if len(sources) == 1 and is_model(args, sources[0]) and is_run(sources[0]):
        return Path(sources[0])
    return Path("evaluation") / "-vs-".join(re.sub(r"[^\w.+-]+", "_", name) for name in names)


# Captions -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """A caption for each image, and what is known of who wrote them."""

    captions: list[str]
    record: dict


def read(args: argparse.Namespace, source: str, images: ImageSet) -> Said:
    """What a file says of each image, or the first of the people who did."""
    if args.human:
        first = [texts[0] for texts in images.references]
        return Said(first, {"source": HUMAN, "note": HUMAN_NOTE})
    captions = read_captions(source, images)
    with open(source, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return Said(captions, {"source": source, "sha256": checksum})


def describe(
    args: argparse.Namespace, source: str, captioner: Captioner, images: ImageSet, world: World
) -> Said:
    """The captioner's best caption of each image; each process writes its share, all know all."""
    weights = fingerprint(captioner)
    with option_names():
        model = Model(
            captioner=prepare(captioner, args),
            source=source,
            weights=weights,
            prompt=args.prompt,
            settings=caption_settings(args),
        )
    examples = images.at_size(captioner.config.vit.image_size)
    share = examples[world.rank :: world.size]
    captions, broken = {}, []
    bar = tqdm(
        total=len(share),
        desc=f"captions by {source}",
        unit=" images",
        leave=False,
        disable=True if world.rank else None,  # None: unless on a terminal
    )
    with bar:
        for results, unread in describe_all(share, [model], **speed(args, captioner)):
            captions |= {result.name: result.captions[""][0].text for result in results}
            broken += [f"{image.name}: {image.reason}" for image in unread]
            bar.update(len(results) + len(unread))
    parts = world.gather((captions, broken))
    captions = {name: text for part, _ in parts for name, text in part.items()}
    if broken := [problem for _, part in parts for problem in part]:
        raise UserError(
            f"{len(broken)} of {len(examples)} images cannot be read: {first_few(broken)}; put "
            "them right, or take them out of the split"
        )
    precision = "bfloat16" if wants_bfloat16(args, captioner) else "float32"
    record = model.record(seed=args.seed) | {"precision": precision}
    return Said([captions[name] for name in images.names], record)


# Scores -------------------------------------------------------------------------------------------


def find_models(args: argparse.Namespace, images: ImageSet) -> dict[str, Family]:
    """The metrics that ask a model. CLIP and GPT-2 are loaded when they are first asked."""
    judge = None
    if args.judge:
        judge = prepare(load_captioner(args, args.judge).to(pick_device(args.device)), args)
    return {
        "clip": ClipJudge(images, weights(args, "clip", usual="clip-vit-b-32")),
        "gpt2": Gpt2Judge(weights(args, "gpt2", usual="gpt2")),
        "judge": RetrievalJudge(images, judge, name=args.judge or ""),
    }


def score_all(
    args: argparse.Namespace,
    images: ImageSet,
    said: dict[str, Said],
    models: dict[str, Family],
) -> list[System]:
    """Every metric of every system."""
    systems = []
    for label, one in tqdm(said.items(), desc="scores", leave=False, disable=None):
        if args.human:
            outcomes = human_outcomes(images)
        else:
            outcomes = score(
                Trial(
                    images=images,
                    captions=one.captions,
                    references=images.references,
                    models=models,
                )
            )
        systems.append(
            System(label=label, captions=one.captions, outcomes=outcomes, record=one.record)
        )
    return systems


def weights(args: argparse.Namespace, kind: str, *, usual: str) -> Weights:
    return Weights(
        option=f"--{kind}",
        usual=usual,
        asked=getattr(args, kind),
        device=pick_device(args.device),
    )


def report(args: argparse.Namespace, images: ImageSet, systems: list[System], folder: Path) -> None:
    """The tables on standard output, and the files of the report."""
    bootstrap = Bootstrap(num_images=len(images.examples), draws=args.draws)
    rows = make_rows(systems, bootstrap)
    names = [system.label for system in systems]
    part = "" if len(images.examples) == images.num_in_split else f" of {images.num_in_split}"
    print(f"{images.title}: {len(images.examples)}{part} images\n")
    if args.human:
        print(f"{HUMAN}: {HUMAN_NOTE}\n")
    print(table(rows, names))
    if args.paper:
        print("\n" + published_table(rows, names))
    settings = {"limit": args.limit, "draws": args.draws, "clip": args.clip, "gpt2": args.gpt2}
    settings |= {"judge": args.judge, "split": args.split if images.data else None}
    paths = write_report(folder, images, systems, rows, settings=settings, published=args.paper)
    print(f"\n→ {' and '.join(map(str, paths))}")


if __name__ == "__main__":
    main()
