"""Arguments as strace writes them, there and back."""

from __future__ import annotations

import random

import pytest

from supervisor.kernel.strace import argument
from supervisor.kernel.strace_read import read_argument, split_call
from supervisor.kernel.syscalls import Kind, cut


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("S_IFCHR|0666", Kind.MODE, 0o020666),
        ("S_IFBLK|S_ISVTX|0600", Kind.MODE, 0o061600),
        ("0x1f", Kind.FLAGS, 31),
        ("017", Kind.MODE, 15),
        ("makedev(0x1, 0x3)", Kind.DEV, 0x103),
        ("makedev(259, 70000)", Kind.DEV, 0x70 | 259 << 8 | 0x11100 << 12),
        ("AT_FDCWD", Kind.FD, -100),
        ("-1", Kind.FD, -1),
        ("MS_RDONLY|MS_NOSUID|MS_I_VERSION", Kind.MOUNT_FLAGS, 1 | 2 | 1 << 23),
        ("NULL", Kind.DATA, 0),
        ("O_RDWR|O_CREAT|O_CLOEXEC", Kind.OPEN_FLAGS, 0o2000102),
        ("O_RDONLY", Kind.OPEN_FLAGS, 0),
        (
            "{flags=O_RDWR|O_SYNC, mode=0644, resolve=RESOLVE_BENEATH}", Kind.HOW,
            b"".join(number.to_bytes(8, "little") for number in (0o4010002, 0o644, 8)),
        ),
        ("EFAULT", Kind.PATH, -14),
        ('"/dev/null"', Kind.PATH, b"/dev/null"),
        (r'"a\"b\\\n\x07\0011\377"', Kind.PATH, b'a"b\\\n\x07\x011\xff'),
        ('"é"', Kind.PATH, "é".encode()),
    ],
)
def test_what_strace_writes(text: str, kind: Kind, value: int | bytes) -> None:
    assert read_argument(text, kind) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [("S_IFFOO", Kind.MODE), ("", Kind.FD), ('"x"...', Kind.PATH), ('"x"', Kind.MODE),
     (r'"\q"', Kind.PATH), ("1|", Kind.FLAGS), ("makedev(1)", Kind.DEV),
     ("makedev(4096, 0)", Kind.DEV), ("makedev(0, 1048576)", Kind.DEV)],
)  # fmt: skip
def test_what_means_nothing(text: str, kind: Kind) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_argument(text, kind)


def test_calls_are_split() -> None:
    text = ' mount("/dev/a, b)", "/m\\"", "ext4", MS_RDONLY, makedev(1, 2), "x=(y,z)") = -1 EPERM'
    assert split_call(text) == (
        "mount",
        ['"/dev/a, b)"', r'"/m\""', '"ext4"', "MS_RDONLY", "makedev(1, 2)", '"x=(y,z)"'],
    )
    assert split_call("f()") == ("f", [])
    assert split_call("f(3</a,b)>, X) = 0") == ("f", ["3</a,b)>", "X"])
    for wrong in ("mknod", "mknod(", 'f("a)', "f(a, b", 'f("a" "b")', "f(a) b", "<... f resumed>)"):
        with pytest.raises(ValueError, match=r"."):
            split_call(wrong)


@pytest.mark.parametrize("kind", list(Kind))
def test_there_and_back(kind: Kind) -> None:
    rnd = random.Random(1)
    for _ in range(300):
        value: int | bytes
        if kind is Kind.HOW:
            value = rnd.randbytes(24)
        elif kind in (Kind.VALUE, Kind.ROOM):
            value = 0  # what is there nobody is told
        elif kind.is_string:
            value = rnd.randbytes(rnd.randrange(12)).replace(b"\0", b"x")
        else:
            value = cut(rnd.choice((0, 1, rnd.getrandbits(8), rnd.getrandbits(32))), kind)
            if kind is Kind.MOUNT_FLAGS:
                value &= 0x7FFFFFFF
        assert read_argument(argument(value, kind), kind) == value
