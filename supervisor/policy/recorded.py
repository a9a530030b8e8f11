"""A call as the record of an audit log has it: nothing is believed of it that no session writes."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from errno import EFAULT
from typing import Any, Final

from supervisor.kernel.address_text import read
from supervisor.kernel.opening import pack_how
from supervisor.kernel.syscalls import ARCH_NAMES, WIDE, Kind, Param, cut, number, numbers
from supervisor.kernel.text import unprintable
from supervisor.model import Arg, Decision, Facts, Source, Verdict
from supervisor.policy.asked import Asked, asked_of, id_of, specs, whole_of
from supervisor.policy.callers import KEYS
from supervisor.policy.directory_compile import parse_redirect as parse_directory
from supervisor.policy.families import FamilySpec
from supervisor.policy.mount_values import parse_emulate, parse_type
from supervisor.policy.open_values import parse_inject
from supervisor.policy.socket_values import (
    parse_balance,
    parse_network_of,
    parse_options,
    parse_redirect,
    parse_translate,
)
from supervisor.policy.socket_write import LEAD_SETTINGS, lead_text
from supervisor.policy.values import ERRNOS, REALISE
from supervisor.policy.xattr_compile import WHO

_ARCHES: Final[Mapping[str, int]] = {name: arch for arch, name in ARCH_NAMES.items()}
_NOTHING: Final = Decision(Verdict.REFUSE, "")
# Where a rule leads calls: the key for that in a mapping of settings, and who reads those.
_LEADS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "redirect": ("to", parse_redirect),
    "translate": ("prefix", parse_translate),
    "balance": ("to", parse_balance),
}


def recorded(families: Mapping[str, FamilySpec], record: Mapping[str, Any]) -> Asked | None:
    """The call of an audit record; None for a record that is about none that a policy names.

    ValueError where the record does not have what docs/audit.md promises.
    """
    known = specs(families)
    name = record.get("syscall")
    if not isinstance(name, str) or name not in known or not isinstance(record.get("args"), dict):
        return None
    try:
        arch = _ARCHES[record["arch"]]
        spec = known[name]
        values = tuple(
            _value(record["args"][param.name], param, wide=WIDE[arch]) for param in spec.params
        )
        asked = asked_of(spec, values, arch)
        if record.get("nr") == number("socketcall", arch):  # which one it was says its name
            asked = replace(asked, snapshot=asked.snapshot._replace(nr=numbers(name, arch)[-1]))
        caller: dict[str, Any] = {
            key: whole_of(record, key) for key in ("uid", "gid") if key in record
        }
        for key, told in (("resolved", "resolved"), ("directory", "cwd")):
            if key in record:
                caller[told] = _text(record[key])
        asked = replace(asked, caller=caller, facts=_facts(record), recorded=record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of this version: {error!r}") from None
    _check(record, asked)
    asked.known(_NOTHING)  # what means nothing is said now, not when a policy asks for it
    return asked


def _text(value: Any) -> str:
    return unprintable(value).decode("utf-8", "surrogateescape")


def _value(value: Any, param: Param, *, wide: bool) -> Arg:
    kind = param.kind
    if isinstance(value, dict) and kind is Kind.HOW and "error" not in value:
        return pack_how(value["flags"], value["mode"], value["resolve"])
    if isinstance(value, dict):
        return -ERRNOS.get(value["error"], EFAULT)
    if isinstance(value, str) and kind.is_string:
        return read(value) if kind.is_address else unprintable(value)
    if value is None and kind.is_string:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no {kind.value}")
    if cut(value, kind, wide=wide) != value:
        raise ValueError(f"{param.name} is out of range: {value}")
    return value


def _facts(record: Mapping[str, Any]) -> Facts | None:
    found = record.get("facts")
    if found is None:
        return None
    resolved = record.get("resolved")
    path = None if resolved is None else unprintable(resolved)
    source = found.get("source")
    held = found.get("capabilities")
    device = source.get("device") if source else None
    return Facts(
        path,
        whole_of(found, "uid"),
        whole_of(found, "gid"),
        None
        if source is None
        else Source(
            source["kind"],
            unprintable(source["name"]),
            None if device is None else _pair(device),
        ),
        path,
        id_of(found, "host_uid"),
        id_of(found, "host_gid"),
        None if held is None else frozenset(held),
        unprintable(found["executable"]) if "executable" in found else None,
        unprintable(found["cgroup"]) if "cgroup" in found else None,
        read(found["peer"]) if "peer" in found else None,
    )


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(":")
    return int(major), int(minor)


def _check(record: Mapping[str, Any], asked: Asked) -> None:
    """ValueError where a record says what no session would."""
    for key in ("resolved", "directory"):
        parts = str(record.get(key, "/")).split("/")
        if parts[0] or "\0" in "".join(parts) or {".", ".."} & {*parts}:
            raise ValueError(f"{key} is no path that a session writes: {record[key]!r}")
    if str(record.get("nowhere", "ENOENT")) not in ERRNOS:
        raise ValueError(f"nowhere is no errno: {record['nowhere']!r}")
    if asked.facts is not None:
        _check_facts(asked.facts)
    if given := record.get("inject"):
        parse_inject(given)
    _check_callers(record.get("caller", {}))
    said = record.get("emulate", {})
    if asked.spec.family == "mount":
        parse_emulate(said)
        fstype = asked.snapshot.args[2]
        if record.get("verdict") == "emulate":
            parse_type(fstype.decode() if isinstance(fstype, bytes) else "")
    elif asked.spec.family == "mkdir":
        if redirect := redirect_of(said):
            parse_directory(redirect)
    elif not _is_settings(said):
        raise ValueError(f"no settings of emulate: {said!r}")
    elif asked.spec.family == "mknod" and not _is_device(asked):
        raise ValueError("no device")


def redirect_of(said: Mapping[str, Any]) -> str:
    """The directory that was made instead, as a policy has it; "" where it was none."""
    return _text(str(said.get("redirect", "")))


def _is_settings(said: Any) -> bool:
    if not isinstance(said, dict) or said.get("realise", "auto") not in REALISE:
        return False
    if said.get("as", "root") not in WHO:
        return False
    try:
        _check_lead(said)
    except ValueError:
        return False
    return True


def _check_lead(said: Mapping[str, Any]) -> None:
    """ValueError where no rule leads calls like that."""
    more = {key: said[key] for key in LEAD_SETTINGS if key in said}
    for word, (key, parse) in _LEADS.items():
        if word in said:
            where = said[word]
            several = isinstance(where, list)
            parse({key: [*map(lead_text, where)] if several else lead_text(where), **more})
    if "network" in said:
        parse_network_of(said["network"])
    if "set" in said:
        parse_options(said["set"])


def _check_callers(asks: Any) -> None:
    fine = isinstance(asks, dict) and all(
        key in KEYS and isinstance(some, list) and some and all(type(x) in (int, str) for x in some)
        for key, some in asks.items()
    )
    if not fine:
        raise ValueError(f"no conditions on a caller: {asks!r}")


def _check_facts(facts: Facts) -> None:
    ids = (facts.uid, facts.gid, facts.host_uid or 0, facts.host_gid or 0)
    if not all(type(one) is int for one in ids):
        raise ValueError(f"no ids: {ids!r}")
    source = facts.source
    if source is not None and source.kind not in ("device", "image", "text"):
        raise ValueError(f"no source of a mount: {source!r}")
    if source is not None and source.kind != "text" and not source.name.startswith(b"/"):
        raise ValueError(f"no source of a mount: {source!r}")


def _is_device(asked: Asked) -> bool:
    mode = asked.snapshot.args[asked.spec.index("mode") or 0]
    return isinstance(mode, int) and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode))


