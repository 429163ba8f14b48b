"""`smile.Describer` in Ray Data: as a class in an actor, and as an instance in tasks."""

import logging

import pytest
from helpers import make_photos, make_run

import smile


@pytest.fixture(scope="module")
def ray(ray_cluster):
    import ray  # here: it takes seconds, and all workers collect all tests
    import ray.data

    ray.init(ray_cluster.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel("ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_map_batches_takes_the_class_and_an_instance(ray, tmp_path):
    run, photos = make_run(tmp_path / "run"), make_photos(tmp_path / "photos", 4)
    captions = [*smile.load(run).caption(photos), "", ""]
    given = [*(photo.read_bytes() for photo in photos), b"junk", None]
    images = ray.data.from_items(
        [{"image": image, "n": n} for n, image in enumerate(given)], override_num_blocks=1
    )
    in_an_actor = images.map_batches(
        smile.Describer,
        fn_constructor_kwargs={"model": run, "logprob": "p", "forbid": ["zebra"]},
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=4,
    )
    in_tasks = in_an_actor.map_batches(
        smile.Describer(run, caption="again", error="why"), batch_size=3
    )
    rows = sorted(in_tasks.take_all(), key=lambda row: row["n"])
    assert [row["image"] for row in rows] == given
    assert [row["caption"] for row in rows] == [row["again"] for row in rows] == captions
    for name in ("error", "why"):
        assert [bool(row[name]) for row in rows] == [False] * 4 + [True] * 2
    assert [row["p"] < 0 for row in rows] == [True] * 4 + [False] * 2
