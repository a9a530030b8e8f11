"""Extended attributes that are set and removed for a container come to what the kernel says to real
root: names, values, flags and paths, good and bad ones, and which error is said first.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "xattr_table.py"
RULES = """
version: 1
syscalls:
  xattr:
    - {name: "trusted.*", do: {emulate: {as: root}}}
    - {path: "/**", do: emulate}
    - {do: emulate}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch(0o755, "/var/tmp") as folder:
        shutil.copy(PROGRAM, folder / "table.py")
        (folder / "rules.yaml").write_text(RULES)
        yield folder


@pytest.mark.parametrize("which", ["trusted.*", "others"])
def test_what_the_kernel_says(root: Person, place: Path, which: str) -> None:
    outcomes = []
    for name in ("truth", "container"):
        folder = place / f"{name}-{which[:2]}"
        folder.mkdir()
        command = [python(root), str(place / "table.py"), str(folder), which]
        if name == "truth":
            command = ["unshare", "--mount", *command]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        else:
            root.given(folder)
            options = ("--policy", str(place / "rules.yaml"))
            done = run(root, *command, options=options, timeout=60)
        assert done.returncode == 0, done.stderr
        outcomes.append(done.stdout.replace(str(folder), "FOLDER").splitlines())
    truth, container = outcomes
    if which == "trusted.*":  # as root nothing is done where somebody might serve the file
        truth = [line.replace("ENOTSUP", "EPERM") for line in truth]
    different = [(a, b) for a, b in zip(container, truth, strict=True) if a != b]
    assert different == [], "of the container, and of the kernel"
    assert len(truth) > 500
