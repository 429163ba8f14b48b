import os
import shutil
import tempfile

import fsspec
import pytest
from helpers import ROOT, make_photos, make_run
from stores import FailingStore
from test_tar import tar_of

import sample
from smile.scale import store


@pytest.fixture(scope="session")
def ray_cluster():
    """A cluster of one machine with two processors, which nobody else can reach or finds.

    Its processes take seconds to start, so there is one.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as short,  # for names of sockets
    ):
        patch.setenv("RAY_TMPDIR", short)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # or else it listens to everybody
        patch.setenv("PYTHONPATH", str(ROOT))  # Ray itself knows where `python sample.py` lies
        from ray.cluster_utils import Cluster  # it takes a second, and each worker collects all

        size = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=size)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def failing(monkeypatch):
    """A store in memory at failing://, whose requests fail as its attributes say."""
    fsspec.register_implementation("failing", FailingStore, clobber=True)
    monkeypatch.setattr(store, "WAIT", 0)
    FailingStore.reset()
    yield FailingStore
    FailingStore.reset()


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory):
    """A folder with runs `run` and `other`, pictures photos/, and shards/ of them with others."""
    folder = tmp_path_factory.mktemp("work")
    make_run(folder / "run")
    make_run(folder / "other", seed=1)
    photos = make_photos(folder / "photos", 13)
    data = [path.read_bytes() for path in photos]
    (folder / "shards").mkdir()
    for shard in range(4):
        entries = []
        for number in range(shard, 13, 4):
            key = f"{shard}/{number:03}"
            entries += [(f"{key}.json", b"{}"), (f"{key}.png", data[number]), (f"{key}.txt", b"x")]
        (folder / "shards" / f"{shard:05}.tar").write_bytes(tar_of(*entries))
    return folder


@pytest.fixture
def place(work_folder, tmp_path, monkeypatch):
    """The working directory, with what `work_folder` has."""
    monkeypatch.chdir(tmp_path)
    for name in ("shards", "photos"):
        shutil.copytree(work_folder / name, name)
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def run_sample(work_folder, run_script):
    def run(*words: object, model: str = "run") -> tuple[int, str, str]:
        options = ["--model", work_folder / model, "--batch-size", 2, "--workers", 0]
        return run_script(sample.main, *words, *options)

    return run
