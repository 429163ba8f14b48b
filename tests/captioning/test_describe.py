"""Reading ahead and describing batch by batch."""

from pathlib import Path

import pytest
import torch
from helpers import make_photos, make_run
from zygote import zygote

from smile.captioning import describe
from smile.captioning.caption_file import Result
from smile.captioning.describe import (
    Model,
    Reader,
    TextFiles,
    Todo,
    describe_all,
    name_seed,
    read_batches,
)
from smile.config import DecoderConfig, ViTConfig, override
from smile.data.batches import Broken, batches_of
from smile.errors import UserError
from smile.model.captioner import Caption
from smile.system.distributed import World
from smile.weights.fingerprint import _sizes, fingerprint
from smile.weights.run_folder import load_run

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """11 pictures, the fifth broken."""
    folder = tmp_path_factory.mktemp("photos")
    names = [str(path) for path in make_photos(folder, 11)]
    Path(names[4]).write_bytes(b"not a picture")
    return names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def read_ahead(names, sizes, *, batch_size, workers=0):
    return read_batches(batches_of(names, batch_size), sizes, workers=workers)


def captions(batches) -> dict[str, dict[str, list[str]]]:
    return {
        result.name: {label: [c.text for c in found] for label, found in result.captions.items()}
        for results, _ in batches
        for result in results
    }


def test_reading_ahead_keeps_order_and_pixels(photos):
    alone = Reader([8, 16])
    for workers in (0, 2):
        batches = list(read_ahead(photos, [8, 16], batch_size=3, workers=workers))
        assert [len(batch.names) for batch in batches] == [3, 2, 3, 2]
        names = [name for batch in batches for name in batch.names]
        assert names == [*photos[:4], *photos[5:]]
        assert [broken.name for batch in batches for broken in batch.broken] == [photos[4]]
        for batch in batches:
            for size, pixels in batch.pixels.items():
                expected = torch.stack([alone[name][1][size] for name in batch.names])
                assert torch.equal(pixels, expected)


def test_names_are_drawn_only_a_few_batches_ahead(photos):
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield photos[0]

    for workers in (0, 1):
        drawn = 0
        batches = read_ahead(endless(), [8], batch_size=2, workers=workers)
        for _ in range(3):
            next(batches)
        assert drawn <= 2 * (3 + 1 + describe.PREFETCH * workers)
        batches.close()


def test_few_images_start_no_process(photos, monkeypatch):
    loaders = []
    monkeypatch.setattr(describe, "DataLoader", lambda *_, **kwargs: loaders.append(kwargs) or [])
    for count in (2, 3):
        list(read_ahead(photos[:count], [8], batch_size=2, workers=4))
    assert [loader["num_workers"] for loader in loaders] == [0, 4]


def test_what_is_broken_keeps_its_place_and_reason(photos):
    names = [Broken("somewhere", "no image"), photos[4], photos[0]]
    ((batch),) = read_ahead(names, [8], batch_size=3)
    assert batch.broken[0] == names[0] and batch.names == [photos[0]]
    assert batch.broken[1] == Broken(photos[4], "cannot read this image: not an image file")
    (batch,) = read_ahead(names[:2], [8], batch_size=3)
    assert batch.names == [] and len(batch.broken) == 2


def test_a_killed_worker_is_said(photos, monkeypatch):
    def killed(*_, **__):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed.")
        yield

    monkeypatch.setattr(describe, "DataLoader", killed)
    with pytest.raises(UserError, match=r"was killed: memory.*--workers 0"):
        list(read_ahead(photos, [8], batch_size=2, workers=1))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9, "num_return": 2}])
def test_a_batch_gives_what_each_image_gives_alone(photos, run, settings):
    model = Model(captioner=load_run(run), settings=settings)
    whole = captions(describe_all(photos, [model], batch_size=11, workers=2, seed=5))
    assert len(whole) == 10 and len({str(found) for found in whole.values()}) > 5
    assert captions(describe_all(photos[::-1], [model], batch_size=3, seed=5)) == whole
    other_seed = captions(describe_all(photos, [model], batch_size=11, seed=6))
    assert (other_seed != whole) == bool(settings)


def test_seeds_are_the_files_own():
    assert name_seed(0, "a/x.jpg") == name_seed(0, "b/x.jpg")
    assert len({name_seed(0, "x.jpg"), name_seed(1, "x.jpg"), name_seed(0, "y.jpg")}) == 3


@pytest.mark.slow
def test_models_of_other_sizes_side_by_side(photos, run, tmp_path):
    larger = make_run(tmp_path, seed=1, image_size=24)
    models = [
        Model(captioner=load_run(run), label="a"),
        Model(captioner=load_run(larger), label="b"),
    ]
    both = captions(describe_all(photos, models, batch_size=4))
    for model in models:
        alone = Model(captioner=model.captioner)
        expected = captions(describe_all(photos, [alone], batch_size=4))
        assert {name: found[model.label] for name, found in both.items()} == {
            name: found[""] for name, found in expected.items()
        }


