"""What every test may ask for."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.support import people  # noqa: E402
from tests.support.needs import need  # noqa: E402

# nohup, shells in the background and some CI runners ignore them; programs under test inherit that.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

# Loop devices are counted in these, programs looked for by name, and the mode of /dev/fuse changed.
_ONE_AFTER_THE_OTHER = re.compile(r"/test_(\w*mount\w*|node_life|attach)\.py$")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files go to workers as a whole, since their tests share containers; what mounts to one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "mounts" if _ONE_AFTER_THE_OTHER.search(file) else file

    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        need(*mark.args)


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
