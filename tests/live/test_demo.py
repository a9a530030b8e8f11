"""What a newcomer runs first, as root and as an ordinary user: the demo, and the doctor."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.people import Person, python, tree
from tests.support.program import seccompd


@pytest.mark.slow
def test_the_demo_comes_out_as_it_should(person: Person) -> None:
    done = subprocess.run(
        person.argv([python(person), str(tree(person) / "examples" / "demo.py")]),
        env=person.environ(), cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as it should be" in done.stdout
    assert done.stdout.count("WITHOUT seccompd") == done.stdout.count("WITH seccompd") == 5
    assert "[emulated: default.yaml:" in done.stdout


def test_doctor_says_that_run_works(person: Person) -> None:
    done = subprocess.run(
        seccompd(person, "doctor", "-o", "json"),
        env=person.environ(), cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["works"] is True
    assert report["uid"] == person.uid
    assert not [finding for finding in report["findings"] if finding["state"] == "missing"]


def test_doctor_notes_that_there_is_but_one_id(bare_user: Person) -> None:
    done = subprocess.run(
        seccompd(bare_user, "doctor"),
        env=bare_user.environ(), cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "note    subordinate ids" in done.stdout
    assert "usermod --add-subuids" in done.stdout


def test_doctor_knows_a_chroot(root: Person, tmp_path: Path) -> None:
    """In a tree that is entered by chroot alone the kernel refuses user namespaces."""
    script = (
        'mount --bind / "$0" && mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" '
        '&& exec chroot "$0" "$@"'
    )
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, str(tmp_path),
         *seccompd(root, "doctor")],
        env=root.environ(), cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "missing user namespaces" in done.stdout
    assert "chroot" in done.stdout
