"""Bytes that a caller chose must be safe to print, and come back as they were."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.observe.text import errno_name, printable, unprintable


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"dev/null", "dev/null"),
        ("d\u00e9v".encode(), "d\u00e9v"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"a\nb", r"a\x0ab"),
        (b"\x1b[2J", r"\x1b[2J"),
        (b"\\x1b", r"\x5cx1b"),
        ("\u202egpj".encode(), r"\xe2\x80\xaegpj"),
        ("\u0085".encode(), r"\xc2\x85"),
    ],
)
def test_known_texts(data: bytes, text: str) -> None:
    assert printable(data) == text


@given(st.binary(max_size=200))
def test_comes_back_and_holds_no_control_character(data: bytes) -> None:
    text = printable(data)
    assert unprintable(text) == data
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text)
    text.encode("utf-8")  # no lone surrogates


def test_errno_names() -> None:
    assert errno_name(1) == "EPERM"
    assert errno_name(4000) == "4000"
