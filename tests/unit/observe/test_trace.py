"""Trace lines are strace's, with what became of the call."""

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.syscalls import X86_64
from supervisor.model import Arg, Decision, Outcome, Snapshot, Verdict
from supervisor.observe.trace import line

MKNOD, MKNODAT = FAMILIES["mknod"].calls


def shown(args: tuple[Arg, ...], decision: Decision, outcome: Outcome) -> str:
    spec = MKNODAT if len(args) == 4 else MKNOD
    return line(Snapshot(1, 2, X86_64, 0, 0, spec.name, args), spec, decision, outcome)


EMULATED = Decision(Verdict.EMULATE, "build.yaml:7")
REFUSED = Decision(Verdict.REFUSE, "build.yaml: otherwise")


@pytest.mark.parametrize(
    ("args", "decision", "outcome", "text"),
    [
        (
            (b"dev/null", 0o20666, 0x103), EMULATED, Outcome(0),
            'mknod("dev/null", S_IFCHR|0666, makedev(1, 3)) = 0 [emulated: build.yaml:7]',
        ),
        (
            (-100, b'a"\n', 0o60000, 0x800), EMULATED, Outcome(17, "node"),
            'mknodat(AT_FDCWD, "a\\"\\x0a", S_IFBLK|0000, makedev(8, 0))'
            " = -1 EEXIST (File exists) [emulated: build.yaml:7; node]",
        ),
        (
            (5, -14, 0o25644, 0xFFFFFFFF), REFUSED, Outcome(0, left_alone=True),
            "mknodat(5, EFAULT, S_IFCHR|S_ISUID|S_ISVTX|0644, makedev(4095, 1048575))"
            " = ? [refused by the kernel: build.yaml: otherwise]",
        ),
        (
            (b"x", 0o20000, 0), Decision(Verdict.RETURN, "p.yaml:1", value=7), Outcome(0),
            'mknod("x", S_IFCHR|0000, makedev(0, 0)) = 7 [answered: p.yaml:1]',
        ),
    ],
)
def test_lines(
    args: tuple[Arg, ...], decision: Decision, outcome: Outcome, text: str
) -> None:
    assert shown(args, decision, outcome) == text
