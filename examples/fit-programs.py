"""How big does a program think that the machine is? What /proc says, without and under `fitted`.

    python examples/fit-programs.py

Under the shipped policy `fitted` programs that read /proc and /sys find two processors and 4 GiB of
memory, whatever the machine has. With a policy of your own these are the numbers of your container.
"""

from __future__ import annotations

import os
import subprocess
import sys

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
ASKING = """
echo "processors: $(grep -c ^processor /proc/cpuinfo),"\
    "numbered $(cat /sys/devices/system/cpu/online)"
awk '/^MemTotal:/ {printf "memory: %d MiB\\n", $2 / 1024}' /proc/meminfo
"""
FITTED = ["processors: 2, numbered 0-1", "memory: 4096 MiB"]


def asked(policy: str) -> list[str]:
    """What programs in a container under a policy say."""
    print(f"\nunder the policy {policy}:", flush=True)
    run = [*SECCOMPD, "run", "--policy", policy, "--", "sh", "-c", ASKING]
    done = subprocess.run(run, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    print(done.stdout, end="", flush=True)
    return done.stdout.splitlines()


def main() -> int:
    """0 where programs under `fitted` see what that says."""
    print(f"You are uid {os.geteuid()}.")
    asked("default")
    well = asked("fitted") == FITTED
    print("\nAll as it should be." if well else "\nNot as it should be.")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
