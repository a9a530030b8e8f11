"""Reads documents one after the other: `python -m tests.fuzz.worker FIRST COUNT PROGRESS`.

Prints JSON: how many were a policy, how many a clear error, and the peak of memory in MiB; or what
was wrong with which document. The number of the document at hand stands in the file PROGRESS. A
document that takes more than SECONDS of processor time ends the process by SIGPROF.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from supervisor.errors import SeccompdError
from supervisor.handlers.registry import FAMILIES
from supervisor.model import Facts, Snapshot
from supervisor.policy import selftest, store
from supervisor.policy.call_text import parse
from supervisor.policy.compile import compile_draft
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.draft import read_draft
from supervisor.policy.lint import lint
from supervisor.policy.records import Log
from supervisor.policy.source import Finding, PolicyFindings
from supervisor.policy.traits import Traits
from tests.fuzz.documents import calls, document

SECONDS = 30.0
_LARGE = 1 << 16
MEGABYTES = 100
# What is for programmers, and not for who wrote the policy.
_UNCLEAR = re.compile(r"Traceback|pydantic|Input should|NoneType|object at 0x|<class|_type\b")
_MKNOD = Snapshot(1, 1, 0xC000003E, 133, 0, "mknod", (b"/dev/null", 0o020666, 0x103))
_MOUNT = Snapshot(1, 1, 0xC000003E, 165, 0, "mount", (b"/a.img", b"/mnt", b"ext4", 1, b"data=x"))


def _peak() -> int:
    """The most memory, in MiB. Not ru_maxrss, which begins with that of whoever forked us."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def _trim() -> None:
    """Gives back what the allocator holds of a document that is gone: its pieces, in which the next
    one does not fit, would be counted as that one's.
    """
    ctypes.CDLL(None).malloc_trim(0)


def _unclear(findings: tuple[Finding, ...] | list[Finding]) -> str:
    """What is wrong with an error's text; "" where a person can use it."""
    if not findings:
        return "an error without a finding"
    for finding in findings:
        text = finding.text()
        if not finding.message.strip() or _UNCLEAR.search(finding.message):
            return f"unclear: {finding.message!r}"
        if not all(char.isprintable() or char in "\t\n" for char in text):
            return f"not for a terminal: {text!r}"
        if finding.mark.line < 1 or finding.mark.column < 1 or "\n" in finding.message:
            return f"no place: {text!r}"
    return ""


def _used(policy: CompiledPolicy) -> str:
    """Uses a policy as a session does; what is wrong with it."""
    kept = json.dumps(policy.to_json())
    if json.dumps(CompiledPolicy.from_json(json.loads(kept)).to_json()) != kept:
        return "the cache would change it"
    for family, call in (("mknod", _MKNOD), ("mount", _MOUNT)):
        if family in policy.families:
            policy.decide(family, call)
            policy.decide(family, call, Facts(b"/dev/null", 0, 0))
    return ""


def read(content: bytes, folder: Path) -> tuple[str, str]:
    """("policy" or "error", what is wrong with how it was read) for one document."""
    file = folder / "p.yaml"
    try:
        draft = read_draft(file, content, FAMILIES, search=[store.shipped()])
        if not any(one.severity == "error" for one in draft.source.everything()):
            lint(draft, "host")
            found = draft.source.everything()
            if found and (wrong := _unclear(found)):
                return "policy", wrong
        draft.source.fail()
        policy = compile_draft(draft, content, Traits("host"), FAMILIES)
        del draft  # a session comes to know what the cache has, and no more
        return "policy", _used(policy)
    except PolicyFindings as error:
        return "error", _unclear(error.findings)
    except SeccompdError as error:
        return "error", "" if error.what else "an error that says nothing"


def read_cases(content: bytes, folder: Path) -> str:
    """What is wrong with how a file of test cases was read."""
    (folder / "t.yaml").write_text("version: 1\nsyscalls: {mknod: [{do: refuse}]}\n")
    (folder / "t.test.yaml").write_bytes(content)
    try:
        report = selftest.run(folder / "t.yaml", FAMILIES)
        for result in report.results:
            result.text()
        if report.wrong:
            return _unclear(report.wrong)
    except PolicyFindings as error:
        return _unclear(error.findings)
    except SeccompdError as error:
        return "" if error.what else "an error that says nothing"
    return ""


def read_calls(content: bytes, folder: Path) -> str:
    """What is wrong with how lines were read, as a log and as calls that somebody gives."""
    log = Log(FAMILIES)
    file = folder / "log"
    file.write_bytes(content)
    for asked, _ in log.calls([file]):
        asked.text()
    if log.complaint and _UNCLEAR.search(log.complaint):
        return f"unclear: {log.complaint!r}"
    for line in content.decode("utf-8", "surrogateescape").splitlines()[:50]:
        try:
            parse(FAMILIES, line).text()
        except ValueError as error:
            if not str(error) or _UNCLEAR.search(str(error)):
                return f"unclear: {str(error)!r}"
    return ""


def work(first: int, count: int, progress: int, folder: Path) -> dict[str, Any]:
    """Reads `count` documents from number `first` on, up to the first that is not read well."""
    kinds = {"policy": 0, "error": 0}
    for number in range(first, first + count):
        os.pwrite(progress, b"%-12d" % number, 0)
        content = document(number)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            kind, wrong = read(content, folder)
            if not wrong and b"cases" in content and len(content) < 1 << 14:
                wrong = read_cases(content, folder)
            if not wrong and number % 4 == 0 and len(content) < 1 << 14:
                wrong = read_calls(calls(number), folder)
        except Exception:  # every one of them is what is looked for
            kind, wrong = "", traceback.format_exc()
        if not wrong and _peak() >= MEGABYTES:
            wrong = f"{_peak()} MiB"
        if wrong:
            return {"document": number, "wrong": wrong}
        if len(content) > _LARGE:
            _trim()
        kinds[kind] += 1
    signal.setitimer(signal.ITIMER_PROF, 0)
    return {**kinds, "peak": _peak()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        fd = os.open(sys.argv[3], os.O_WRONLY)
        print(json.dumps(work(int(sys.argv[1]), int(sys.argv[2]), fd, Path(name))))
