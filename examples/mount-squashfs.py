"""A FUSE program in a container that has no /dev/fuse: squashfuse mounts an archive.

    python examples/mount-squashfs.py

The container gets a /dev of its own with nothing but null in it. Under the shipped policy
`default` squashfuse finds nothing to open there; under `fuse` it gets what it asks for, and mounts:
no fusermount, and nothing that is set-user-ID. Needs squashfuse and mksquashfs, and for an ordinary
user a /dev/fuse that this user may open.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
NEEDED = ("squashfuse", "mksquashfs", "umount")
INSIDE = """
set -e
mount --rbind /dev /mnt
mount -t tmpfs own-dev /dev
touch /dev/null
mount --bind /mnt/null /dev/null
test ! -e /dev/fuse
echo "  there is no /dev/fuse"
mount -t tmpfs work /mnt
mkdir /mnt/tree
squashfuse "$1" /mnt/tree
echo "  mounted, and in it: $(cat /mnt/tree/greeting)"
umount /mnt/tree
"""


def inside(policy: str, archive: Path) -> int:
    """Mounts the archive in a container under a policy; the exit status of that."""
    shell = ["sh", "-c", INSIDE, "sh", str(archive)]
    print(f"\nunder the policy {policy}:", flush=True)
    run = [*SECCOMPD, "run", "--policy", policy, "--", *shell]
    return subprocess.run(run, timeout=120, stderr=subprocess.STDOUT).returncode


def main() -> int:
    """0 where nothing is mounted under `default`, and the archive under `fuse`."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        print(f"These programs are needed, and missing: {', '.join(missing)}")
        return 1
    print(f"You are uid {os.geteuid()}.")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "tree").mkdir()
        (place / "tree/greeting").write_text("hello from an archive\n")
        archive = place / "archive.squashfs"
        make = ["mksquashfs", str(place / "tree"), str(archive), "-quiet", "-no-progress"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        archive.chmod(0o644)
        well = inside("default", archive) != 0 and inside("fuse", archive) == 0
    print("\nAll as it should be." if well else "\nNot as it should be.")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
