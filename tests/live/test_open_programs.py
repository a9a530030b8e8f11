"""Programs as they are, with what a policy gives them when they open it."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import compile_c, scratch

MEMORY = "MemTotal: 1048576 kB\\nMemFree: 524288 kB\\nMemAvailable: 524288 kB\\n"
MEMORY += "Buffers: 0 kB\\nCached: 0 kB\\nSwapTotal: 0 kB\\nSwapFree: 0 kB\\n"
RULES = f"""
version: 1
name: programs
syscalls:
  open:
    - {{path: /dev/fuse, do: {{inject: {{device: fuse}}}}}}
    - {{path: /proc/meminfo, access: read-only, do: {{inject: {{content: "{MEMORY}"}}}}}}
    - {{path: /etc/licence, do: {{inject: {{file: PLACE/licence}}}}}}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        (folder / "rules.yaml").write_text(RULES.replace("PLACE", str(folder)))
        (folder / "licence").write_text("licensed\n")
        (folder / "licence").chmod(0o600)
        compile_c("bare_open", folder, "-static", "-nostdlib", "-fno-stack-protector")
        yield folder


@pytest.fixture(scope="module")
def squashed(place: Path) -> Path:
    (place / "tree").mkdir()
    (place / "tree" / "file").write_text("squashed\n")
    image = place / "image.squashfs"
    command = ["mksquashfs", str(place / "tree"), str(image), "-quiet", "-no-progress"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return image


def said(person: Person, place: Path, script: str) -> list[str]:
    options = ("--policy", str(place / "rules.yaml"))
    done = run(person, "sh", "-euc", script, options=options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.needs("squashfuse", "mksquashfs", "fusermount3")
@pytest.mark.parametrize("option", ["", "-o auto_unmount"])
def test_fuse(root: Person, place: Path, squashed: Path, option: str) -> None:
    """A program of libfuse opens /dev/fuse itself; with that option it has fusermount3 do so, and
    gets the descriptor from there. The host's own /dev/fuse is nothing that the container may open.
    """
    script = f"""
    mkdir {place}/there
    squashfuse {option} {squashed} {place}/there
    cat {place}/there/file
    fusermount3 -u {place}/there
    ls {place}/there
    rmdir {place}/there
    """
    assert said(root, place, script) == ["squashed"]


@pytest.mark.needs("free")
def test_what_a_container_is_told_of_the_machine(person: Person, place: Path) -> None:
    words = said(person, place, "free -k")
    memory = words.index("Mem:")
    assert words[memory + 1] == "1048576"
    text = "import os; print(*[line.split()[1] for line in open('/proc/meminfo')][:2])"
    assert said(person, place, f"{python(person)} -c \"{text}\"") == ["1048576", "524288"]


def test_a_program_without_a_library(root: Person, place: Path) -> None:
    assert said(root, place, f"{place}/bare_open /etc/licence") == ["licensed"]
    options = ("--policy", str(place / "rules.yaml"))
    done = run(root, f"{place}/bare_open", "/etc/licence2", options=options)
    assert done.returncode == errno.ENOENT


def test_records_say_what_was_given(root: Person, place: Path) -> None:
    log = place / "audit"
    options = ("--policy", str(place / "rules.yaml"), "--audit", str(log))
    run(root, f"{place}/bare_open", "/etc/licence", options=options)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    (given,) = [record for record in records if record.get("syscall") == "openat"]
    assert given["inject"] == {"file": f"{place}/licence", "access": "read-only"}
    assert given["how"] == f"injected: file {place}/licence"
