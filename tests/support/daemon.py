"""`seccompd serve` for tests: with a configuration, sockets and policies of its own."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.inside import links, wait_for
from tests.support.people import Person
from tests.support.program import Started, names, seccompd

# What `seccompd profile` printed for a policy's text: it compiles that each time.
_profiles: dict[tuple[Person, str, str, tuple[str, ...]], dict[str, Any]] = {}


class Daemon:
    """One daemon; its policies are the files in `place`/policies."""

    def __init__(
        self, person: Person, place: Path, settings: Mapping[str, Any], *,
        start: Sequence[str] = (), environ: Mapping[str, str] | None = None,
        socket: Path | None = None, control: Path | None = None,
    ) -> None:
        """`start`: words that come before the command; `socket`, `control`: where it listens then.
        """
        self.place = place
        self.runtime = place / "run"
        self.audit = place / "audit.json"
        self.socket = socket or self.runtime / "oci.sock"
        self.control = control or self.runtime / "control.sock"
        self.lead = start
        self.environ = {"SECCOMPD_TEST_TRACEBACK": "1", **(environ or {})}
        (place / "policies").mkdir(exist_ok=True)
        self._config = place / "seccompd.yaml"
        # JSON is YAML.
        self._config.write_text(
            json.dumps(
                {
                    "runtime_directory": str(self.runtime),
                    "policies": [str(place / "policies")],
                    "audit": str(self.audit),
                    **settings,
                }
            )
        )
        self._person = person
        self._log = place / "log"
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it listens."""
        with self._log.open("ab") as log:
            self.started = Started(
                self._person,
                ["serve", "--config", str(self._config)],
                stdout=log.fileno(), stderr=log.fileno(),
                env=self.environ,
                lead=self.lead,
            )
        try:
            wait_for(self._listens, bool)
        except BaseException:
            self.started.kill()
            raise

    def _listens(self) -> bool:
        assert self.started.process.poll() is None, self.log()
        # both: what a daemon that was killed has left is there, and nobody hears it
        for path in (self.socket, self.control):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    return False
        return True

    @property
    def pid(self) -> int:
        return self.started.process.pid

    def log(self) -> str:
        return self._log.read_text()

    def said(self, text: str) -> None:
        """Waits until its log has that: it does not write before it acts."""
        wait_for(self.log, lambda log: text in log)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    def all_records(self) -> list[dict[str, Any]]:
        """All of containers that have ended: a record is written after its call was answered."""
        wait_for(lambda: self.ours("session"), lambda found: not found)
        return self.records()

    def ours(self, kind: str) -> list[int]:
        """The pids of this daemon's processes of a kind: zygote, session, path, make."""
        found = names(self.started.processes)
        return [pid for pid, name in found.items() if f"seccompd-{kind}"[:15] == name]

    def one(self, kind: str) -> int:
        """The pid of the only one of a kind, once it is."""
        (pid,) = wait_for(lambda: self.ours(kind), lambda found: len(found) == 1)
        return pid

    def held(self) -> list[str]:
        """What the daemon and its zygote hold, in words, once no connection lingers."""
        before: list[str] = []
        while True:
            found = [
                f"{who} {link.partition('[')[0]}"
                for who, pids in (("daemon", [self.pid]), ("zygote", self.ours("zygote")))
                for pid in pids
                for link in links(pid)
            ]
            if sorted(found) == before:
                return before
            before = sorted(found)
            signal.sigtimedwait([], 1.2)  # longer than a connection is kept open

    def profile(self, policy: str, *options: str) -> dict[str, Any]:
        """What `seccompd profile` prints for one of its policies."""
        file = self.place / "policies" / f"{policy}.yaml"
        key = (self._person, policy, file.read_text(), options)
        if key not in _profiles:
            listener = ("--listener", str(self.socket))
            words = seccompd(
                self._person, "profile", "--policy", str(file), *listener, *options
            )
            done = run(words, env=self._person.environ())
            assert done.returncode == 0, done.stderr
            _profiles[key] = json.loads(done.stdout)
            assert _profiles[key]["listenerPath"] == str(self.socket)
        return {**copy.deepcopy(_profiles[key]), "listenerPath": str(self.socket)}

    def ask(self, verb: str, *options: str, person: Person | None = None) -> Any:
        """What `seccompd VERB -o json` says of this daemon."""
        done = self.command(verb, *options, "-o", "json", person=person)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def command(
        self, verb: str, *options: str, person: Person | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`seccompd VERB` about this daemon, as somebody."""
        person = person or self._person
        words = self.words(verb, *options, person=person)
        return run(words, env=person.environ(), cwd="/")

    def words(self, verb: str, *options: str, person: Person | None = None) -> list[str]:
        """Its command line."""
        control = str(self.runtime / "control.sock")
        return seccompd(person or self._person, verb, "--socket", control, *options)

    def container(self, name: str) -> dict[str, Any]:
        """What `ps` says of a container."""
        (found,) = [one for one in self.ask("ps") if one["container"] == name]
        return dict(found)

    def kill(self) -> None:
        """SIGKILL, as out of memory would."""
        os.kill(self.pid, signal.SIGKILL)
        self.started.process.wait()

    def stop(self) -> int:
        """An orderly end; its exit status."""
        if self.started.process.poll() is None:
            self.started.process.terminate()
        status = self.started.process.wait(20)
        assert self.started.wait_gone() == []
        return status


@contextlib.contextmanager
def serving(
    person: Person, place: Path, policies: Mapping[str, str], *,
    start: Sequence[str] = (), environ: Mapping[str, str] | None = None,
    socket: Path | None = None, control: Path | None = None, **settings: Any,
) -> Iterator[Daemon]:
    """A daemon under `policies`, texts by name. Nobody is left at the end, and nothing was wrong.
    """
    (place / "policies").mkdir(exist_ok=True)
    for name, text in policies.items():
        (place / "policies" / f"{name}.yaml").write_text(text)
    daemon = Daemon(
        person, place, settings, start=start, environ=environ, socket=socket, control=control
    )
    try:
        yield daemon
    finally:
        daemon.stop()
    assert "Traceback" not in daemon.log(), daemon.log()


def run(words: Sequence[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """A program to its end, with what it says.

    Its standard input is a pipe without an end to write to, and never /dev/null: crun gives its
    streams to the container's root, and they are the host's.
    """
    read, write = os.pipe()
    os.close(write)
    try:
        return subprocess.run(
            list(words), check=False, capture_output=True, text=True, stdin=read,
            **{"timeout": 60, **more},
        )  # fmt: skip
    finally:
        os.close(read)
