"""Containers of runc and crun whose opens are given something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import bundle
from tests.support.daemon import serving
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
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o755) as folder:
        (folder / "licence").write_text("secret\n")
        (folder / "licence").chmod(0o600)
        yield folder


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_container(root: Person, place: Path, runtime: str) -> None:
    policy = POLICY.replace("PLACE", str(place))
    with serving(root, place, {"given": policy}) as daemon:
        profile = daemon.profile("given", "--runtime", runtime)
        with bundle(place, profile, runtime=runtime) as box:
            done = box.run(
                "cat /proc/cpuinfo /srv/licence; head -c 2 /srv/zeroes | od -An -tx1;"
                "true 3<>/srv/zeroes"
            )
            assert done.stdout.split() == ["processor", ":", "0", "secret", "00", "00"]
            assert "denied" in done.stderr
