"""Files that fit a cgroup: what programs read of the limits that the kernel holds them to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cgroups import limited
from tests.support.evaluating import Evaluating
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.scratch import scratch

RULES = """
version: 1
syscalls:
  open:
    - {path: /tick, do: {inject: {content: "."}}}
    - {path: /proc/meminfo, access: read-only, do: {inject: {fits: meminfo}}}
    - {path: /proc/cpuinfo, access: read-only, do: {inject: {fits: cpuinfo}}}
    - {path: /cpus, do: {inject: {fits: cpus}}}
"""
CODE = """
def read(name):
    with open(name) as file:
        return file.read()
def memory():
    lines = (line.split() for line in read("/proc/meminfo").splitlines())
    return {name.rstrip(":"): int(number) for name, number, *_ in lines}
def processors():
    return [line for line in read("/proc/cpuinfo").splitlines() if line.startswith("processor")]
"""
MIB = 1 << 20


@pytest.fixture
def inside(person: Person) -> Iterator[Evaluating]:
    with scratch(0o755) as place:
        rules = place / "rules.yaml"
        rules.write_text(RULES)
        rules.chmod(0o644)
        found = Evaluating(person, rules, code=CODE)
        try:
            yield found
        finally:
            found.started.kill()
        assert found.started.wait_gone() == []


def enter(inside: Evaluating, files: list[Path]) -> None:
    """Puts the program into these cgroups."""
    inner = str(inside("os.getpid()"))
    (pid,) = [
        pid for pid in inside.started.processes()
        if re.search(rf"^NSpid:\t\d+\t(\d+\t)*{inner}$", status(pid), re.MULTILINE)
    ]  # fmt: skip
    for file in files:
        file.write_text(str(pid))


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def set_limit(files: list[Path], limit: int) -> None:
    for file in files:
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (file.parent / name).exists():
                (file.parent / name).write_text(str(limit))


def hosts(name: str) -> dict[str, int]:
    found = re.findall(r"^(\w+):\s+(\d+)", Path(name).read_text(), re.MULTILINE)
    return {key: int(value) for key, value in found}


def test_as_big_as_its_cgroup(inside: Evaluating) -> None:
    """What was made for one cgroup is for no other one, and follows the limits."""
    host = hosts("/proc/meminfo")
    online = sorted(os.sched_getaffinity(0))
    assert inside("memory()['MemTotal']") == host["MemTotal"]
    every = Path("/proc/cpuinfo").read_text().splitlines()
    assert inside("processors()") == [line for line in every if line.startswith("processor")]
    with limited(memory=300 * MIB, processors=0.5) as wide, \
            limited(memory=200 * MIB, processors=64) as narrow:  # fmt: skip
        enter(inside, wide)
        assert inside("[memory()['MemTotal'] for _ in range(20)]") == [300 << 10] * 20
        assert inside("[processors(), read('/cpus')]") == [["processor\t: 0"], "0\n"]
        said = inside("memory()")
        assert 0 < said["MemFree"] <= said["MemAvailable"] <= 300 << 10
        assert said["SwapTotal"] <= host["SwapTotal"]
        enter(inside, narrow)
        assert inside("[memory()['MemTotal'] for _ in range(20)]") == [200 << 10] * 20
        assert len(inside("processors()")) == len(online)
        set_limit(narrow, 150 * MIB)
        wait_for(lambda: inside("memory()['MemTotal']"), lambda size: size == 150 << 10)
        inside.started.kill()


def test_a_cgroup_with_an_odd_name(inside: Evaluating) -> None:
    """The kernel takes all of that but the end of a line."""
    with limited(memory=300 * MIB, processors=1, named="\r0::\x0b\x1c4:memory: ") as files:
        enter(inside, files)
        assert inside("[memory()['MemTotal'], read('/cpus')]") == [300 << 10, "0\n"]
        inside.started.kill()


def test_what_is_used_is_not_free(inside: Evaluating) -> None:
    """As much as a program takes is missing from MemFree, and there again afterwards."""
    with limited(memory=600 * MIB, processors=1) as files:
        enter(inside, files)
        before = inside("memory()['MemFree']")
        inside("globals().update(taken=bytearray(200 << 20))")
        wait_for(
            lambda: inside("memory()"),
            lambda said: before - said["MemFree"] >= 190 << 10 and said["AnonPages"] >= 190 << 10,
        )
        inside("globals().update(taken=None)")
        wait_for(lambda: inside("memory()['MemFree']"), lambda free: free > before - (20 << 10))
        inside.started.kill()


def test_nobody_writes_there(inside: Evaluating) -> None:
    assert inside("[opened('/cpus', flags) for flags in (os.O_RDWR, 1)]") == ["EACCES"] * 2
    assert inside("opened('/cpus', os.O_RDONLY) > 2")
