"""Imports go one way, so every file can be read knowing only those before it.

The check reads the source with `ast`; the tests on made-up files show that it can fail.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A module of `smile` imports only from rows above its own; a package counts as one module.
LAYERS = (
    {"errors", "version"},
    {"system"},
    {"config"},
    {"loss", "model"},
    {"data", "weights"},
    {"captioning"},
    {"scale"},
    {"metrics"},
    {"evaluation", "training"},
    {"page"},
)
ROW = {module: row for row, modules in enumerate(LAYERS) for module in modules}

# Packages whose import has another name.
DISTRIBUTIONS = {"PIL": "pillow", "fontTools": "fonttools", "fpdf": "fpdf2"}


def imported_names(path: Path, root: Path) -> Iterator[str]:
    """Every dotted name a file imports, wherever in the file, relative ones resolved."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # `from smile import config` names a module; `from smile.config import Config` does not.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def mistakes(root: Path) -> list[str]:
    """Every import that goes the wrong way, as `file: reason`."""
    scripts = {path.stem for path in root.glob("*.py")}
    found = []
    for path in sorted([*root.glob("*.py"), *root.glob("smile/**/*.py")]):
        where = path.relative_to(root)
        inside = where.parts[0] == "smile"
        own = where.with_suffix("").parts[1] if inside else None
        if inside and own not in ROW and own not in ("__init__", "__main__", "pretrained"):
            found.append(f"{where}: {own} has no row in LAYERS")
            continue
        for name in imported_names(path, root):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top in scripts:
                found.append(f"{where}: imports the script {top}.py")
            elif top == "smile" and target not in ROW:
                found.append(f"{where}: {name} is not a module with a row in LAYERS")
            elif top == "smile" and own in ROW and own != target and ROW[own] <= ROW[target]:
                found.append(f"{where}: {own} must not import {target}")
    return found


def third_party(root: Path) -> set[str]:
    """The packages that must be installed to use the project."""
    files = [*root.glob("*.py"), *root.glob("smile/**/*.py")]
    names = {name.partition(".")[0] for path in files for name in imported_names(path, root)}
    own = {"smile", *(path.stem for path in root.glob("*.py"))}
    return {DISTRIBUTIONS.get(name, name) for name in names - own - sys.stdlib_module_names}


def test_imports_go_one_way():
    assert mistakes(ROOT) == []


ROOMS = [path.parent for path in sorted(ROOT.glob("smile/*/**/__init__.py"))]


def contents(room: Path) -> list[str]:
    """The names that the docstring of a package lists, a line each, in its order."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    return re.findall(r"^(\w+) {2,}\S", docstring or "", re.MULTILINE)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_s_docstring_lists_its_files(room):
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1, "a package's __init__ is its docstring"
    inside = {path.stem for path in room.glob("*.py")} - {"__init__"}
    inside |= {path.parent.name for path in room.glob("*/__init__.py")}
    assert sorted(contents(room)) == sorted(inside)


def graph() -> dict[str, set[str]]:
    """Each module of `smile` → those that it imports, by their dotted names."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.glob("smile/**/*.py")
    }

    def home(name: str) -> str:  # of `smile.loss.mle_loss`: smile.loss
        return name if name in paths else home(name.rpartition(".")[0])

    return {
        module: {home(name) for name in imported_names(path, ROOT) if name.startswith("smile.")}
        for module, path in paths.items()
    }


def test_no_module_needs_itself_by_a_detour():
    TopologicalSorter(graph()).prepare()  # raises CycleError


def test_the_model_is_listed_in_the_order_it_is_read():
    """Each file of the model needs only those above it."""
    modules = graph()
    order = [f"smile.model.{name}" for name in contents(ROOT / "smile" / "model")]
    for number, module in enumerate(order):
        assert not modules[module] & set(order[number:]), module


def test_requirements_name_every_package_used():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.split("[=<>]", line)[0] for line in lines if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = (one for extra in ("java", "page", "scale", "ray") for one in extras[extra])
    optional = {re.split("[=<>]", one)[0] for one in asked}
    assert third_party(ROOT) <= required | optional
    ranges = {re.split("[=<>]", one)[0] for one in project["dependencies"]}
    assert required == ranges


@pytest.mark.parametrize("extra", ["page", "scale", "ray"])
def test_an_extra_needs_the_same_by_either_name(extra):
    text = (ROOT / f"requirements-{extra}.txt").read_text(encoding="utf-8")
    pins = [line.partition("#")[0].strip() for line in text.splitlines() if "==" in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    taken = [f"smile-captioning[{name}]" for name in re.findall(r"^-r .*-(\w+)\.", text, re.M)]
    assert taken + pins == project["optional-dependencies"][extra]


def takers_of_a_namespace(root: Path) -> list[str]:
    """Every function that takes argparse's object of a script's options, as `file: name`."""
    found = []
    for path in sorted([*root.glob("*.py"), *root.glob("smile/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "Namespace" in ast.unparse(node.args):
                found.append(f"{path.relative_to(root)}: {node.name}")
    return found


def test_a_command_line_is_handed_on_by_name():
    assert takers_of_a_namespace(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line", "mistake"),
    [
        ("smile/config.py", "from smile.data import x", "config must not import data"),
        ("smile/config.py", "from .data import x", "config must not import data"),
        ("smile/config.py", "from . import data", "config must not import data"),
        ("smile/loss.py", "import smile.model.vit", "loss must not import model"),
        ("smile/loss.py", "def f():\n    from smile import data", "loss must not import data"),
        ("smile/data/shapes.py", "from ..evaluation import x", "data must not import evaluation"),
        ("smile/loss.py", "import train", "imports the script train.py"),
        ("sample.py", "from train import main", "imports the script train.py"),
        ("sample.py", "from smile import ViT", "smile.ViT is not a module"),
        ("smile/utils.py", "", "utils has no row in LAYERS"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line, mistake):
    (tmp_path / "train.py").write_text("from smile.config import load_config\n")
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"import torch\n{line}\n")
    (found,) = mistakes(tmp_path)
    assert found.startswith(file)
    assert mistake in found


def test_a_right_import_is_not_found(tmp_path):
    (tmp_path / "smile" / "data").mkdir(parents=True)
    (tmp_path / "train.py").write_text("from smile.data import load_examples\n")
    (tmp_path / "smile" / "data" / "a.py").write_text(
        "import torchvision\nfrom smile.data.b import x\nfrom .b import y\nfrom ..config import z\n"
    )
    assert mistakes(tmp_path) == []
    assert third_party(tmp_path) == {"torchvision"}
