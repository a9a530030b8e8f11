"""Where a rule leads a call to: another address, another directory."""

from __future__ import annotations

from supervisor.kernel.address_text import written
from supervisor.kernel.addresses import address_of, embedded, inet6, port_of, with_port
from supervisor.kernel.text import printable
from supervisor.model import Arg, Balance, Decision, DirectorySettings, SocketSettings


def backends(balance: Balance, asked: bytes) -> tuple[bytes, ...]:
    """The struct sockaddr of each backend for a call that asks for `asked`."""
    port = port_of(asked)
    return tuple(with_port(backend, port) for backend in balance.to)


def led_to(settings: object, asked: bytes) -> bytes:
    """The struct sockaddr that a call for `asked` is made with instead; b"": for that itself. Of
    several backends the first."""
    if not isinstance(settings, SocketSettings):
        return b""
    if settings.balance is not None:
        return backends(settings.balance, asked)[0]
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
    settings = decision.settings
    if isinstance(settings, DirectorySettings):
        return printable(settings.redirect)
    if not isinstance(asked, bytes):
        return ""
    if isinstance(settings, SocketSettings) and settings.balance is not None:
        several = backends(settings.balance, asked)
        return f"one of {', '.join(map(written, several))} ({settings.balance.by})"
    target = led_to(settings, asked)
    return written(target) if target else ""