def test_impossible_settings_are_refused_before_any_image(run):
    with pytest.raises(UserError, match="num_beams = 0"):
        Model(captioner=load_run(run), settings={"num_beams": 0})


def test_too_little_memory_is_said(photos, run, monkeypatch):
    model = Model(captioner=load_run(run))

    for error in (
        torch.OutOfMemoryError("2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):

        def full(*_, error=error, **__):
            raise error

        monkeypatch.setattr(model.captioner, "describe", full)
        with pytest.raises(UserError, match="--batch-size 8: try 4"):
            list(describe_all(photos, [model], batch_size=8))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_beams": 3, "top_p": 0.9}, r"num_beams = 3 is for beam search, but top_p = 0.9 is"),
        ({"num_beams": 3, "do_sample": True}, "but do_sample is for sampling"),
        ({"early_stopping": True, "top_k": 5}, "early_stopping is for beam search, but top_k = 5"),
        ({"num_beams": 1, "top_p": 0.9}, ""),
        ({"top_p": 0.9, "early_stopping": False}, ""),
        ({"num_return": 3}, "num_return is 3, but num_beams only 2"),
        ({"forbid": ["a dog", " "]}, 'forbid = " ": expected a word or a phrase'),
        ({"max_length": 4, "min_length": 0}, "the prompt alone has 4 tokens"),
    ],
)
def test_settings_that_would_be_ignored_or_cannot_work_are_refused(run, settings, said):
    if not said:
        Model(captioner=load_run(run), settings=settings)
        return
    with pytest.raises(UserError, match=said):
        Model(captioner=load_run(run), settings=settings)


def test_beams_for_a_model_that_samples_by_itself_are_refused(run):
    captioner = load_run(run)
    captioner.config = override(captioner.config, "generate", {"top_p": 0.5, "num_beams": 3})
    Model(captioner=captioner)
    with pytest.raises(
        UserError, match=r"num_beams = 2 .* the model's top_p = 0.5 is for sampling"
    ):
        Model(captioner=captioner, settings={"num_beams": 2})


def test_the_record_tells_what_captions_depend_on(run, tmp_path):
    captioner = load_run(run)
    record = Model(captioner=captioner, settings={"num_beams": 4}).record(seed=3)
    assert record["num_beams"] == 4 and record["max_length"] == 16 and record["seed"] is None
    assert record["prompt"] == captioner.config.data.prompt
    sampled = Model(captioner=captioner, settings={"top_k": 4}, prompt="").record(seed=3)
    assert sampled["seed"] == 3 and sampled["prompt"] == ""


def test_the_fingerprint_is_of_weights_sizes_and_words(run):
    captioner = load_run(run)
    first = fingerprint(captioner)
    assert fingerprint(load_run(run)) == first
    with torch.no_grad():
        captioner.decoder.word_embed.weight[3, 2] += 1e-6
    second = fingerprint(captioner)
    captioner.tokenizer.vocab[-1] = "other"
    assert len({first, second, fingerprint(captioner)}) == 3


def test_fingerprints_of_version_0_1_stay(run):
    """Files of captions remember them; each of these texts went into one."""
    assert _sizes(ViTConfig()) == (
        "ViTConfig(image_size=224, patch_size=16, dim=768, depth=12, num_heads=12, mlp_dim=3072, "
        "norm_eps=1e-06, drop_path=0.0)"
    )
    assert _sizes(DecoderConfig()) == (
        "DecoderConfig(vocab_size=30524, dim=768, features_dim=768, depth=12, num_heads=12, "
        "mlp_dim=3072, max_positions=512, norm_eps=1e-12, dropout=0.1)"
    )
    assert "stem='conv'" in _sizes(ViTConfig(stem="conv"))


# --- what is left to do -----------------------------------------------------------------------


def test_shards_share_out_everything_once():
    names = [f"{i}.jpg" for i in range(10)]
    done = {"1.jpg", "2.jpg", "9.jpg"}
    shares = [list(Todo(names, done=done, world=World(rank, 3))) for rank in range(3)]
    assert shares == [["0.jpg", "3.jpg", "6.jpg"], ["4.jpg", "7.jpg"], ["5.jpg", "8.jpg"]]


@pytest.mark.parametrize(
    ("done", "in_order"),
    [("", True), ("ab", True), ("abcd", True), ("b", False), ("bcd", False), ("ad", False)],
)
def test_todo_tells_whether_appending_keeps_the_order(done, in_order):
    todo = Todo("abcd", done=set(done))
    assert "".join(todo) == "".join(name for name in "abcd" if name not in done)
    assert todo.num_done == len(done)
    assert todo.in_order == in_order


