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


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            (b"/a.img", b"/mnt", b"ext4", 7, 0),
            '"/a.img", "/mnt", "ext4", MS_RDONLY|MS_NOSUID|MS_NODEV, NULL',
        ),
        ((0, -14, -22, 0xC0ED8000, b"a,b"), 'NULL, EFAULT, EINVAL, MS_MGC_VAL|MS_SILENT, "a,b"'),
        ((b"t", b"m", b"tmpfs", 0, -7), '"t", "m", "tmpfs", 0, E2BIG'),
        ((b"t", b"m", b"x", 1 << 30 | 16, b""), '"t", "m", "x", MS_SYNCHRONOUS|0x40000000, ""'),
    ],
)  # fmt: skip
def test_mounts(args: tuple[Arg, ...], text: str) -> None:
    (spec,) = FAMILIES["mount"].calls
    snapshot = Snapshot(1, 2, X86_64, 165, 0, "mount", args)
    shown = line(snapshot, spec, EMULATED, Outcome(0, "kernel"))
    assert shown == f"mount({text}) = 0 [emulated: build.yaml:7; kernel]"
