"""Rules that ask who calls: what /proc says of a real caller, for root and for an ordinary user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import a_place

# Other ids, and CAP_MKNOD all the same: without it the kernel's EPERM comes before any rule.
KEEP = "setpriv --inh-caps +mknod --ambient-caps +mknod"

place = a_place(0o777, "/var/tmp")


def records(person: Person, place: Path, rules: str, script: str) -> list[dict[str, Any]]:
    """The audit records of a script's mknod calls; the first rule stands in line 4."""
    (place / "p.yaml").write_text(f"version: 1\nsyscalls:\n  mknod:\n{rules}")
    log = place / "log"
    options = ["--policy", str(place / "p.yaml"), "--audit", str(log)]
    run(person, "sh", "-c", f"cd {person.given(place)}; {script}", options=options)
    found = [json.loads(line) for line in log.read_text().splitlines()]
    log.unlink()
    return [one for one in found if one.get("syscall", "").startswith("mknod")]


def test_ids_inside_and_outside(person: Person, place: Path) -> None:
    rules = (
        "    - {uid: 5, gid: 6, do: {errno: EXDEV}}\n"
        "    - {host_uid: HOST, do: {errno: ENOTTY}}\n"
        "    - {do: emulate}\n"
    )
    asked = run(person, "cat", "/proc/self/uid_map").stdout.split()
    outside = int(asked[1])
    mine, other, third = records(
        person, place, rules.replace("HOST", str(outside)),
        f"mknod a c 1 3; {KEEP} --reuid 5 --regid 6 --clear-groups mknod b c 1 3;"
        f"{KEEP} --reuid 5 --regid 7 --clear-groups mknod c c 1 3",
    )  # fmt: skip
    assert (mine["errno"], mine["rule"]) == ("ENOTTY", "p.yaml:5")
    assert mine["facts"]["host_uid"] == outside
    assert (other["errno"], other["rule"]) == ("EXDEV", "p.yaml:4")
    inside = {"uid": 5, "gid": 6}
    assert inside.items() <= other["facts"].items()
    maps = [int(word) for word in asked]
    table = list(zip(maps[::3], maps[1::3], maps[2::3], strict=True))
    wanted = next(out + 5 - first for first, out, count in table if first <= 5 < first + count)
    assert other["facts"]["host_uid"] == wanted
    assert (third["result"], third["rule"]) == (0, "p.yaml:6")


def test_capabilities_are_those_in_the_containers_namespace(person: Person, place: Path) -> None:
    rules = "    - {capability: [sys_time, CAP_SYS_BOOT], do: emulate}\n"
    drop = "setpriv --bounding-set -sys_boot,-sys_time --inh-caps -sys_boot,-sys_time"
    with_it, without = records(person, place, rules, f"mknod a c 1 3; {drop} mknod b c 1 3")
    assert with_it["result"] == 0
    assert {"mknod", "sys_time"} <= set(with_it["facts"]["capabilities"])
    assert (without["verdict"], without["answered_by"]) == ("refuse", "kernel")
    assert "chown" in without["facts"]["capabilities"]
    assert "sys_time" not in without["facts"]["capabilities"]


def test_the_program_and_its_cgroup(person: Person, place: Path) -> None:
    rules = (
        '    - {executable: "**/mknod", cgroup: "/no/such", do: {errno: EXDEV}}\n'
        '    - {executable: "/**/bin/mknod", cgroup: "**", do: {errno: ENOTTY}}\n'
        "    - {do: emulate}\n"
    )
    script = "mknod a c 1 3; cp $(command -v mknod) other; ./other b c 1 3"
    (place / "p.yaml").write_text(f"version: 1\nsyscalls:\n  mknod:\n{rules}")
    log = place / "log"
    run(person, "sh", "-c", f"cd {person.given(place)}; {script}",
        options=["--policy", str(place / "p.yaml"), "--audit", str(log)])  # fmt: skip
    mine, other = [json.loads(line) for line in log.read_text().splitlines()][:2]
    assert (mine["errno"], mine["rule"]) == ("ENOTTY", "p.yaml:5")
    assert mine["facts"]["executable"].endswith("/bin/mknod")
    lines = dict(
        line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()
    )
    assert mine["facts"]["cgroup"] in {lines.get(""), lines.get("name=systemd")}
    assert (other["result"], other["rule"]) == (0, "p.yaml:6")
    assert other["facts"]["executable"] == f"{place}/other"
