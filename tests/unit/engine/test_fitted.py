"""What is read of cgroups: the files of both versions, as the kernel's documentation has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.engine import fitted

HOST = """\
MemTotal:        8388608 kB
MemFree:         4194304 kB
SwapTotal:          2048 kB
SwapFree:           1024 kB
"""
# cgroup-v2.rst and cgroup-v1/memory.rst
SECOND = {
    "memory.max": "1073741824\n", "memory.current": "536870912\n", "memory.swap.max": "1048576\n",
    "memory.swap.current": "524288\n", "cpu.max": "150000 100000\n",
    "cpuset.cpus.effective": "0-2,5\n",
    "memory.stat": "anon 104857600\nfile 209715200\nactive_anon 4096\ninactive_anon 8192\n"
    "active_file 104857600\ninactive_file 52428800\nslab_reclaimable 1048576\nslab 2097152\n",
}  # fmt: skip
FIRST = {
    "memory.limit_in_bytes": "1073741824\n", "memory.usage_in_bytes": "536870912\n",
    "memory.memsw.limit_in_bytes": "1074790400\n", "memory.memsw.usage_in_bytes": "537395200\n",
    "cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n", "cpuset.cpus": "0-2,5\n",
    "memory.stat": "cache 1\nrss 2\ntotal_cache 209715200\ntotal_rss 104857600\n"
    "total_active_file 104857600\ntotal_inactive_file 52428800\nhierarchical_memory_limit 7\n",
}  # fmt: skip
NONE = {
    "memory.max": "max\n", "cpu.max": "max 100000\n",
    "memory.limit_in_bytes": f"{(1 << 63) - 4096}\n",
    "memory.memsw.limit_in_bytes": f"{(1 << 63) - 4096}\n",
    "cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n",
}  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with eight processors, 8 GiB and a cgroup called inner, in one called outer."""
    files = {"meminfo": HOST, "online": "0-7\n", "cpuinfo": "".join(
        f"processor\t: {n}\nmodel name\t: m{n}\n\n" for n in range(8)
    ), "7/cgroup": "4:memory,cpu,cpuset:/outer/inner\n0::/outer/inner\n"}  # fmt: skip
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (tmp_path / "top" / "outer" / "inner").mkdir(parents=True)
    monkeypatch.setattr(fitted, "PROC", str(tmp_path))
    monkeypatch.setattr(fitted, "_HOSTS_MEMORY", str(tmp_path / "meminfo"))
    monkeypatch.setattr(fitted, "_HOSTS_PROCESSORS", str(tmp_path / "cpuinfo"))
    monkeypatch.setattr(fitted, "_ONLINE", str(tmp_path / "online"))
    (tmp_path / "self").mkdir()
    fitted._hosts_processors.cache_clear()
    return tmp_path


def mount(machine: Path, version: int, of: dict[str, dict[str, str]], root: str = "/") -> None:
    """Has the cgroups of a version say that, each by its path below the top."""
    kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory,cpu,cpuset"
    line = f"30 23 0:27 {root} {machine}/top rw,relatime shared:9 - {kind}\n"
    (machine / "self" / "mountinfo").write_text(line)
    for place, files in of.items():
        for name, text in files.items():
            (machine / "top" / place / name).write_text(text)


def said(text: str) -> dict[str, int]:
    lines = (line.split() for line in text.splitlines())
    return {name.rstrip(":"): int(number) for name, number, _ in lines}


@pytest.mark.parametrize(("version", "files"), [(2, SECOND), (1, FIRST)])
@pytest.mark.parametrize("limited", ["outer", "outer/inner"])
def test_limits_of_both_versions(
    machine: Path, version: int, files: dict[str, str], limited: str
) -> None:
    """Those of the caller's cgroup, and of one above it."""
    mount(machine, version, {"outer/inner": NONE, limited: files})
    memory = said(fitted.text_of("meminfo", 7))
    assert memory["MemTotal"] == 1 << 20
    assert memory["MemFree"] == 512 << 10
    assert memory["MemAvailable"] == (512 + 150 + (version == 2)) << 10
    assert (memory["Cached"], memory["AnonPages"]) == (200 << 10, 100 << 10)
    assert (memory["SwapTotal"], memory["SwapFree"]) == (1024, 512)
    assert fitted.text_of("cpus", 7) == "0-1\n"  # one and a half
    assert fitted.text_of("cpuinfo", 7) == (
        "processor\t: 0\nmodel name\t: m0\n\nprocessor\t: 1\nmodel name\t: m1\n\n"
    )


