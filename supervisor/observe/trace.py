"""--trace: each notified call as strace(1) would show it, and what became of it."""

from __future__ import annotations

import os

from supervisor.kernel.address_text import written
from supervisor.kernel.strace import arguments
from supervisor.kernel.syscalls import CallSpec
from supervisor.model import Decision, Outcome, Snapshot, Verdict
from supervisor.observe.text import errno_name
from supervisor.observe.would import would_be
from supervisor.observe.writer import LineWriter

_WORDS = {
    Verdict.CONTINUE: "continued",
    Verdict.REFUSE: "refused",
    Verdict.ERRNO: "refused",
    Verdict.RETURN: "answered",
    Verdict.EMULATE: "emulated",
    Verdict.INJECT: "injected",
    Verdict.KILL: "killed",
}


def line(
    snapshot: Snapshot, spec: CallSpec | None, decision: Decision, outcome: Outcome
) -> str:
    """`mknod("dev/null", S_IFCHR|0666, makedev(1, 3)) = 0 [emulated: build.yaml:7]`."""
    params = spec.params if spec else ()
    args = arguments(snapshot.args, params)
    if outcome.errno:
        result = f"-1 {errno_name(outcome.errno)} ({os.strerror(outcome.errno)})"
    elif outcome.left_alone:
        result = "?"
    else:
        result = str(decision.value if decision.verdict is Verdict.RETURN else outcome.value)
    word = _WORDS[decision.verdict]
    if outcome.left_alone:
        word = "refused by the kernel" if decision.verdict is Verdict.REFUSE else "the kernel's"
    if decision.audit:
        word = f"audit, would be {_WORDS[decision.verdict]}"
        would = would_be(decision)
        word += "" if would is None else f" with {would}"
    notes = [f"{word}: {decision.rule}"]
    peer = outcome.facts.peer if outcome.facts is not None else None
    notes += [] if peer is None else [f"from {written(peer)}"]
    notes += [note for note in (decision.reason, outcome.how) if note]
    return f"{snapshot.name}({args}) = {result} [{'; '.join(notes)}]"


class Tracer:
    """Prints a line for each call; what the reader is too slow for is lost, and counted."""

    def __init__(self, fd: int) -> None:
        self._writer = LineWriter(fd)

    def show(
        self, snapshot: Snapshot, spec: CallSpec | None, decision: Decision, outcome: Outcome
    ) -> None:
        """Prints one call."""
        self._writer.line(line(snapshot, spec, decision, outcome))

    def close(self) -> None:
        """Says how many lines were lost, if any."""
        if self._writer.lost:
            self._writer.line(f"[{self._writer.lost} lines lost: the reader was too slow]")
        self._writer.close()
