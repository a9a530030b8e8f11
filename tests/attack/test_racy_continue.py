"""What `accept_race` is about: a thread that changes what was looked at gets past such a rule, and
past no policy that loads without it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.policy import store
from supervisor.policy.source import PolicyFindings
from tests.support.needs import need
from tests.support.people import Person
from tests.support.policies import policy
from tests.support.racing import lengths, race_numbers
from tests.support.scratch import a_place, compile_c, scratch

SHORT, PATIENCE = 1.0, 60
EVERY_LENGTH = lengths(SHORT, 20, timeout=300)
NODES = "version: 1\nsyscalls:\n  mknod:\n    otherwise: {otherwise}\n    rules:\n{rules}"
MOUNTS = NODES.replace("mknod", "mount")
RACY_NODES = '    - {devices: ["null"], path: "PLACE/allowed/*", do: continue}\n'
RACY_MOUNTS = "    - {fstype: tmpfs, do: continue}\n"
ACCEPTED = ("do: continue}", "do: continue, accept_race: true}")


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        compile_c("path_race", folder, "-pthread")
        compile_c("mount_race", folder, "-pthread")
        yield folder

place = a_place(0o777, "/var/tmp")


def node_race(
    person: Person, programs: Path, place: Path, text: str, seconds: float, *options: str
) -> tuple[int, int]:
    """How often a node was asked for, and how many were made in `refused`."""
    script = (
        f"mkdir -p allowed refused; {programs}/path_race string {seconds} "
        f"{place}/allowed {place}/refused"
    )
    made, failed, turns, appeared = race_numbers(
        person, place, text.replace("PLACE", str(place)), script, seconds, *options
    )
    assert turns > 50
    return made + failed, appeared


def mount_race(
    person: Person, programs: Path, place: Path, text: str, seconds: float, types: str
) -> tuple[int, int, int]:
    """Mounts of the first type, of the second, and calls that failed."""
    script = f"{programs}/mount_race {seconds} type {types}"
    text = text.replace("PLACE", str(place))
    first, second, failed, turns = race_numbers(person, place, text, script, seconds)
    assert turns > 50
    return first, second, failed


@pytest.mark.parametrize("text", [
    NODES.format(otherwise="refuse", rules=RACY_NODES),
    MOUNTS.format(otherwise="refuse", rules=RACY_MOUNTS),
    MOUNTS.format(otherwise="kernel", rules="    - {fstype: ramfs, do: {errno: EACCES}}\n"),
])  # fmt: skip
def test_such_a_policy_does_not_load(text: str) -> None:
    with pytest.raises(PolicyFindings, match="is a race"):
        policy(text.replace("PLACE", "/place"))


@pytest.mark.timeout(200)
def test_a_thread_wins_against_a_continued_mknod(root: Person, programs: Path, place: Path) -> None:
    """Real root without namespaces: the kernel itself refuses nothing there."""
    text = NODES.format(otherwise="refuse", rules=RACY_NODES.replace(*ACCEPTED))
    _, refused = node_race(root, programs, place, text, PATIENCE / 10, "--map", "none")
    if not refused:
        _, refused = node_race(root, programs, place, text, PATIENCE, "--map", "none")
    assert refused > 0


@pytest.mark.timeout(200)
def test_a_thread_wins_against_a_continued_mount(
    person: Person, programs: Path, place: Path
) -> None:
    text = MOUNTS.format(otherwise="refuse", rules=RACY_MOUNTS.replace(*ACCEPTED))
    _, refused, _ = mount_race(person, programs, place, text, PATIENCE, "tmpfs ramfs")
    assert refused > 0


# An image that a rule mounts, one that a rule refuses, and all else is the kernel's.
IMAGES = (
    '    - {fstype: squashfs, source: "PLACE/b.img", do: {errno: EACCES}}\n'
    '    - {fstype: squashfs, source: "PLACE/a.img", options: {allow: [ro]}, '
    "do: {emulate: {via: fuse}}}\n"
)
RAMFS = "    - {fstype: ramfs, do: {errno: EACCES}}\n"
LET_GO = "    - {do: continue, accept_race: true}\n"


@pytest.fixture
def images(place: Path) -> Path:
    """a.img, which has a file `allowed`, and b.img, which has `refused`."""
    need("mksquashfs", "squashfuse")
    for image, name in (("a", "allowed"), ("b", "refused")):
        (place / f"tree-{image}").mkdir()
        (place / f"tree-{image}" / name).touch()
        subprocess.run(
            ["mksquashfs", place / f"tree-{image}", place / f"{image}.img", "-quiet", "-all-root"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (place / f"{image}.img").chmod(0o644)
    return place


def source_race(
    person: Person, programs: Path, place: Path, text: str, seconds: float
) -> list[int]:
    """Mounts of a.img, of b.img, and calls that failed."""
    script = f"{programs}/mount_race %s source {place}/a.img {place}/b.img squashfs"
    text = text.replace("PLACE", str(place))
    found = [0, 0, 0]
    for turn in range(1, 9):  # a busy machine does not always get so far in a second
        *some, turns = race_numbers(
            person, place, text, script % (turn * seconds), turn * seconds
        )
        assert turns > 50
        found = [sum(pair) for pair in zip(found, some, strict=True)]
        if found[0] > 0 < found[2]:
            break
    return found


@pytest.mark.timeout(200)
def test_a_thread_wins_beside_a_mount_that_is_carried_out(
    root: Person, programs: Path, images: Path
) -> None:
    """What the policy lets go, so that the kernel mounts what it can, is no wall for what it
    refuses; what it mounts by itself is."""
    text = MOUNTS.format(otherwise="kernel", rules=RAMFS + IMAGES + LET_GO)
    _, refused, _ = mount_race(root, programs, images, text, PATIENCE, "tmpfs ramfs")
    assert refused > 0
    allowed, refused, failed = source_race(root, programs, images, text, SHORT)
    assert (refused, allowed > 0, failed > 0) == (0, True, True)


@EVERY_LENGTH
@pytest.mark.parametrize("otherwise", ["kernel", "refuse"])
def test_a_thread_loses_where_images_are_mounted(
    root: Person, programs: Path, images: Path, otherwise: str, seconds: float
) -> None:
    """Beside `otherwise: kernel` no rule refuses: the kernel itself refuses what no rule mounts."""
    rules = IMAGES if otherwise == "refuse" else IMAGES[IMAGES.index("\n") + 1 :]
    text = MOUNTS.format(otherwise=otherwise, rules=rules)
    allowed, refused, failed = source_race(root, programs, images, text, seconds)
    assert (refused, allowed > 0, failed > 0) == (0, True, True)


# Policies that load and refuse by what lies in memory: the first kind of call passes, the second
# must never take effect.
LOAD_NODES = [
    ("refuse", '    - {devices: ["null"], path: "PLACE/allowed/*", do: emulate}\n'),
    ("refuse", '    - {devices: ["null"], path: "PLACE/refused/**", do: {errno: EACCES}}\n'
               '    - {devices: ["null"], do: emulate}\n'),
    ("refuse", '    - {devices: [zero], do: continue}\n'
               '    - {devices: ["null"], path: "PLACE/refused/*", do: {return: 0}}\n'
               '    - {devices: ["null"], path: "PLACE/allowed/*", do: emulate}\n'),
    # Whoever the first rule lets go on never comes as far as the second one.
    ("refuse", '    - {devices: ["null"], uid: 1, do: continue}\n'
               '    - {devices: ["null"], path: "PLACE/refused/*", do: {errno: EACCES}}\n'
               '    - {devices: ["null"], do: emulate}\n'),
    ("refuse", '    - {devices: ["null"], uid: 1-4294967294, mode: audit, do: {errno: EACCES}}\n'
               '    - {devices: ["null"], path: "PLACE/allowed/*", do: emulate}\n'),
    ("kernel", '    - {devices: ["char 1:0-4"], path: "PLACE/refused/*", do: refuse}\n'
               '    - {devices: ["null"], do: emulate}\n'
               '    - {devices: ["char 1:*"], do: refuse}\n'),
]  # fmt: skip


@EVERY_LENGTH
@pytest.mark.parametrize(("otherwise", "rules"), LOAD_NODES)
@pytest.mark.parametrize("maps", ["auto", "none"])
def test_a_thread_loses_against_what_loads(
    root: Person, programs: Path, place: Path, otherwise: str, rules: str, maps: str, seconds: float
) -> None:
    text = NODES.format(otherwise=otherwise, rules=rules)
    asked, refused = node_race(root, programs, place, text, seconds, "--map", maps)
    assert refused == 0
    assert asked > 0


@EVERY_LENGTH
@pytest.mark.parametrize("do", ["emulate", "{errno: EACCES}"])
def test_a_path_that_leads_nowhere_is_no_way_past_a_refusal(
    root: Person, programs: Path, place: Path, do: str, seconds: float
) -> None:
    """Who calls is seen only where a path leads somewhere. The rule is about somebody else."""
    rules = f'    - {{devices: ["null"], uid: 1, mode: audit, do: {do}}}\n'
    text = NODES.format(otherwise="refuse", rules=rules)
    script = (
        "mkdir allowed refused; mknod first c 1 3 2>first || :; "  # which waits for a session
        "(sleep 0.1; rmdir allowed; touch allowed) & "
        f"{programs}/path_race string {seconds} allowed refused 0; wait"
    )
    made, failed, turns, appeared = race_numbers(
        root, place, text, script, seconds, "--map", "none"
    )
    assert (made, appeared) == (0, 0)
    assert failed > 20 < turns


LOAD_MOUNTS = [
    ("refuse", "    - {fstype: tmpfs, do: {return: 0}}\n", "tmpfs ramfs"),
    ("refuse", "    - {fstype: ramfs, do: {errno: EACCES}}\n    - {fstype: tmpfs, do: kill, "
               "host_uid: 4000000000}\n", "tmpfs ramfs"),
]  # fmt: skip


@EVERY_LENGTH
@pytest.mark.parametrize(("otherwise", "rules", "types"), LOAD_MOUNTS)
def test_a_thread_loses_against_mounts_that_load(
    person: Person, programs: Path, place: Path, otherwise: str, rules: str, types: str,
    seconds: float,
) -> None:
    text = MOUNTS.format(otherwise=otherwise, rules=rules)
    answered, refused, failed = mount_race(person, programs, place, text, seconds, types)
    assert refused == 0
    assert answered + failed > 0


@EVERY_LENGTH
@pytest.mark.parametrize("types", ["proc ext4"])
def test_a_thread_loses_against_the_shipped_policy_for_images(
    person: Person, programs: Path, place: Path, types: str, seconds: float
) -> None:
    """What the kernel mounts for a container by itself, and what a program mounts from an image: a
    type that changes in between gives no driver of the kernel's anything to read.
    """
    text = (store.shipped() / "loop-images.yaml").read_text()
    mounted = failed = 0
    for turn in range(1, 9):  # a busy machine does not always get so far in a second
        if not mounted > 0 < failed:
            some = mount_race(person, programs, place, text, turn * seconds, types)
            assert some[1] == 0
            mounted, failed = mounted + some[0], failed + some[2]
    assert mounted > 0 < failed
