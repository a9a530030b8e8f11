"""What does a program want? Runs it under `deny-all`, and lists what it asked for and did not get.

    python examples/list-requests.py [COMMAND ...]

The shipped policy `deny-all` refuses every device node, as the kernel does, and records each
request. Without a COMMAND there is a small installer that asks for some.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
INSTALLER = """
cd "$(mktemp -d)"
for n in 1 2 3; do mknod null c 1 3 2>&1; done
mknod disk b 8 0 2>&1
mkfifo queue && echo "a fifo is made"
rm -r "$PWD"
"""


def requests(log: Path) -> Counter[tuple[str, str]]:
    """How often what was asked for, by (system call and device, what it got)."""
    found: Counter[tuple[str, str]] = Counter()
    for line in log.read_text().splitlines():
        record = json.loads(line)
        if "syscall" not in record:
            continue  # the beginning and the end of the session
        mode, dev = record["args"]["mode"], record["args"]["dev"]
        kind = "block" if stat.S_ISBLK(mode) else "char"
        what = f"{record['syscall']}, {kind} {os.major(dev)}:{os.minor(dev)}"
        found[what, record["verdict"]] += record.get("repeats", 1)
    return found


def main() -> int:
    """0 where something was recorded, and nothing was granted."""
    command = sys.argv[1:] or ["sh", "-c", INSTALLER]
    with tempfile.TemporaryDirectory() as place:
        log = Path(place, "audit.json")
        subprocess.run(
            [*SECCOMPD, "run", "--policy", "deny-all", "--audit", str(log), "--", *command]
        )
        found = requests(log)
    print("\nasked for, under deny-all:")
    for (what, verdict), count in found.most_common():
        print(f"  {count:4} x {what:24} {verdict}")
    if not found:
        print("  nothing")
    return int(not sys.argv[1:] and {verdict for _, verdict in found} != {"refuse"})


if __name__ == "__main__":
    sys.exit(main())
