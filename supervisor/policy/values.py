"""Single values of a policy: errnos, devices, globs, ids, actions.

Each parser takes what YAML had and returns what a rule holds, or raises an error whose text is for
the person who wrote it.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from pydantic_core import PydanticCustomError

from supervisor.kernel.capabilities import NUMBERS
from supervisor.model import Verdict
from supervisor.policy.devices import DeviceError, parse_device
from supervisor.policy.match import (
    GlobError,
    IdRange,
    NodeRange,
    glob_pattern,
    text_pattern,
)

ERRNOS: Mapping[str, int] = {name: value for value, name in errno.errorcode.items()} | {
    "EWOULDBLOCK": errno.EWOULDBLOCK,
    "ENOTSUP": errno.ENOTSUP,
}
REALISE = ("auto", "node", "bind", "closed")
ID_MAX = 0xFFFFFFFE
REFUSALS = frozenset({Verdict.REFUSE, Verdict.ERRNO, Verdict.KILL})
WORDS = (Verdict.EMULATE, Verdict.CONTINUE, Verdict.REFUSE, Verdict.KILL)
RETURN_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Action:
    """What `do` says."""

    verdict: Verdict
    value: int = 0
    realise: str = "auto"
    how: Any = None  # the settings of another family's `emulate`


def wrong(text: str) -> PydanticCustomError:
    """An error of a value; its text is for a person."""
    # A brace in the text would be read as a field of pydantic's template.
    return PydanticCustomError("policy", "{text}", {"text": text})


class Mistakes:
    """All that is wrong within one value: each with the keys and indexes that lead to it."""

    def __init__(self) -> None:
        self.found: list[tuple[tuple[str | int, ...], str]] = []

    def add(self, text: str, *where: str | int) -> None:
        """One more; `where` leads from the value to what is wrong in it."""
        self.found.append((where, text))

    def read(self, parse: Callable[[Any], Any], value: object, *where: str | int) -> Any:
        """What `parse` makes of a part of the value; None where something is wrong with it."""
        try:
            return parse(value)
        except PydanticCustomError as error:
            self.found += [((*where, *place), text) for place, text in mistakes_of(error.context)]
            return None

    def end(self) -> None:
        """Raises one error for all of them, if there are any."""
        if self.found:
            text = "; ".join(text for _, text in self.found)
            raise PydanticCustomError("policy", "{text}", {"text": text, "found": self.found})


def mistakes_of(context: Mapping[str, Any] | None) -> list[tuple[tuple[str | int, ...], str]]:
    """The mistakes that an error of `wrong` or of Mistakes stands for."""
    if context is None:
        return []
    return list(context.get("found", [((), str(context["text"]))]))


def slip(word: str, known: Sequence[str], likeness: float = 0.6) -> str:
    """The word of `known` that may have been meant; "" where there is none."""
    return next(iter(difflib.get_close_matches(word, known, 1, likeness)), "")


def near(word: str, known: Sequence[str]) -> str:
    """What to append to "unknown X": the word that may have been meant, or those there are."""
    meant = slip(word, known)
    return f": did you mean {meant}?" if meant else f": one of {', '.join(known[:12])}"


def parse_errno(value: object) -> int:
    """The errno (> 0) of a name such as EPERM."""
    if isinstance(value, str):
        if value in ERRNOS:
            return ERRNOS[value]
        found = difflib.get_close_matches(value.upper(), ERRNOS, 1, 0.6)
        raise wrong(f"unknown errno {value!r}" + (f": did you mean {found[0]}?" if found else ""))
    raise wrong("an errno is written by its name, such as EPERM")


def parse_node(value: object) -> NodeRange:
    """The devices of one entry of `devices`."""
    if value is None:
        raise wrong('an unquoted null is YAML for "nothing": write "null" in quotes')
    if not isinstance(value, str):
        raise wrong('a device is a name or a text such as "char 10:229"')
    try:
        return parse_device(value)
    except DeviceError as error:
        raise wrong(str(error)) from None


def parse_glob(value: object) -> str:
    """A glob over paths, as it was written."""
    if not isinstance(value, str):
        raise wrong("a path is a text, in quotes where YAML would read it as something else")
    try:
        value.encode()
        glob_pattern(value)
    except (GlobError, UnicodeEncodeError) as error:
        raise wrong(f"{value!r}: {error}") from None
    return value


def parse_text(value: object) -> str:
    """A glob over any text, as it was written."""
    if not isinstance(value, str):
        raise wrong("a text, in quotes where YAML would read it as something else")
    try:
        value.encode()
        text_pattern(value)
    except (GlobError, UnicodeEncodeError) as error:
        raise wrong(f"{value!r}: {error}") from None
    return value


def parse_ids(value: object) -> IdRange:
    """An id or a range of ids."""
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", value)):
        low, high = int(found[1]), int(found[2])
    else:
        raise wrong('an id is a number, or a range such as "1000-1999"')
    if not 0 <= low <= high <= ID_MAX:
        raise wrong(f"no such ids: from 0 to {ID_MAX}, the lower one first")
    return low, high


def parse_capability(value: object) -> str:
    """The name of a capability, as capabilities(7) has it; CAP_ and capitals are optional."""
    if not isinstance(value, str):
        raise wrong("a capability is a name, such as sys_admin")
    name = value.lower().removeprefix("cap_")
    if name not in NUMBERS:
        raise wrong(f"unknown capability {value!r}" + near(name, list(NUMBERS)))
    return name


# in milliseconds, so that what is written in decimals stays that
_UNITS: Mapping[str, int] = {"ms": 1, "s": 1000, "m": 60_000}
_SECONDS_MAX = 3600.0


def parse_seconds(value: object) -> float:
    """A time: a number of seconds, or a text such as "100ms", "2s", "1m"."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (
        found := re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m)", value)
    ):
        seconds = float(found[1]) * _UNITS[found[2]] / 1000
    elif isinstance(value, str) and (found := re.fullmatch(r"[0-9.]+ *([A-Za-z]+)", value)):
        raise wrong(f"{found[1]} is no unit of time here: write ms, s or m")
    else:
        raise wrong('a time is a number of seconds, or a text such as "100ms" or "2s"')
    if not 0.001 <= seconds <= _SECONDS_MAX:
        raise wrong(f"a time is between 1ms and {_SECONDS_MAX:.0f}s")
    return seconds


