"""An ordinary user edits a disk image: no root, no loop device, no kernel driver.

    python examples/edit-image.py

It makes an ext4 image in a temporary directory, and starts itself once more under `seccompd run`
with the shipped policy `loop-images`. There mount(2) of the image just works: a program in user
space (fuse2fs) reads it. Afterwards the image is checked, and what was written is read back.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
NEEDED = ("mkfs.ext4", "e2fsck", "debugfs", "fuse2fs")
MS_NOSUID, MS_NODEV = 2, 4


def mount(image: str, target: str) -> None:
    """mount(2) of a regular file, as any program could call it."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV)
    if libc.mount(image.encode(), target.encode(), b"ext4", flags, None):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"mount of {image}")


def edit(image: str) -> None:
    """What runs in the container, as its root."""
    mount(image, "/mnt")
    etc = Path("/mnt/etc")
    etc.mkdir(exist_ok=True)
    (etc / "hostname").write_text("edited\n")
    os.chown(etc / "hostname", 0, 0)
    status = os.statvfs("/mnt")
    print(f"mounted: {status.f_blocks * status.f_frsize >> 20} MiB, and now with etc/hostname")
    subprocess.run(["umount", "/mnt"], check=True)


def main() -> int:
    """0 where the image came out as it should."""
    if sys.argv[1:2] == ["--inside"]:
        edit(sys.argv[2])
        return 0
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        print(f"These programs are needed, and missing: {', '.join(missing)}")
        return 1
    place = Path(tempfile.mkdtemp(prefix="edit-image-"))
    place.chmod(0o755)
    image = place / "disk.img"
    try:
        with image.open("wb") as file:
            file.truncate(32 << 20)
        image.chmod(0o666)  # as root, the container's root is somebody else
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        inside = [sys.executable, os.path.abspath(__file__), "--inside", str(image)]
        run = [*SECCOMPD, "run", "--policy", "loop-images", "--trace", "--", *inside]
        print(f"You are uid {os.getuid()}; in the container:")
        if subprocess.run(run, check=False).returncode:
            return 1
        subprocess.run(["e2fsck", "-fn", image], check=True, stdout=subprocess.DEVNULL)
        found = subprocess.run(
            ["debugfs", "-R", "cat /etc/hostname", image],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ).stdout  # fmt: skip
        print(f"The image is clean, and its etc/hostname says: {found.strip()}")
        return int(found != "edited\n")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    sys.exit(main())
