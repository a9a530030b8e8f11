"""An interpreter of classic BPF as seccomp runs it, to hold the filter against."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.kernel.bpf import instructions

_ARGS_AT = 16  # offsetof(struct seccomp_data, args)


@dataclass(frozen=True, slots=True)
class Run:
    """What a filter returned, in how many steps, and whether it looked at arguments.

    The kernel answers calls whose action does not depend on arguments from a bitmap.
    """

    action: int
    steps: int
    looked_at_args: bool


def run(program: bytes, nr: int, arch: int, args: Sequence[int] = (0,) * 6) -> Run:
    """Runs the filter for one call. Raises ValueError for code that seccomp would not take."""
    signed = nr - (1 << 32) if nr >= 1 << 31 else nr
    data = struct.pack("=iIQ6Q", signed, arch, 0, *args)
    code = instructions(program)
    accumulator = position = steps = 0
    looked = False
    while True:
        opcode, jt, jf, k = code[position]
        position += 1
        steps += 1
        match opcode:
            case 0x20:
                if k % 4 or k + 4 > len(data):
                    raise ValueError(f"load at {k}")
                looked = looked or k >= _ARGS_AT
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x06:
                return Run(k, steps, looked)
            case 0x15:
                position += jt if accumulator == k else jf
            case 0x25:
                position += jt if accumulator > k else jf
            case 0x35:
                position += jt if accumulator >= k else jf
            case 0x45:
                position += jt if accumulator & k else jf
            case 0x05:
                position += k
            case 0x54:
                accumulator &= k
            case _:
                raise ValueError(f"opcode {opcode:#x}")
