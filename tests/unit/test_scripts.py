"""No shell script of a test or an example has a "! COMMAND" that a shell thinks nothing of.

sh -e does not end where a negation fails: only as the last command, or with && or || behind it, it
says something. Elsewhere tests have `no` (tests/support/shell.py).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
# A negation where a command begins, whose pipeline ends before the script does.
VOID = re.compile(
    r"(?:^|[;\n{]|\b(?:do|then|else))\s*(! (?:[^;\n&|]|>&|\|(?!\|))*(?:;|\n\s*\S))", re.MULTILINE
)


def texts(tree: ast.AST) -> list[str]:
    """Each string; what an f-string has in braces is "x"."""
    found: list[str] = []
    parts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts.update(map(id, node.values))
            found.append("".join(
                str(one.value) if isinstance(one, ast.Constant) else "x" for one in node.values
            ))  # fmt: skip
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            found.append(str(node.value))
    return found


def void(text: str) -> list[str]:
    return [found.group(1) for found in VOID.finditer(text)]


@pytest.mark.parametrize("script", [
    "touch x; ! test -e x; rm x", "touch x\n  ! test -e x\n  rm x", "! cat x 2>&1; rm x",
    "! ls | grep x; rm x", "for n in a; do ! test -e x; done", "f() { ! test -e x; }",
])  # fmt: skip
def test_what_is_void(script: str) -> None:
    assert len(void(script)) == 1


@pytest.mark.parametrize("script", [
    "touch x; ! test -e x", "touch x\n! test -e x\n", "! test -e x && rm x",
    "! test x || exit 9; :", "while ! test -e x; do sleep 1; done", "test ! -e x; rm x",
    "sh -c '! test -e x'; rm x",
])  # fmt: skip
def test_what_is_not(script: str) -> None:
    assert void(script) == []


@pytest.mark.parametrize("folder", ["tests", "examples"])
def test_nothing_is_void(folder: str) -> None:
    files = [file for file in sorted((TOP / folder).rglob("*.py")) if file != Path(__file__)]
    assert len(files) > 5
    found = {
        str(file.relative_to(TOP)): lines for file in files
        if (lines := [one for text in texts(ast.parse(file.read_text())) for one in void(text)])
    }  # fmt: skip
    assert found == {}
