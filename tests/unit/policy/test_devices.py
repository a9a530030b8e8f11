"""Names and numbers of devices."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor.kernel.device_numbers import join_device, split_device
from supervisor.policy.cubes import UNIVERSE, Cube, cubes, overlap, subtract
from supervisor.policy.devices import (
    NAMES,
    PROTECTED,
    SERVING,
    DeviceError,
    device_text,
    parse_device,
    protected,
)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("null", ("c", 1, 1, 3, 3)),
        ("char 10:229", ("c", 10, 10, 229, 229)),
        ("block 7:*", ("b", 7, 7, 0, 1048575)),
        ("char 1-3:3-9", ("c", 1, 3, 3, 9)),
        ("char *:*", ("c", 0, 4095, 0, 1048575)),
        ("loop*", ("b", 7, 7, 0, 1048575)),
        ("loop0-7", ("b", 7, 7, 0, 7)),
        ("tty1", ("c", 4, 4, 1, 1)),
        ("ttyS0", ("c", 4, 4, 64, 64)),
    ],
)
def test_devices(text: str, nodes: tuple[str, int, int, int, int]) -> None:
    assert parse_device(text) == nodes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nul l",
        "char 1",
        "char 1:2:3",
        "char -1:2",
        "char 1:1048576",
        "b 1:2",
        "loop*-3",
        "tty64",
        "loop3-1",
        "char **:1",
        "10:229",
        "/dev/null",
        "char 1 :3",
        "chár 1:3",
    ],
)
def test_no_devices(text: str) -> None:
    with pytest.raises(DeviceError):
        parse_device(text)


def test_what_is_written_can_be_read_again() -> None:
    for text in ("null", "char 1-3:3-9", "block 7:*", "char *:*"):
        assert device_text(parse_device(text)) == text


# A container has consoles and terminals of its own under the host's names.
OWN_TO_CONTAINERS = {"console", "ptmx", "tty"}
HERE = sorted(name for name in NAMES if (Path("/dev") / name).exists())


def test_this_machine_has_devices_to_compare_with() -> None:
    assert {"null", "zero", "full", "random", "urandom"} <= set(HERE)


@pytest.mark.parametrize("name", HERE)
def test_names_are_those_of_this_machine(name: str) -> None:
    status = (Path("/dev") / name).stat()
    kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
    found = (kind, os.major(status.st_rdev), os.minor(status.st_rdev))
    assert found == NAMES[name] or name in OWN_TO_CONTAINERS


def test_join_and_split_are_inverse() -> None:
    for dev in (0, 0x103, 0xFFFFFFFF, 0x12345678):
        assert join_device(*split_device(dev)) == dev


def test_the_universe_is_all_but_the_whiteout() -> None:
    assert subtract(UNIVERSE, UNIVERSE) == []
    assert not any(overlap(cube, Cube("c", 0xFFFFFFFF, 0)) for cube in UNIVERSE)
    whole = 1 << 32
    assert sum(whole >> cube.mask.bit_count() for cube in UNIVERSE if cube.kind == "c") == whole - 1


def test_a_range_has_just_its_devices() -> None:
    found = cubes([("c", 0, 2, 0, 300)])
    for major in range(5):
        for minor in (0, 1, 255, 256, 299, 300, 301, 511, 512):
            one = Cube("c", 0xFFFFFFFF, join_device(major, minor))
            inside = major <= 2 and minor <= 300 and (major, minor) != (0, 0)
            assert any(overlap(one, cube) for cube in found) == inside


# Documentation/admin-guide/devices.txt of the kernel has these numbers.
HOSTS_OWN = """
block 7:0, block 8:0, block 259:0, char 1:1, char 1:2, char 1:4, char 1:6, char 1:11, char 1:12,
char 2:0, char 3:255, char 4:0, char 4:63, char 4:64, char 5:1, char 5:3, char 5:64, char 6:0,
char 7:0, char 7:1, char 7:128, char 9:0, char 10:1, char 10:130, char 10:135, char 10:144, char
10:175, char 10:184, char 10:196, char 10:203, char 10:220, char 10:223, char 10:224, char
10:228, char 10:231, char 10:234, char 10:236, char 10:237, char 10:239, char 10:242, char
13:64, char 14:3, char 21:0, char 29:0, char 31:0, char 35:0, char 81:0, char 89:0, char 90:0,
char 99:0, char 116:0, char 153:0, char 162:1, char 166:0, char 171:0, char 180:0, char 188:0,
char 189:0, char 202:0, char 204:64, char 226:0, char 229:0, char 10:225, char 60:0, char 63:1, char
120:0, char 127:9, char 10:250, char 212:3, char 216:0, char 231:0, char 259:0
"""
# 234-254 and 384-511 are "reserved for dynamic assignment", as are the minors of misc devices.
OF_ONE_BOOT = "char 234:0, char 245:0, char 254:1, char 384:0, char 511:9, char 10:60, char 10:260"
NOBODYS = """
null, zero, full, random, urandom, tty, ptmx, tun, fuse, kvm, vhost-net, hwrng, char 136:0, char
226:128, char 203:0, char 108:0, char 195:255, char 231:128, char 10:241, char 0:0
"""
# Of the same list; boards and lines that nobody has named in the table of what is protected, and
# numbers that are not in the list.
HARDWARE_TOO = """
char 16:0, char 45:0, char 53:0, char 91:0, char 98:0, char 118:0, char 160:0, char 172:128, char
198:0, char 233:0, char 256:0, char 10:204, char 26:0, char 255:0, char 600:0, char 4095:0
"""


def entries(text: str) -> list[str]:
    return [" ".join(entry.split()) for entry in text.split(",")]


@pytest.mark.parametrize(
    "text", entries(HOSTS_OWN) + entries(OF_ONE_BOOT) + entries(HARDWARE_TOO)
)
def test_the_hosts_own_is_protected(text: str) -> None:
    kind, major, _, minor, _ = parse_device(text)
    assert protected(kind, major, minor)


@pytest.mark.parametrize("text", entries(NOBODYS))
def test_what_serves_whoever_opens_it_is_not(text: str) -> None:
    kind, major, _, minor, _ = parse_device(text)
    assert not protected(kind, major, minor)


def test_no_row_of_the_protected_says_what_another_has_said() -> None:
    """A row that begins within an earlier one would be shown with that one's words."""
    for number, ((kind, major, last, minor, _), what) in enumerate(PROTECTED):
        if number:
            assert protected(kind, major, minor) == what, (kind, major, minor)
        assert major <= last


def test_what_serves_is_not_among_the_protected() -> None:
    for kind, major, last, minor, end in SERVING:
        assert (protected(kind, major, minor), protected(kind, last, end)) == ("", "")
