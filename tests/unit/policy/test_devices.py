"""Names and numbers of devices."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor.kernel.device_numbers import join_device, split_device
from supervisor.policy.cubes import UNIVERSE, Cube, cubes, overlap, subtract
from supervisor.policy.devices import NAMES, DeviceError, device_text, parse_device


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
