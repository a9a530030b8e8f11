"""What docs/daemon.md has somebody type works as it is written there."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.bundles import FIRST_ID, Bundle, box_of
from tests.support.daemon import Daemon, run, serving
from tests.support.people import Person
from tests.support.program import seccompd
from tests.support.scratch import a_place
from tests.unit.test_documents import TOP, blocks

place = a_place(0o755)


def program(folder: Path, name: str, words: list[str], *, more: str = "") -> None:
    """A program of that name which is `words`, its own arguments, and `more`."""
    file = folder / name
    file.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@" {more}\n')
    file.chmod(0o755)


@pytest.mark.needs("jq")
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_first_container(root: Person, place: Path, runtime: str) -> None:
    text = (TOP / "policies/default.yaml").read_text()
    with serving(root, place, {"default": text}) as daemon:
        (block,) = [
            one for one in blocks(TOP / "docs/daemon.md")
            if one.startswith("seccompd profile --policy default >")
        ]  # fmt: skip
        done = typed(root, place, daemon, block.replace("runc", runtime), runtime)
        assert (done.returncode, done.stderr) == (0, "")
        (made,) = [one for one in daemon.all_records() if one.get("verdict") == "emulate"]
        assert made["args"]["pathname"] == "/dev/null2"
        assert made["result"] == 0


def typed(
    root: Person, place: Path, daemon: Daemon, block: str, runtime: str
) -> CompletedProcess[str]:
    """Lines of a shell's, in a folder with a root file system; the daemon and the state are ours.
    """
    folder, path = place / "bundle", place / "bin"
    folder.mkdir()
    path.mkdir()
    box_of(folder / "rootfs", FIRST_ID)
    program(path, "seccompd", seccompd(root), more=f"--listener {daemon.socket}")
    itself = shutil.which(runtime)
    assert itself is not None
    program(path, runtime, Bundle.lead(itself, place / "state"))
    env = root.environ({"PATH": f"{path}:{os.environ['PATH']}:/usr/sbin"})
    return run(["sh", "-ec", block], cwd=folder, env=env)
