"""Classic BPF as seccomp runs it: an interpreter and a disassembler, for tests and for people.

Knows the instructions that libseccomp makes, and refuses all others.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.kernel.bpf import (
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    RET_USER_NOTIF,
    instructions,
)

# Offsets in struct seccomp_data.
_FIELDS = {0: "nr", 4: "arch", 8: "ip.low", 12: "ip.high"} | {
    16 + 8 * index + 4 * half: f"args[{index}].{('low', 'high')[half]}"
    for index in range(6)
    for half in (0, 1)
}
_ARGS_AT = 16
_JUMPS = {0x15: "==", 0x25: ">", 0x35: ">=", 0x45: "&"}


@dataclass(frozen=True, slots=True)
class Run:
    """What a filter returned, in how many steps, and whether it looked at arguments.

    The kernel answers calls whose action does not depend on arguments from a bitmap.
    """

    action: int
    steps: int
    looked_at_args: bool


def run(program: bytes, nr: int, arch: int, args: Sequence[int] = ()) -> Run:
    """Runs the filter for one call. Raises ValueError for code that it does not know."""
    registers = [*(value & (1 << 64) - 1 for value in args), *(0,) * (6 - len(args))]
    data = struct.pack("=IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *registers)
    code = instructions(program)
    accumulator = position = steps = 0
    looked = False
    while True:
        opcode, jt, jf, k = code[position]
        position += 1
        steps += 1
        match opcode:
            case 0x20:
                if k not in _FIELDS:
                    raise ValueError(f"a load at {k}")
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
                raise ValueError(f"the instruction {opcode:#x}")


def action_text(action: int) -> str:
    """A filter's action in words."""
    if action & 0xFFFF0000 == RET_ERRNO:
        return f"errno {errno.errorcode.get(action & 0xFFFF, action & 0xFFFF)}"
    known = {RET_ALLOW: "allow", RET_USER_NOTIF: "notify", RET_KILL_PROCESS: "kill"}
    return known.get(action, f"{action:#x}")


def disassemble(program: bytes) -> list[str]:
    """One line for each instruction; jumps name the instruction they lead to."""
    lines = []
    for number, (opcode, jt, jf, k) in enumerate(instructions(program)):
        following = number + 1
        if opcode == 0x20:
            text = f"load {_FIELDS.get(k, k)}"
        elif opcode == 0x06:
            text = f"return {action_text(k)}"
        elif opcode == 0x54:
            text = f"and {k:#x}"
        elif opcode == 0x05:
            text = f"goto {following + k}"
        elif opcode in _JUMPS:
            text = f"if {_JUMPS[opcode]} {k:#x} goto {following + jt} else {following + jf}"
        else:
            text = f"unknown {opcode:#x} {jt} {jf} {k:#x}"
        lines.append(f"{number:4} {text}")
    return lines
