"""A container of Docker's shape, inside of an unprivileged container.

    python examples/nest-docker.py

Under the shipped policy `docker` this does what dockerd does: it puts layers together (overlay, a
whiteout), and has runc start a container on them, with the capabilities, the mounts and the masked
paths that Docker gives. There programs make the device nodes that they need, and do not get those
that they must not have. Needs runc, and a /usr that /bin and /lib are links to.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
        "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
]  # fmt: skip
# What runs in the container: whatever goes wrong ends it.
SCRIPT = """
set -e
fails() { if "$@" 2>/dev/null; then echo "$*: has not failed"; exit 1; fi; }
test ! -e /etc/secret
echo "layers: a whiteout hides what is below it"
cd /tmp
mknod null c 1 3
echo hello >null
echo "null: made, and it opens"
mkdir -p /dev/net
mknod /dev/net/tun c 10 200
echo "tun: made"
mknod console c 5 1
fails cat console
echo "console: made, and it does not open"
fails mknod disk b 8 0
echo "a disk: refused"
fails mknod kmsg c 1 11
echo "the kernel's log: refused"
rm null console /dev/net/tun
echo "in the container all went well"
"""


def mount(*words: str) -> None:
    """mount(8)."""
    subprocess.run(["mount", *words], check=True)


def layers(place: Path) -> Path:
    """A root file system of two layers, as overlay2 puts it together."""
    lower, upper, work, merged = (place / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, merged, upper / "etc"):
        folder.mkdir()
    for name in ("etc", "usr", "proc", "sys", "dev", "tmp"):
        (lower / name).mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        (lower / name).symlink_to(f"usr/{name}")
    (lower / "etc/secret").write_text("of a lower layer\n")
    os.mknod(upper / "etc/secret", stat.S_IFCHR, 0)
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
    mount("-t", "overlay", "-o", options, "overlay", str(merged))
    return merged


def configuration(bundle: Path, root: Path) -> dict[str, Any]:
    """config.json as Docker would write it."""
    subprocess.run(["runc", "spec", "-b", str(bundle)], check=True)
    found: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    process = found["process"]
    process["args"] = ["/bin/sh", "-c", SCRIPT]
    process["terminal"] = False
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    found["root"] = {"path": str(root), "readonly": False}
    # A cgroup is what the outer container was given, or not: Docker's limits are not shown here.
    found["mounts"] = [one for one in found["mounts"] if one["type"] != "cgroup"]
    found["mounts"].append(
        {"type": "bind", "source": "/usr", "destination": "/usr", "options": ["rbind", "ro"]}
    )
    return found


def inside() -> int:
    """What runs in the outer container, as its root. runc's exit status."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        mount("-t", "tmpfs", "layers", name)
        try:
            root = layers(place)
            config = configuration(place, root)
            (place / "config.json").write_text(json.dumps(config))
            command = ["runc", "--root", str(place / "state"), "run", "-b", name, "nested"]
            return subprocess.run(command).returncode
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def main() -> int:
    """0 where the inner container came out as it should."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if shutil.which("runc") is None:
        print("runc is needed, and missing: apt install runc")
        return 1
    if sys.argv[1:2] == ["--inside"]:
        return inside()
    print(f"You are uid {os.geteuid()}; a container in a container, under the policy docker:\n")
    command = [sys.executable, os.path.abspath(__file__), "--inside"]
    run = [*SECCOMPD, "run", "--policy", "docker", "--trace", "--", *command]
    status = subprocess.run(run).returncode
    print("\nNot as it should be." if status else "\nAll as it should be.")
    return status


if __name__ == "__main__":
    sys.exit(main())
