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
FIELDS = {0: "nr", 4: "arch", 8: "ip.low", 12: "ip.high"} | {
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
    # The numbers of the instructions, in the order in which they ran; the last one returned.
    way: tuple[int, ...]


def run(program: bytes, nr: int, arch: int, args: Sequence[int] = ()) -> Run:
    """Runs the filter for one call. Raises ValueError for code that it does not know."""
    registers = [*(value & (1 << 64) - 1 for value in args), *(0,) * (6 - len(args))]
    data = struct.pack("=IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *registers)
    code = instructions(program)
    accumulator = position = 0
    way: list[int] = []
    looked = False
    while True:
        opcode, jt, jf, k = code[position]
        way.append(position)
        position += 1
        match opcode:
            case 0x20:
                if k not in FIELDS:
                    raise ValueError(f"a load at {k}")
                looked = looked or k >= _ARGS_AT
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x06:
                return Run(k, len(way), looked, tuple(way))
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


def longest(program: bytes, nr: int, arch: int) -> int:
    """The most instructions that a call can take, whatever its arguments are.

    Follows both ways of every test but those of the number and the architecture.
    """
    code = instructions(program)
    most = [0] * (len(code) + 1)
    # What is in the accumulator is known from the last load: jumps lead forward alone.
    known: dict[int, set[int | None]] = {0: {None}}
    reached: dict[int, int] = {0: 0}
    for position, (opcode, jt, jf, k) in enumerate(code):
        if position not in reached:
            continue
        steps = reached[position] + 1
        most[position] = steps
        for value in known.get(position, {None}):
            for following, left in _following(position, (opcode, jt, jf, k), value, nr, arch):
                known.setdefault(following, set()).add(left)
                reached[following] = max(reached.get(following, 0), steps)
    return max(most)


def _following(
    position: int, instruction: tuple[int, int, int, int], value: int | None, nr: int, arch: int
) -> list[tuple[int, int | None]]:
    """Where an instruction may lead, and what is then in the accumulator, where that is known."""
    opcode, jt, jf, k = instruction
    after = position + 1
    if opcode == 0x20:
        return [(after, {0: nr, 4: arch}.get(k))]
    if opcode == 0x06:
        return []
    if opcode == 0x05:
        return [(after + k, value)]
    if opcode == 0x54:
        return [(after, None if value is None else value & k)]
    if value is None:
        return [(after + jt, None), (after + jf, None)]
    holds = {0x15: value == k, 0x25: value > k, 0x35: value >= k, 0x45: bool(value & k)}[opcode]
    return [(after + (jt if holds else jf), value)]


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
            text = f"load {FIELDS.get(k, k)}"
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
