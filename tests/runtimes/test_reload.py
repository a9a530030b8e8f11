"""Another policy for a container that runs: devices and mounts that makers were not made for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import Bundle, bundle
from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import a_place

POLICY = """
version: 1
match: {door: oci}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
"""
MORE = POLICY.replace('"null"', '"null", zero')
LESS = POLICY.replace('"null"', "full")
NOTHING = "version: 1\nmatch: {door: oci}\nsyscalls: {}\n"

place = a_place(0o755, scope="module")


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY}, limits={"mount": 1}) as found:
        yield found


@pytest.fixture
def box(daemon: Daemon, place: Path) -> Iterator[Bundle]:
    with bundle(place, daemon.profile("nodes")) as found:
        yield found


def test_other_devices_at_once(daemon: Daemon, box: Bundle) -> None:
    policy = daemon.place / "policies" / "nodes.yaml"
    name = box.start()
    assert box.exec(name, "mknod /dev/a c 1 3").returncode == 0
    session = daemon.one("session")
    makers = set(daemon.ours("make"))
    assert len(makers) == 2
    assert "not permitted" in box.exec(name, "mknod /dev/b c 1 5").stderr
    policy.write_text(MORE)
    assert daemon.command("reload").returncode == 0
    done = box.exec(name, "mknod /dev/b c 1 5 && head -c 1 /dev/b | wc -c")
    assert done.stdout.strip() == "1", done.stderr
    # a node that the earlier makers made is still one of ours
    assert box.exec(name, "echo x >/dev/a && rm /dev/a && mknod /dev/a c 1 3").returncode == 0
    policy.write_text(LESS)
    assert daemon.command("reload").returncode == 0
    assert "not permitted" in box.exec(name, "mknod /dev/c c 1 5").stderr
    assert box.exec(name, "mknod /dev/d c 1 7 && rm /dev/a /dev/b /dev/d").returncode == 0
    assert daemon.ours("session") == [session]
    # those of the earlier policies, which could make what this one has not, do not stay
    wait_for(lambda: len(daemon.ours("make")), lambda count: count == 2, 40)
    assert not makers & set(daemon.ours("make"))
    assert box.exec(name, "mknod /dev/d c 1 7").returncode == 0
    # the filter notifies unlink and rename for good, of which this policy has no need
    policy.write_text(NOTHING)
    assert daemon.command("reload").returncode == 0
    script = "cd /tmp && echo >f && mv f g && rm g && ls && mknod /dev/e c 1 7"
    done = box.exec(name, script)
    assert (done.stdout, done.stderr) == ("", "mknod: /dev/e: Operation not permitted\n")
    box.delete(name)
    wait_for(lambda: daemon.ours("make"), lambda found: not found)
    policy.write_text(POLICY)
    assert daemon.command("reload").returncode == 0
    assert os.path.exists(policy)
