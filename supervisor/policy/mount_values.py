"""Single values of rules about mounts: types, sources, options, and how a mount is done.

As in values.py, each parser raises an error whose text is for the person who wrote the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor.kernel.filesystems import KNOWN, registered, slip_of
from supervisor.kernel.fuse_programs import PROGRAMS, argv
from supervisor.kernel.mounts import LOCKABLE, MS
from supervisor.policy.match import NodeRange
from supervisor.policy.mounts import OPERATIONS
from supervisor.policy.values import near, parse_glob, parse_node, wrong
from supervisor.policy.write import text_glob_of

FLAG_NAMES: Final = tuple(name for name, bits in MS.items() if not bits & OPERATIONS)
# What can be locked, and so cannot be taken away again.
FORCE_NAMES: Final = tuple(name for name in FLAG_NAMES if MS[name] & LOCKABLE)
VIAS: Final = ("kernel", "fuse")
SHIFTS: Final = ("auto", "true", "false")
SETTINGS: Final = ("via", "shift", "force", "program", "from", "devices")
# The program for a type, where a rule names none.
USUAL_PROGRAMS: Final[Mapping[str, str]] = {
    "ext2": "fuse2fs", "ext3": "fuse2fs", "ext4": "fuse2fs", "squashfs": "squashfuse",
    "ntfs": "ntfs-3g", "ntfs3": "ntfs-3g", "exfat": "exfat-fuse",
}  # fmt: skip
# Words of mount(8) for a flag that is not set: allowed as they are.
UNSET: Final = frozenset(("rw", "suid", "dev", "exec", "async", "atime", "diratime", "defaults"))
_TYPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Options:
    """The flags and the option globs that a rule allows."""

    flags: int
    globs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MountAction:
    """How `emulate` wants a mount done; what depends on the filesystem's type is still open."""

    via: str = "kernel"
    shift: str = "auto"
    force: int = MS["nodev"]
    program: str | tuple[str, ...] | None = None
    inside: bool = False


def parse_type(value: object) -> str:
    """The type of a filesystem."""
    if not isinstance(value, str) or not _TYPE.fullmatch(value):
        raise wrong(f"{value!r} is no type of a filesystem, such as ext4")
    if value not in KNOWN and (meant := slip_of(value)) and value not in registered():
        raise wrong(f"unknown filesystem {value!r}: did you mean {meant}?")
    return value


def parse_source(value: object) -> NodeRange | str:
    """Device numbers, a glob for paths, or a glob for a text."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise wrong('a source is a path glob such as "/images/*.img", or "block 7:0-7"')
    if re.match(r"(block|char)\b", value):
        nodes = parse_node(value)
        if nodes[0] != "b":
            raise wrong("a filesystem is on a block device: no character device is a source")
        return nodes
    return parse_glob(value) if value.startswith(("/", "**")) else value


def parse_options(value: object) -> Options:
    """{allow: [...]}: flags by name, and globs for options."""
    if not isinstance(value, dict) or list(value) != ["allow"]:
        raise wrong("options is a mapping with allow: options: {allow: [ro, nosuid]}")
    listed = value["allow"] if isinstance(value["allow"], list) else [value["allow"]]
    flags, globs = 0, []
    for word in listed:
        if not isinstance(word, str) or not word or "," in word:
            raise wrong(f"{word!r} is no flag and no option")
        if word in MS and word not in FLAG_NAMES:
            raise wrong(f"{word} is another call, not an option: it is the kernel's to decide")
        if word == "*":
            flags = 0xFFFFFFFF
        flags |= MS.get(word, 0)
        if word not in UNSET:
            globs.append(word)
    return Options(flags, tuple(globs))


def option_entry(option: str) -> str:
    """The entry of `allow` that stands for this very option of a data string."""
    glob = text_glob_of(option.encode("utf-8", "surrogateescape"))
    # Plainly written such a word would be a flag.
    return f"[{glob[0]}]{glob[1:]}" if glob in MS or glob in UNSET else glob


def parse_emulate(setting: Any) -> MountAction:
    """The settings of `emulate` for a mount."""
    if not isinstance(setting, dict):
        raise wrong("emulate takes settings, such as emulate: {via: fuse}")
    for key in setting:
        if key not in SETTINGS:
            raise wrong(f"unknown setting {key!r} of emulate" + near(str(key), list(SETTINGS)))
    via = _word(setting, "via", VIAS, "kernel")
    shift = setting.get("shift", "auto")
    shift = {True: "true", False: "false"}.get(shift, shift) if isinstance(shift, bool) else shift
    if shift not in SHIFTS:
        raise wrong(f"unknown shift {shift!r}" + near(str(shift), list(SHIFTS)))
    if via == "fuse" and "shift" in setting:
        raise wrong("shift is for via: kernel; a FUSE program runs as the container's root")
    if via == "kernel" and ("program" in setting or "from" in setting):
        raise wrong("program and from are for via: fuse")
    devices = setting.get("devices", False)
    if not isinstance(devices, bool):
        raise wrong("devices is true or false")
    inside = _word(setting, "from", ("host", "container"), "host") == "container"
    force = _force(setting.get("force", []), devices=devices)
    return MountAction(via, shift, force, _program(setting.get("program")), inside)


def _word(setting: Mapping[str, Any], key: str, words: Sequence[str], default: str) -> str:
    value = setting.get(key, default)
    if value not in words:
        raise wrong(f"unknown {key} {value!r}" + near(str(value), list(words)))
    return str(value)


def _force(value: object, *, devices: bool) -> int:
    bits = 0 if devices else MS["nodev"]
    for name in value if isinstance(value, list) else [value]:
        if name not in FORCE_NAMES:
            raise wrong(f"force cannot have {name!r}" + near(str(name), list(FORCE_NAMES)))
        if name == "nodev" and devices:
            raise wrong("devices: true and force: nodev are opposites")
        bits |= MS[str(name)]
    return bits


def _program(value: object) -> str | tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        if value not in PROGRAMS:
            raise wrong(f"unknown program {value!r}" + near(value, list(PROGRAMS)))
        return value
    if not isinstance(value, list) or not value or not all(isinstance(w, str) for w in value):
        raise wrong("program is a name, or a command line as a list of words")
    if not value[0].startswith("/"):
        raise wrong("a program is given by its path, from / on")
    for needed in ("{source}", "{target}"):
        if not any(needed in word for word in value):
            raise wrong(f"the program's command line has no {needed} in it")
    try:
        argv(value, [])
    except ValueError as error:
        raise wrong(str(error)) from None
    return tuple(value)


def program_for(action: MountAction, types: Sequence[str]) -> tuple[str, ...]:
    """The command line for a rule; ValueError where the rule has to name a program."""
    program = action.program
    if program is None:
        usual = {USUAL_PROGRAMS.get(name) for name in types}
        program = usual.pop() if len(usual) == 1 else None
        if program is None:
            raise ValueError(
                f"via: fuse needs a program for {', '.join(types)}: one of {', '.join(PROGRAMS)}, "
                "or a command line as a list"
            )
    return PROGRAMS[program] if isinstance(program, str) else program
