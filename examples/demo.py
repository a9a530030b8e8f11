"""Shows, side by side, what programs in a container cannot do and what they do under seccompd.

Run it with `make demo`, as root or as an ordinary user. It works in a temporary directory, makes
its own archives, and leaves nothing behind.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

# As the command `seccompd` does; -P: no program is loaded from the folders it works in.
SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
NODES = {"null": (1, 3), "zero": (1, 5), "random": (1, 8), "tty": (5, 0)}
COLUMN = 47


@dataclass(frozen=True)
class Scene:
    """One thing that programs want to do: shell commands, run without and with seccompd."""

    title: str
    story: str
    script: str
    succeeds: bool = True


SCENES = (
    Scene(
        "mknod",
        "A device node is a file that stands for a device: /dev/null is the character device 1:3. "
        "To make one needs the rights of the machine's own root, which a container's root has not.",
        "mknod null c 1 3 && echo hello >null && stat -c '%F %t:%T' null && rm null",
    ),
    Scene(
        "tar -x of a root file system",
        "The archive of a small system: one program, and four nodes in dev/.",
        "tar -xf ../rootfs.tar && stat -c '%n %A' rootfs/dev/* && rm -r rootfs",
    ),
    Scene(
        "cpio -i of an initramfs",
        "What a machine boots from. It, too, has nodes in it.",
        "cpio -idm --quiet <../initramfs.cpio && stat -c '%n %A' dev/* && rm -r dev init",
    ),
    Scene(
        "cp -a /dev/null",
        "Tools that fill a chroot often copy the nodes that they see.",
        "cp -a /dev/null copy && echo hello >copy && stat -c '%n %F' copy && rm copy",
    ),
    Scene(
        "mknod of a disk",
        "What the policy does not allow stays refused: here the first disk of the machine.",
        "mknod disk b 8 0",
        succeeds=False,
    ),
)


def rootfs_tar(goal: Path) -> None:
    """A tar archive with device nodes. Writing one needs no rights: only extracting does."""
    with tarfile.open(goal, "w") as archive:
        for name in ("rootfs", "rootfs/bin", "rootfs/dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        script = b"#!/bin/sh\necho hello\n"
        program = tarfile.TarInfo("rootfs/bin/hello")
        program.size, program.mode = len(script), 0o755
        archive.addfile(program, io.BytesIO(script))
        for name, (major, minor) in NODES.items():
            node = tarfile.TarInfo(f"rootfs/dev/{name}")
            node.type, node.mode = tarfile.CHRTYPE, 0o666
            node.devmajor, node.devminor = major, minor
            archive.addfile(node)


def initramfs_cpio(goal: Path) -> None:
    """A cpio archive in the format that the kernel unpacks ("newc"), nodes and all."""
    entries = [("dev", 0o040755, (0, 0), b""), ("init", 0o100755, (0, 0), b"#!/bin/sh\n")]
    entries += [(f"dev/{name}", 0o020666, device, b"") for name, device in NODES.items()]
    entries += [("TRAILER!!!", 0, (0, 0), b"")]
    out = bytearray()
    for inode, (name, mode, (major, minor), data) in enumerate(entries):
        path = name.encode() + b"\0"
        # inode mode uid gid nlink mtime size device(2) rdev(2) length-of-name checksum
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(path), 0)
        out += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + path
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    goal.write_bytes(out)


def run(command: list[str], folder: Path) -> tuple[int, list[str]]:
    """Runs a command: its exit status, and the lines it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def column(title: str, result: tuple[int, list[str]], scene: Scene) -> list[str]:
    """One column: what was printed, broken to its width, and how it ended."""
    status, lines = result
    broken = [part for line in lines for part in textwrap.wrap(line, COLUMN) or [""]]
    end = "done" if status == 0 else "failed" if scene.succeeds else "refused"
    return [title, "-" * len(title), *broken, f"=> {end} (exit status {status})"]


def side_by_side(left: list[str], right: list[str]) -> None:
    """Prints two columns."""
    for index in range(max(len(left), len(right))):
        cells = [lines[index] if index < len(lines) else "" for lines in (left, right)]
        print(f"  {cells[0]:<{COLUMN}} | {cells[1]}".rstrip())


def places(work: Path) -> tuple[Path, Path]:
    """Two folders to work in, each owned by who is root in the container that works there."""
    without, under = work / "without", work / "with"
    without.mkdir()
    under.mkdir()
    status, lines = run([*SECCOMPD, "run", "--", "cat", "/proc/self/uid_map"], work)
    if status != 0:
        print("\n".join(lines))
        raise SystemExit("`seccompd run` does not work here; `make doctor` says why")
    if os.geteuid() == 0:
        maps = [line.split() for line in lines if line.split()[:1] == ["0"]]
        outside = int(maps[0][1])  # of "0 OUTSIDE COUNT"
        os.chown(under, outside, outside)
    return without, under


def show(scene: Scene, without: Path, under: Path) -> bool:
    """Plays one scene; whether it came out under seccompd as it should."""
    shell = ["sh", "-c", scene.script]
    print(f"\n== {scene.title}")
    print(textwrap.indent(textwrap.fill(scene.story, 94), "   "))
    print(f"   $ {scene.script}\n")
    left = run(["unshare", "--user", "--map-root-user", "--mount", *shell], without)
    right = run([*SECCOMPD, "run", "--", *shell], under)
    side_by_side(
        column("WITHOUT seccompd", left, scene), column("WITH seccompd", right, scene)
    )
    return (right[0] == 0) == scene.succeeds


def main() -> int:
    """Plays all scenes; 0 where each came out as it should."""
    who = "root" if os.geteuid() == 0 else f"an ordinary user (uid {os.geteuid()})"
    print(f"You are {who}. Each command below runs twice, as root of a container of its own:")
    print("on the left in a plain user namespace, on the right in one that seccompd watches over.")
    work = Path(tempfile.mkdtemp(prefix="seccompd-demo-"))
    work.chmod(0o755)
    try:
        without, under = places(work)
        rootfs_tar(work / "rootfs.tar")
        initramfs_cpio(work / "initramfs.cpio")
        wrong = [scene.title for scene in SCENES if not show(scene, without, under)]
        print("\n== what seccompd saw (seccompd run --trace)\n")
        script = "mknod null c 1 3; mknod disk b 8 0; rm null"
        trace = run([*SECCOMPD, "run", "--trace", "--", "sh", "-c", script], under)
        print(textwrap.indent("\n".join(trace[1]), "  "))
    finally:
        shutil.rmtree(work)
    if wrong:
        print(f"\nNot as it should be under seccompd: {', '.join(wrong)}")
        return 1
    print("\nAll as it should be. The policy that decided: policies/default.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
