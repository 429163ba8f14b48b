"""Feeds damaged files to whatever reads strangers' files: no traceback, no hang, no full memory.

    python tests/fuzz_strangers.py                 # 2000 of them
    python tests/fuzz_strangers.py --first 17 --count 1 --keep /tmp/17

Run folders, `transformers` folders, `.pth` files, files of captions and references, configs, data
folders and checkpoints are damaged (`mutations.py`), and then read by what the scripts call, one in
ten by the scripts themselves. Each has to end in a value or in one line, a UserError.
`tests/test_strangers.py` runs a few.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import as_transformers_5, make_photos, make_run  # noqa: E402
from mutations import damage  # noqa: E402

import evaluate  # noqa: E402
import sample  # noqa: E402
import smile  # noqa: E402
import train  # noqa: E402
from smile.config import SETTINGS, DataConfig, load_config  # noqa: E402
from smile.data.load import load_examples  # noqa: E402
from smile.errors import UserError  # noqa: E402
from smile.evaluation.caption_files import read_captions  # noqa: E402
from smile.evaluation.image_set import ImageSet  # noqa: E402
from smile.evaluation.rated_captions import load_ratings  # noqa: E402
from smile.training.checkpointing.checkpoints import Checkpoints  # noqa: E402
from smile.training.checkpointing.resume import check_about, check_same, identity  # noqa: E402
from smile.weights.checksum import checksum_path  # noqa: E402
from smile.weights.export import export_blip, export_transformers  # noqa: E402
from smile.weights.run_folder import WEIGHTS, load_run  # noqa: E402

SECONDS = 15  # more than this of a processor for one case is a hang,
WAIT = 60  # and so is more than this of waiting
BYTES = 2**30  # of memory above what was there at the start
# Errors that may name neither the folder nor a setting.
MAY_NAME_OTHERS = ("but downloads are off", "/etc/passwd")
# Training that is short whatever the damaged config asks for.
SHORT = ("data.num_train=2", "data.num_val=2", "data.num_test=2", "decoder.vocab_size=0")
SHORT += ("vit.depth=1", "decoder.depth=1", "train.batch_size=1", "train.workers=0")
NAMES = ("0/a.png", "0/b.png", "1/c.png", "1/d.png")
CAPTIONS = ("a red dog", "a dog, in the tree", 'a "blue" cat', "a photo of the cat on a tree")


# What is damaged, and who reads it ----------------------------------------------------------------


@dataclass(frozen=True)
class Area:
    """One kind of stranger's files.

    make: writes sound ones into a folder. read: hands them to the library. script: to a script, as
    a user would.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    script: Callable[[Path], None]


def caption_of(source: Path) -> object:
    return smile.load(source).caption(sound() / "photo.png")


def run_script(script: object, *words: object) -> None:
    """A script's main(); a status of 2 is a UserError, which has to be said in a line."""
    sys.argv = [f"{script.__name__}.py", *map(str, words)]
    said = io.StringIO()
    status = 0
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())),
    ):
        try:
            script.main()
        except SystemExit as ended:
            status = ended.code
    if status == 2:
        raise UserError(last_words(said.getvalue(), f"{script.__name__}.py: "))
    if status not in (0, 1, None):
        raise AssertionError(f"exit status {status}: {said.getvalue()}")


def last_words(said: str, start: str) -> str:
    """The error at the end of what a script said; all of it if not all of it is of the form."""
    lines = said.rstrip().split("\n")
    if all(line.startswith((start, "  ")) for line in lines):
        return next(line for line in reversed(lines) if line.startswith(start))
    return said


def sample_with(source: Path) -> None:
    run_script(sample, sound() / "photo.png", "--model", source, "--workers", 0)


def run_folder(folder: Path) -> None:
    shutil.copytree(sound() / "run", folder, dirs_exist_ok=True)
    (folder / "log.jsonl").write_text("{}\n")


def older_run_folder(folder: Path) -> None:
    """Without a checksum, which would find out whatever is done to the weights."""
    run_folder(folder)
    checksum_path(folder / WEIGHTS).unlink()


def transformers_5_folder(folder: Path) -> None:
    transformers_folder(folder)
    as_transformers_5(folder)


