"""Nodes of the host's, as an ordinary user finds them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from supervisor.kernel.procfs import for_everybody

READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


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
    fd = os.open(file, os.O_PATH)
    try:
        assert {way for way in (READ, WRITE, BOTH) if for_everybody(fd, way)} == ways
        assert {way for way in (READ, WRITE, BOTH) if for_everybody(fd, way | os.O_APPEND)} == ways
    finally:
        os.close(fd)


def test_somebody_may_be_left_out_by_an_access_list(tmp_path: Path) -> None:
    file = tmp_path / "node"
    file.touch()
    file.chmod(0o666)
    entries = ((1, 6, -1), (2, 0, 12345), (4, 6, -1), (16, 6, -1), (32, 6, -1))  # acl(5)
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *one) for one in entries)
    os.setxattr(file, "system.posix_acl_access", listed)
    assert os.stat(file).st_mode & 0o777 == 0o666
    fd = os.open(file, os.O_PATH)
    try:
        assert not for_everybody(fd, READ)
    finally:
        os.close(fd)
