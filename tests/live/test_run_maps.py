"""`seccompd run`: whose ids a command has, and which namespaces."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from supervisor.kernel import idmap
from tests.support.people import Person
from tests.support.program import run, seccompd

IDS_ALL_ROUND = """
set -e
cd /tmp; d=$(mktemp -d); chmod 755 $d; cd $d
touch f; chown 33:33 f; chgrp 0 f
chown 100:65534 f; test "$(stat -c %u:%g f)" = 100:65534
setpriv --reuid 33 --regid 33 --groups 4,20 sh -c 'id -G' > groups
test "$(cat groups)" = "33 4 20"
setpriv --reuid 100 --regid 100 --clear-groups sh -c '! touch x' 2>/dev/null
rm -rf $d
echo fine
"""


def test_whole_range_as_apt_needs_it(person: Person) -> None:
    done = run(person, "sh", "-c", IDS_ALL_ROUND)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_ordinary_user_is_root_inside(user: Person) -> None:
    done = run(user, "sh", "-c", "id -u; cat /proc/self/uid_map; cat /proc/self/gid_map")
    lines = [line.split() for line in done.stdout.splitlines()]
    ranges = idmap.subordinate("/etc/subuid", user.uid)
    assert lines[0] == ["0"]
    assert lines[1] == ["0", str(user.uid), "1"]
    assert lines[2] == ["1", str(ranges[0][0]), str(ranges[0][1])]
    assert lines[-2] == ["0", str(user.gid), "1"] or len(lines) > 5


def test_root_gets_a_range_that_is_nobodys(root: Person) -> None:
    done = run(root, "sh", "-c", "id -u; id -G; cat /proc/self/uid_map; ls /root")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["0"]
    assert lines[1] == ["0"]
    if not idmap.subordinate("/etc/subuid", 0):
        assert lines[2] == ["0", str(idmap.DEFAULT_START), str(idmap.DEFAULT_COUNT)]
    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_one_id_where_there_are_no_ranges(bare_user: Person) -> None:
    done = run(bare_user, "sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/setgroups")
    assert done.stdout.split() == ["0", "0", str(bare_user.uid), "1", "deny"]
    assert done.stderr.startswith("seccompd: only one id is mapped: /etc/subuid has no range")


def test_one_id_on_demand(user: Person) -> None:
    done = run(user, "cat", "/proc/self/uid_map", options=("--map", f"0:{user.uid}:1"))
    assert done.stdout.split() == ["0", str(user.uid), "1"]
    assert done.stderr == ""


def test_another_id_than_root(user: Person) -> None:
    options = ("--map", f"{user.uid}:{user.uid}:1")
    done = run(user, "sh", "-c", "id -u; grep CapEff /proc/self/status", options=options)
    assert done.stdout.split() == [str(user.uid), "CapEff:", "0" * 16]


def test_several_ranges(root: Person) -> None:
    options = ("--map", "0:700000:10", "--map", "u:10:800000:5", "--map", "g:10:900000:5")
    done = run(root, "cat", "/proc/self/uid_map", "/proc/self/gid_map", options=options)
    rows = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert rows == [[0, 700000, 10], [10, 800000, 5], [0, 700000, 10], [10, 900000, 5]]


def test_what_is_not_ours_is_refused(user: Person) -> None:
    done = run(user, "true", options=("--map", "0:0:10"))
    assert done.returncode == 1
    assert "newuidmap" in done.stderr


def test_ordinary_user_keeps_to_own_rights(user: Person) -> None:
    done = run(user, "sh", "-c", "cat /etc/shadow || touch /usr/sd-test-file")
    assert done.returncode != 0
    assert not Path("/usr/sd-test-file").exists()


def test_processes_outside_are_not_seen(person: Person) -> None:
    done = run(person, "sh", "-c", "ls -d /proc/[0-9]* | wc -l; echo $$")
    count, pid = done.stdout.split()
    assert int(count) <= 4
    assert int(pid) == 2


@pytest.mark.parametrize("name", ["user", "mnt", "pid"])
def test_namespaces_of_its_own(person: Person, name: str) -> None:
    done = run(person, "readlink", f"/proc/self/ns/{name}")
    assert done.stdout.strip() != os.readlink(f"/proc/self/ns/{name}")


@pytest.mark.parametrize("name", ["net", "ipc", "uts", "cgroup", "time"])
def test_namespaces_by_option(person: Person, name: str) -> None:
    here = os.readlink(f"/proc/self/ns/{name}")
    assert run(person, "readlink", f"/proc/self/ns/{name}").stdout.strip() == here
    done = run(person, "readlink", f"/proc/self/ns/{name}", options=("--unshare", name))
    assert done.returncode == 0
    assert done.stdout.strip() != here


def test_network_of_its_own(person: Person) -> None:
    script = """
    test "$(ls /sys/class/net)" = lo || exit 1
    test -d /sys/fs/cgroup || exit 2
    test "$(ls /sys/fs/cgroup)" || exit 3
    grep -q 'lo:' /proc/net/dev || exit 4
    """
    done = run(person, "sh", "-c", script, options=("--unshare", "net,ipc,cgroup"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("spec", ["auto", "0:0:1", "0:0:65536", "1:700000:10"])
def test_dropped_groups(root: Person, spec: str) -> None:
    command = seccompd(root, "run", "--map", spec, "--", "id", "-G")
    done = subprocess.run(
        ["setpriv", "--groups", "0,4,20", "--", *command],
        env=root.environ(), cwd="/", capture_output=True, text=True, check=True,
    )
    assert done.stdout == ("1\n" if spec.startswith("1:") else "0\n")
