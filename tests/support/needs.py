"""Programs that tests need: `@pytest.mark.needs("fuse2fs")` on a test or a file, or `need` in one.

`make test` installs them. So where it could, as root, one that is not there is a failure, and
never a test that quietly does not run.
"""

from __future__ import annotations

import os
import shutil

import pytest

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def need(*programs: str) -> None:
    """Fails where one of `programs`, names or paths, is not there; for who is not root, skips."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if not missing:
        return
    text = f"not installed: {', '.join(missing)}"
    if os.geteuid() == 0:
        pytest.fail(f"{text}; `make test` installs that", pytrace=False)
    pytest.skip(text)
