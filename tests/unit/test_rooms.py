"""The rooms of the house: imports go downward, and each library has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "supervisor"

# A room may import what stands after it.
ROOMS = (
    "__main__", "cli", "intake", "daemon", "engine", "observe", "handlers", "policy", "kernel",
    "plans", "model", "errors",
)

# Who alone may import what; a room stands for all its modules.
DOORS = {
    "supervisor._shim": {"kernel/shim.py"},
    "prctl": {"kernel/privileges.py"},
    "pyseccomp": {"kernel/bpf.py"},
    "ctypes": {"kernel/bpf.py"},
    "yaml": {"policy"},
    "pydantic": {"policy"},
    "pydantic_core": {"policy"},
    "trio": {"cli", "intake", "daemon", "engine"},
    "pickle": set(),
    "subprocess": set(),
    "threading": set(),
}

MODULES = sorted(
    str(path.relative_to(PACKAGE))
    for path in PACKAGE.rglob("*.py")
    if "policies" not in path.relative_to(PACKAGE).parts and path.name != "__init__.py"
)


def imports(module: str) -> Iterator[str]:
    """Every module that the file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.partition("/")[0].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward(module: str) -> None:
    place = ROOMS.index(room(module))
    for name in imports(module):
        parts = name.split(".")
        if parts[0] == "supervisor" and len(parts) > 1 and parts[1] in ROOMS:
            assert ROOMS.index(parts[1]) >= place, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_its_door(module: str) -> None:
    for name in imports(module):
        for library, doors in DOORS.items():
            if name == library or name.startswith(library + "."):
                assert {module, room(module)} & doors, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_a_file_is_about_one_thing(module: str) -> None:
    assert len((PACKAGE / module).read_text().splitlines()) <= 400
