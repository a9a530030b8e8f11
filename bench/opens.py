"""Opens: one that is given, against a supervisor in C that gives a device; and what others cost.

A descriptor is put into a caller's table by the caller itself: whoever gives it wakes the caller up
for that, and waits. Those are two turns more than other calls have. Where the kernel puts the two
on two processors each turn wakes an idle one up, which takes longer than all the work, now on this
side, now on that. So both sides have one processor, the same one: what is left is the work. One row
leaves the processors to the kernel.

Of what takes root, or may make who opens it wait, the floor opens that very thing as real root; tun
in the caller's network namespace, which is one of its own, and which the floor enters once.

A container's /dev is a filesystem in memory, of which nothing says that a name is not there: that
one has to be looked for each time.

An ordinary user's container is given the host's own nodes: rows on tun, and on one that is not for
everybody, are there where the host has such ones that this user can open.

This floor takes the path as it is written. A rule is about the file that a path leads to: rows
without a bound are against a floor that sees that no link of the caller's leads on from there.
"""

from __future__ import annotations

import fcntl
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from bench import peers
from bench.compare import Bench, Item, Row, quartiles

GRANTED: Final = "/granted"
_IN_MEMORY: Final = "/dev/granted"
_FILES: Final = 200
_OPENS: Final = 100_000
_LOOP_CTL_GET_FREE: Final = 0x4C82
_THINGS: Final = {
    "a device": "device: zero, access: read-only",
    "content": 'content: "0"',
    "what fits": "fits: cpus",
    "a file": "file: PLACE/given",
}


def _policy(bench: Bench, name: str, rules: Sequence[str], *options: str) -> list[str]:
    """The prefix of a caller below a policy with these rules for opens."""
    lines = "".join(f"\n    - {rule}" for rule in rules) or " []"
    file = bench.place / f"{name}.yaml"
    file.write_text(f"version: 1\nname: {name}\nsyscalls:\n  open:{lines}\n")
    return peers.seccompd(bench.command, file, *options)


def measure(bench: Bench) -> Iterator[Callable[[], list[Row]]]:
    """What can be measured here, one after the other."""
    given = bench.place / "given"
    given.write_text("0")
    plain = bench.place / "file"
    plain.mkdir(exist_ok=True)
    for number in range(_FILES):
        (plain / str(number)).write_text("")
    floor = peers.floor("open")
    for what, thing in _THINGS.items():
        if what == "a file" and not bench.root:
            continue
        inject = thing.replace("PLACE", str(bench.place))
        rule = f"{{path: {GRANTED}, do: {{inject: {{{inject}}}}}}}"
        ours = _policy(bench, f"open-{what.split()[-1]}", [rule])
        request = f"open 1000 0 1 {GRANTED}"
        one = peers.one_processor()
        both = [*one, *floor], [*one, *ours]
        yield partial(bench.compare, Item(f"open given: {what}", both, request, 2.0, expect=0))
        if what == "a device":
            rule = f"{{path: {_IN_MEMORY}, do: {{inject: {{{inject}}}}}}}"
            below = [*one, *floor], [*one, *_policy(bench, "open-dev", [rule])]
            asked = f"open 1000 0 1 {_IN_MEMORY}"
            yield partial(
                bench.compare, Item("open given: a device, in /dev", below, asked, 2.0, expect=0)
            )
            text = "  the same, on any processor"
            yield partial(bench.compare, Item(text, (floor, ours), request, None, expect=0))
            yield partial(bench.compare, _looked(both, "looked", request))
    if not bench.root:
        yield from _hosts(bench)
    rule = f"{{path: {GRANTED}, do: {{inject: {{device: zero}}}}}}"
    ours = _policy(bench, "open-others", [rule])
    item = Item(
        "open that no rule is about", (floor, ours), f"opens 2000 0 1 {plain}/", 2.0, expect=0
    )
    yield partial(bench.compare, item)
    yield partial(_build, bench, _policy(bench, "open-none", []), ours, f"{plain}/")


def _hosts(bench: Bench) -> Iterator[Callable[[], list[Row]]]:
    """What an ordinary user may open, as the host has it."""
    one = peers.one_processor()
    for what, device, floor, options in (
        ("tun", "/dev/net/tun", "open:/dev/net/tun", ()),
        ("tun, in a network", "/dev/net/tun", "tun:/dev/net/tun", ("--unshare", "net")),
        ("kvm", "/dev/kvm", "open:/dev/kvm", ()),
    ):
        if not os.access(device, os.R_OK | os.W_OK):
            continue
        inject = f"device: {device.rpartition('/')[2]}"
        rule = f"{{path: {GRANTED}, do: {{inject: {{{inject}}}}}}}"
        ours = _policy(bench, f"open-{floor.partition(':')[0]}-{inject[8:]}", [rule], *options)
        both = [*one, *peers.floor(floor)], [*one, *ours]
        request = f"openrw 1000 0 1 {GRANTED}"
        text = f"open given: the host's {what}"
        yield partial(bench.compare, Item(text, both, request, 2.0, expect=0))


def as_root(bench: Bench) -> Iterator[Callable[[], list[Row]]]:
    """The same of what takes rights, or waiting, that a session does not have: each against a
    supervisor in C, as real root, that opens that very thing."""
    file = bench.place / "roots"
    file.write_text("0")
    file.chmod(0o600)
    with open("/dev/loop-control", "rb") as control:
        loop = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    one = peers.one_processor()
    for what, inject, floor, kind, options in (
        ("a block device", f"device: 'block 7:{loop}'", f"open:/dev/loop{loop}", "open", ()),
        ("a file to write", f"file: {file}, access: read-write", f"open:{file}", "openrw", ()),
        ("tun", "device: tun", "tun:/dev/net/tun", "openrw", ("--unshare", "net")),
    ):  # fmt: skip
        rule = f"{{path: {GRANTED}, do: {{inject: {{{inject}}}}}}}"
        ours = _policy(bench, f"open-{what.split()[-1]}", [rule], *options)
        both = [*one, *peers.floor(floor)], [*one, *ours]
        request = f"{kind} 1000 0 1 {GRANTED}"
        yield partial(bench.compare, Item(f"open given: {what}", both, request, 2.0, expect=0))
        if floor.startswith("open:"):
            yield partial(
                bench.compare, _looked(both, floor.replace("open:", "looked:"), request)
            )


def _looked(both: tuple[list[str], list[str]], floor: str, request: str) -> Item:
    sides = [*peers.one_processor(), *peers.floor(floor)], both[1]
    return Item("  the same, which looks where it is", sides, request, None, expect=0)


def _build(bench: Bench, without: list[str], with_rule: list[str], path: str) -> list[Row]:
    """What as many opens as those of a large build take more, in milliseconds."""
    count = round(_OPENS * bench.scale)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(3):
        for side, prefix in enumerate((without, with_rule)):
            sample = bench.ask(prefix, f"opens {count} 0 1 {path}", 0)
            taken[side].append(_OPENS * 1e3 / sample.per_second)
    low, more, high = quartiles([b - a for a, b in zip(*taken, strict=True)])
    medians = statistics.median(taken[0]), statistics.median(taken[1])
    return [Row("100,000 opens beside a rule", *medians, "ms", more, low, high, None)]
