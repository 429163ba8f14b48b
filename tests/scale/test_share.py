"""Every unit is in one share, however the processes are started."""

import os

import pytest

from smile.errors import UserError
from smile.scale.share import Share, find_share, lonely
from smile.system.distributed import World


def array(task, first=0, count=4, step=1, **more) -> dict[str, str]:
    told = {"TASK_ID": task, "TASK_MIN": first, "TASK_COUNT": count, "TASK_STEP": step}
    told = {f"SLURM_ARRAY_{name}": str(value) for name, value in told.items()}
    return told | {name: str(value) for name, value in more.items()}


def srun(index, count) -> dict[str, str]:
    return {"SLURM_PROCID": str(index), "SLURM_NTASKS": str(count)}


CASES = {
    "alone": [(World(), {})],
    "torchrun": [(World(rank, 3), {}) for rank in range(3)],
    "array": [(World(), array(task)) for task in range(4)],
    "array from 5 in twos": [(World(), array(task, 5, 3, 2)) for task in (5, 7, 9)],
    "srun": [(World(), srun(i, 2)) for i in range(2)],
    "array of srun": [(World(), array(t) | srun(i, 2)) for t in range(4) for i in range(2)],
    "array of torchrun": [
        (World(rank, 2), array(t) | srun(0, 9)) for t in range(4) for rank in range(2)
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_shares_make_the_whole_in_order(case):
    units = list(range(23))
    shares = [find_share(world, told) for world, told in CASES[case]]
    assert [share.index for share in shares] == list(range(len(shares)))
    assert {share.count for share in shares} == {len(shares)}
    assert sorted(unit for share in shares for unit in share.of(units)) == units
    sizes = [len(share.of(units)) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_share_is_said_as_people_count():
    assert str(Share(2, 16)) == "task 3 of 16"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (array(3, 0, 2), "as in --array=0-15"),
        (array(6, 5, 3, 2), "as in --array=0-15"),
        (array("x"), "SLURM_ARRAY_TASK_ID is 'x'"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_MIN is ''"),
        (srun(2, 2), "SLURM_PROCID is 2 and SLURM_NTASKS 2"),
        (srun(0, "9" * 5000), "SLURM_NTASKS is '9999"),
    ],
)
def test_nonsense_is_refused_in_one_line(told, said):
    with pytest.raises(UserError) as raised:
        find_share(World(), told)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_tasks_that_nobody_started_are_warned_of():
    assert "put srun before" in lonely(srun(0, 4))
    assert not lonely({"SLURM_NTASKS": "4"})  # salloc's own shell
    for told in (srun(0, 1), srun(0, 4) | {"SLURM_STEP_ID": "0"}, srun(0, 4) | {"RANK": "0"}, {}):
        assert not lonely(told)


def test_the_environment_is_that_of_the_moment(monkeypatch):
    """`datasets` puts a copy in the place of `os.environ`."""
    monkeypatch.setattr(os, "environ", dict(os.environ) | array(2) | srun(1, 2))
    assert find_share(World()) == Share(5, 8) and lonely()
