"""How big does a program think that the machine is? What /proc says, without and under policies.

    python examples/fit-programs.py

Under the shipped policy `fitted` programs that read /proc and /sys find two processors and 4 GiB of
memory, whatever the machine has. Under one that is written here they find what their cgroup lets
them have.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
ASKING = """
echo "processors: $(grep -c ^processor /proc/cpuinfo),"\
    "numbered $(cat /sys/devices/system/cpu/online)"
awk '/^MemTotal:/ {printf "memory: %d MiB\\n", $2 / 1024}' /proc/meminfo
"""
FITTED = ["processors: 2, numbered 0-1", "memory: 4096 MiB"]
# What it does not say is as `fitted` has it.
POLICY = """
version: 1
include: fitted
name: fits
syscalls:
  open:
    - path: [/sys/devices/system/cpu/online, /sys/devices/system/cpu/possible]
      access: read-only
      do: {{inject: {{content: "{numbers}\\n"}}}}
    - path: /proc/cpuinfo
      access: read-only
      do: {{inject: {{content: "{processors}"}}}}
    - path: /proc/meminfo
      access: read-only
      do:
        inject:
          content: |
            MemTotal: {memory} kB
            MemFree: {memory} kB
            MemAvailable: {memory} kB
            Buffers: 0 kB
            Cached: 0 kB
            SwapTotal: 0 kB
            SwapFree: 0 kB
"""


def cgroups(controller: str) -> Iterator[Path]:
    """The cgroups of this process that may say something of that, of either version: its own, and
    those above."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        name = {"cgroup2": "", "cgroup": controller}.get(kind)
        if name is None or name not in own or (name and name not in options.split(",")):
            continue
        root, top = before.split()[3:5]
        place = Path(top, os.path.relpath(own[name], root))
        yield from (one for one in (place, *place.parents) if one.is_relative_to(top))


def words(file: Path) -> list[str]:
    """What a file says; nothing where there is none."""
    return file.read_text().split() if file.exists() else []


def processors() -> int:
    """How many processors this process can keep busy."""
    count = float(len(os.sched_getaffinity(0)))
    for place in cgroups("cpu"):
        said = words(place / "cpu.max")
        said = said or words(place / "cpu.cfs_quota_us") + words(place / "cpu.cfs_period_us")
        if len(said) == 2 and said[0] not in ("max", "-1"):
            count = min(count, int(said[0]) / int(said[1]))
    return max(1, math.ceil(count))


def memory() -> int:
    """How much memory it can have, in MiB."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for place in cgroups("memory"):
        said = words(place / "memory.max") or words(place / "memory.limit_in_bytes")
        size = min([size, *(int(word) for word in said if word != "max")])
    return size >> 20


def asked(policy: str) -> list[str]:
    """What programs in a container under a policy say."""
    print(f"\nunder the policy {Path(policy).stem}:", flush=True)
    run = [*SECCOMPD, "run", "--policy", policy, "--", "sh", "-c", ASKING]
    done = subprocess.run(run, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    print(done.stdout, end="", flush=True)
    return done.stdout.splitlines()


def main() -> int:
    """0 where programs see what the policies say."""
    print(f"You are uid {os.geteuid()}.")
    asked("default")
    count, size = processors(), memory()
    numbers = f"0-{count - 1}" if count > 1 else "0"
    rows = "".join(f"processor : {number}\\n\\n" for number in range(count))
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "fits.yaml")
        own.write_text(POLICY.format(numbers=numbers, processors=rows, memory=size << 10))
        fits = [f"processors: {count}, numbered {numbers}", f"memory: {size} MiB"]
        well = asked(str(own)) == fits
    well = asked("fitted") == FITTED and well
    print("\nAll as it should be." if well else "\nNot as it should be.")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
