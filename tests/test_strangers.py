"""Damaged files end in a value or in one line: a few cases of `fuzz_strangers.py`, and itself."""

import os
import signal
import time
from dataclasses import replace

import fuzz_strangers
import pytest
from fuzz_strangers import AREAS, faults, outcomes, report, sound_files

from smile.errors import UserError

COUNT = 60


@pytest.fixture(scope="module", autouse=True)
def sound():
    with sound_files():
        yield


@pytest.mark.slow
def test_damaged_files_end_in_a_value_or_in_one_line():
    found = list(outcomes(range(COUNT)))
    assert [outcome.number for outcome in found] == [*range(COUNT)]
    assert not faults(found), report(found)
    assert len({outcome.kind for outcome in found}) == 2  # some are read all the same


def _spin(folder):
    while True:
        pass


def _wait(folder):
    time.sleep(60)


def _crash(folder):
    os.kill(os.getpid(), signal.SIGSEGV)


def _fill(folder):
    return bytes(2**34)


def _stop(folder):
    raise KeyError("x")


def _say(folder):
    raise UserError(f"{folder}: two\nlines")


FAULTS = {
    _spin: "hang",
    _wait: "hang",
    _crash: "crash by SIGSEGV",
    _fill: "memory",
    _stop: "traceback",
    _say: "not one line",
}


@pytest.mark.slow
@pytest.mark.parametrize(("read", "kind"), FAULTS.items())
def test_every_kind_of_fault_is_noticed_and_the_rest_tried(monkeypatch, read, kind):
    area = replace(AREAS[10], read=read)
    monkeypatch.setattr(fuzz_strangers, "AREAS", (area, AREAS[10]))
    monkeypatch.setattr(fuzz_strangers, "SECONDS", 0.3)
    monkeypatch.setattr(fuzz_strangers, "WAIT", 1 if read is _wait else 60)
    bad, good = outcomes(range(2))
    assert bad.kind == kind and kind in report([bad, good])
    assert not faults([good])
