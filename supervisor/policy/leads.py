"""Where a rule leads a call on a socket to."""

from __future__ import annotations

from supervisor.kernel.address_text import written
from supervisor.kernel.addresses import address_of, embedded, inet6, port_of, with_port
from supervisor.model import Arg, Decision, SocketSettings


def led_to(settings: object, asked: bytes) -> bytes:
    """The struct sockaddr that a call for `asked` is made with instead; b"": for that itself."""
    if not isinstance(settings, SocketSettings):
        return b""
    if settings.prefix is not None:
        address = address_of(asked, "connect")
        if address.family != "inet" or address.ip is None:
            return b""
        return inet6(embedded(*settings.prefix, address.ip), address.port or 0)
    if not settings.redirect:
        return b""
    return with_port(settings.redirect, port_of(asked))


def leads_to(decision: Decision, asked: Arg) -> str:
    """The same for a person; "" where it is led nowhere else."""
    target = led_to(decision.settings, asked) if isinstance(asked, bytes) else b""
    return written(target) if target else ""
