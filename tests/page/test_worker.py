"""One thread owns a captioner; visitors take turns, and whatever a task raises is its own."""

import threading
from concurrent.futures import CancelledError

import pytest
from PIL import Image

from smile.errors import UserError
from smile.page.worker import Progress, Worker, Workers, load_captioner
from tests.helpers import FileServer, make_run

WAIT = 60  # seconds at most, for what takes none


class Gate:
    """A task that begins, then waits to be let through."""

    def __init__(self):
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, captioner):
        self.begun.set()
        assert self.open.wait(WAIT)


@pytest.fixture
def busy():
    """A worker with a task under way, and what lets that end."""
    worker, gate = Worker("fake", load=lambda source, tell: source), Gate()
    worker.submit("nobody", gate)
    assert gate.begun.wait(WAIT)
    yield worker, gate.open
    gate.open.set()
    worker.close()


def test_visitors_take_turns(busy):
    worker, let = busy
    order = []
    jobs = {
        name: worker.submit(name[0], lambda _, name=name: order.append(name))
        for name in ("a1", "a2", "a3", "b1", "c1", "c2")
    }
    assert worker.waiting == 7
    assert [worker.waiting_of(visitor) for visitor in ("a", "b", "nobody", "x")] == [3, 1, 1, 0]
    ahead = {name: worker.ahead(job) for name, job in jobs.items()}
    let.set()
    for job in jobs.values():
        job.future.result(WAIT)
    assert order == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert ahead == {name: order.index(name) + 1 for name in order}  # and the one under way


def test_no_two_tasks_are_in_a_captioner_at_once():
    inside, most = [], []

    def task(_):
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    workers = Workers(load=lambda source, tell: source)
    jobs = [workers.submit("fake", visitor, task) for visitor in range(20)]
    for job in jobs:
        job.future.result(WAIT)
    assert most == [1] * 20


def test_a_task_s_error_is_its_own(busy, capsys):
    worker, let = busy

    def fail(_):
        raise MemoryError("no room")

    failed, fine = worker.submit("a", fail), worker.submit("a", lambda captioner: captioner)
    let.set()
    assert isinstance(failed.future.exception(WAIT), MemoryError)
    assert fine.future.result(WAIT) == "fake"
    assert "no room" in capsys.readouterr().err


def test_what_cannot_be_loaded_is_tried_again_next_time():
    tries = []

    def load(source, tell):
        tries.append(source)
        if len(tries) == 1:
            raise UserError("no connection")
        return "there"

    worker = Worker("far", load=load)
    error = worker.submit("a", lambda captioner: captioner).future.exception(WAIT)
    assert str(error) == "no connection"
    assert worker.submit("a", lambda captioner: captioner).future.result(WAIT) == "there"
    assert worker.submit("b", lambda captioner: captioner).future.result(WAIT) == "there"
    assert tries == ["far", "far"]


def test_who_leaves_is_waited_for_by_nobody(busy):
    worker, let = busy
    left = worker.submit("a", lambda _: pytest.fail("done for nobody"))
    stays = worker.submit("b", lambda _: "done")
    worker.cancel("a")
    assert (worker.waiting, worker.ahead(stays)) == (2, 1)
    let.set()
    assert stays.future.result(WAIT) == "done"
    with pytest.raises(CancelledError):
        left.future.result(WAIT)


def test_who_is_away_waits_and_is_dropped_after_a_while(busy):
    """Nothing is done when a session ends: that may be in any thread, at any time."""
    worker, let = busy
    here = {"nobody", "b"}
    worker.is_here = here.__contains__
    returns = worker.submit("a", lambda _: "done late")
    stays = worker.submit("b", lambda _: "done")
    assert (worker.waiting, worker.ahead(stays)) == (2, 1)
    let.set()
    assert stays.future.result(WAIT) == "done"
    assert not returns.done
    here.add("a")
    assert returns.future.result(WAIT) == "done late"
    here.remove("a")
    worker.longest_away = 0
    gone = worker.submit("a", lambda _: pytest.fail("done for nobody"))
    with pytest.raises(CancelledError):
        gone.future.result(WAIT)


def test_all_who_wait_for_what_cannot_be_loaded_hear_why():
    tries, gate = [], threading.Event()

    def load(source, tell):
        tries.append(source)
        assert gate.wait(WAIT)
        raise UserError("no connection")

    worker = Worker("far", load=load)
    jobs = [worker.submit(visitor, lambda captioner: captioner) for visitor in "aab"]
    gate.set()
    assert [str(job.future.exception(WAIT)) for job in jobs] == ["no connection"] * 3
    assert (tries, worker.waiting) == (["far"], 0)


def test_two_captioners_do_not_wait_for_each_other():
    workers, gate = Workers(load=lambda source, tell: source), Gate()
    slow = workers.submit("slow", "a", gate)
    assert gate.begun.wait(WAIT)
    assert workers.submit("quick", "b", lambda captioner: captioner).future.result(WAIT) == "quick"
    assert not slow.done
    gate.open.set()
    slow.future.result(WAIT)


def test_the_captioner_not_used_for_longest_goes():
    loads = []

    def load(source, tell):
        loads.append(source)
        return source

    workers = Workers(load=load, most=2)
    for source in ("a", "b", "a", "c", "a", "b"):
        worker_job = workers.submit(source, "x", lambda captioner: captioner)
        assert worker_job.future.result(WAIT) == source
        while workers.waiting(source):
            pass
    assert loads == ["a", "b", "c", "b"]


def test_a_busy_captioner_stays(busy):
    workers, gate = Workers(load=lambda source, tell: source, most=1), Gate()
    slow = workers.submit("slow", "a", gate)
    assert gate.begun.wait(WAIT)
    workers.submit("quick", "b", lambda _: None).future.result(WAIT)
    assert (workers.waiting("slow"), workers.ahead("slow", slow)) == (1, 0)
    gate.open.set()
    slow.future.result(WAIT)


def test_loading_says_how_far_it_is(tmp_path, empty_caches, monkeypatch):
    """A captioner from a server: the bytes so far, of how many, then that it is read."""
    run = make_run(tmp_path / "run")
    server = FileServer({"/model.pth": (run / "model.safetensors").read_bytes()})
    monkeypatch.setattr("smile.system.download.CHUNK", 4096)

    def fetch_and_load(source, **options):
        from smile.system.download import fetch
        from smile.weights.load import load

        fetch(f"{server.address}/model.pth")
        return load(run, **options)

    monkeypatch.setattr("smile.page.worker.load", fetch_and_load)
    told: list[Progress] = []
    try:
        captioner = load_captioner("far", told.append)
    finally:
        server.close()
    assert told[0].line == "Loading far: reading its files"
    fractions = [progress.fraction for progress in told if progress.fraction]
    assert fractions == sorted(fractions) and len(fractions) > 2 and fractions[-1] == 1
    assert "downloading model.pth" in told[1].line
    assert told[-1].line == "Loading far: checking and reading model.pth"
    assert captioner.caption(Image.new("RGB", (8, 8)))


def test_a_file_that_is_overwritten_changes_no_captioner_in_memory(tmp_path):
    run = make_run(tmp_path / "run")
    captioner = load_captioner(str(run), lambda progress: None)
    before = captioner.describe(Image.new("RGB", (16, 16)))
    weights = run / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        file.write(bytes(weights.stat().st_size // 2))
    assert captioner.describe(Image.new("RGB", (16, 16))) == before
