"""How big does a program think that the machine is? What /proc says, without and under policies.

    python examples/fit-programs.py

Under the shipped policy `fitted` programs that read /proc and /sys find two processors and 4 GiB of
memory, whatever the machine has. Under one that is written here they find what their cgroup lets
them have.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
ASKING = """
echo "processors: $(grep -c ^processor /proc/cpuinfo),"\
    "numbered $(cat /sys/devices/system/cpu/online)"
awk '/^MemTotal:/ {printf "memory: %d MiB\\n", $2 / 1024}' /proc/meminfo
"""
FITTED = ["processors: 2, numbered 0-1", "memory: 4096 MiB"]
POLICY = """
version: 1
name: fits
syscalls:
  open:
    - path: [/sys/devices/system/cpu/online, /sys/devices/system/cpu/possible]
      access: read-only
      do: {inject: {fits: cpus}}
    - {path: /proc/cpuinfo, access: read-only, do: {inject: {fits: cpuinfo}}}
    - {path: /proc/meminfo, access: read-only, do: {inject: {fits: meminfo}}}
"""


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
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "fits.yaml")
        own.write_text(POLICY)
        asked(str(own))
    well = asked("fitted") == FITTED
    print("\nAll as it should be." if well else "\nNot as it should be.")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
