"""How a rule has its calls carried out, in the words of a policy: as records have it."""

from __future__ import annotations

from socket import AF_INET6, inet_ntop
from typing import Any

from supervisor.kernel.address_text import written
from supervisor.kernel.mounts import MS, names_of
from supervisor.kernel.text import printable
from supervisor.model import (
    Decision,
    DirectorySettings,
    Inject,
    OptionSettings,
    Settings,
    SocketSettings,
    XattrSettings,
)


def settings_of(decision: Decision) -> dict[str, Any]:
    """How a rule has its calls carried out, by the keys of `emulate` in a policy, those that are as
    they are where nothing is said left out."""
    how = decision.settings
    if isinstance(how, Settings):
        return {} if how == Settings() else {"realise": how.realise}
    if isinstance(how, SocketSettings):
        return _led(how)
    if isinstance(how, Inject):
        return _given(how)
    if isinstance(how, DirectorySettings):
        return {"redirect": printable(how.redirect)} if how.redirect else {}
    if isinstance(how, OptionSettings):
        return {} if how.value is None else {"value": how.value}
    if isinstance(how, XattrSettings):
        return {"as": "root"} if how.root else {}
    forced = how.force & ~MS["nodev"]
    said = {
        "via": how.via,
        "program": list(how.program),
        "from": "container" if how.inside else "",
        "shift": "" if how.shift == "auto" else how.shift,
        "force": names_of(forced) if forced else [],
        "devices": not how.force & MS["nodev"],
    }
    return {key: value for key, value in said.items() if value}


def _led(how: SocketSettings) -> dict[str, Any]:
    """Where a rule leads calls, by its own words."""
    found: dict[str, Any] = {}
    if how.prefix is not None:
        prefix, bits = how.prefix
        found["translate"] = f"{inet_ntop(AF_INET6, prefix)}/{bits}"
    elif how.balance is not None:
        several = how.balance
        found["balance"] = [written(one) for one in several.to]
        found |= {"by": several.by, "rest": several.rest, "wait": several.wait}
    elif how.redirect:
        found["redirect"] = written(how.redirect)
    if how.peername:
        found["peername"] = "asked"
    if how.options:
        found["set"] = dict(how.options)
    return found | {"network": "host"} if how.host else found


def _given(what: Inject) -> dict[str, Any]:
    """What a rule gives, by the keys of `inject`; not the content, which may be long."""
    if what.content is not None:
        return {}
    thing, _, which = what.text().partition(" ")
    if what.loops is not None or what.fits is not None:
        return {thing: which}
    return {thing: which, "access": "read-write" if what.writes else "read-only"}