def transformers_folder(folder: Path) -> None:
    export_transformers(load_run(sound() / "run"), folder)


def sharded_folder(folder: Path) -> None:
    """The same in two files, that an index lists."""
    from safetensors.torch import load_file, save_file

    transformers_folder(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, home = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        home |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": home}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pth(folder: Path) -> None:
    export_blip(load_run(sound() / "run"), folder)


def from_pth(folder: Path) -> object:
    return caption_of(folder / "checkpoint.pth")


def captions_file(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(zip(NAMES, CAPTIONS, strict=True))
        if suffix == ".json":
            text = json.dumps(
                [{"image_id": name, "caption": text} for name, text in rows], indent=1
            )
        elif suffix == ".jsonl":
            best = [{"text": text, "logprob": -1.5, "tokens": [["a", -0.5]]} for text in CAPTIONS]
            lines = [
                json.dumps({"image": n, "captions": [b]}) for n, b in zip(NAMES, best, strict=True)
            ]
            text = "\n".join(lines) + "\n"
        else:
            cells = [f'{name},"{text.replace(chr(34), chr(34) * 2)}",-1.5' for name, text in rows]
            text = "\n".join(["image,caption,logprob", *cells, ""])
        (folder / f"captions{suffix}").write_text(text)

    return make


def read_captions_file(folder: Path) -> object:
    path = next(iter(sorted(folder.glob("captions.*"))), folder / "captions.jsonl")
    return read_captions(path, ImageSet.from_references(sound() / "references.json"))


def evaluate_captions(folder: Path) -> None:
    path = next(iter(sorted(folder.glob("captions.*"))), folder / "captions.jsonl")
    evaluate_files(path, sound() / "references.json", folder)


def evaluate_files(captions: Path, references: Path, folder: Path) -> None:
    words = ("--captions", captions, "--references", references, "--out", folder / "report")
    run_script(evaluate, *words, "--draws", 20, "--clip", "none", "--gpt2", "none")


def references_file(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    references = {name: list(CAPTIONS) for name in NAMES}
    (folder / "references.json").write_text(json.dumps(references, indent=1))


def coco_file(folder: Path) -> None:
    folder.mkdir(parents=True)
    images = [{"id": number, "file_name": name} for number, name in enumerate(NAMES)]
    rows = [{"image_id": n, "id": n, "caption": text} for n, text in enumerate(CAPTIONS)]
    (folder / "references.json").write_text(json.dumps({"images": images, "annotations": rows}))


def read_references_file(folder: Path) -> object:
    images = ImageSet.from_references(folder / "references.json")
    return images.references, images.fingerprint(), images.why_no_pictures()


def evaluate_references(folder: Path) -> None:
    evaluate_files(sound() / "captions.json", folder / "references.json", folder)


def config_file(folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copyfile(sound() / "run" / "config.toml", folder / "config.toml")


def read_config_file(folder: Path) -> object:
    return load_config(folder / "config.toml")


def dry_run(folder: Path) -> None:
    run_script(train, folder / "config.toml", "--dry-run", *set_options(SHORT))


def set_options(settings: Iterable[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def data_folder(layout: str) -> Callable[[Path], None]:
    """A data set with two images for each split, or for a hash to split."""

    def make(folder: Path) -> None:
        names = [f"{number}.png" for number in range(6)]
        place = folder / "images" if layout in ("flickr8k", "karpathy") else folder
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(sound() / "photo.png", place / name)
        rows = [(name, text) for name in names for text in CAPTIONS[:2]]
        csv = "".join(f'{name},"{text}"\n' for name, text in rows)
        if layout == "flickr8k":
            (folder / "captions.txt").write_text("image,caption\n" + csv)
            for part, split in zip(
                (names[:2], names[2:4], names[4:]), ("train", "dev", "test"), strict=True
            ):
                (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(part))
        elif layout == "karpathy":
            images = [
                {
                    "filename": n,
                    "split": s,
                    "imgid": i,
                    "sentences": [{"raw": CAPTIONS[0], "sentid": i}],
                }
                for i, (n, s) in enumerate(zip(names, ("train", "val", "test") * 2, strict=True))
            ]
            (folder / "dataset_mine.json").write_text(json.dumps({"images": images}))
        elif layout == "jsonl":
            lines = [json.dumps({"image": name, "caption": text}) for name, text in rows]
            (folder / "captions.jsonl").write_text("\n".join(lines))
        elif layout == "csv":
            (folder / "captions.csv").write_text("image,caption\n" + csv)
        elif layout == "kaggle":  # without split lists
            (folder / "captions.txt").write_text("image,caption\n" + csv)
        elif layout == "blip":
            rows = [{"image": name, "caption": text, "image_id": name} for name, text in rows]
            (folder / "captions.json").write_text(json.dumps(rows))
        elif layout == "coco":
            images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
            texts = [{"image_id": n % 6, "caption": text} for n, (_, text) in enumerate(rows)]
            content = {"images": images, "annotations": texts}
            (folder / "captions_train2014.json").write_text(json.dumps(content))
        else:
            for name in names:
                (folder / name).with_suffix(".txt").write_text("\n".join(CAPTIONS[:2]))

    return make


def read_data_folder(layout: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        data = DataConfig(format=format_of(layout), root=str(folder))
        return [
            example.read() for split in ("train", "val") for example in load_examples(data, split)
        ]

    return read


def format_of(layout: str) -> str:
    layout = "flickr8k" if layout == "kaggle" else layout
    return layout if layout in ("flickr8k", "karpathy") else "folder"


def train_on(layout: str) -> Callable[[Path], None]:
    def script(folder: Path) -> None:
        settings = (f"data.format={format_of(layout)}", f"data.root={folder}", *SHORT)
        config = sound() / "run" / "config.toml"
        run_script(train, config, "--dry-run", *set_options(settings))

    return script


def rated_folder(folder: Path) -> None:
    """Captions with their ids, and experts' ratings of some."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = [
        f"{n}.jpg#{number}\t{text}\n" for n in range(3) for number, text in enumerate(CAPTIONS)
    ]
    (folder / "Flickr8k.token.txt").write_text("".join(captions))
    ratings = [
        f"{n}.jpg\t{other}.jpg#{number}\t1\t{number + 1}\t4\n"
        for n in range(3)
        for number, other in enumerate((n, (n + 1) % 3, (n + 2) % 3))
    ]
    (folder / "ExpertAnnotations.txt").write_text("".join(ratings))


def evaluate_agreement(folder: Path) -> None:
    words = ("--agreement", folder, "--clip", "none", "--gpt2", "none")
    run_script(evaluate, *words, "--out", folder / "report")


def bulk_folder(suffix: str) -> Callable[[Path], None]:
    """What sample.py --out has written, to resume."""

    def make(folder: Path) -> None:
        make_photos(folder / "photos", 3)
        resume(folder, f"captions{suffix}")

    return make


def resume(folder: Path, name: str = "") -> None:
    name = name or ("captions.csv" if (folder / "captions.csv").exists() else "captions.jsonl")
    words = (folder / "photos", "--model", sound() / "run", "--out", folder / name)
    run_script(sample, *words, "--workers", 0)


def checkpoints(folder: Path) -> None:
    """Two checkpoints of a run, as far as what stands beside the tensors goes."""
    captioner = load_run(sound() / "run")
    about = {"progress": "epoch 1", "processes": 1, "run": run_identity()}
    saved = Checkpoints(folder)
    for _ in range(2):
        saved.save({"model": captioner.state_dict(), "progress": {"epoch": 1}}, about)


def run_identity() -> dict[str, Any]:
    splits = {"train": [], "val": [], "test": []}
    return identity(load_run(sound() / "run").config, splits)


def choose_checkpoint(folder: Path) -> object:
    saved = Checkpoints(folder)
    number, about, _ = saved.choose(check_about)
    check_same(about["run"], run_identity())
    return about["processes"], saved.load(number)


LAYOUTS = ("flickr8k", "kaggle", "karpathy", "jsonl", "csv", "blip", "coco", "txt")
AREAS = (
    Area("run folder", run_folder, caption_of, sample_with),
    Area("transformers folder", transformers_folder, caption_of, sample_with),
    Area("transformers folder, sharded", sharded_folder, caption_of, sample_with),
    Area(".pth", pth, from_pth, lambda folder: sample_with(folder / "checkpoint.pth")),
    Area(".pth", pth, from_pth, lambda folder: sample_with(folder / "checkpoint.pth")),
    *(
        Area(f"captions{suffix}", captions_file(suffix), read_captions_file, evaluate_captions)
        for suffix in (".json", ".jsonl", ".csv")
    ),
    Area("references", references_file, read_references_file, evaluate_references),
    Area("references, COCO", coco_file, read_references_file, evaluate_references),
    Area("config", config_file, read_config_file, dry_run),
    *(
        Area(f"data, {layout}", data_folder(layout), read_data_folder(layout), train_on(layout))
        for layout in LAYOUTS
    ),
    *(
        Area(f"captions to resume, {suffix}", bulk_folder(suffix), resume, resume)
        for suffix in (".jsonl", ".csv")
    ),
    Area("checkpoints", checkpoints, choose_checkpoint, choose_checkpoint),
    Area("run folder, older", older_run_folder, caption_of, sample_with),
    Area("transformers 5 folder", transformers_5_folder, caption_of, sample_with),
    Area("ratings", rated_folder, lambda folder: load_ratings(str(folder)), evaluate_agreement),
)
_SOUND: list[Path] = []  # the folder of sound files, which children inherit


def sound() -> Path:
    return _SOUND[-1]


@contextlib.contextmanager
def sound_files() -> Iterator[None]:
    """Everything undamaged that cases begin with, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="strangers-") as folder:
        _SOUND.append(Path(folder))
        try:
            make_run(sound() / "run")
            [photo] = make_photos(sound() / "photos", 1)
            photo.rename(sound() / "photo.png")
            references_file(sound())
            captions_file(".json")(sound())
            yield
        finally:
            _SOUND.pop()


# One case -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a case ended: "read", "refused", or a fault; where and why, in words."""

    number: int
    area: str
    kind: str
    about: str
    done: str


def make_case(number: int, folder: Path) -> str:
    """Writes the files of case `number`, damaged; returns how."""
    area = AREAS[number % len(AREAS)]
    undamaged = sound() / "areas" / area.name
    if not undamaged.exists():
        area.make(undamaged)
    shutil.copytree(undamaged, folder, dirs_exist_ok=True)
    return "; ".join(damage(folder, random.Random(number)))


def try_case(number: int, folder: Path, done: str) -> Outcome:
    """Reads the files of case `number`."""
    area = AREAS[number % len(AREAS)]
    by_script = number // len(AREAS) % 10 == 9
    outcome = Outcome(number, area.name, "read", "", done)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (area.script if by_script else area.read)(folder)
    except UserError as error:
        message = str(error)
        if not any(words in message for words in (str(folder), *SETTINGS, *MAY_NAME_OTHERS)):
            return replace(outcome, kind="nothing named", about=f"{where(error)}: {message}")
        if "\n" in message.replace("\n  ", " "):
            return replace(outcome, kind="not one line", about=repr(message))
        return replace(outcome, kind="refused", about=message)
    except BaseException as error:
        full = isinstance(error, MemoryError) or "alloc" in str(error)
        kind = "memory" if full else "traceback"
        return replace(
            outcome, kind=kind, about=f"{where(error)}: {type(error).__name__}: {error}"[:300]
        )
    return outcome


def where(error: BaseException) -> str:
    """The last place in the project that an error came through."""
    places = [
        f"{Path(frame.filename).relative_to(ROOT)}:{frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT) and "tests" not in Path(frame.filename).parts
    ]
    return places[-1] if places else "tests"


# Many cases, in a process that may die ------------------------------------------------------------


def outcomes(numbers: Iterable[int]) -> Iterator[Outcome]:
    """Of each number, whatever happens to the process that tries it."""
    left = list(numbers)
    while left:
        for outcome in _in_a_child(left):
            left.remove(outcome.number)
            yield outcome


def _in_a_child(numbers: list[int]) -> Iterator[Outcome]:
    """Outcomes of the numbers in a forked process, until it dies; then also of what killed it."""
    read, write = os.pipe()
    trace = tempfile.TemporaryFile()  # noqa: SIM115
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(read)
        _be_the_child(numbers, write, trace.fileno())
    os.close(write)
    number, done, lines = numbers[0], "", b""
    while select.select([read], [], [], 2 * WAIT)[0] and (data := os.read(read, 2**16)):
        *whole, lines = (lines + data).split(b"\n")
        for line in whole:
            said = json.loads(line)
            if "kind" in said:
                yield Outcome(**said)
                number = next((n for n in numbers if n > number), None)
            else:
                done = said["done"]
    os.close(read)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if number is not None:
        trace.seek(0)
        stack = trace.read().decode(errors="replace")
        killer = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        hangs = "Timeout (" in stack or killer in (signal.SIGPROF, signal.SIGKILL)
        kind = "hang" if hangs else f"crash by {signal.Signals(killer).name}" if killer else "death"
        yield Outcome(number, AREAS[number % len(AREAS)].name, kind, _last_place(stack), done)
    trace.close()


def _be_the_child(numbers: list[int], pipe: int, trace: int) -> None:
    """Tries the numbers one after the other, with bounds on time and memory. Does not return."""
    status = 1
    try:
        torch.set_num_threads(1)
        os.environ |= {"HF_HUB_OFFLINE": "1", "PATH": ""}  # no downloads, no Java
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        faulthandler.enable(trace, all_threads=False)
        faulthandler.register(signal.SIGPROF, trace, all_threads=False, chain=True)
        for number in numbers:
            with tempfile.TemporaryDirectory(prefix="case-", dir=sound()) as folder:
                faulthandler.dump_traceback_later(WAIT, exit=True, file=trace)
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                done = make_case(number, Path(folder))
                os.write(pipe, json.dumps({"done": done}).encode() + b"\n")
                outcome = try_case(number, Path(folder), done)
                signal.setitimer(signal.ITIMER_PROF, 0)
                faulthandler.cancel_dump_traceback_later()
            os.write(pipe, json.dumps(vars(outcome)).encode() + b"\n")
        status = 0
    except BaseException:
        os.write(trace, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _last_place(trace: str) -> str:
    """The innermost place in the project of a stack that faulthandler wrote."""
    for line in trace.splitlines():
        if f'"{ROOT}' in line and f"{ROOT}/tests" not in line:
            path = line.partition('"')[2].partition('"')[0]
            return f"{Path(path).relative_to(ROOT)}:{line.rpartition(' in ')[2]}"
    return "nowhere in the project"


# Telling ------------------------------------------------------------------------------------------


def report(found: list[Outcome]) -> str:
    """Counts, and each fault once with the numbers that show it, by area."""
    kinds = Counter(outcome.kind for outcome in found)
    lines = [f"{len(found)} cases: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())]
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for one in faults(found):
        words = one.about.split(": ")
        groups.setdefault((one.area, one.kind, ": ".join(words[:2])), []).append(one)
    for (area, kind, place), group in sorted(groups.items()):
        numbers = ", ".join(str(one.number) for one in group[:8])
        lines += [f"{area}: {kind}: {place} ({len(group)} times: {numbers})"]
        lines += [f"    {group[0].about.partition(place)[2][:160].strip(': ')} [{group[0].done}]"]
    return "\n".join(lines)


def faults(found: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in found if outcome.kind not in ("read", "refused")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--area", default="", help="only those whose name holds this: data, .pth")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="one case, here, its files kept")
    args = parser.parse_args()
    with sound_files():
        if args.keep:
            args.keep.mkdir(parents=True)
            print(try_case(args.first, args.keep, make_case(args.first, args.keep)))
            return
        found = []
        numbers = range(args.first, args.first + args.count)
        for outcome in outcomes([n for n in numbers if args.area in AREAS[n % len(AREAS)].name]):
            found.append(outcome)
            if faults([outcome]):
                print(outcome, file=sys.stderr, flush=True)
    print(report(found))
    sys.exit(1 if faults(found) else 0)


if __name__ == "__main__":
    main()
