"""Containers of runc under `seccompd serve`: what their start costs, how busy ones share, and what
an open costs them for which somebody else than their session is needed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import peers
from bench.compare import Bench, Item, Row, quartiles
from bench.peers import BenchError, Peer

POLICY: Final = """\
version: 1
name: containers
match: {door: oci}
syscalls:
  mknod:
    - {devices: ["null"], path: "/errno/**", do: {errno: EPERM}}
    - {devices: ["null"], do: emulate}
"""
OPENS: Final = """\
version: 1
name: containers
match: {{door: oci}}
syscalls:
  open:
    - {{path: /granted, do: {{inject: {{file: {file}, access: read-write}}}}}}
"""
EPERM, ENOENT = 1, 2
MANY: Final = 20


class Bundle:
    """A bundle of runc's whose root is nobody's on the host, with one static program in it."""

    def __init__(self, place: Path, profile: Mapping[str, Any], args: list[str]) -> None:
        self.path = place / f"bundle-{uuid.uuid4().hex[:8]}"
        root = self.path / "rootfs"
        for name in ("dev", "proc", "sys", "tmp"):
            (root / name).mkdir(parents=True)
        shutil.copy(peers.BUILT / "caller-static", root / "caller")
        subprocess.run(["chown", "-R", f"{peers.OUTSIDE}:{peers.OUTSIDE}", str(root)], check=True)
        self.path.chmod(0o755)
        subprocess.run(["runc", "spec", "-b", str(self.path)], check=True)
        file = self.path / "config.json"
        config = json.loads(file.read_text())
        config["process"] |= {"terminal": False, "args": args}
        held = ["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]
        kinds = ("bounding", "effective", "permitted")
        config["process"]["capabilities"] = dict.fromkeys(kinds, held)
        config["root"]["readonly"] = False
        config["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uidMappings", "gidMappings"):
            config["linux"][kind] = [{"containerID": 0, "hostID": peers.OUTSIDE, "size": 65536}]
        config["linux"]["seccomp"] = profile
        file.write_text(json.dumps(config))

    def command(self) -> list[str]:
        """A container of it, from its start to its end."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        return ["runc", "--root", str(self.path / "state"), "run", "-b", str(self.path), name]


@contextlib.contextmanager
def _agent(place: Path) -> Iterator[Path]:
    sock = place / "agent.sock"
    agent = subprocess.Popen(
        [str(peers.BUILT / "agent"), str(sock), str(EPERM)], stdout=subprocess.PIPE
    )
    try:
        assert agent.stdout is not None
        if not agent.stdout.read(1):
            raise BenchError("the agent does not listen")
        yield sock
    finally:
        agent.kill()
        agent.communicate()


@contextlib.contextmanager
def _daemon(
    bench: Bench, place: Path, policy: str = POLICY, prefix: Sequence[str] = ()
) -> Iterator[Path]:
    (place / "policies").mkdir()
    (place / "policies" / "containers.yaml").write_text(policy)
    config = place / "seccompd.yaml"
    config.write_text(
        json.dumps({"runtime_directory": str(place / "run"), "policies": str(place / "policies")})
    )
    with (place / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [*prefix, *bench.command, "serve", "--config", str(config)], env=bench.env, stderr=log
        )
    sock = place / "run" / "oci.sock"
    try:
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(sock))
                break
            if daemon.poll() is not None:
                raise BenchError((place / "log").read_text())
            time.sleep(0.02)
        yield sock
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


