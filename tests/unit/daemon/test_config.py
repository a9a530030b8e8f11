"""The daemon's configuration: defaults, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.daemon import config
from supervisor.errors import PolicyError

DOORS = ("oci", "lxc")


def load(tmp_path: Path, text: str) -> config.Config:
    file = tmp_path / "seccompd.yaml"
    file.write_text(text)
    return config.load(file, DOORS)


def test_defaults(tmp_path: Path) -> None:
    found = load(tmp_path, "version: 1\nruntime_directory: /x\n")
    assert (found.doors, found.policies, found.audit) == (("oci",), None, None)
    assert (found.containers, found.connections, found.message) == (1000, 1000, 1 << 20)
    assert (found.hand_over, found.session.snapshot, found.session.restarts) == (10.0, 0.1, 8)


def test_every_key_can_be_set(tmp_path: Path) -> None:
    text = """
version: 1
runtime_directory: /run/mine
doors: [lxc, oci]
policies: /etc/mine
audit: /var/log/mine
limits:
  containers: 5
  connections: 6
  connects: 10
  attached: 9
  message: 8192
  hand_over: 1.5
  snapshot: 0.5
  restarts: 3
  restart_window: 60
  hang: 5
  path: 3
  mount: 30
  in_flight: 7
  rate: 800
  descriptors: 900
"""
    assert {key.name.rpartition(".")[2] for key in config.KEYS} == {
        line.strip().partition(":")[0] for line in text.splitlines() if line
    } - {"limits"}
    found = load(tmp_path, text)
    assert found.doors == ("lxc", "oci")
    assert found.policies == (Path("/etc/mine"),)
    assert found.audit == Path("/var/log/mine")
    assert (found.containers, found.connections, found.message) == (5, 6, 8192)
    assert (found.attached, found.connects, found.connects_at_once) == (9, 10, 40)
    assert (found.hand_over, found.session.snapshot) == (1.5, 0.5)
    assert (found.session.restarts, found.session.restart_window) == (3, 60.0)
    assert (found.session.hang, found.session.path, found.session.mount) == (5.0, 3.0, 30.0)
    assert (found.session.in_flight, found.session.rate, found.descriptors) == (7, 800, 900)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[]", "1:1: error: a configuration is a mapping"),
        ("version: 2", "1:10: error: version is 1"),
        ("door: oci", "1:1: error: unknown key door: did you mean doors?"),
        ("doors: [window]", "1:8: error: unknown door window"),
        ("doors: 1", "1:8: error: doors is a list of words"),
        ("runtime_directory: run", "1:20: error: runtime_directory is an absolute path"),
        ("policies: [/a, b]", "1:11: error: policies is an absolute path"),
        ("limits: 5", "1:9: error: limits is a mapping"),
        ("limits: {container: 5}", "1:10: error: unknown key limits.container: did you mean"),
        ("limits: {containers: 0}", "1:22: error: limits.containers is a number from 1"),
        ("limits: {containers: true}", "1:22: error: limits.containers is a number"),
        ("limits: {hand_over: soon}", "1:21: error: limits.hand_over is seconds"),
        ("audit: x\nlimits: {message: 1}", "2:19: error: limits.message is a number"),
        ("a: 1\na: 2", "2:1: error: the key a is here twice"),
        ("{", "not YAML"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(PolicyError) as found:
        load(tmp_path, text)
    assert place.removeprefix("not YAML") in str(found.value)
    assert "seccompd.yaml" in str(found.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"none\.yaml: cannot read"):
        config.load(tmp_path / "none.yaml", DOORS)
