"""Fills the /dev of a root file system and packs it, as builders of images do.

    python examples/pack-rootfs.py [ARCHIVE.tar]

A container has no right to make device nodes; under the shipped policy `build` it gets those that
root file systems have. The harmless ones open; the host's console, memory, disks and terminals are
there to be packed, and (where root runs this) nobody can open them. The archive goes to
ARCHIVE.tar, or nowhere; what is in it is listed.

For an ordinary user a node is the host's own, with the owner and mode that it has there, and one
that the host has not is refused.
"""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
CHAR, BLOCK = stat.S_IFCHR, stat.S_IFBLK
# name: type, major, minor, permissions, as MAKEDEV has them
NODES = {
    "null": (CHAR, 1, 3, 0o666), "zero": (CHAR, 1, 5, 0o666), "full": (CHAR, 1, 7, 0o666),
    "random": (CHAR, 1, 8, 0o666), "urandom": (CHAR, 1, 9, 0o666), "tty": (CHAR, 5, 0, 0o666),
    "ptmx": (CHAR, 5, 2, 0o666), "console": (CHAR, 5, 1, 0o600), "mem": (CHAR, 1, 1, 0o640),
    "tty1": (CHAR, 4, 1, 0o600), "ram0": (BLOCK, 1, 0, 0o660), "loop0": (BLOCK, 7, 0, 0o660),
}  # fmt: skip
OPEN = ("null", "zero", "full", "random", "urandom")


def inside() -> None:
    """What runs in the container, as its root: a tar archive of a new /dev, on stdout."""
    with tempfile.TemporaryDirectory() as place:
        dev = Path(place, "dev")
        dev.mkdir()
        for name, (kind, major, minor, mode) in NODES.items():
            try:
                os.mknod(dev / name, kind | mode, os.makedev(major, minor))
            except PermissionError:
                print(f"left out: {name}, which this machine has not", file=sys.stderr)
                continue
            os.chmod(dev / name, mode)
            os.chown(dev / name, 0, 0)
        for name in OPEN:
            os.close(os.open(dev / name, os.O_RDWR))
        for name in ("console", "mem", "tty1", "ram0", "loop0"):
            try:
                os.close(os.open(dev / name, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
            except OSError:
                continue
            print(f"open: {name}", file=sys.stderr)
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
            archive.add(dev, "dev")


def wrong(archive: bytes) -> list[str]:
    """Lists what is in the archive; what in it is not as it should be."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        nodes = [member for member in opened.getmembers() if not member.isdir()]
    for node in nodes:
        letter = "c" if node.ischr() else "b" if node.isblk() else "-"
        print(f"{letter}{node.mode:04o} {node.devmajor:3},{node.devminor:3}  {node.name}")
        kind, major, minor, mode = NODES[node.name.removeprefix("dev/")]
        type_of = tarfile.CHRTYPE if kind == CHAR else tarfile.BLKTYPE
        if (node.type, node.devmajor, node.devminor) != (type_of, major, minor):
            found.append(f"{node.name} is another device")
        if os.geteuid() == 0 and (node.mode, node.uid) != (mode, 0):
            found.append(f"{node.name} has another mode or owner")
    if not {f"dev/{name}" for name in OPEN} <= {node.name for node in nodes}:
        found.append("a node that opens is missing")
    return found


def main() -> int:
    """0 where the archive has what it should."""
    if sys.argv[1:2] == ["--inside"]:
        inside()
        return 0
    print(f"You are uid {os.geteuid()}; what a container packed under the policy build:\n")
    command = [sys.executable, os.path.abspath(__file__), "--inside"]
    run = [*SECCOMPD, "run", "--policy", "build", "--", *command]
    done = subprocess.run(run, capture_output=True)
    notes = done.stderr.decode().splitlines()
    if done.returncode:
        print("\n".join(notes))
        return 1
    found = wrong(done.stdout)
    opened = [line for line in notes if line.startswith("open:")]
    if os.geteuid() == 0:
        found += opened  # for others these are the host's, which it lets them open or not
    print("\n".join(["", *(line for line in notes if line not in opened), *found]))
    if sys.argv[1:]:
        Path(sys.argv[1]).write_bytes(done.stdout)
    print("Not as it should be." if found else "All as it should be.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
