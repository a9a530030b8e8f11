"""Sets and removes extended attributes in every way, in the folder argv[1], which has to be empty,
and prints what comes of each: an errno's name, or the attributes that are there then. argv[2]:
"trusted.*" for those, or "others". To be run as root in a mount namespace of its own.
"""

import ctypes
import errno
import os
import struct
import sys
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
SET, LSET, FSET, REMOVE, LREMOVE, FREMOVE = 188, 189, 190, 197, 198, 199
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
BAD = ctypes.c_void_p(1)
AREA = LIBC.mmap
AREA.restype = ctypes.c_void_p


def called(number: int, *args: object) -> str:
    if LIBC.syscall(number, *args) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return "ok"


def put(path: object, name: object, value: object, size: int, flags: int = 0) -> str:
    return called(SET, path, name, value, ctypes.c_size_t(size), flags)


def removed(path: object, name: object) -> str:
    return called(REMOVE, path, name)


def seen(path: str) -> str:
    found = []
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        value = os.getxattr(path, name, follow_symlinks=False)
        if not name.startswith("security.sel"):
            found.append(f"{name}={len(value)}:{value[:8]!r}")
    return " ".join(found)


def say(what: object, *outcome: object) -> None:
    print(what, *outcome, flush=True)


def at_the_end_of_memory(text: bytes) -> ctypes.c_void_p:
    """A string without a NUL, behind which there is no page."""
    page = AREA(None, ctypes.c_size_t(8192), 3, 0x22, -1, ctypes.c_long(0))
    assert LIBC.munmap(ctypes.c_void_p(page + 4096), ctypes.c_size_t(4096)) == 0
    ctypes.memmove(page + 4096 - len(text), text, len(text))
    return ctypes.c_void_p(page + 4096 - len(text))


def made() -> None:
    for name in ("f", "g", "h", "ro"):
        open(name, "w").close()
    os.mkdir("d")
    os.symlink("f", "l")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    os.mkfifo("p")
    assert LIBC.mount(b"ro", b"ro", None, MS_BIND, None) == 0
    assert LIBC.mount(b"ro", b"ro", None, MS_BIND | MS_REMOUNT | MS_RDONLY, None) == 0


def of_paths(name: bytes) -> None:
    long, longest = b"x" * 256, b"./" * 2048 + b"f"
    for path in (
        b"f", b"d", b"l", b"p", b"ro", b"", b"missing", b"f/", b"f/x", b"d/.", b"dangling", b"loop",
        b"missing/f", long, longest, os.path.abspath("f").encode(), b"d/../f", None, BAD,
        b"/proc/self/fd/%d" % os.open("g", os.O_RDONLY), b"/proc/self/cwd/h",
    ):  # fmt: skip
        for number in (SET, LSET):
            say(f"{number} {path!r:.90}", called(number, path, name, b"y", 1, 0))
        for number in (REMOVE, LREMOVE, REMOVE):
            say(f"{number} {path!r:.90}", called(number, path, name))


def of_descriptors(name: bytes) -> None:
    opened = {
        "read-only": os.open("h", os.O_RDONLY), "path": os.open("h", os.O_PATH),
        "directory": os.open("d", os.O_RDONLY), "fifo": os.open("p", os.O_RDWR),
        "of ro": os.open("ro", os.O_RDONLY), "none": 9999, "negative": -1,
        "pipe": os.pipe()[0],
    }  # fmt: skip
    gone = opened["gone"] = os.open("gone", os.O_CREAT | os.O_RDWR)
    os.unlink("gone")
    for what, fd in opened.items():
        say(f"set {what}", called(FSET, fd, name, b"y", 1, 0))
        say(f"set again {what}", called(FSET, fd, name, b"y", 1, CREATE))
        say(f"remove {what}", called(FREMOVE, fd, name), called(FREMOVE, fd, name))
    os.close(gone)


def of_values(name: bytes) -> None:
    for path in (b"f", b"missing", b"ro"):
        for flags in (0, CREATE, REPLACE, CREATE | REPLACE, 4, 0x80000000, CREATE | 8):
            for size in (0, 1, 4096, 65536, 65537, 1 << 32):
                data = b"z" * min(size, 65536)
                say(f"{path!r} {flags} {size}", put(path, name, data, size, flags))
                say("bad", put(path, name, BAD, size, flags))
                say("null", put(path, name, None, size, flags))
        say("then", removed(path, name))


def of_names(names: "list[object]") -> None:
    for name in names:
        for path in (b"f", b"missing", b"ro", BAD):
            what = repr(name)[:30] if isinstance(name, bytes) else "other"
            say(what, repr(path)[:10], put(path, name, b"y", 1), removed(path, name))
            say("wrong", put(path, name, BAD, 1, 4), put(path, name, b"", 1 << 20))
            say("more", put(path, name, BAD, 1))


def access_list(*entries: "tuple[int, int, int]") -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def of_lists() -> None:
    base = ((1, 7, 0xFFFFFFFF), (4, 5, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF))
    good = access_list(base[0], (2, 7, 1), base[1], (0x10, 7, 0xFFFFFFFF), base[2])
    for name in (b"system.posix_acl_access", b"system.posix_acl_default"):
        for path in (b"f", b"d", b"ro", b"l"):
            for value in (good, b"", b"x", access_list(base[0]), good):
                say(name, path, put(path, name, value, len(value)), seen(path.decode()))
            say("removed", removed(path, name), seen(path.decode()))


def as_somebody(*names: bytes) -> None:
    """Without capabilities, and without being the owner."""
    os.chown("g", 1, 1)
    if not os.fork():
        os.setgroups([])
        os.setresgid(1, 1, 1)
        os.setresuid(1, 1, 1)
        for name in names:
            for path in (b"f", b"g", b"d", b"ro"):
                say("uid 1", name, path, put(path, name, b"y", 1), removed(path, name))
        os._exit(0)
    os.wait()


def elsewhere(name: bytes) -> None:
    """A thread with a working directory of its own, and a root directory of its own."""

    def there() -> None:
        assert LIBC.unshare(0x200) == 0  # CLONE_FS
        os.chdir("d")
        open("inner", "w").close()
        say("thread", put(b"inner", name, b"y", 1), put(b"../g", name, b"y", 1))
        os.chroot(".")
        say("chroot", put(b"/inner", name, b"y", 1, CREATE), removed(b"/inner", name))
        say("chroot", put(b"/../inner", name, b"y", 1), put(b"/f", name, b"y", 1))

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    say("seen", removed(b"d/inner", name), removed(b"g", name))


os.chdir(sys.argv[1])
os.umask(0o022)
trusted = sys.argv[2] == "trusted.*"
made()
known = b"trusted.sd.a" if trusted else b"user.a"
prefix = known.partition(b".")[0] + b"."
of_paths(known)
of_descriptors(known)
of_values(known)
texts: "list[object]" = [(prefix + b"x" * 300)[:size] for size in (255, 256)]
texts += [b"", None, BAD, at_the_end_of_memory(b"user.end"), prefix + b"\xff\xfe", prefix + b"a b*"]
if not trusted:
    texts += [b"user.", b"nothing", b"other.a", b"system.a", b"user", b"system.posix_acl_nothing"]
of_names(texts)
elsewhere(known)
as_somebody(known)
if not trusted:
    of_lists()
    of_names([b"security.capability"])
    caps = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    say("capability", put(b"h", b"security.capability", caps, len(caps)), seen("h"))
    say("removed", removed(b"h", b"security.capability"), seen("h"))
for path in ("f", "g", "h", "d", "p"):
    say(path, seen(path) if not trusted else "")