def test_todo_with_texts(tmp_path):
    names = [str(tmp_path / f"{letter}.jpg") for letter in "abc"]
    Path(names[0]).with_suffix(".txt").touch()
    a, b, c = names
    assert list(Todo(names)) == names
    assert list(Todo(names, texts=TextFiles())) == [b, c]
    assert list(Todo(names, texts=TextFiles(overwrite=True))) == names
    assert list(Todo(names, done={a, b}, texts=TextFiles())) == [b, c]
    assert list(Todo(names, done=set(), texts=TextFiles())) == [a, b, c]
    broken = Broken("x", "y")
    assert list(Todo([broken, a], done={a}, texts=TextFiles())) == [broken]


def test_texts_lie_beside_images_and_keep_what_was_there(tmp_path):
    def results(text):
        captions = [Caption(text, 0.0, []), Caption("second", -1.0, [])]
        return [Result(str(tmp_path / name), {"": captions}) for name in ("a.jpg", "b.c.png")]

    (tmp_path / "a.txt").write_text("mine")
    assert TextFiles().add(results("first")) == []
    assert (tmp_path / "a.txt").read_text() == "mine"
    assert (tmp_path / "b.c.txt").read_text() == "first\nsecond\n"
    TextFiles(overwrite=True).add(results("new"))
    assert (tmp_path / "a.txt").read_text() == "new\nsecond\n"


def test_an_image_is_never_replaced_by_its_text(tmp_path):
    path = tmp_path / "photo.txt"
    path.write_bytes(b"pixels")
    result = Result(str(path), {"": [Caption("a", 0.0, [])]})
    (broken,) = TextFiles(overwrite=True).add([result])
    assert "would replace the image itself" in broken.reason
    assert list(Todo([str(path)], texts=TextFiles())) == [broken]
    assert path.read_bytes() == b"pixels"


def test_images_of_one_stem_do_not_share_a_text(tmp_path):
    """The first one has it, in every process; the others are named, unless --out needs them."""
    names = [str(tmp_path / name) for name in ("a.jpg", "a.png", "b.jpg", "c.d.jpg", "c.d.webp")]
    first, second, b, third, fourth = names
    reason = f"its captions would go to {tmp_path / 'a.txt'}, where those of a.jpg are: "
    for overwrite in (False, True):
        left = list(Todo(names, texts=TextFiles(overwrite=overwrite)))
        assert [left[0], left[2], left[3]] == [first, b, third]
        assert [left[1].name, left[4].name] == [second, fourth]
        assert left[1].reason == reason + "rename one of the two"
        Path(first).with_suffix(".txt").touch()  # next time it has its text: that changes nothing
    shares = [list(Todo(names, texts=TextFiles(overwrite=True), world=World(r, 2))) for r in (0, 1)]
    assert [getattr(one, "name", one) for one in shares[1]] == [second, third]
    assert isinstance(shares[1][0], Broken)
    texts = TextFiles(overwrite=True)
    assert list(Todo(names, done={first}, texts=texts)) == names
    results = [Result(name, {"": [Caption(name, 0.0, [])]}) for name in names]
    assert [broken.name for broken in texts.add(results)] == [second, fourth]
    assert Path(first).with_suffix(".txt").read_text() == first + "\n"


def test_a_text_that_cannot_have_its_name_costs_one_image(tmp_path):
    names = [
        str(tmp_path / name) for name in ("n" * 252, "m" * 236 + ".jpg", "folder.jpg", "z.jpg")
    ]
    (tmp_path / "folder.txt").mkdir()
    results = [Result(name, {"": [Caption("a", 0.0, [])]}) for name in names]
    first, second = TextFiles().add(results)
    assert "file name too long" in first.reason and "folder.txt, which is a folder" in second.reason
    assert {path.name for path in tmp_path.glob("[mz]*")} == {"m" * 236 + ".txt", "z.txt"}
    with pytest.raises(UserError, match="cannot write"):
        TextFiles().add([Result(str(tmp_path / "gone" / "a.jpg"), {"": []})])


def test_one_process_leaves_torch_distributed_alone(monkeypatch):
    monkeypatch.setattr(torch.distributed, "init_process_group", None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = World.join()
    world.wait()
    assert (world.rank, world.size, world.total(3)) == (0, 1, 3)


@pytest.mark.slow
def test_damaged_images_neither_crash_nor_hang():
    done = zygote().run([HERE / "fuzz_images.py", "--count", "200", "--first", "100000"])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("200 files: ") and " 0 read" not in done.stdout
