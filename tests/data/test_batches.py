"""Every caption once an epoch, the same run whatever the workers, and padded batches."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from smile.data.augment import TrainTransform
from smile.data.batches import (
    BatchRow,
    Broken,
    CaptionDataset,
    Collate,
    EpochBatches,
    WorkerKilled,
    catching_dead_workers,
)
from smile.errors import UserError
from smile.model.images import EvalTransform, Photo


@dataclass(frozen=True)
class Plain:
    """An example with a picture of its own colour."""

    name: str
    captions: tuple[str, ...]

    def read(self):
        value = int(self.name)
        image = Image.new("RGB", (20, 20), (value * 20, 90, 200))
        image.paste((255, 255, value), (3, 3, 9, 12))
        return image


class Words:
    """A stand-in for the tokenizer: [DEC] is 1, [SEP] is 2, a word is 10 + its length.

    With `shift_first` the words of the text, as against the prompt's, begin at 50.
    """

    def encode(self, text, *, prompt="", max_tokens=40, shift_first=False):
        words = [10 + len(word) for word in prompt.split()]
        words += [(50 if shift_first else 10) + len(word) for word in text.split()]
        return [1, *words[: max_tokens - 2], 2]


COUNTS = (5, 1, 3, 5, 2, 4, 5)


@pytest.fixture
def examples():
    return [
        Plain(str(i), tuple(f"caption {'x' * (i + 1)} {'y ' * k}".strip() for k in range(count)))
        for i, count in enumerate(COUNTS)
    ]


def sampler(examples, captions_per_image=2, batch_size=3, seed=0, shuffle=True):
    return EpochBatches(
        examples,
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        seed=seed,
        shuffle=shuffle,
    )


# --- EpochBatches -----------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("captions_per_image", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_caption_once_an_epoch(examples, captions_per_image, batch_size, shuffle):
    batches = sampler(examples, captions_per_image, batch_size, shuffle=shuffle)
    for epoch in range(3):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        assert all(len(rows) == batch_size for rows in drawn[:-1])
        rows = [row for batch in drawn for row in batch]
        assert all(1 <= len(row.captions) <= captions_per_image for row in rows)
        assert {row.epoch for row in rows} == {epoch}
        seen = Counter((row.example, caption) for row in rows for caption in row.captions)
        assert seen == {(i, k): 1 for i, count in enumerate(COUNTS) for k in range(count)}


def test_order_depends_on_seed_and_epoch_only(examples):
    def order(seed, epoch):
        batches = sampler(examples, seed=seed)
        batches.set_epoch(epoch)
        return [[row[:2] for row in batch] for batch in batches]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 1) != order(1, 0)


def test_captions_of_an_image_change_company(examples):
    groups = set()
    for epoch in range(20):
        batches = sampler(examples)
        batches.set_epoch(epoch)
        groups |= {frozenset(row.captions) for batch in batches for row in batch if not row[0]}
    assert len(groups) > 10  # all 10 pairs of 5 captions, and some left over alone


def test_unshuffled_batches_keep_the_order(examples):
    rows = [row[:2] for batch in sampler(examples, shuffle=False) for row in batch]
    assert rows[:4] == [(0, (0, 1)), (0, (2, 3)), (0, (4,)), (1, (0,))]


def test_impossible_sizes_are_refused(examples):
    with pytest.raises(ValueError, match="not 0 and 1"):
        sampler(examples, 1, 0)
    with pytest.raises(ValueError, match="not 3 and 0"):
        sampler(examples, 0)


# --- CaptionDataset ---------------------------------------------------------------------------


def test_augmentation_depends_on_seed_epoch_example_and_caption(examples):
    examples = [Plain("4", ("a", "b", "c"))] * 2
    transform = TrainTransform(16)

    def pixels(row, seed=0):
        name, image, _ = CaptionDataset(examples, transform, seed=seed)[row]
        assert name == "4"
        return image

    base = pixels(BatchRow(0, (1, 2), 0))
    assert torch.equal(base, pixels(BatchRow(0, (1, 2), 0)))
    assert torch.equal(base, pixels(BatchRow(0, (1,), 0)))
    for other in (BatchRow(1, (1, 2), 0), BatchRow(0, (2, 1), 0), BatchRow(0, (1, 2), 1)):
        assert not torch.equal(base, pixels(other))
    assert not torch.equal(base, pixels(BatchRow(0, (1, 2), 0), seed=1))


def test_reading_leaves_the_random_state_alone(examples):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    CaptionDataset(examples, TrainTransform(16))[BatchRow(0, (0,), 0)]
    assert torch.equal(torch.rand(2), expected)


def loader(examples, workers, transform, **options):
    return DataLoader(
        CaptionDataset(examples, transform, seed=5, **options),
        batch_sampler=sampler(examples, seed=5),
        collate_fn=Collate(Words(), prompt="a picture of ", max_tokens=40),
        num_workers=workers,
    )


def test_batches_are_the_same_whatever_the_workers(examples):
    transform = TrainTransform(16)
    alone, helped = (list(loader(examples, workers, transform)) for workers in (0, 2))
    assert len(alone) == len(helped) == 5
    for one, other in zip(alone, helped, strict=True):
        assert one.names == other.names
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.ids, other.ids)


# --- Broken images ----------------------------------------------------------------------------


@pytest.fixture
def with_broken(examples, tmp_path):
    (tmp_path / "bad.jpg").write_text("not a picture")
    return [*examples, Photo(tmp_path / "bad.jpg", ("one", "two", "three"))]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_with_one_line(with_broken, workers):
    with pytest.raises(UserError) as caught:
        list(loader(with_broken, workers, EvalTransform(16)))
    message = str(caught.value)
    assert message.startswith(str(with_broken[-1].path))
    assert "not an image file" in message
    assert "data.skip_broken = true" in message
    assert "\n" not in message


def test_broken_images_are_skipped_and_listed_on_request(with_broken):
    batches = list(loader(with_broken, 2, EvalTransform(16), skip_broken=True))
    broken = [item for batch in batches for item in batch.broken]
    assert [item.name for item in broken] == [str(with_broken[-1].path)] * 2
    assert all("not an image file" in item.reason for item in broken)
    assert sum(len(batch.names) for batch in batches) == sum(-(-count // 2) for count in COUNTS)
    assert all(len(batch.names) == len(batch.images) == len(batch.ids) for batch in batches)


def test_a_batch_of_broken_images_has_no_rows():
    broken = Broken("a.jpg", "gone")
    batch = Collate(Words(), prompt="", max_tokens=40)([broken])
    assert batch.images.shape == (0, 3, 0, 0)
    assert batch.ids.shape == (0, 0, 0)
    assert (batch.names, batch.broken) == ([], [broken])


# --- Collate ----------------------------------------------------------------------------------


def test_collate_pads_to_the_longest_of_the_batch():
    image = torch.zeros(3, 4, 4)
    collate = Collate(Words(), prompt="of ", max_tokens=5)
    batch = collate([("p", image, ["a"]), ("q", image + 1, ["aaa", "bb cccc d e"])])
    assert batch.names == ["p", "q"]
    assert batch.images.tolist() == [image.tolist(), (image + 1).tolist()]
    assert batch.ids.dtype == torch.int64
    assert batch.ids.tolist() == [
        [[0, 0, 0, 0, 0], [1, 12, 11, 2, 0]],  # an image's captions end in the last slot
        [[1, 12, 13, 2, 0], [1, 12, 12, 14, 2]],
    ]
    assert collate([("p", image, ["a"])]).ids.shape == (1, 1, 4)
    shifted = Collate(Words(), prompt="of ", max_tokens=5, shift_first=True)
    assert shifted([("p", image, ["a"])]).ids.tolist() == [[[1, 12, 51, 2]]]


def test_short_captions_are_not_stretched_to_the_longest():
    """Two groups by length hold the same captions in fewer tokens; one is enough where none is."""
    image = torch.zeros(3, 4, 4)
    collate = Collate(Words(), prompt="of ", max_tokens=40)
    texts = ["a b c d e f g h", "a", "a b c", "a b"]
    batch = collate([("p", image, texts), ("q", image, ["a"] * 4)])
    lengths = (batch.ids[0] != 0).sum(dim=1).tolist()
    assert lengths == sorted(lengths)
    groups = batch.ids_by_length()
    assert [tuple(ids.shape) for ids in groups] == [(2, 3, 6), (2, 1, 11)]
    rows = [row[row != 0].tolist() for ids in groups for row in ids.flatten(0, 1)]
    whole = [row[row != 0].tolist() for row in batch.ids.flatten(0, 1)]
    assert sorted(rows) == sorted(whole)
    same = collate([("p", image, ["a b", "c d"])])
    assert [ids.shape for ids in same.ids_by_length()] == [same.ids.shape]
    single = collate([("p", image, ["a b"])])
    assert [ids.shape for ids in single.ids_by_length()] == [single.ids.shape]


def test_a_batch_moves_as_a_whole(examples):
    batch = next(iter(loader(examples, 0, EvalTransform(16))))
    moved = batch.to("meta")
    assert moved.images.is_meta
    assert moved.ids.is_meta
    assert moved.names == batch.names


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "was killed"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "was killed"),
        (RuntimeError("Pin memory thread exited unexpectedly"), "was killed"),
        (ConnectionResetError(104, "Connection reset by peer"), "was killed"),
        (EOFError(), "was killed"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "could not be started"),
        (OSError(12, "Cannot allocate memory"), "could not be started"),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal …"), ""),
        (PermissionError(13, "Permission denied"), ""),
        (RuntimeError("shapes do not fit"), ""),
    ],
)
def test_a_reader_s_death_is_told_from_other_errors(error, said):
    expected = WorkerKilled if said else type(error)
    words = f"{said}.*; use less" if said else None
    with pytest.raises(expected, match=words), catching_dead_workers(1, "use less"):
        raise error
    with pytest.raises(type(error)), catching_dead_workers(0, "use less"):
        raise error
