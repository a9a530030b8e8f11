"""The table of mount flags, and the options that are translated."""

from __future__ import annotations

import pytest

from supervisor.kernel import fuse_programs
from supervisor.kernel.hugetlbfs import shifted
from supervisor.kernel.mounts import LOCKABLE, MS, attr_of, names_of, remounted, without_magic

MAP = [(0, 100_000, 1000), (5000, 7000, 1)]


def test_the_bits_are_the_kernels() -> None:
    assert attr_of(MS["ro"] | MS["nosuid"] | MS["nodev"] | MS["noexec"]) == 0xF
    assert attr_of(MS["nosymfollow"]) == 0x200000, "no two flags have the same bits by chance"
    assert attr_of(MS["sync"] | MS["noatime"] | MS["lazytime"]) == 0
    assert LOCKABLE == 0xF


def test_names() -> None:
    assert names_of(MS["ro"] | MS["noatime"]) == ["ro", "noatime"]
    assert names_of(1 << 30) == ["0x40000000"]
    assert names_of(0) == []


def test_the_magic_number_of_old() -> None:
    assert without_magic(0xC0ED0000 | MS["ro"]) == MS["ro"]
    assert without_magic(MS["private"] | MS["rec"]) == MS["private"] | MS["rec"]


@pytest.mark.parametrize(
    ("flags", "set_", "clear"),
    [
        (0, 0, 0x20000F),
        (MS["ro"] | MS["nosuid"], 0x3, 0x20000C),
        (MS["noatime"], 0x10, 0x20000F | 0xE0 | 0x10),
        (MS["relatime"], 0, 0x20000F | 0xF0),
        # path_mount() in the kernel's fs/namespace.c: of several the last of these counts
        (MS["relatime"] | MS["noatime"], 0x10, 0x20000F | 0xE0 | 0x10),
        (MS["relatime"] | MS["noatime"] | MS["strictatime"], 0x20, 0x20000F | 0xF0),
        (MS["relatime"] | MS["nodiratime"], 0x80, 0x20000F | 0x70),
    ],
)
def test_remount(flags: int, set_: int, clear: int) -> None:
    assert remounted(flags) == (set_, clear)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b"uid=100000,gid=100000"),
        (b"uid=0,gid=0", b"uid=100000,gid=100000"),
        (b"uid=5000", b"uid=7000,gid=100000"),
        (b"size=2M,gid=7", b"size=2M,gid=100007,uid=100000"),
        (b"uid=x", b"uid=x"),
        (b"uid=4000", b"uid=4000"),
    ],
)
def test_ids_of_hugetlbfs(data: bytes, expected: bytes) -> None:
    assert shifted(data, MAP, MAP) == expected


def test_command_lines() -> None:
    for name, program in fuse_programs.PROGRAMS.items():
        words = fuse_programs.argv(program, ["ro"])
        assert words[0].startswith("/"), name
        assert fuse_programs.SOURCE in words
        assert any("allow_other,default_permissions,ro" in word for word in words)
    with pytest.raises(ValueError, match="nothing"):
        fuse_programs.argv(["/bin/x", "{nothing}"], [])
    with pytest.raises(ValueError, match="positional"):
        fuse_programs.argv(["/bin/x", "{0}"], [])
