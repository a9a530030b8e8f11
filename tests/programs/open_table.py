"""Opens the path argv[1] in every way but those of argv[2], and prints what comes of each: the name
of an errno, or the flags (but those of argv[3]), the kind and the first byte of what was opened.
Each is made three times in a row, which has to come to the same.
"""

import ctypes
import errno
import fcntl
import itertools
import os
import stat
import struct
import sys

PATH = sys.argv[1].encode()
LEFT_OUT, HIDDEN = (words.split(",") for words in sys.argv[2:4])
LIBC = ctypes.CDLL(None, use_errno=True)
OPEN, CREAT, OPENAT, OPENAT2 = 2, 85, 257, 437
TIMES = 3
MORE = {
    name: getattr(os, name)
    for name in (
        "O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC",
        "O_NOATIME", "O_SYNC", "O_NOCTTY", "O_DSYNC", "O_DIRECT", "O_ASYNC", "O_DIRECTORY",
    )
}  # fmt: skip
MORE["half of O_TMPFILE"] = os.O_TMPFILE & ~os.O_DIRECTORY
MORE["unknown"] = 1 << 30
for name in LEFT_OUT:
    MORE.pop(name, None)
HIDE = sum(getattr(os, name, 0) for name in HIDDEN)


def said(fd: int) -> str:
    if fd < 0:
        return errno.errorcode[ctypes.get_errno()]
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~HIDE
    closes = fcntl.fcntl(fd, fcntl.F_GETFD)
    try:
        byte = os.read(fd, 1).decode()
    except OSError as error:
        byte = errno.errorcode[error.errno or 0]
    kind = os.fstat(fd)
    os.close(fd)
    return f"{flags:o} {closes} {stat.S_IFMT(kind.st_mode):o} {kind.st_rdev:x} {byte!r}"


def opened(number: int, *args: object) -> str:
    found = {said(LIBC.syscall(number, *args)) for _ in range(TIMES)}
    return " or ".join(sorted(found))


for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
    for count in (0, 1, 2):
        for names in itertools.combinations(MORE, count):
            flags = access | sum(MORE[name] for name in names)
            mode = 0o644 if "O_CREAT" in names else 0
            how = struct.pack("QQQ", flags, mode, 0)
            wrong = struct.pack("QQQ", flags, mode | 0o10000, 0)
            print(
                access, *names, "|", opened(OPEN, PATH, flags, 0o644), "|",
                opened(OPENAT, -100, PATH, flags, 0o644), "|",
                opened(OPENAT2, -100, PATH, how, len(how)), "|",
                opened(OPENAT2, -100, PATH, wrong, len(wrong)),
            )  # fmt: skip
print("creat", opened(CREAT, PATH, 0o644))
