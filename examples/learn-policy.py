"""Learns a policy from a command, reads it, and runs the command under it.

    python examples/learn-policy.py [COMMAND ...]

The command first runs under the shipped policy `learn`, a cautious one: what harms nobody is
granted and recorded, the rest refused and recorded. What comes out is a policy for that command.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

SECCOMPD = [sys.executable, "-P", "-m", "supervisor"]
SETUP = """
place=/tmp/learn-$(date +%s%N)  # another name each time
mkdir -p "$place/dev"
mknod -m 666 "$place/dev/null" c 1 3
mknod -m 666 "$place/dev/zero" c 1 5
rm -r "$place"
"""
OTHERS = """
mknod /tmp/not-learned-$$ c 1 3 2>/dev/null && exit 1
mknod "$(mktemp -d)/disk" b 8 0 2>/dev/null && exit 1
exit 0
"""


def main() -> int:
    """0 where the policy is clean, the command passes below it, and something else does not."""
    command = sys.argv[1:] or ["sh", "-ec", SETUP]
    with tempfile.TemporaryDirectory() as place:
        policy = str(Path(place, "learned.yaml"))
        steps = [
            ("run it, and learn", ["run", "--learn", policy, "--", *command]),
            ("check what was learned", ["check", policy]),
            ("run it again, under that", ["run", "--policy", policy, "--", *command]),
        ]
        if not sys.argv[1:]:
            others = ["run", "--policy", policy, "--", "sh", "-c", OTHERS]
            steps.append(("ask for something else, which is refused", others))
        for title, words in steps:
            print(f"\n== {title}: seccompd {' '.join(words[:3])}", flush=True)
            if subprocess.run([*SECCOMPD, *words]).returncode:
                print("That did not come out as it should.")
                return 1
            if words[1] == "--learn":
                print(Path(policy).read_text(), end="")
    print("\nAll as it should be.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