def test_a_set_of_processors(machine: Path) -> None:
    mount(machine, 2, {"outer/inner": {"cpuset.cpus.effective": "3,6-7\n"}})
    assert fitted.text_of("cpus", 7) == "0-2\n"
    found = fitted.text_of("cpuinfo", 7)
    assert found.replace("\t", "").splitlines()[::3] == [f"processor: {n}" for n in range(3)]
    assert found.splitlines()[1::3] == ["model name\t: m3", "model name\t: m6", "model name\t: m7"]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("files", [NONE, {}, {"memory.max": "x", "memory.limit_in_bytes": ""}])
def test_what_nothing_limits_is_the_hosts(
    machine: Path, version: int, files: dict[str, str]
) -> None:
    mount(machine, version, {"outer": files, "outer/inner": files})
    assert fitted.text_of("meminfo", 7) == HOST
    assert fitted.text_of("cpus", 7) == "0-7\n"


def test_a_cgroup_that_is_not_in_sight(machine: Path) -> None:
    """It is above what is mounted here, or beside it: nothing is read there."""
    mount(machine, 2, {"outer": SECOND}, root="/outer/inner/deeper")
    assert fitted.text_of("meminfo", 7) == HOST
    (machine / "7" / "cgroup").write_text("0::/../other\n")
    assert fitted.text_of("meminfo", 7) == HOST
    mount(machine, 2, {"": SECOND, "outer": SECOND})
    assert fitted.text_of("meminfo", 7) == HOST  # it is not one above that either
    (machine / "7" / "cgroup").write_text("0::/outer\n")
    mount(machine, 2, {"outer": SECOND}, root="/..")
    assert fitted.text_of("meminfo", 7) == HOST


def test_memory_without_a_limit_for_swap(machine: Path) -> None:
    """In version 1 the limit for both together is there all the same."""
    mount(machine, 1, {"": NONE, "outer": NONE, "outer/inner": {
        "memory.limit_in_bytes": "1073741824", "memory.memsw.limit_in_bytes": f"{(1 << 63) - 4096}",
    }})  # fmt: skip
    memory = said(fitted.text_of("meminfo", 7))
    assert (memory["MemTotal"], memory["SwapTotal"], memory["SwapFree"]) == (1 << 20, 2048, 1024)


def test_the_cache_of_files_of_one_above(machine: Path) -> None:
    """It is full, and most of that can be had."""
    above = {**SECOND, "memory.max": str(2 << 30), "memory.current": str(2 << 30)}
    mount(machine, 2, {"outer": above, "outer/inner": SECOND})
    memory = said(fitted.text_of("meminfo", 7))
    assert (memory["MemTotal"], memory["MemFree"]) == (1 << 20, 0)
    assert memory["MemAvailable"] == 151 << 10


@pytest.mark.parametrize("name", ["a\r0::", "a\x0bb", "a\x1c2:memory:", "a b", "a\\040b"])
def test_names_of_cgroups(machine: Path, name: str) -> None:
    """Whatever a container calls them, they are its own, and not others of that name."""
    (machine / "top" / "outer" / name / "c2").mkdir(parents=True)
    (machine / "top" / "c2").mkdir()
    (machine / "7" / "cgroup").write_text(f"0::/outer/{name}/c2\n", newline="\n")
    other = {**SECOND, "memory.max": "4096"}
    mount(machine, 2, {f"outer/{name}/c2": SECOND, "c2": other})
    assert said(fitted.text_of("meminfo", 7))["MemTotal"] == 1 << 20


def test_who_has_gone(machine: Path) -> None:
    mount(machine, 2, {"outer": SECOND})
    assert fitted.text_of("meminfo", 8) == HOST
