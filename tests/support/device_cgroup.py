"""A cgroup of version 2 whose processes may open no device but those of a list."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

_BPF = 321  # the system call on x86_64
_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6


def hierarchy() -> Path | None:
    """Where version 2 is mounted; None: nowhere."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


def _bpf(command: int, attributes: bytes) -> int:
    size = 128
    buffer = ctypes.create_string_buffer(attributes, size)
    result = ctypes.CDLL(None, use_errno=True).syscall(_BPF, command, buffer, size)
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return int(result)


def _program(minor: int) -> int:
    """Allows what has this minor number: r0 = r1->minor == minor."""
    code = b"".join(
        struct.pack("<BBhi", *one) for one in [
            (0x61, 0x12, 8, 0),  # r2 = ((struct bpf_cgroup_dev_ctx *)r1)->minor
            (0xB7, 0x00, 0, 1),
            (0x15, 0x02, 1, minor),
            (0xB7, 0x00, 0, 0),
            (0x95, 0x00, 0, 0),
        ]
    )  # fmt: skip
    text, name = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    return _bpf(
        _PROG_LOAD,
        struct.pack("<IIQQ", _TYPE_CGROUP_DEVICE, len(code) // 8, ctypes.addressof(text),
                    ctypes.addressof(name)),
    )  # fmt: skip


@contextlib.contextmanager
def only_minor(minor: int, pid: int) -> Iterator[Path]:
    """Such a cgroup with process `pid` in it, until the end."""
    top = hierarchy()
    assert top is not None
    before = top / next(
        line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if line.startswith("0::")
    ).removeprefix("0::/")  # fmt: skip
    place = top / f"sd-test-{uuid.uuid4().hex[:8]}"
    place.mkdir()
    try:
        program, directory = _program(minor), os.open(place, os.O_RDONLY)
        _bpf(_PROG_ATTACH, struct.pack("<IIII", directory, program, _ATTACH_CGROUP_DEVICE, 0))
        os.close(program)
        os.close(directory)
        (place / "cgroup.procs").write_text(str(pid))
        yield place
    finally:
        for one in (place / "cgroup.procs").read_text().split():
            (before / "cgroup.procs").write_text(one)
        place.rmdir()