def listed(value: object) -> object:
    """A single value as a list of one."""
    return value if isinstance(value, list) else [value]


def filled(value: object) -> object:
    """The same, and no empty list: it would match nothing."""
    if value == []:
        raise wrong("an empty list matches nothing: leave the key out for any")
    return listed(value)


def action_parser(
    allowed: frozenset[Verdict], emulate: Callable[[Any], Any] | None = None,
    leads: Mapping[str, Callable[[Any], Any]] | None = None,
) -> Callable[[object], Action]:
    """A parser of `do` for a family that has the `allowed` verdicts; `emulate` parses the settings
    of that word where they are not those of device nodes, or those of `inject`; `leads` has, by
    their names, the other ways to carry a call out, with who parses their settings.
    """
    keys = [
        verdict.value
        for verdict in (Verdict.ERRNO, Verdict.RETURN, Verdict.EMULATE, Verdict.INJECT)
        if verdict in allowed
    ]
    keys += leads or ()
    words = [word.value for word in WORDS if word in allowed]
    every = list(dict.fromkeys([*words, *keys]))
    readers: dict[Any, Callable[[Any], Action]] = {
        "errno": lambda setting: Action(Verdict.ERRNO, parse_errno(setting)),
        "return": _return,
        "emulate": _emulate,
    }
    if emulate is not None:
        readers["emulate"] = lambda setting: Action(Verdict.EMULATE, how=emulate(setting))
        readers["inject"] = lambda setting: Action(Verdict.INJECT, how=emulate(setting))
    for name, read_lead in (leads or {}).items():
        readers[name] = partial(_led, read_lead)

    def parse(value: object) -> Action:
        if isinstance(value, str):
            if value not in words:
                raise wrong(f"unknown action {value!r}" + near(value, every))
            verdict = Verdict(value)
            if verdict is Verdict.EMULATE and emulate is not None:
                return Action(verdict, how=emulate({}))
            return Action(verdict)
        if not isinstance(value, dict) or len(value) != 1:
            raise wrong(
                f"an action is one of {', '.join(words)}, or a mapping with one of "
                f"{', '.join(keys)}"
            )
        ((key, setting),) = value.items()
        mistakes = Mistakes()
        read = readers.get(key)
        if read is None or key not in keys:
            raise wrong(f"unknown action {key!r}" + near(str(key), every))
        action = mistakes.read(read, setting, key)
        mistakes.end()
        return cast("Action", action)

    return parse


def _led(read: Callable[[Any], Any], setting: object) -> Action:
    return Action(Verdict.EMULATE, how=read(setting))


def _return(setting: object) -> Action:
    if not isinstance(setting, int) or isinstance(setting, bool):
        raise wrong("return takes a number")
    if not 0 <= setting <= RETURN_MAX:
        raise wrong(f"return takes 0 to {RETURN_MAX}; errnos are written errno: NAME")
    return Action(Verdict.RETURN, setting)


def short_text(value: object, what: str, most: int) -> str:
    """A text of `most` bytes at most; `what` that is, for a person."""
    if not isinstance(value, str):
        raise wrong(f"{what} is a text, in quotes where YAML would read it as something else")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise wrong(f"{what}: {error}") from None
    if size > most:
        raise wrong(f"{what} has at most {most} bytes")
    return value


def unknown_settings(setting: Mapping[Any, object], known: Sequence[str]) -> Mistakes:
    """The keys of `emulate` that mean nothing."""
    mistakes = Mistakes()
    for key in setting:
        if key not in known:
            mistakes.add(f"unknown setting {key!r} of emulate" + near(str(key), known), str(key))
    return mistakes


def _emulate(setting: object) -> Action:
    if not isinstance(setting, dict):
        raise wrong("emulate takes settings, such as emulate: {realise: bind}")
    mistakes = unknown_settings(setting, ["realise"])
    realise = setting.get("realise", "auto")
    if realise not in REALISE:
        mistakes.add(f"unknown realise {realise!r}" + near(str(realise), list(REALISE)), "realise")
    mistakes.end()
    return Action(Verdict.EMULATE, realise=str(realise))
