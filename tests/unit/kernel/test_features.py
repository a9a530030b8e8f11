from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import KernelError
from supervisor.kernel import features, shim


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(features.HIDE, raising=False)
    for cached in (features.hidden, features.probe, features.available):
        cached.cache_clear()
    yield
    for cached in (features.hidden, features.probe, features.available):
        cached.cache_clear()


def test_every_feature_of_the_shim_is_in_the_table_once() -> None:
    numbers = [getattr(shim.lib, feature.probe) for feature in features.FEATURES.values()]
    known = [name for name in dir(shim.lib) if name.startswith("SD_HAS_")]
    assert sorted(numbers) == sorted(getattr(shim.lib, name) for name in known)


@pytest.mark.parametrize("name", sorted(features.FEATURES))
def test_probes_agree_with_the_version(name: str) -> None:
    feature = features.FEATURES[name]
    if features.version() >= feature.since:
        assert features.probe(name) == 1
    else:
        assert features.probe(name) != 1


def children() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text(errors="replace")
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == os.getpid():
            found.add(int(entry.parent.name))
    return found


def test_probing_leaves_no_trace() -> None:
    with open("/proc/self/status", encoding="ascii") as status:
        before = [line for line in status if line.startswith(("NoNewPrivs", "Seccomp"))]
    fds = sorted(os.listdir("/proc/self/fd"))
    before_children = children()
    namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid")]
    for name in features.FEATURES:
        features.probe(name)
    with open("/proc/self/status", encoding="ascii") as status:
        assert [line for line in status if line.startswith(("NoNewPrivs", "Seccomp"))] == before
    assert sorted(os.listdir("/proc/self/fd")) == fds
    assert [os.readlink(f"/proc/self/ns/{k}") for k in ("user", "mnt", "pid")] == namespaces
    assert children() == before_children


def test_hidden_features_are_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(features.HIDE, "openat2,wait_killable")
    assert features.hidden() == {"openat2", "wait_killable"}
    assert not features.available("openat2")
    assert features.available("pidfd")


def test_a_hidden_feature_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(features.HIDE, "wait_kilable")
    with pytest.raises(KernelError, match=r"no such feature: wait_kilable(.|\n)*wait_killable"):
        features.hidden()


def test_nothing_is_demanded_that_is_there() -> None:
    features.demand(namespaces=True)


def test_a_kernel_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "version", lambda: (5, 13))
    with pytest.raises(KernelError, match=r"^Linux .*: this kernel is too old\n  hint: .* 5\.14 "):
        features.demand(namespaces=False)


def test_a_kernel_without_a_required_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shim.lib

    class Kernel:
        def __getattr__(self, name: str) -> int:
            return int(getattr(real, name))

        def sd_probe(self, feature: int) -> int:
            return int(feature != real.SD_HAS_OPEN_TREE)

    monkeypatch.setattr(shim, "lib", Kernel())
    with pytest.raises(KernelError, match=r"no open_tree, .*\n  hint: .*doctor"):
        features.demand(namespaces=False)


def test_namespaces_are_demanded_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(features.HIDE, "namespaces,wait_killable,proc")
    features.demand(namespaces=False)
    with pytest.raises(KernelError, match="no namespaces"):
        features.demand(namespaces=True)


def test_an_unknown_number_is_refused() -> None:
    assert shim.lib.sd_probe(9999) < 0


def test_below_another_listener_none_can_be_installed() -> None:
    script = """
import sys
import pyseccomp
from supervisor.kernel import features
filter = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
filter.add_rule(pyseccomp.NOTIFY, "getrandom")
filter.load()
print(features.probe("listener"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["-16"]
