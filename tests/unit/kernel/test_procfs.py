"""Nodes of the host's, as an ordinary user finds them, whoever calls."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from supervisor.engine.open_nodes import held
from supervisor.kernel.shim import lib

READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
NOBODY = 0  # no thread has that number
ENTRIES = ((1, 6, -1), (2, 0, 12345), (4, 6, -1), (16, 6, -1), (32, 6, -1))  # acl(5)
LIST = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *one) for one in ENTRIES)


def for_everybody(file: Path, flags: int) -> bool:
    node = held(os.open(file, os.O_PATH), lib.SD_NODE_HOSTS)
    return bool(lib.sd_node_is_for(node, NOBODY, flags) == lib.SD_NODE_EVERYBODYS)


@pytest.mark.parametrize(
    ("mode", "ways"),
    [
        (0o666, {READ, WRITE, BOTH}), (0o444, {READ}), (0o644, {READ}), (0o622, {WRITE}),
        (0o600, set()), (0o660, set()), (0o606, set()), (0o066, set()), (0o640, set()),
        (0o777, {READ, WRITE, BOTH}), (0o111, set()),
    ],
)  # fmt: skip
def test_for_everybody(tmp_path: Path, mode: int, ways: set[int]) -> None:
    """Whom a mode denies something it denies that as owner or in the group, too."""
    file = tmp_path / "node"
    file.touch()
    file.chmod(mode)
    for more in (0, os.O_APPEND, os.O_CLOEXEC):
        found = {way for way in (READ, WRITE, BOTH) if for_everybody(file, way | more)}
        assert found == ways
    assert for_everybody(file, READ | os.O_TRUNC) == (BOTH in ways)


def test_somebody_may_be_left_out_by_an_access_list(tmp_path: Path) -> None:
    file = tmp_path / "node"
    file.touch()
    file.chmod(0o666)
    os.setxattr(file, "system.posix_acl_access", LIST)
    assert os.stat(file).st_mode & 0o777 == 0o666
    assert not for_everybody(file, READ)


def test_what_is_changed_is_looked_at_again(tmp_path: Path) -> None:
    """Also once it is believed that it has no access list, if nobody has changed it lately."""
    file = tmp_path / "node"
    file.touch()
    file.chmod(0o666)
    node = held(os.open(file, os.O_PATH), lib.SD_NODE_HOSTS)

    def is_for() -> bool:
        return bool(lib.sd_node_is_for(node, NOBODY, READ) == lib.SD_NODE_EVERYBODYS)

    assert is_for()
    assert node.bare_sec == 0
    time.sleep(3.1)
    assert is_for()
    assert node.bare_sec == int(file.stat().st_ctime)
    os.setxattr(file, "system.posix_acl_access", LIST)
    assert not is_for()
    os.removexattr(file, "system.posix_acl_access")
    assert is_for()
    file.chmod(0o660)
    assert not is_for()
