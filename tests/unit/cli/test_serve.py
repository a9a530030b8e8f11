"""`seccompd serve` and `seccompd profile` as commands: what they print, and what they refuse."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.program import seccompd
from tests.support.scratch import a_place

place = a_place()


def said(
    person: Person, *words: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        seccompd(person, *words), env=person.environ(env), cwd="/", text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


def test_check_config(person: Person, place: Path) -> None:
    """The defaults of who runs it; nothing is made, and nothing listens."""
    (place / "config/seccompd").mkdir(parents=True)
    (place / "policies").mkdir()
    (place / "policies/mine.yaml").write_text("version: 1\nmatch: {}\nsyscalls: {mknod: []}\n")
    file = place / "config/seccompd/seccompd.yaml"
    file.write_text(f"policies: {place}/policies\n")
    env = {"XDG_CONFIG_HOME": str(place / "config"), "XDG_RUNTIME_DIR": str(place / "run")}
    words = ["serve", "--check-config", *(["--config", str(file)] if person.name is None else [])]
    done = said(person, *words, env=env)
    where = "/run" if person.name is None else str(place / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{file}: ok\n  sockets in {where}/seccompd: oci\n" in done.stdout
    assert "policy mine" in done.stdout
    assert not (place / "run").exists()
    (place / "policies/mine.yaml").write_text("version: 1\nmatch: {}\nsyscalls: {mknod: [x]}\n")
    (place / "policies/other.yaml").write_text("nonsense")
    done = said(person, *words, env=env)
    assert done.returncode == 1
    assert "mine.yaml:3:20: error" in done.stderr
    assert "other.yaml:1:1: error" in done.stderr
    file.write_text("doors: [oci, window]\n")
    done = said(person, *words, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{file}:1:8: error: unknown door window" in done.stderr


def test_no_place_for_sockets(user: Person, place: Path) -> None:
    done = said(user, "serve", env={"XDG_CONFIG_HOME": str(place), "XDG_RUNTIME_DIR": ""})
    assert done.returncode == 1
    assert "XDG_RUNTIME_DIR is not set" in done.stderr
    done = said(user, "serve", env={"XDG_CONFIG_HOME": str(place), "XDG_RUNTIME_DIR": "/nowhere"})
    assert done.returncode == 1
    assert "/nowhere/seccompd: no place for the sockets: No such file" in done.stderr


def test_profiles(person: Person, place: Path) -> None:
    done = said(person, "profile", "--policy", "default", "--listener", "/x", "--metadata", "m")
    found = json.loads(done.stdout)
    assert (found["listenerPath"], found["listenerMetadata"]) == ("/x", "m")
    names = {name for entry in found["syscalls"] for name in entry["names"]}
    assert {"mknod", "mknodat", "seccomp"} <= names
    # what an ordinary user's bind mounts need besides
    assert ("chmod" in names) == (person.name is not None)
    base = place / "base.json"
    base.write_text("{")
    done = said(person, "profile", "--policy", "default", "--base", str(base))
    assert (done.returncode, done.stdout) == (1, "")
    assert "base.json: not JSON" in done.stderr
    done = said(person, "profile", "--policy", "default", "--format", "lxc")
    assert done.stdout.startswith("2\ndenylist\n[all]\nmknod notify [")
    words = ["profile", "--policy", "default", "--listener", "/x", "--runtime", "/nowhere"]
    done = said(person, *words)
    assert "/nowhere: cannot be executed" in done.stderr


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ('echo \'{"linux":{"seccomp":{"supportedFlags":["X","%s"]}}}\'', True),
        ('echo \'{"linux":{"seccomp":{"supportedFlags":["X"]}}}\'', False),
        ('test "$1" = --version && echo crun version 1.8.1', True),
        ('test "$1" = --version && echo crun version 1.7.2', False),
        ('test "$1" = --version && echo runc version 1.1.5', False),
        ("false", False),
    ],
)
def test_flags_that_a_runtime_knows(root: Person, place: Path, script: str, flags: bool) -> None:
    flag = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
    program = place / "runtime"
    program.write_text(f"#!/bin/sh\n{script.replace('%s', flag)}\n")
    program.chmod(0o755)
    done = said(root, "profile", "--policy", "default", "--runtime", str(program))
    assert json.loads(done.stdout).get("flags") == ([flag] if flags else None)
