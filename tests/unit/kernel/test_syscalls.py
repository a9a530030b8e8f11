"""The table of system calls against libseccomp and the system's headers."""

from __future__ import annotations

import re
from pathlib import Path

import pyseccomp
import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel.syscalls import AARCH64, I386, X86_64, Kind, arch_name, cut, names, number

# Numbers of libseccomp's own are left out: those of calls that can come by way of socketcall, too;
# and calls that are newer than it.
KNOWN = [
    (arch, name)
    for arch in (X86_64, I386, AARCH64)
    for name in names()
    if pyseccomp.resolve_syscall(arch, name) > -100
    and (pyseccomp.resolve_syscall(arch, name) != -1 or number(name, arch) is None)
]


@pytest.mark.parametrize(("arch", "name"), KNOWN)
def test_numbers_are_those_of_libseccomp(arch: int, name: str) -> None:
    found = pyseccomp.resolve_syscall(arch, name)
    assert (number(name, arch) if number(name, arch) is not None else -1) == max(found, -1)


@pytest.mark.parametrize(("arch", "file"), [(X86_64, "unistd_64.h"), (I386, "unistd_32.h")])
def test_numbers_are_those_of_the_headers(arch: int, file: str) -> None:
    header = next(
        (
            path / file
            for path in map(Path, ("/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm"))
            if (path / file).exists()
        ),
        None,
    )
    if header is None:
        pytest.skip("no kernel headers here")
    defined = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text()))
    for name in names():
        if name in defined:
            assert number(name, arch) == int(defined[name])


def test_every_call_of_a_family_is_in_the_table() -> None:
    for family in FAMILIES.values():
        for spec in family.calls:
            assert spec.name in names()
            assert spec.family == family.name
            assert len(spec.params) <= 6


def test_arguments_are_cut_to_their_type() -> None:
    assert cut(0xDEADBEEFFFFFFF9C, Kind.FD) == -100
    assert cut(0xFFFFFFFF00000103, Kind.DEV) == 0x103
    assert cut(0x1FFFF, Kind.MODE) == 0xFFFF
    assert cut(1 << 40, Kind.POINTER) == 1 << 40
    assert cut(1 << 40 | 5, Kind.POINTER, wide=False) == 5


def test_an_unknown_architecture_has_a_name_too() -> None:
    assert (arch_name(X86_64), arch_name(5)) == ("x86_64", "0x5")
