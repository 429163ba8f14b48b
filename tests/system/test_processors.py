"""When a machine counts as shared, and what is then said: by numbers put in, never by load."""

import os
import sys

import pytest
import torch

from smile.system import processors
from smile.system.processors import SECONDS, ContentionWatch, Reading, contended, remedy

CPU = torch.device("cpu")

# Counted a second on two processors: interruptions, processors used, pressure ("some"). Those of
# two threads that are left alone, and of two that share. A task of the lowest priority cost them
# nothing; the others cost them from a third to nine tenths of their steps. Two are made up.
ALONE = {
    "one thread": (4.5, 1.0, 0.02),
    "two, beside a task of the lowest priority": (102, 1.91, 0.51),
    "two at their worst, beside such a task": (167, 1.9, 0.63),
    "two that sleep, beside such a task": (44, 1.47, 0.55),
    "two that two workers interrupt": (248, 1.96, 0.61),
    "two that wait for data (made up)": (3, 0.2, 0.01),
    "two and nobody waits (made up)": (30, 1.4, 0.0),
}
SHARED = {
    "beside half a process": (301, 1.40, 0.67),
    "beside one": (259, 1.03, 0.84),
    "beside one, with workers": (289, 1.44, 0.81),
    "beside many": (148, 0.41, 0.94),
    "beside many more": (441, 0.52, 0.87),
    "beside one, asleep when they wait": (5836, 1.01, 0.55),
    "beside many, asleep when they wait": (1648, 0.40, 0.97),
}


def readings(interruptions: float, used: float, pressure: float | None, *, step: float = SECONDS):
    """Readings every `step` seconds of what is counted at such rates."""
    number = 0
    while True:
        time = number * step
        yield Reading(
            time=100 + time,
            interruptions=7 + round(interruptions * time),
            used=3 + used * time,
            waited=None if pressure is None else 50 + pressure * time,
        )
        number += 1


def is_shared(interruptions, used, pressure, *, usable: int = 2, machine: int = 2) -> bool:
    counted = readings(interruptions, used, pressure)
    return contended(next(counted), next(counted), usable=usable, processors=machine)


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads on two processors, and no setting of OpenMP."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(processors, "usable_processors", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for name in os.environ:
        if name.startswith(("OMP_", "GOMP_", "KMP_")):
            monkeypatch.delenv(name)


def lines_of(counted, *, calls: int = 9, device: torch.device = CPU) -> list[str]:
    watch = ContentionWatch(device, read=lambda: next(counted))
    return [line for _ in range(calls) if (line := watch.notice())]


@pytest.mark.parametrize("counted", ALONE.values(), ids=ALONE.keys())
def test_a_machine_of_one_s_own_is_not_shared(counted):
    assert not is_shared(*counted)
    interruptions, used, _ = counted
    assert not is_shared(interruptions, used, None)


@pytest.mark.parametrize("counted", SHARED.values(), ids=SHARED.keys())
def test_a_shared_machine_is_noticed(counted):
    assert is_shared(*counted)
    interruptions, used, _ = counted
    assert is_shared(interruptions, used, None)  # a kernel that counts no pressure


def test_one_busy_process_is_noticed_among_many_processors():
    """Pressure is a mean over processors, and one contended among 64 slows every thread."""
    assert is_shared(150, 63, 1 / 64, usable=64, machine=64)
    assert not is_shared(150, 63.9, 0.1 / 64, usable=64, machine=64)
    assert not is_shared(60, 32, 0.003, usable=64, machine=64)  # idle, with a little of everything


def test_it_is_said_once_in_one_line(two_threads):
    [line] = lines_of(readings(*SHARED["beside one"]))
    assert "\n" not in line
    assert "259 times a second for 20 s" in line and "OMP_WAIT_POLICY=passive" in line
    assert lines_of(readings(*ALONE["two that two workers interrupt"])) == []


