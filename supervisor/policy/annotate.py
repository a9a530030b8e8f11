"""A filter, disassembled, with what its tests are about: calls by name, devices, lines of rules."""

from __future__ import annotations

from typing import Final, NamedTuple

from supervisor.kernel.bpf import instructions
from supervisor.kernel.constants import CONSTANTS
from supervisor.kernel.device_numbers import split_device
from supervisor.kernel.simulate import FIELDS, disassemble
from supervisor.kernel.syscalls import CallSpec, Kind, arch_name, names, number
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.cubes import FILE_TYPES, S_IFMT
from supervisor.policy.devices import device_text
from supervisor.policy.doors import DOORS, TOLD_BY
from supervisor.policy.rules import RuleSet

_LOAD: Final = 0x20
_AND: Final = 0x54
_JUMP: Final = 0x05
_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_WHOLE: Final = 0xFFFFFFFF
_MAJOR: Final = 0xFFF00
_KINDS: Final = {value: kind for kind, value in FILE_TYPES.items()}
_WIDTH: Final = 44
_SHOWN: Final = 3


class _State(NamedTuple):
    """What is known where an instruction runs: whose call it is, and what the accumulator holds."""

    arch: int | None = None
    nr: int | None = None
    kind: str = ""
    field: str = ""
    mask: int = _WHOLE


def annotated(policy: CompiledPolicy) -> list[str]:
    """One line for each instruction of a policy's filter."""
    code = instructions(policy.filter)
    states: list[set[_State]] = [set() for _ in range(len(code) + 1)]
    states[0] = {_State()}
    out = []
    for position, line in enumerate(disassemble(policy.filter)):
        opcode, jt, jf, k = code[position]
        said: dict[str, None] = {}
        after = position + 1
        for state in sorted(states[position], key=repr):
            if opcode == _LOAD:
                states[after].add(state._replace(field=FIELDS.get(k, ""), mask=_WHOLE))
            elif opcode == _AND:
                states[after].add(state._replace(mask=state.mask & k))
            elif opcode == _JUMP:
                states[after + k].add(state)
            elif opcode != _RETURN:
                if opcode == _EQUAL and (text := _meaning(policy, state, k)):
                    said[text] = None
                states[after + jt].add(_known(state, k) if opcode == _EQUAL else state)
                states[after + jf].add(state)
        out.append(f"{line:<{_WIDTH}}; {', '.join(said)}" if said else line)
    return out


def _known(state: _State, value: int) -> _State:
    """What is known as well where the test of a field for `value` holds."""
    if state.field == "arch":
        return state._replace(arch=value)
    if state.field == "nr":
        return state._replace(nr=value)
    if state.mask == S_IFMT and value in _KINDS:
        return state._replace(kind=_KINDS[value])
    return state


def _meaning(policy: CompiledPolicy, state: _State, value: int) -> str:
    if state.field == "arch":
        return arch_name(value)
    if state.arch is None:
        return ""
    if state.field == "nr":
        return _name(state.arch, value)
    spec = _spec(policy, state)
    at = int(state.field[5]) if state.field.endswith(".low") else len(spec.params) if spec else 0
    if spec is None or at >= len(spec.params):
        return ""
    param = spec.params[at]
    what = f"{spec.name}: {param.name}"
    if param.kind is Kind.MODE and state.mask == S_IFMT and value in _KINDS:
        return f"{what} {'char' if _KINDS[value] == 'c' else 'block'}"
    if param.kind is Kind.DEV:
        return f"{what}{_device(policy, spec, state, value)}"
    constant = next((name for name in TOLD_BY if CONSTANTS[name] == value), "")
    return f"{what} {constant}" if constant and spec.name in DOORS else what


def _name(arch: int, nr: int) -> str:
    try:
        return next((name for name in names() if number(name, arch) == nr), "")
    except KeyError:  # an architecture that is not in the table
        return ""


def _spec(policy: CompiledPolicy, state: _State) -> CallSpec | None:
    if state.arch is None or state.nr is None:
        return None
    door = DOORS.get(_name(state.arch, state.nr))
    return policy.calls.get((state.arch, state.nr)) or (None if door is None else door.spec)


def _device(policy: CompiledPolicy, spec: CallSpec, state: _State, value: int) -> str:
    """The device, and the lines of the first rules that are about it."""
    major, minor = split_device(value)
    if state.mask != _WHOLE:
        return f" of major {major}" if state.mask & _MAJOR == _MAJOR else ""
    if not state.kind:
        return f" {major}:{minor}"
    rules = policy.families.get(spec.family)
    places: list[str] = []
    if isinstance(rules, RuleSet):
        met = rules.meeting((state.kind, major, minor))
        places = [rules.rules[number].place for number in met[:_SHOWN]]
    text = device_text((state.kind, major, major, minor, minor))
    return f" {text}" + (f" ({', '.join(places)})" if places else "")