def _profile(bench: Bench, place: Path, sock: Path) -> dict[str, Any]:
    policy = str(place / "policies" / "containers.yaml")
    words = [*bench.command, "profile", "--policy", policy, "--listener", str(sock)]
    done = subprocess.run(words, env=bench.env, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _build() -> None:
    compiler = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    for name, source, more in (("agent", "agent", []), ("caller-static", "caller", ["-static"])):
        built = [*compiler, *more, "-o", str(peers.BUILT / name), f"{peers.BENCH}/{source}.c"]
        subprocess.run(built, check=True)


def measure(bench: Bench) -> list[Callable[[], list[Row]]]:
    """The rows of containers; none where they cannot be had."""
    if not bench.root or shutil.which("runc") is None:
        return []
    return [partial(row, bench) for row in (_start, _memory, _share, _open)]


def _start(bench: Bench) -> list[Row]:
    _build()
    place = bench.place / "start"
    place.mkdir(mode=0o755)
    with _agent(place) as agent, _daemon(bench, place) as daemon:
        sides = [
            Bundle(place, _profile(bench, place, sock), ["/caller"]) for sock in (agent, daemon)
        ]
        taken: tuple[list[float], list[float]] = ([], [])
        for number in range(max(5, round(25 * bench.scale)) + 1):
            for which in (0, 1) if number % 2 else (1, 0):
                begun = time.perf_counter()
                done = subprocess.run(
                    sides[which].command(), stdin=subprocess.DEVNULL, capture_output=True, text=True
                )
                if done.returncode:
                    raise BenchError(done.stderr)
                if number:
                    taken[which].append((time.perf_counter() - begun) * 1e3)
    low, more, high = quartiles([b - a for a, b in zip(*taken, strict=True)])
    medians = statistics.median(taken[0]), statistics.median(taken[1])
    return [Row("container start, agent in C", *medians, "ms", more, low, high, 10.0)]


class _Container(Peer):
    """A caller in a container of its own."""

    def __init__(
        self, bundle: Bundle, env: dict[str, str], prefix: Sequence[str] = ()
    ) -> None:
        super().__init__([*prefix, *bundle.command()], env, program=())


def _memory(bench: Bench) -> list[Row]:
    """Private memory of a container's session with its helpers: of the first, and of the last."""
    _build()
    place = bench.place / "memory"
    place.mkdir(mode=0o755)
    sizes: list[float] = []
    with _daemon(bench, place) as daemon, contextlib.ExitStack() as stack:
        profile = _profile(bench, place, daemon)
        before: set[int] = set()
        for _ in range(MANY):
            container = _Container(Bundle(place, profile, ["/caller"]), bench.env)
            stack.enter_context(container).ask("new 20 0 1 /dev/n", 0)
            ours = _ours(place)
            sizes.append(sum(peers.private_kb(pid) for pid in ours - before) / 1024)
            before = ours
    first, last = sizes[0], sizes[-1]
    return [
        Row("a container's session, private", 0.0, last, "MB", last, min(sizes), max(sizes), 6.0),
        Row(f"  the {MANY}th to the first", first, last, "MB", last / first, 0.0, 0.0, 1.1),
    ]


def _ours(place: Path) -> set[int]:
    """The sessions, resolvers and makers of the daemon whose configuration is in `place`."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            name = (entry / "comm").read_text().strip() if entry.name.isdecimal() else ""
            helper = name in ("seccompd-sessio", "seccompd-path", "seccompd-make")
            if helper and os.fsencode(place) in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def _share(bench: Bench) -> list[Row]:
    """Calls a second of two busy containers to those of one; and of two callers below the floor."""
    _build()
    place = bench.place / "share"
    place.mkdir(mode=0o755)
    rows: list[Row] = []
    with _daemon(bench, place) as daemon, contextlib.ExitStack() as stack:
        profile = _profile(bench, place, daemon)
        bundles = [Bundle(place, profile, ["/caller"]) for _ in range(2)]
        ours = [stack.enter_context(_Container(bundle, bench.env)) for bundle in bundles]
        floor = [stack.enter_context(Peer(peers.floor("refuse"), bench.env)) for _ in range(2)]
        for what, pair, request, errno, bound in (
            ("2 busy callers to 1, the floor", floor, "same 4000 0 1 /errno/x", EPERM, None),
            ("2 busy containers to 1, refused", ours, "same 4000 0 1 /errno/x", EPERM, 1.7),
            ("  with path work", ours, "same 1000 0 1 /none/x", ENOENT, 1.7),
        ):
            one, two = [], []
            for _ in range(max(4, round(15 * bench.scale))):
                one.append(pair[0].ask(request, errno).per_second)
                for peer in pair:
                    peer.tell(request)
                two.append(sum(peer.hear(request, errno).per_second for peer in pair))
            low, ratio, high = quartiles([b / a for a, b in zip(one, two, strict=True)])
            medians = statistics.median(one), statistics.median(two)
            rows.append(Row(what, *medians, "/s", ratio, low, high, bound, at_least=True))
    assert os.geteuid() == 0
    return rows


def _open(bench: Bench) -> list[Row]:
    """A file of root's to write; all on one processor, for what bench/opens.py says."""
    _build()
    place = bench.place / "open"
    place.mkdir(mode=0o755)
    file = place / "file"
    file.write_text("0")
    file.chmod(0o600)
    one = peers.one_processor()
    floor = [*one, *peers.floor(f"open:{file}")]
    item = Item(
        "open given: a file, to a container", (floor, []), "openrw 1000 0 1 /granted", 2.0, expect=0
    )
    with _daemon(bench, place, OPENS.format(file=file), one) as daemon:
        bundle = Bundle(place, _profile(bench, place, daemon), ["/caller"])
        with Peer(floor, bench.env) as least, _Container(bundle, bench.env, one) as caller:
            return bench.by_turns(item, (least, caller))
