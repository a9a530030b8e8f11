"""What a maker mounts for a session that asks no policy: what the rules grant, and no more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from errno import EPERM
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.mounts import MS
from tests.live.test_mount_kernel import FORCE, make_image
from tests.live.test_mount_kinds import device
from tests.support.mounting import START, Actor, Target, loops, mounting, no_loops
from tests.support.people import Person
from tests.support.scratch import scratch

CEILING: list[dict[str, Any]] = [
    {"fstype": "ext4", "force": FORCE, "flags": FORCE | MS["noatime"], "shift": False,
     "options": ["commit=*", "errors=remount-ro"]},
    {"fstype": "ext2", "options": ["*", "journal_path=/dev/mine*"]},
    {"fstype": "tmpfs", "images": False, "text": True, "names": ["disk*"], "options": ["size=1m"]},
]  # fmt: skip
TMPFS = {"fstype": "tmpfs", "text": True, "force": 0, "source": "disk1"}
EXT2 = {"fstype": "ext2", "force": 0}


@pytest.fixture(scope="module")
def place(root: Person) -> Iterator[Path]:
    assert root.name is None
    with scratch(0o755) as folder:
        os.chown(folder, START, START)
        (folder / "mp").mkdir()
        make_image(folder)
        yield folder


@pytest.fixture(scope="module")
def both(place: Path) -> Iterator[tuple[Target, Actor]]:
    with mounting(ceiling=CEILING) as found:
        yield found
    no_loops(place)


def mount(actor: Actor, place: Path, **more: object) -> tuple[int, str]:
    words: dict[str, object] = {
        "source": str(place / "image"), "target": str(place / "mp"), "force": FORCE,
        "shift": "false",
    }  # fmt: skip
    return actor.mount(**{**words, **more})


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"flags": MS["noatime"], "data": "commit=7,errors=remount-ro"},
        {**TMPFS, "data": "size=1m"},
        {**TMPFS, "shift": "auto"},
    ],
)
def test_what_is_granted(both: tuple[Target, Actor], place: Path, asked: dict[str, object]) -> None:
    target, actor = both
    assert mount(actor, place, **asked)[0] == 0
    assert target.run(f"umount {place}/mp") == (0, "")


@pytest.mark.parametrize(
    "asked",
    [
        {"shift": "auto"},
        {"shift": "true"},
        {"force": 0},
        {"force": FORCE | MS["noexec"]},  # a flag of its own, too
        {"flags": MS["sync"]},
        {"data": "commit=7,errors=panic"},
        {"data": "errors=continue"},
        {"data": "commit=7,journal_path=/dev/mine"},
        {**EXT2, "data": "journal_path=/dev/sda"},
        {**EXT2, "data": "noload,journal_dev=0x800"},
        {**EXT2, "data": "device"},
        {**TMPFS, "source": "other"},
        {**TMPFS, "data": "size=2m"},
        {**TMPFS, "data": "size=1m,uid=0"},
        {"fstype": "xfs"},
    ],
)
def test_what_is_beyond_it(both: tuple[Target, Actor], place: Path, asked: dict[str, Any]) -> None:
    _, actor = both
    errno, how = mount(actor, place, **asked)
    assert (errno, "beyond what the policy" in how) == (EPERM, True), how


@pytest.mark.parametrize("data", ["journal_path=/dev/mine1", "noload,sb=1"])
def test_what_only_the_kernel_refuses(both: tuple[Target, Actor], place: Path, data: str) -> None:
    _, actor = both
    errno, how = mount(actor, place, **EXT2, data=data)
    assert (errno > 0, "beyond" in how) == (True, False), how


def test_a_remount_is_within_all_rules(place: Path) -> None:
    rules = [
        {"fstype": "ext4", "options": ["commit=*"], "flags": MS["ro"] | MS["nosuid"]},
        {"fstype": "xfs", "options": ["commit=7"], "flags": MS["ro"]},
    ]
    with mounting(ceiling=rules) as (target, actor):
        assert mount(actor, place, force=0)[0] == 0
        again = {"remount": True, "target": str(place / "mp")}
        assert actor.mount(**again, flags=MS["ro"], data="errors=continue") == (0, "remounted")
        assert actor.mount(**again, data="commit=7")[0] == 0
        for asked in ({"data": "commit=8"}, {"flags": MS["nosuid"]}, {"data": "data=journal"}):
            errno, how = actor.mount(**again, **asked)
            assert (errno, "beyond what the policy" in how) == (EPERM, True), how
        target.run(f"umount {place}/mp")


def test_a_journal_on_another_device(root: Person, place: Path) -> None:
    """An image can name any block device of the host's. Root's own mount takes it."""
    assert root.name is None
    for name in ("journal", "disk"):
        with (place / name).open("wb") as file:
            file.truncate(16 << 20)
    os.chown(place / "disk", START, START)
    with device(place / "journal") as other:
        number = os.stat(other).st_rdev
        subprocess.run(["mke2fs", "-q", "-b", "4096", "-O", "journal_dev", other], check=True)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-J", f"device={other}", place / "disk"],
            check=True,
        )
        by_root = ["mount", "-o", "loop", str(place / "disk"), str(place / "mp")]
        subprocess.run(by_root, check=True)
        subprocess.run(["umount", str(place / "mp")], check=True)
        words: dict[str, Any] = {"source": str(place / "disk"), "shift": "auto"}
        for options, granted in (
            (("*",), False), (("journal_dev=0x1",), False),
            ((f"journal_dev={number:#x}",), True), ((f"journal_dev={number}",), True),
        ):  # fmt: skip
            rules = [{"fstype": "ext4", "force": FORCE, "options": options}]
            with mounting(ceiling=rules) as (target, actor):
                errno, how = mount(actor, place, **words)
                refused = errno == EPERM and "is its journal" in how
                assert refused != granted, how
                assert granted == (errno == 0), how
                target.run(f"umount {place}/mp")
            assert loops(place) == [str(place / "journal")]
