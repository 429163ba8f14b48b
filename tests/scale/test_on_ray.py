"""`--engine ray`: on a cluster of this machine, and what is done where a captioner is lost."""

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_tables import SHARDS, contents
from zygote import family, zygote

from smile.data.batches import WorkerKilled
from smile.errors import UserError
from smile.scale.on_ray import TRIES, RayCluster
from smile.scale.work import Outcome, Shard

# Ray itself ---------------------------------------------------------------------------------------


def kill_a_captioner(cluster, out: Path, killed: list[int], is_over: threading.Event) -> None:
    """Kills the first that is at work, which has the lock of a table open."""
    raylet = cluster.head_node.all_processes["raylet"][0].process.pid
    while not killed and not is_over.wait(0.002):
        for pid in family(raylet):
            if not killed and any(has_open(pid, lock) for lock in out.glob(".*.lock")):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)


def has_open(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):  # the process has ended
        opened = [file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir()]
        return path in opened
    return False


@pytest.mark.slow
def test_captioners_one_of_which_is_killed_write_what_one_process_does(
    place, run_sample, ray_cluster
):
    Path("shards/broken.tar").write_bytes(b"no tar")
    _, _, alone = run_sample("shards/*.tar", "--out", "alone")
    killed, is_over = [], threading.Event()
    words = (ray_cluster, place.resolve() / "out", killed, is_over)
    killer = threading.Thread(target=kill_a_captioner, args=words)
    killer.start()
    ray = ["--engine", "ray", "--ray-address", ray_cluster.address, "--cpus-per-actor", 1]
    try:
        code, out, err = run_sample("shards/*.tar", "--out", "out", *ray)
    finally:
        is_over.set()
        killer.join()
    assert killed and code == 1 and out == "", err
    assert contents() == contents("alone") and len(contents()) == 4
    assert not list(Path("out").glob(".*"))
    (reason,) = (line for line in alone.splitlines() if "broken.tar" in line)
    assert reason in err.splitlines() and "13 images described in" in err
    assert alone.splitlines()[-1].partition("; ")[2] == err.splitlines()[-1].partition("; ")[2]


# What is decided here -----------------------------------------------------------------------------


class RayError(Exception):
    """A process or a machine is lost."""


class RayTaskError(RayError):
    """An actor's method raised `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback\n  in an actor\n{type(cause).__name__}: {cause}")
        self.cause = cause


@dataclass(eq=False)
class Answer:
    actor: "FakeActor"
    value: object


class FakeRay:
    """As much of Ray as `RayCluster` uses. The first `room` actors that live have places.

    fails: the error of a method's call, or None; it is called with the method's name, that of the
        unit, and how often that call was made before.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, fails, room: int = 2) -> None:
        self.fails, self.room = fails, room
        self.actors: list[FakeActor] = []
        self.calls: list[str] = []

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 1.0}} for _ in range(self.room)]

    def remote(self, cls):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: FakeActor(self)))

    def wait(self, answers, num_returns=1, timeout=None):
        placed = [actor for actor in self.actors if actor.is_alive][: self.room]
        return [a for a in answers if a.actor in placed][:num_returns], []

    def get(self, answer):
        if isinstance(answer.value, RayError):
            raise answer.value
        return answer.value

    def kill(self, actor):
        actor.is_alive = False


class FakeActor:
    def __init__(self, ray: FakeRay) -> None:
        self.ray, self.is_alive, self.units = ray, True, []
        ray.actors.append(self)

    def __getattr__(self, method):
        return SimpleNamespace(remote=lambda *words: self.call(method, *words))

    def call(self, method, *words) -> Answer:
        unit = words[0].name if method == "caption" else ""
        self.units += unit
        name = f"{method} {unit}"
        error = self.ray.fails(method, unit, self.ray.calls.count(name))
        self.ray.calls.append(name)
        return Answer(self, error or (Outcome(unit, unit, num_described=3) if unit else 2))


@pytest.fixture
def caption():
    """Captions units a to e by a `FakeRay`: {unit: why it has no table}, and what was said."""

    def run(ray: FakeRay) -> tuple[dict[str, str], list[str]]:
        said: list[str] = []
        cluster = RayCluster("there", device="cpu", cpus=1, say=said.append)
        cluster.ray, cluster.gpus = ray, 0
        output = SimpleNamespace(address="out", wait_for=run.waited_for.append)
        units, how = [Shard(f"{name}.tar") for name in "abcde"], {"ready": None}
        how["progress"] = run.progress.append
        return {o.name: o.problem for o in cluster.caption_units(units, output, **how)}, said

    run.waited_for, run.progress = [], []
    return run


LOST = RayError("it was killed\n  and so on\nby somebody")
DONE = dict.fromkeys("abcde", "")


