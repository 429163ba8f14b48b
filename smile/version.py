"""The version, written once: in `pyproject.toml`."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NAME = "smile-captioning"


def find_version(root: Path) -> str:
    """The version of the clone at `root`, else of the installed package, else "unknown".

    The clone goes first, because the installed package may be another version.
    """
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == NAME:
            return project["version"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "unknown"


__version__ = find_version(Path(__file__).parent.parent)
