"""Devices that are given to a container while it runs, and taken away again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import FIRST_ID, Bundle, bundle, profile
from tests.support.daemon import Daemon, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import scratch

POLICY = """
version: 1
match: {door: oci, user_namespace: [own, host]}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o755) as folder:
        yield folder


@pytest.fixture(scope="module")
def daemon(root: Person, place: Path) -> Iterator[Daemon]:
    with serving(root, place, {"nodes": POLICY}) as found:
        yield found


