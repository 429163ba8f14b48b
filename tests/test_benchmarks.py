"""Benchmarks start from a fresh clone, as their docstrings say; `.ci/benchmarks` runs each."""

import ast
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
SCRIPTS = [path for path in sorted(BENCHMARKS.glob("*.py")) if "__main__" in path.read_text()]


def imported(path: Path) -> list[str]:
    """The modules that a file imports at its top, in order."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_finds_the_project_by_itself(path):
    names = imported(path)
    own = [name for name in names if (BENCHMARKS / f"{name}.py").exists()]
    project = [n for n, name in enumerate(names) if name.partition(".")[0] in ("smile", "train")]
    assert "project" in own or {"blip", "machine", "bench_load"} & set(own)
    assert not project or names.index(own[0]) < min(project)
    text = path.read_text()
    assert re.search(rf"^    python tests/benchmarks/{path.name}", text, re.MULTILINE)
    assert "PYTHONPATH" not in text and '"--tiny"' in text
