"""The README and the pages it leads to: every link leads somewhere, and the README stays short."""

import re
from pathlib import Path

import pytest

from smile.training.checkpointing.resume import MAY_CHANGE

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("smile/**/*.md")]
LINK = re.compile(r"(?:\]\(|src(?:set)?=\")([^)\s\"]+)[)\"]")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), f"there is no {target}"
        if anchor:
            assert anchor in anchors(other), f"no heading of {other.name} is #{anchor}"


def test_the_page_on_training_names_what_may_change_on_resume():
    assert MAY_CHANGE in prose(ROOT / "docs" / "training.md").replace("\n", " ")


def test_the_readme_can_be_read_at_once():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 300
