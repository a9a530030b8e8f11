"""The documents say what the code does: every example in them loads, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.policy import store
from supervisor.policy.families import Traits

TOP = Path(__file__).resolve().parents[2]
PAGES = [*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")]


def blocks(page: Path) -> list[str]:
    """Indented blocks, without their indentation."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page.read_text(), re.M)
    return ["".join(line[4:] or "\n" for line in block.splitlines(True)).strip() for block in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_the_readmes_policy_loads(tmp_path: Path) -> None:
    (text,) = [block for block in blocks(TOP / "README.md") if block.startswith("version:")]
    assert len(text.splitlines()) <= 10
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    policy = store.load(str(file), Traits("host"), families=FAMILIES)
    assert policy.name == "mine"


def test_the_page_on_policies_has_policies_that_load(tmp_path: Path) -> None:
    first, section = [b for b in blocks(TOP / "docs/policies.md") if "syscalls:" in b]
    for text in (first, "version: 1\n" + section):
        file = tmp_path / "page.yaml"
        file.write_text(text)
        store.load(str(file), Traits("private"), families=FAMILIES)


def test_every_option_of_run_is_on_its_page() -> None:
    page = (TOP / "docs/run.md").read_text()
    code = (TOP / "supervisor/cli/run.py").read_text()
    options = set(re.findall(r'"(--[a-z-]+)"', code))
    assert options
    assert not {option for option in options if f"`{option}" not in page}