def test_only_whole_stretches_are_compared(two_threads):
    """A burst counts for what it is over 20 s, and the next stretch starts afresh."""
    watch = ContentionWatch(CPU, read=lambda: next(counted))
    counted = readings(*SHARED["beside one"], step=SECONDS / 4)
    assert [bool(watch.notice()) for _ in range(6)] == [False] * 4 + [True, False]


def test_a_quiet_stretch_does_not_hide_the_next(two_threads):
    watch = ContentionWatch(CPU, read=lambda: next(counted))
    counted = readings(*ALONE["two that sleep, beside such a task"])
    assert [watch.notice() for _ in range(5)] == [None] * 5
    counted = readings(*SHARED["beside many"])
    watch.first = next(counted)
    assert watch.notice()


@pytest.mark.parametrize("case", ["a GPU", "one thread", "no counters"])
def test_nothing_is_said_where_nothing_helps_or_is_known(two_threads, monkeypatch, case):
    if case == "one thread":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    device = torch.device("cuda" if case == "a GPU" else "cpu")
    counted = iter([None]) if case == "no counters" else readings(*SHARED["beside one"])
    assert lines_of(counted, device=device) == []


@pytest.mark.parametrize(
    ("environment", "threads", "said", "unsaid"),
    [
        ({}, 2, "OMP_WAIT_POLICY=passive in", "instead"),
        ({}, 12, "so does OMP_NUM_THREADS=6", "instead"),
        ({"OMP_NUM_THREADS": "8"}, 8, "OMP_WAIT_POLICY=passive", "OMP_NUM_THREADS"),
        ({"OMP_WAIT_POLICY": ""}, 2, "OMP_WAIT_POLICY=passive", "instead"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, 2, "OMP_NUM_THREADS=1 instead of 2", "=passive"),
        ({"OMP_WAIT_POLICY": "active"}, 16, "OMP_NUM_THREADS=8 instead of 16", "=passive"),
        ({"GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "3"}, 3, "with GOMP_SPINCOUNT", "=passive"),
        ({"KMP_BLOCKTIME": "0"}, 4, "with KMP_BLOCKTIME", "=passive"),
    ],
)
def test_a_user_s_own_settings_change_the_advice(environment, threads, said, unsaid):
    advice = remedy(threads, environment)
    assert said in advice and unsaid not in advice


def test_the_line_reads_the_environment_and_leaves_it(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    before = dict(os.environ)
    [line] = lines_of(readings(*SHARED["beside one, asleep when they wait"]))
    assert "with OMP_WAIT_POLICY as set" in line and dict(os.environ) == before


# What the system counts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("some avg10=6.45 avg60=3.63 avg300=6.96 total=22037680\nfull avg10=0.00 total=7\n", 22.04),
        ("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", 0.0),  # Linux before 5.13
        (None, None),
    ],
)
def test_pressure_is_read_where_the_kernel_keeps_it(tmp_path, monkeypatch, text, seconds):
    monkeypatch.setattr(processors, "PRESSURE", tmp_path / "cpu")
    if text is not None:
        (tmp_path / "cpu").write_text(text)
    assert processors._seconds_waited() == pytest.approx(seconds, abs=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="the counters are Linux's")
def test_the_counters_are_of_this_process_and_its_workers():
    first, last = processors.read_counters(), processors.read_counters()
    assert last.time > first.time > 0
    assert last.interruptions >= first.interruptions >= 0
    assert last.used >= first.used > 0
    own = processors.resource.getrusage(processors.resource.RUSAGE_SELF)  # without ended children
    own_seconds = own.ru_utime + own.ru_stime
    assert processors._processor_seconds(os.getpid()) == pytest.approx(own_seconds, abs=1)
    assert processors._processor_seconds(2**31 - 2) == 0.0  # no such process


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_there_are_no_counters_elsewhere(monkeypatch, platform):
    if platform == "win32":
        monkeypatch.setattr(processors, "resource", None)
    monkeypatch.setattr(sys, "platform", platform)
    assert processors.read_counters() is None
