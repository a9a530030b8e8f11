"""What every test may ask for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.support import people  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files go to workers as a whole, since their tests share containers. All that mounts goes to
    one: loop devices are counted, and the mode of /dev/fuse is changed.
    """
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        group = "mounts" if "mount" in item.path.name else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def root() -> people.Person:
    """Root of the machine; the test is skipped for anybody else."""
    if os.geteuid() != 0:
        pytest.skip("only root can test this")
    return people.Person()


@pytest.fixture(scope="session")
def user(root: people.Person) -> people.Person:
    """An ordinary user with subordinate ids."""
    assert root.name is None
    return people.ordinary()


@pytest.fixture(scope="session")
def bare_user(root: people.Person) -> people.Person:
    """An ordinary user without subordinate ids."""
    assert root.name is None
    return people.without_ranges()


@pytest.fixture(scope="session", params=["root", "user"])
def person(request: pytest.FixtureRequest) -> people.Person:
    """Once root, once an ordinary user."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, people.Person)
    return found
