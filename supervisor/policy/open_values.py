"""Values of the rules of opens: what is given, and ways of opening."""

from __future__ import annotations

from typing import Any, Final

from supervisor.kernel.opening import ACCESS_WORDS, pack_how
from supervisor.kernel.strace_read import read_argument, sum_of
from supervisor.kernel.syscalls import Kind
from supervisor.model import Arg, Inject
from supervisor.policy.values import near, parse_node, short_text, wrong

_WORDS: Final = tuple(ACCESS_WORDS.values())
# What a grant may be for.
GRANTS: Final = ("read-only", "read-write")
_THINGS: Final = ("device", "file", "directory", "content", "loops", "fits")
# See engine/fitted.py.
FITTED: Final = ("cpuinfo", "meminfo", "cpus")
# As many as one rule can give; and as many as the kernel has numbers for.
LOOPS_MAX: Final = 64
_LAST_LOOP: Final = (1 << 20) - 1
CONTENT_MAX: Final = 1 << 18
_PATH_MAX: Final = 4096


def parse_access(value: object) -> str:
    """A way of opening."""
    if value not in _WORDS:
        raise wrong(f"unknown access {value!r}" + near(str(value), list(_WORDS)))
    return str(value)


def parse_inject(setting: object) -> Inject:
    """What `inject` gives: one thing, and of some the access that goes with it."""
    if not isinstance(setting, dict):
        raise wrong('inject takes what is given, such as inject: {device: "char 10:229"}')
    for key in setting:
        if key not in (*_THINGS, "access"):
            raise wrong(f"unknown setting {key!r} of inject" + near(str(key), [*_THINGS, "access"]))
    things = [key for key in _THINGS if key in setting]
    if len(things) != 1:
        raise wrong(f"inject gives one thing: {', '.join(_THINGS)}")
    thing = things[0]
    if thing == "loops":
        if "access" in setting:
            raise wrong("loops take no access: it is that of the image")
        return Inject(loops=_loops(setting["loops"]), writes=True)
    access = setting.get("access", "read-write" if thing == "device" else "read-only")
    if access not in GRANTS:
        raise wrong(f"unknown access {access!r}" + near(str(access), list(GRANTS)))
    writes = access == "read-write"
    if thing == "device":
        return Inject(device=_device(setting["device"]), writes=writes)
    if thing == "file":
        return Inject(file=_path(thing, setting["file"]), writes=writes)
    if thing == "directory":
        return Inject(directory=_path(thing, setting["directory"]), writes=writes)
    if writes:
        raise wrong(f"{thing} is read-only: what is written there would be nowhere")
    if thing == "fits":
        if (which := setting["fits"]) not in FITTED:
            raise wrong(f"unknown file {which!r}" + near(str(which), list(FITTED)))
        return Inject(fits=which)
    return Inject(content=short_text(setting["content"], "content", CONTENT_MAX))


def _device(value: object) -> tuple[str, int, int]:
    kind, major, last_major, minor, last_minor = parse_node(value)
    if (major, minor) != (last_major, last_minor):
        raise wrong("inject gives one device, not a range of them")
    return kind, major, minor


def _path(thing: str, value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise wrong(f"a {thing} is an absolute path of the host's")
    if len(value.encode("utf-8", "surrogateescape")) >= _PATH_MAX:
        raise wrong("no path is as long as that")
    return value


def _loops(value: Any) -> tuple[int, int]:
    """The first and the last number."""
    first, dash, last = str(value).partition("-")
    if isinstance(value, bool) or not _is_number(first) or not _is_number(last if dash else first):
        raise wrong('loops are numbers of loop devices, such as "64-71"')
    low, high = int(first), int(last if dash else first)
    if not low <= high < low + LOOPS_MAX or high > _LAST_LOOP:
        raise wrong(f"loops are at most {LOOPS_MAX} numbers, of no more than {_LAST_LOOP}")
    return low, high


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 7


def parse_how(value: object) -> Arg:
    """A struct open_how, as strace writes it, or by the names of its members."""
    if isinstance(value, dict):
        fields = {
            name: one if isinstance(one, int) else sum_of(str(one)) for name, one in value.items()
        }
        if not fields.keys() <= {"flags", "mode", "resolve"}:
            raise ValueError("how has flags, mode and resolve")
        return pack_how(**fields)
    return pack_how() if value is None else read_argument(str(value), Kind.HOW)
