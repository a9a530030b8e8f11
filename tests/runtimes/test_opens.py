"""Containers of runc and crun whose opens are given something."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import bundle
from tests.support.daemon import serving
from tests.support.loops import FIRST, GIVEN, LAST, none_is_left, removed
from tests.support.people import Person
from tests.support.scratch import scratch

POLICY = """
version: 1
match: {door: oci}
syscalls:
  open:
    - {path: /proc/cpuinfo, do: {inject: {content: "processor : 0\\n"}}}
    - {path: /srv/zeroes, do: {inject: {device: zero, access: read-only}}}
    - {path: /srv/licence, do: {inject: {file: PLACE/licence}}}
    - {path: /srv/read, do: {inject: {directory: PLACE/read}}}
    - {path: /proc/meminfo, access: read-only, do: {inject: {fits: meminfo}}}
"""
LOOPS = f"""
version: 1
match: {{door: oci}}
{GIVEN}"""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o755) as folder:
        (folder / "licence").write_text("secret\n")
        (folder / "licence").chmod(0o600)
        (folder / "read").mkdir()
        (folder / "read" / "below").write_text("below\n")
        yield folder


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_container(root: Person, place: Path, runtime: str) -> None:
    policy = POLICY.replace("PLACE", str(place))
    with serving(root, place, {"given": policy}) as daemon:
        profile = daemon.profile("given", "--runtime", runtime)
        with bundle(place, profile, runtime=runtime) as box:
            box.config["linux"].setdefault("resources", {})["memory"] = {"limit": 300 << 20}
            assert box.run("grep MemTotal /proc/meminfo").stdout.split()[1] == str(300 << 10)
            done = box.run(
                "cat /proc/cpuinfo /srv/licence; head -c 2 /srv/zeroes | od -An -tx1;"
                "cd /dev; exec 4</srv/read; cat /proc/self/fd/4/below; true 3<>/srv/zeroes"
            )
            assert done.stdout.split() == ["processor", ":", "0", "secret", "00", "00", "below"]
            assert "denied" in done.stderr


@pytest.mark.needs("losetup", "mkfs.ext4", "busybox")
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_loop_devices(root: Person, place: Path, runtime: str) -> None:
    """In a /dev of the runtime's, below a device cgroup that does not know them."""
    nodes = " ".join(map(str, range(FIRST, LAST + 1)))
    script = f"""
    cd /tmp
    mknod /dev/loop-control c 10 237
    for number in {nodes}; do mknod /dev/loop$number b 7 $number; done
    mkdir there
    busybox mount -o loop -t ext4 /image there && echo kept >there/kept && busybox umount there
    loop=$(busybox losetup -f)
    busybox losetup $loop /image && mount -t ext4 $loop there && cat there/kept
    umount there; busybox losetup -d $loop; echo $loop
    """
    with removed(), serving(root, place, {"loops": LOOPS}) as daemon:
        profile = daemon.profile("loops", "--runtime", runtime)
        with bundle(place, profile, runtime=runtime) as box:
            image = box.root / "image"
            with image.open("wb") as file:
                file.truncate(4 << 20)
            subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", str(image)], check=True)
            os.chown(image, box.first_id, box.first_id)
            done = box.run(script)
            assert done.stdout.split() == ["kept", f"/dev/loop{FIRST}"], done.stderr
            none_is_left()