@pytest.mark.parametrize(
    "error", [LOST, RayTaskError(WorkerKilled("no memory")), RayTaskError(RuntimeError("CUDA"))]
)
def test_a_unit_whose_captioner_is_lost_is_tried_again(caption, error):
    ray = FakeRay(lambda method, unit, before: error if unit in {"b", "d"} and before < 2 else None)
    assert caption(ray) == (DONE, [])
    assert sum(caption.progress) == 15
    ray = FakeRay(lambda method, unit, before: error if unit == "b" else None)
    problem = caption(ray)[0].pop("b")
    assert problem.startswith(f"{TRIES} captioners were lost at it: ") and "\n" not in problem
    assert ray.calls.count("caption b") == TRIES
    assert {call for call in ray.calls if "caption" in call} == {f"caption {n}" for n in DONE}


def test_what_other_captioners_would_meet_with_too_ends_the_run(caption):
    full = RayTaskError(UserError("out: no space left"))
    ray = FakeRay(lambda method, unit, before: full if unit == "b" else None)
    with pytest.raises(UserError, match="out: no space left"):
        caption(ray)
    assert "a" in caption.waited_for or "c" in caption.waited_for  # what was under way


def test_a_machine_that_lacks_something_is_of_no_use_but_where_it_is_the_first(caption):
    lacks = RayTaskError(UserError("on far: runs/x: no such run"))
    ray = FakeRay(lambda method, unit, before: lacks if method == "load" and before else None)
    outcomes, said = caption(ray)
    assert outcomes == DONE and said == ["a captioner is of no use, on far: runs/x: no such run"]
    ray = FakeRay(lambda method, unit, before: lacks if method == "load" else None)
    with pytest.raises(UserError, match="no such run"):
        caption(ray)


def test_captioners_that_are_always_lost_while_they_load_end_the_run(caption):
    with pytest.raises(UserError, match="captioners are lost before they have loaded"):
        caption(FakeRay(lambda method, unit, before: LOST if method == "load" else None))
    few = FakeRay(lambda method, unit, before: LOST if method == "load" and before < 5 else None)
    assert caption(few) == (DONE, [])


def test_machines_that_join_are_used(caption):
    def joins(method, unit, before):
        ray.room = 3 if unit else ray.room

    ray = FakeRay(joins, room=1)
    assert caption(ray) == (DONE, [])
    assert sum(bool(actor.units) for actor in ray.actors) == 3


def test_nothing_of_ray_is_imported_unless_asked_for(place, work_folder):
    words = ["sample.py", SHARDS, "--out", "out", "--model", str(work_folder / "run")]
    code = f"import sys, sample; sys.argv = {[*words, '--workers', '0']}\n"
    code += "try: sample.main()\nfinally: sys.exit(9 if 'ray' in sys.modules else 0)"
    assert zygote().run(["-c", code]).returncode == 0 and len(contents()) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cpus-per-actor", 2], "--ray-address and --cpus-per-actor go with --engine ray"),
        (["--engine", "ray", "--device", "mps"], "--device mps: expected cpu or cuda"),
        (["--engine", "ray", "--device", "cuda:1"], "--device cuda:1: expected cpu or cuda"),
        (["--engine", "ray", "--ray-address", ""], "--ray-address is empty"),
        (["--engine", "ray", "--ray-address", "127.0.0.1:1"], "127.0.0.1:1: no Ray there: "),
    ],
)
def test_mistakes_are_one_line(place, run_sample, words, said):
    code, out, err = run_sample(SHARDS, "--out", "out", *words)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1


def test_a_missing_ray_is_said_before_any_work(place, run_sample, monkeypatch):
    monkeypatch.setattr("smile.scale.store.find_spec", lambda name: name != "ray" or None)
    code, _, err = run_sample(SHARDS, "--out", "out", "--engine", "ray")
    assert code == 2 and "--engine ray need ray: pip install -r requirements-ray.txt" in err


class Idle(RayCluster):
    """A cluster whose captioners have nothing to do."""

    def __enter__(self) -> RayCluster:
        self.device, self.cpus = "cpu", 1
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def caption_units(self, *_: object, **__: object):
        return iter(())


def test_what_bfloat16_gains_is_said_for_ray_too(place, run_sample, monkeypatch):
    monkeypatch.setattr("smile.scale.on_ray.RayCluster", Idle)
    monkeypatch.setattr("smile.scale.on_ray.require", lambda *_: None)
    monkeypatch.setattr("smile.captioning.options.bfloat16_unit", lambda: "AMX")
    said = []
    for words in ([], ["--precision", "bfloat16"]):
        _, _, err = run_sample(SHARDS, "--out", "out", "--engine", "ray", *words)
        said.append("of this machine, and of Ray's others if they are alike: this proc" in err)
    assert said == [True, False]
    Path("out/_run.json").unlink()
    run_sample(SHARDS, "--out", "out")
    code, _, err = run_sample(SHARDS, "--out", "out", "--engine", "ray", "--num-beams", 1)
    assert code == 2 and "--num-beams was 2, is 1 now" in err and err.count("\n") == 1
    _, _, err = run_sample(SHARDS, "--out", "out", "--engine", "ray")
    assert "bfloat16" not in err
