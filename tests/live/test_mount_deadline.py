"""`limits: {mount: ...}` of a policy, with a FUSE program that never mounts anything."""

from __future__ import annotations

from errno import ETIMEDOUT
from pathlib import Path

from supervisor.engine.limits import DEFAULT
from tests.support.people import Person
from tests.support.program import run
from tests.support.scratch import a_place

POLICY = """version: 1
limits: {mount: 1s}
syscalls:
  mount:
    - fstype: ext4
      do: {emulate: {via: fuse, program: [/bin/sh, -c, "sleep 97", "{source}", "{target}"]}}
"""
# mount(8) wants a loop device for a file.
CALL = """
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
start = time.monotonic()
libc.mount(b"image", b"m", b"ext4", 0, None)
print(ctypes.get_errno(), time.monotonic() - start)
"""

place = a_place(0o777, "/var/tmp")


def test_a_program_that_never_mounts(person: Person, place: Path) -> None:
    (place / "p.yaml").write_text(POLICY)
    image = place / "image"
    image.write_bytes(bytes(1 << 16))
    image.chmod(0o666)
    done = run(
        person, "sh", "-c", f"cd {person.given(place)}; mkdir m; python3 -c '{CALL}'",
        options=["--policy", str(place / "p.yaml")],
    )  # fmt: skip
    errno, seconds = done.stdout.split()
    assert int(errno) == ETIMEDOUT, done.stderr
    assert 1 <= float(seconds) < DEFAULT.mount / 2
