"""What several tests use; and torchvision made importable.

Beside a CPU-only torch it has to be imported before transformers, an oracle, needs it.
"""

import sys

import pytest

import smile.data.augment  # noqa: F401
import train


@pytest.fixture
def run_main(monkeypatch, capfd):
    """Runs train.py's main() in this process: (exit status, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
        status = 0
        try:
            train.main()
        except SystemExit as ended:
            status = ended.code
        return status, *capfd.readouterr()

    return run
