"""Builds the C shim as one abi3 module, supervisor._shim, from csrc/*.c and shim.h's headers.

Run as a program it builds the module in place; setuptools takes `ffibuilder` from here.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"


def headers() -> list[Path]:
    """The headers that shim.h is made of, in its order."""
    text = (CSRC / "shim.h").read_text()
    return [CSRC / name for name in re.findall(r'^#include "(\w+\.h)"$', text, re.M)]


def declarations() -> str:
    """The plain part of those."""
    parts = []
    for header in headers():
        found = re.search(r"/\* cdef begin \*/(.*)/\* cdef end \*/", header.read_text(), re.S)
        if found is None:
            raise SystemExit(f"{header} has lost its cdef markers")
        parts.append(found.group(1))
    return "".join(parts)


def sources() -> list[str]:
    """Every C file of the shim, relative to the project (setuptools insists on that)."""
    return [os.path.relpath(path, ROOT) for path in sorted(CSRC.glob("*.c"))]


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "supervisor._shim",
    '#include "shim.h"',
    sources=sources(),
    include_dirs=["csrc"],
    depends=["csrc/compat.h", "csrc/shim.h", *(os.path.relpath(one, ROOT) for one in headers())],
    py_limited_api=True,
    define_macros=[("Py_LIMITED_API", "0x030b0000"), ("_GNU_SOURCE", "1")],
    # cffi's own output has unused parameters; the shim's files are held to more by `make lint`.
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"]
    + shlex.split(os.environ.get("SHIM_CFLAGS", "")),
    extra_link_args=shlex.split(os.environ.get("SHIM_LDFLAGS", "")),
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffibuilder.compile(tmpdir=".", verbose="-v" in sys.argv)
