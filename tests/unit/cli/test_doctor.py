from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.cli import checks, doctor, mount_checks
from supervisor.cli.checks import MISSING, NOTE, OK, Finding
from supervisor.errors import KernelError
from supervisor.kernel.idmap import IdMaps, Range
from tests.support.people import Person, python
from tests.support.scratch import scratch

MAIN = "from supervisor.cli.main import main; raise SystemExit(main())"


def findings_of(check: Callable[[], Iterator[Finding]]) -> dict[str, Finding]:
    return {finding.name: finding for finding in check()}


def run(hide: str = "", *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, "doctor", *options],
        env=os.environ | {"SECCOMPD_TEST_HIDE": hide},
        capture_output=True, text=True, timeout=120, check=False,
    )


def test_it_works_here() -> None:
    done = run()
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert "`seccompd run` works here" in done.stdout


@pytest.mark.parametrize("feature", ["listener", "namespaces", "user_notif", "move_mount"])
def test_without_what_it_needs_the_status_is_not_0(feature: str) -> None:
    done = run(feature)
    assert done.returncode == 1
    assert "does not work here" in done.stdout
    assert "missing" in done.stdout


@pytest.mark.parametrize("feature", ["wait_killable", "sync_wake_up"])
def test_what_has_a_fallback_is_only_noted(feature: str) -> None:
    done = run(feature, "-o", "json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    states = {finding["name"]: finding for finding in report["findings"]}
    assert report["works"] is True
    assert report["uid"] == os.geteuid()
    assert states[f"kernel {feature}"]["state"] == NOTE
    assert states[f"kernel {feature}"]["detail"].startswith("hidden for a test")
    assert states[f"kernel {feature}"]["remedy"]


def test_ids_are_named_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    uids = (Range(0, 1000, 1), Range(1, 100000, 65536))
    gids = (Range(0, 1001, 1), *(Range(n, 200000 + 20 * n, 10) for n in range(1, 51, 10)))
    monkeypatch.setattr(
        "supervisor.kernel.idmap.automatic", lambda: (IdMaps(uids, gids, helpers=True), None)
    )
    detail = findings_of(checks.subordinate_ids)["subordinate ids"].detail
    assert detail == (
        "user ids 1000, 100000-165535 (65537); "
        "group ids 1001, 200020-200029, 200220-200229, 200420-200429, ... (51)"
    )


def test_fuse_is_noted_where_it_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = tmp_path / "fuse"
    monkeypatch.setattr(mount_checks, "FUSE_NODE", str(node))
    finding = findings_of(mount_checks.fuse)["FUSE"]
    assert (finding.state, "No such file" in finding.detail) == (NOTE, True)
    node.write_text("")
    finding = findings_of(mount_checks.fuse)["FUSE"]
    assert (finding.state, "something else" in finding.detail) == (NOTE, True)


@pytest.mark.parametrize(("mode", "state"), [(0o600, NOTE), (0o666, OK)])
def test_fuse_is_noted_where_a_user_cannot_open_it(user: Person, mode: int, state: str) -> None:
    with scratch(0o755, "/var/tmp") as folder:
        node = folder / "fuse"
        os.mknod(node, stat.S_IFCHR, os.makedev(10, 229))
        node.chmod(mode)
        code = (
            "import json; from supervisor.cli import mount_checks as m; "
            f"m.FUSE_NODE = {str(node)!r}; (one,) = m.fuse(); "
            "print(json.dumps([one.state, one.remedy]))"
        )
        done = subprocess.run(
            user.argv([python(user), "-c", code]),
            env=user.environ(), cwd="/", capture_output=True, text=True, check=True,
        )  # fmt: skip
    found, remedy = json.loads(done.stdout)
    assert found == state
    assert state == OK or "chmod 0666" in remedy


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    assert all(f.remedy for f in doctor.examine() if f.state != OK)


def test_a_chroot_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def text(path: str) -> str | None:
        return "22 27 0:21 / /proc rw - proc proc rw" if path.endswith("mountinfo") else None

    monkeypatch.setattr(checks, "_text", text)
    monkeypatch.setattr("supervisor.kernel.features.available", lambda name: False)
    monkeypatch.setattr("supervisor.kernel.features.probe", lambda name: -1)
    found = findings_of(checks.namespaces)["user namespaces"]
    assert found.state == MISSING
    assert "chroot" in found.remedy


def test_another_distribution_with_the_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "importlib.metadata.packages_distributions", lambda: {"supervisor": ["supervisor"]}
    )
    found = findings_of(checks.other_distributions)["package name"]
    assert found.state == MISSING
    assert "environment of its own" in found.remedy


def test_an_old_kernel_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.kernel.features.version", lambda: (5, 10))
    assert findings_of(checks.kernel_version)["kernel"].state == MISSING


@pytest.mark.parametrize(("scope", "state"), [(None, OK), ("0", OK), ("1", NOTE), ("3", MISSING)])
def test_yama(monkeypatch: pytest.MonkeyPatch, scope: str | None, state: str) -> None:
    monkeypatch.setattr(checks, "_text", lambda path: scope)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert findings_of(checks.yama)["Yama"].state == state


def test_a_library_that_does_not_import_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("Unable to find libseccomp")

    monkeypatch.setattr("importlib.import_module", broken)
    found = findings_of(checks.libraries)
    assert {finding.state for finding in found.values()} == {MISSING}
    assert "libseccomp2" in found["library pyseccomp"].remedy


def test_root_without_capabilities_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("supervisor.kernel.idmap.in_initial_namespace", lambda: True)
    monkeypatch.setattr(checks, "_text", lambda path: "Name:\tx\nCapEff:\t0000000000000000")
    found = findings_of(checks.privileges)["privileges"]
    assert found.state == MISSING
    assert "CAP_MKNOD" in found.detail


def test_an_error_in_a_check_is_a_finding() -> None:
    def check() -> Iterator[Finding]:
        raise KernelError("no such thing", hint="look elsewhere")
        yield

    assert [f.state for f in checks.guarded(check)] == [MISSING]


def test_the_text_names_the_remedy_below_the_finding() -> None:
    text = doctor._as_text([Finding("thing", MISSING, "not there", "install it")])
    assert text.splitlines()[0].split() == ["missing", "thing", "not", "there"]
    assert text.splitlines()[1].strip() == "-> install it"
