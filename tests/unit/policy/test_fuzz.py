"""A hundred thousand documents that nobody would write: a policy or a clear error, and no more.

`make fuzz` reads them all; the usual tests read some of each kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.documents import document
from tests.fuzz.worker import MEGABYTES, SECONDS
from tests.support.people import ROOT

ALL = 100_000
WORKERS = 2


def read(tmp_path: Path, first: int, count: int) -> subprocess.Popen[str]:
    progress = tmp_path / f"at-{first}"
    progress.touch()
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.worker", str(first), str(count), str(progress)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(tmp_path: Path, first: int, worker: subprocess.Popen[str]) -> dict[str, Any]:
    """What it says; a worker that died was ended by the document it had at hand."""
    out, _ = worker.communicate()
    at = (tmp_path / f"at-{first}").read_text()
    assert worker.returncode == 0, f"document {at}: no end in {SECONDS} s ({worker.returncode})"
    found: dict[str, Any] = json.loads(out)
    assert "wrong" not in found, f"document {found['document']}: {found['wrong']}"
    return found


def test_documents_are_the_same_each_time() -> None:
    assert [document(number) for number in range(50)] == [document(n) for n in range(50)]


def test_some_documents(tmp_path: Path) -> None:
    """The first ones; among them is a large one."""
    found = result(tmp_path, 0, read(tmp_path, 0, 1500))
    assert found["policy"] > 150
    assert found["error"] > 500
    assert found["peak"] < MEGABYTES


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
def test_all_documents(tmp_path: Path) -> None:
    share = ALL // WORKERS
    workers = {first: read(tmp_path, first, share) for first in range(0, ALL, share)}
    found = [result(tmp_path, first, worker) for first, worker in workers.items()]
    kinds = {key: sum(one[key] for one in found) for key in ("policy", "error")}
    print(kinds, [one["peak"] for one in found], "MiB")
    assert sum(kinds.values()) == ALL
    assert kinds["policy"] > ALL // 10
