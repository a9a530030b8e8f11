"""What runtimes say of themselves, and what `check --oci` makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.errors import UsageError
from supervisor.handlers.registry import FAMILIES
from supervisor.policy.draft import read_draft
from supervisor.policy.runtimes import features_of, lacks

# Written by crun 1.8.1 of Debian 12, which has no `features`.
CRUN = """crun version 1.8.1
commit: f8a096be060b22ccd3d5f3ebe44108517fbf6c30
rundir: /run/crun
spec: 1.0.0
+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +YAJL
"""


def runtime(folder: Path, features: str, version: str) -> str:
    """A program that says these; its path."""
    program = folder / "runtime"
    (folder / "features").write_text(features)
    (folder / "version").write_text(version)
    program.write_text(
        "#!/bin/sh\n"
        f'case "$1" in features) cat {folder}/features; test -s {folder}/features;;'
        f" --version) cat {folder}/version;; esac\n"
    )
    program.chmod(0o755)
    return str(program)


def said(folder: Path, features: str, version: str = "") -> list[str]:
    name = runtime(folder, features, version)
    draft = read_draft(Path("p.yaml"), b"version: 1\nsyscalls: {mknod: []}\n", FAMILIES)
    return list(lacks(name, features_of(name), draft))


def test_one_that_only_says_its_version(tmp_path: Path) -> None:
    (text,) = said(tmp_path, "", CRUN)
    assert text.startswith("crun version 1.8.1 does not say what it can do")
    assert "it was built with seccomp; " in text
    (text,) = said(tmp_path, "", CRUN.replace("+SECCOMP ", ""))
    assert text == "crun version 1.8.1 was built without seccomp: it hands over no listener"
    (text,) = said(tmp_path, "[1]", "youki version: 0.3.0\n")
    assert "youki version: 0.3.0 does not say" in text


def test_one_that_says_what_it_can(tmp_path: Path) -> None:
    flags = '"supportedFlags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]'
    arches = '"archs": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]'
    whole = f'{{"enabled": true, "actions": ["SCMP_ACT_NOTIFY"], {arches}, {flags}}}'
    assert said(tmp_path, f'{{"linux": {{"seccomp": {whole}}}}}') == []
    (text,) = said(tmp_path, '{"linux": {"seccomp": {"enabled": false}}}')
    assert "without seccomp" in text


@pytest.mark.parametrize("name", ["", "/bin/true", "/bin/false", "/nowhere/runc", "a\0b"])
def test_what_is_no_runtime_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError):
        features_of(name)


@pytest.mark.parametrize(
    ("version", "rule", "passes"),
    [
        ("2.5.4", "{name: user.a, do: refuse}", True), ("2.6.0", "{do: refuse}", False),
        ("2.5.4", "{name: trusted.overlay.opaque, do: {emulate: {as: root}}}", False),
        ("2.5.4", "{do: refuse, mode: audit}", False), ("", "{do: refuse}", False),
    ],
)  # fmt: skip
def test_calls_that_its_libseccomp_does_not_know(version: str, rule: str, passes: bool) -> None:
    text = f"version: 1\nsyscalls: {{xattr: {{otherwise: kernel, rules: [{rule}]}}}}\n"
    draft = read_draft(Path("p.yaml"), text.encode(), FAMILIES)
    features = {
        "linux": {"seccomp": {"enabled": True}},
        "annotations": {"io.github.seccomp.libseccomp.version": version},
    }
    found = [one for one in lacks("runc", features, draft) if "setxattrat" in one]
    assert bool(found) == passes
