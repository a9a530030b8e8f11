"""Opens the path argv[1] in every way, and prints what comes of each: an errno's name, or the flags
and the first byte of what was opened.
"""

import ctypes
import errno
import fcntl
import itertools
import os
import struct
import sys

PATH = sys.argv[1].encode()
LIBC = ctypes.CDLL(None, use_errno=True)
OPEN, CREAT, OPENAT, OPENAT2 = 2, 85, 257, 437
SHOWN = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC
MORE = {
    name: getattr(os, name)
    for name in (
        "O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC",
        "O_NOATIME", "O_SYNC", "O_NOCTTY",
    )
}  # fmt: skip


def said(fd: int) -> str:
    if fd < 0:
        return errno.errorcode[ctypes.get_errno()]
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & SHOWN
    closes = fcntl.fcntl(fd, fcntl.F_GETFD)
    try:
        byte = os.read(fd, 1).decode()
    except OSError as error:
        byte = errno.errorcode[error.errno or 0]
    os.close(fd)
    return f"{flags:o} {closes} {byte}"


def opened(number: int, *args: object) -> str:
    return said(LIBC.syscall(number, *args))


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
