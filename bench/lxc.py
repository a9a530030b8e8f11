"""LXC's door: calls of a container whose monitor passes them on, to the daemon and to the least
server in C (lxc_proxy.c). Most of the time is the monitor's, on both sides.

Caller, monitor and server take turns, so that never two of them have work at a time. Where the
kernel puts them on two processors each call wakes an idle one up, three or four times as long as
the call takes, now on this side, now on that. So both sides have one processor, the same one: what
is left is the work, of which ours is a larger share there than anywhere else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from bench import peers
from bench.compare import Bench, Item
from bench.peers import BenchError

RULES = ['devices: ["null"], path: "/errno/**", do: {errno: EPERM}',
         'devices: ["null"], path: "/nodes/**", do: emulate']  # fmt: skip


def sides(bench: Bench, stack: ExitStack) -> tuple[list[str], list[str]]:
    """The command lines that run what follows them in a container of either."""
    place = bench.place / "lxc"
    place.mkdir()
    sockets = place / "proxy.sock", place / "run" / "lxc.sock"
    floor = [*peers.one_processor(), str(peers.BUILT / "lxc_proxy"), str(sockets[0])]
    _started(stack, floor, bench.env)
    policy = bench.policy("lxc", RULES)
    policy.write_text(policy.read_text().replace("on_error", "match: {door: lxc}\non_error"))
    (place / "policies").mkdir()
    shutil.copy(policy, place / "policies")
    config = place / "seccompd.yaml"
    config.write_text(
        f"version: 1\nruntime_directory: {place}/run\npolicies: {place}/policies\ndoors: lxc\n"
    )
    words = [*peers.one_processor(), *bench.command, "serve", "--config", str(config)]
    _started(stack, words, bench.env)
    _wait_for(sockets[1])
    words = [*bench.command, "profile", "--format", "lxc", "--policy", str(policy)]
    profile = place / "seccomp"
    done = subprocess.run(words, env=bench.env, check=True, capture_output=True)
    profile.write_bytes(done.stdout)
    return _container(place, "floor", profile, sockets[0]), _container(
        place, "seccompd", profile, sockets[1]
    )


def items(both: tuple[list[str], list[str]]) -> list[Item]:
    """What is measured."""
    return [
        Item("LXC's door: refused for its path", both, "same 250 0 1 /errno/x", 1.3, rounds=61),
        Item("  another path each time", both, "new 250 0 1 /errno/x", None, rounds=61),
    ]


def _container(place: Path, name: str, profile: Path, proxy: Path) -> list[str]:
    root = place / name / "rootfs"
    for folder in ("dev", "proc", "sys", "tmp", "errno", str(peers.BUILT)[1:]):
        (root / folder).mkdir(parents=True)
    entries = [f"{peers.BUILT} {str(peers.BUILT)[1:]} none bind,ro 0 0"]
    for system in ("usr", "lib", "lib64", "lib32", "bin"):
        link = Path("/") / system
        if link.is_symlink():
            (root / system).symlink_to(os.readlink(link))
        elif link.is_dir():
            (root / system).mkdir()
            entries.append(f"/{system} {system} none bind,ro 0 0")
    lines = [
        f"lxc.rootfs.path = dir:{root}", "lxc.uts.name = bench", "lxc.net.0.type = none",
        "lxc.apparmor.profile = unchanged", "lxc.console.path = none", "lxc.autodev = 1",
        f"lxc.seccomp.profile = {profile}", f"lxc.seccomp.notify.proxy = unix:{proxy}",
        *(f"lxc.mount.entry = {entry}" for entry in entries),
        *(f"lxc.idmap = {kind} 0 {peers.OUTSIDE} 65536" for kind in "ug"),
    ]  # fmt: skip
    config = place / name / "config"
    config.write_text("\n".join([*lines, ""]))
    subprocess.run(["chown", "-hR", f"{peers.OUTSIDE}:{peers.OUTSIDE}", str(root)], check=True)
    program = shutil.which("lxc-start")
    if program is None:
        raise BenchError("lxc-start is not there")
    # Where newuidmap is in PATH, LXC writes maps by it, and root has no subordinate ids.
    return [*peers.one_processor(), "env", "PATH=/nonexistent", program, "-P", str(place),
            "-n", f"bench-{name}", "-F", "-f", str(config), "--"]  # fmt: skip


def _started(stack: ExitStack, words: list[str], env: dict[str, str]) -> None:
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        process.wait()

    stack.callback(end)


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        if time.monotonic() > end:
            raise BenchError(f"{path} does not come")
        time.sleep(0.02)
