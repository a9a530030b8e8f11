"""Single values of rules about mounts: types, sources, options, and how a mount is done.

As in values.py, each parser raises an error whose text is for the person who wrote the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor.kernel.filesystems import KNOWN, registered, slip_of
from supervisor.kernel.fuse_programs import PROGRAMS, argv
from supervisor.kernel.mounts import LOCKABLE, MS
from supervisor.policy.match import NodeRange
from supervisor.policy.mounts import OPERATIONS
from supervisor.policy.values import (
    Mistakes,
    near,
    parse_glob,
    parse_node,
    unknown_settings,
    wrong,
)
from supervisor.policy.write import text_glob_of

FLAG_NAMES: Final = tuple(name for name, bits in MS.items() if not bits & OPERATIONS)
# What can be locked, and so cannot be taken away again.
FORCE_NAMES: Final = tuple(name for name in FLAG_NAMES if MS[name] & LOCKABLE)
VIAS: Final = ("kernel", "fuse")
SHIFTS: Final = ("auto", "true", "false")
# The settings of `emulate`, for an editor.
HOW_MOUNTED: Final[Mapping[str, Any]] = {
    "via": {"enum": list(VIAS), "description": "a driver of the kernel, or a FUSE program"},
    "shift": {"enum": [*SHIFTS, True, False], "description": (
        "whether owners on the filesystem are shown as the container numbers them"
    )},
    "force": {"type": "array", "items": {"enum": list(FORCE_NAMES)}, "description": (
        "flags that the mount has whatever was asked for, and keeps"
    )},
    "program": {
        "anyOf": [{"enum": list(PROGRAMS)}, {"type": "array", "items": {"type": "string"}}],
        "description": "the FUSE program, by its name or as a command line",
    },
    "from": {"enum": ["host", "container"], "description": "whose file the program is"},
    "devices": {"type": "boolean", "description": (
        "whether device nodes of the filesystem open: without it the mount is nodev"
    )},
}
SETTINGS: Final = tuple(HOW_MOUNTED)
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
    """The flags and the option globs that a rule allows, None where it does not say; and the flags
    that have to be there.
    """

    flags: int | None
    globs: tuple[str, ...] | None
    required: int = 0


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
    """{allow: [...], require: [...]}: flags by name, and globs for options."""
    if not isinstance(value, dict) or not value or set(value) - {"allow", "require"}:
        raise wrong(
            "options is a mapping with allow, require, or both: options: {allow: [ro, nosuid]}"
        )
    mistakes = Mistakes()
    required = mistakes.read(_required, value.get("require", []), "require")
    if "allow" not in value:
        mistakes.end()
        return Options(None, None, required)
    many = isinstance(value["allow"], list)
    flags, globs = 0, []
    for number, word in enumerate(value["allow"] if many else [value["allow"]]):
        where = ("allow", number) if many else ("allow",)
        if not isinstance(word, str) or not word or "," in word:
            mistakes.add(f"{word!r} is no flag and no option", *where)
            continue
        if word in MS and word not in FLAG_NAMES:
            text = f"{word} is another call, not an option: it is the kernel's to decide"
            mistakes.add(text, *where)
        if word == "*":
            flags = 0xFFFFFFFF
        flags |= MS.get(word, 0)
        if word not in UNSET:
            globs.append(word)
    mistakes.end()
    return Options(flags, tuple(globs), required)


def _required(value: object) -> int:
    bits = 0
    for name in value if isinstance(value, list) else [value]:
        if name not in FLAG_NAMES:
            raise wrong(f"{name!r} is no flag that can be required" + near(str(name), FLAG_NAMES))
        bits |= MS[str(name)]
    return bits


def option_entry(option: str) -> str:
    """The entry of `allow` that stands for this very option of a data string."""
    glob = text_glob_of(option.encode("utf-8", "surrogateescape"))
    # Plainly written such a word would be a flag.
    return f"[{glob[0]}]{glob[1:]}" if glob in MS or glob in UNSET else glob


def parse_emulate(setting: Any) -> MountAction:
    """The settings of `emulate` for a mount."""
    if not isinstance(setting, dict):
        raise wrong("emulate takes settings, such as emulate: {via: fuse}")
    mistakes = unknown_settings(setting, SETTINGS)

    def read(key: str, parse: Callable[[Any], Any], default: object) -> Any:
        return mistakes.read(parse, setting.get(key, default), key)

    via = read("via", _one_of("via", VIAS), "kernel")
    shift = read("shift", _shift, "auto")
    if via == "fuse" and "shift" in setting:
        text = "shift is for via: kernel; a FUSE program runs as the container's root"
        mistakes.add(text, "shift")
    for key in ("program", "from"):
        if via == "kernel" and key in setting:
            mistakes.add("program and from are for via: fuse", key)
    devices = read("devices", _bool("devices"), default=False)
    inside = read("from", _one_of("from", ("host", "container")), "host") == "container"
    force = read("force", lambda value: _force(value, devices=bool(devices)), [])
    program = read("program", _program, None)
    mistakes.end()
    return MountAction(via, shift, force, program, inside)


def _one_of(key: str, words: Sequence[str]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in words:
            raise wrong(f"unknown {key} {value!r}" + near(str(value), words))
        return str(value)

    return parse


def _bool(key: str) -> Callable[[object], bool]:
    def parse(value: object) -> bool:
        if not isinstance(value, bool):
            raise wrong(f"{key} is true or false")
        return value

    return parse


def _shift(value: object) -> str:
    word = {True: "true", False: "false"}[value] if isinstance(value, bool) else value
    return _one_of("shift", SHIFTS)(word)


def _force(value: object, *, devices: bool) -> int:
    bits = 0 if devices else MS["nodev"]
    many = isinstance(value, list)
    mistakes = Mistakes()
    for number, name in enumerate(value if isinstance(value, list) else [value]):
        where = (number,) if many else ()
        if name not in FORCE_NAMES:
            mistakes.add(f"force cannot have {name!r}" + near(str(name), FORCE_NAMES), *where)
            continue
        if name == "nodev" and devices:
            mistakes.add("devices: true and force: nodev are opposites", *where)
        bits |= MS[str(name)]
    mistakes.end()
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
