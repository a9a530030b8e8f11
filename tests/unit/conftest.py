"""What every unit test may ask for."""

from __future__ import annotations

import pytest

from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    """One that stands still."""
    return Clock()
