"""What an address can mean: from ip(7), ipv6(7), unix(7), and the kernel's checks."""

from __future__ import annotations

import struct
from errno import EAFNOSUPPORT, EINVAL

import pytest

from supervisor.kernel.address_text import as_strace, from_strace, read, written
from supervisor.kernel.addresses import AddressError, address_of
from supervisor.kernel.strace import argument
from supervisor.kernel.strace_read import read_argument, split_call
from supervisor.kernel.syscalls import Kind

LOOPBACK = 0x7F000001


def inet(ip: bytes, port: int = 80, family: int = 2) -> bytes:
    return struct.pack("=H", family) + struct.pack("!H4s8x", port, ip)


def inet6(ip: bytes, port: int = 80, family: int = 10) -> bytes:
    return struct.pack("=H", family) + struct.pack("!HI16s", port, 7, ip) + struct.pack("=I", 3)


MAPPED = bytes(10) + b"\xff\xff"


@pytest.mark.parametrize("operation", ["connect", "send", "bind"])
def test_an_ipv4_address(operation: str) -> None:
    found = address_of(inet(bytes((10, 1, 2, 3))), operation)
    assert (found.family, found.ip, found.port) == ("inet", 0x0A010203, 80)
    assert found.raw == inet(bytes((10, 1, 2, 3)))


def test_a_mapped_address_is_the_ipv4_address_that_it_means() -> None:
    found = address_of(inet6(MAPPED + bytes((10, 1, 2, 3))), "connect")
    assert (found.family, found.ip, found.port) == ("inet", 0x0A010203, 80)
    assert found.raw == inet6(MAPPED + bytes((10, 1, 2, 3)))


@pytest.mark.parametrize("before", [bytes(12), bytes(8) + b"\xff\xff" + bytes(2)])
def test_other_addresses_with_an_ipv4_address_in_them_are_none(before: bytes) -> None:
    """RFC 4291, 2.5.5.1, and RFC 2765: to the kernel they are IPv6 addresses like any other."""
    found = address_of(inet6(before + bytes((10, 1, 2, 3))), "connect")
    assert (found.family, found.raw) == ("inet6", inet6(before + bytes((10, 1, 2, 3))))


@pytest.mark.parametrize("operation", ["connect", "send"])
def test_nowhere_is_the_loopback(operation: str) -> None:
    """ip(7): the kernel takes INADDR_ANY for the local host; what is decided on is what is used."""
    found = address_of(inet(bytes(4)), operation)
    assert (found.ip, found.raw) == (LOOPBACK, inet(bytes((127, 0, 0, 1))))
    six = address_of(inet6(bytes(16)), operation)
    assert (six.ip, six.raw) == (1, inet6(bytes(15) + b"\1"))
    mapped = address_of(inet6(MAPPED + bytes(4)), operation)
    assert (mapped.family, mapped.ip) == ("inet", LOOPBACK)
    assert mapped.raw == inet6(MAPPED + bytes((127, 0, 0, 1)))


def test_of_bind_it_is_every_address() -> None:
    assert address_of(inet(bytes(4)), "bind").ip == 0
    assert address_of(inet6(bytes(16)), "bind").ip == 0


def test_no_family_at_all() -> None:
    assert address_of(bytes(16), "connect").family == "unspec"
    sent = address_of(inet(bytes((10, 0, 0, 1)), family=0), "send")
    assert (sent.family, sent.ip, sent.unspecified) == ("inet", 0x0A000001, True)
    assert sent.raw == inet(bytes((10, 0, 0, 1)))
    assert address_of(bytes(16), "bind").family == "inet"
    with pytest.raises(AddressError) as caught:
        address_of(inet(bytes((10, 0, 0, 1)), family=0), "bind")
    assert caught.value.errno == EAFNOSUPPORT


def test_unix_addresses() -> None:
    found = address_of(b"\1\0/run/a\0garbage", "connect")
    assert (found.path, found.name, found.raw) == (b"/run/a", None, b"\1\0/run/a\0")
    found = address_of(b"\1\0\0name\0with\0zeros", "connect")
    assert (found.path, found.name) == (None, b"name\0with\0zeros")
    longest = b"\1\0" + b"x" * 108
    assert address_of(longest, "bind").raw == longest
    assert address_of(b"\1\0", "bind").raw == b"\1\0"


@pytest.mark.parametrize(
    ("data", "errno"),
    [
        (b"", EINVAL), (b"\2", EINVAL), (inet(bytes(4))[:15], EINVAL),
        (inet6(bytes(16))[:23], EINVAL),
        (b"\1\0", EINVAL), (b"\1\0" + b"x" * 109, EINVAL), (b"\x10\0" + bytes(9), EINVAL),
        (b"\x28\0" + bytes(14), EAFNOSUPPORT), (b"\x11\0" + bytes(18), EAFNOSUPPORT),
    ],
)  # fmt: skip
def test_what_is_no_address(data: bytes, errno: int) -> None:
    with pytest.raises(AddressError) as caught:
        address_of(data, "connect")
    assert caught.value.errno == errno


EVERY = [
    (inet(bytes((10, 1, 2, 3))), "10.1.2.3:80"),
    (inet6(bytes(15) + b"\1")[:4] + bytes(4) + bytes(15) + b"\1" + bytes(4), "[::1]:80"),
    (b"\1\0/run/a b\0", "/run/a b"),
    (b"\1\0run\0", "unix:run"),
    (b"\1\0\0na\x1bme", "@na\\x1bme"),
    (b"\x10\0\0\0" + struct.pack("=II", 5, 1), "netlink:5:1"),
    (b"\x28\0ab", "0x28006162"),
]


@pytest.mark.parametrize(("data", "text"), EVERY)
def test_as_people_write_it(data: bytes, text: str) -> None:
    assert written(data) == text
    assert read(text) == data


@pytest.mark.parametrize("data", [data for data, _ in EVERY])
def test_as_strace_writes_it(data: bytes) -> None:
    assert from_strace(as_strace(data)) == data
    for kind in (Kind.ADDRESS, Kind.MESSAGE, Kind.MESSAGES):
        assert read_argument(argument(data, kind), kind) == data


def test_a_line_of_strace() -> None:
    """Written by strace 6.1."""
    name, words = split_call(
        'connect(3, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), '
        'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = 0'
    )
    assert (name, words[0], words[2]) == ("connect", "3", "28")
    address = read_argument(words[1], Kind.ADDRESS)
    assert isinstance(address, bytes)
    assert written(address) == "[2001:db8::1]:443"
    _, words = split_call(
        'sendmsg(4, {msg_name={sa_family=AF_INET, sin_port=htons(53), '
        'sin_addr=inet_addr("8.8.8.8")}, msg_namelen=16, msg_iov=[{iov_base="x", iov_len=1}], '
        "msg_iovlen=1, msg_controllen=0, msg_flags=0}, 0) = 1"
    )
    address = read_argument(words[1], Kind.MESSAGE)
    assert isinstance(address, bytes)
    assert written(address) == "8.8.8.8:53"
