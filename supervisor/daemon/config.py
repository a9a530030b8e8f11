"""The daemon's configuration: one YAML file, read as policies are, with a default for every key.

KEYS is the one list of what may stand there: the reader, `seccompd serve --check-config` and a test
of docs/daemon.md go by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supervisor.engine.limits import DEFAULT, Limits
from supervisor.errors import SeccompdError
from supervisor.policy import store
from supervisor.policy.source import Node, Source
from supervisor.policy.values import near

_MOST: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. `name` has a dot where it stands in a section. `read` takes a value of YAML and
    the documented default, and raises ValueError with a text for the person who wrote it.
    """

    name: str
    default: Any
    doc: str
    read: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Config:
    """What the daemon goes by. `file` is where it was read from, None: defaults alone.

    `policies` None is the search path of `--policy`. Times are in seconds, sizes in bytes.
    """

    file: str | None
    runtime_directory: Path
    doors: tuple[str, ...]
    policies: tuple[Path, ...] | None
    audit: Path | None
    containers: int
    connections: int
    connects: int
    attached: int
    message: int
    hand_over: float
    descriptors: int | None
    session: Limits

    @property
    def connects_at_once(self) -> int:
        """How many connections of a user are taken before the rate `connects` counts."""
        return 4 * self.connects


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("an absolute path")
    return Path(value)


def _maybe_path(value: Any) -> Path | None:
    return None if value is None else _path(value)


def _paths(value: Any) -> tuple[Path, ...]:
    if not isinstance(value, list):
        value = [value]
    return tuple(_path(one) for one in value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        value = [value]
    if not value or not all(isinstance(one, str) for one in value):
        raise ValueError("a list of words")
    return tuple(value)


def _version(value: Any) -> int:
    if value != 1 or isinstance(value, bool):
        raise ValueError("1: this seccompd reads no other")
    return 1


def _number(low: int, high: int = _MOST) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"a number from {low} to {high}")
        return value

    return read


def _maybe_number(low: int) -> Callable[[Any], int | None]:
    read = _number(low)
    return lambda value: None if value is None else read(value)


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not low <= value <= high:
            raise ValueError(f"seconds, from {low:g} to {high:g}")
        return float(value)

    return read


KEYS: Final = (
    Key("version", 1, "the version of this file's language", _version),
    Key("runtime_directory", None, "where the sockets are", _path),
    Key("doors", ("oci",), "which doors are open", _texts),
    Key("policies", None, "directories of policies, the first that has a name wins", _paths),
    Key("audit", None, "a file for the records of all containers", _maybe_path),
    Key("limits.containers", 1000, "most containers at once", _number(1, 100_000)),
    Key(
        "limits.connections", 1000,
        "most connections of one user that have not handed over yet", _number(1, 10_000),
    ),
    Key(
        "limits.connects", 50,
        "how many connections of one user a second at attach.sock and control.sock",
        _number(1, 100_000),
    ),
    Key(
        "limits.attached", 32,
        "most commands of one user that attach.sock serves at once", _number(1, 10_000),
    ),
    Key("limits.message", 1 << 20, "most bytes of one hand-over", _number(4096, 64 << 20)),
    Key(
        "limits.hand_over", 10.0,
        "how long a hand-over may take from its first byte on", _seconds(0.1, 3600),
    ),
    Key(
        "limits.snapshot", DEFAULT.snapshot,
        "how long reading one caller's memory may take", _seconds(0.01, 10),
    ),
    Key(
        "limits.restarts", DEFAULT.restarts,
        "how many sessions of a container may die within restart_window", _number(1, 1000),
    ),
    Key(
        "limits.restart_window", DEFAULT.restart_window,
        "seconds that deaths are counted over", _seconds(0.1, 3600),
    ),
    Key(
        "limits.hang", DEFAULT.hang,
        "how long a session may leave a call unreceived", _seconds(1, 3600),
    ),
    Key("limits.path", DEFAULT.path, "for the path work of one call", _seconds(0.1, 60)),
    Key("limits.mount", DEFAULT.mount, "for one mount", _seconds(1, 600)),
    Key(
        "limits.in_flight", DEFAULT.in_flight,
        "how many calls of a container may wait for helpers at a time", _number(1, 200),
    ),
    Key(
        "limits.rate", DEFAULT.rate, "how many calls of a container are taken in a second",
        _number(100, 1_000_000),
    ),
    Key(
        "limits.descriptors", None,
        "most descriptors of the daemon; None: as many as it may have", _maybe_number(256),
    ),
)  # fmt: skip


def default_file() -> Path:
    """Where the configuration is where `--config` names none; it need not be there."""
    if os.geteuid() == 0:
        return Path("/etc/seccompd/seccompd.yaml")
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.config").expanduser()) / (
        "seccompd/seccompd.yaml"
    )


def default_runtime_directory() -> Path:
    """Where the sockets are where nothing says otherwise. SeccompdError where nobody knows."""
    if os.geteuid() == 0:
        return Path("/run/seccompd")
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(base):
        raise SeccompdError(
            "XDG_RUNTIME_DIR is not set: there is no place for the sockets",
            hint="log in so that there is one, or set runtime_directory in the configuration",
        )
    return Path(base) / "seccompd"


def load(file: Path | None, doors: tuple[str, ...]) -> Config:
    """The configuration in `file`; without one, the default file or else the defaults.

    `doors` are those there are. PolicyFindings (file:line:column) has every error.
    """
    if file is None:
        file = default_file()
        if not file.exists():
            return _config(None, {})
    source = Source(str(file), store.read(file, str(file), what="configuration"))
    if source.root.kind != "mapping":
        source.add(source.root.mark, "a configuration is a mapping of keys to values")
        source.fail()
    values: dict[str, Any] = {}
    places: dict[str, Node] = {}
    _section(source, source.root, "", values, places)
    for name in values.get("doors", ()):
        if name not in doors:
            source.add(places["doors"].mark, f"unknown door {name}" + near(name, list(doors)))
    source.fail()
    return _config(str(file), values)


def _section(
    source: Source, node: Node, prefix: str, values: dict[str, Any], places: dict[str, Node]
) -> None:
    known = {key.name: key for key in KEYS}
    sections = {name.partition(".")[0] for name in known if "." in name}
    here = [
        name.removeprefix(prefix).partition(".")[0] for name in known if name.startswith(prefix)
    ]
    for name, (key_node, value) in node.pairs.items():
        full = prefix + name
        if not prefix and name in sections:
            if value.kind != "mapping":
                source.add(value.mark, f"{name} is a mapping of keys to values")
            else:
                _section(source, value, f"{name}.", values, places)
        elif full not in known:
            source.add(key_node.mark, f"unknown key {full}" + near(name, sorted(set(here))))
        else:
            places[full] = value
            try:
                values[full] = known[full].read(value.value())
            except ValueError as error:
                source.add(value.mark, f"{full} is {error}")


def _config(file: str | None, values: Mapping[str, Any]) -> Config:
    found = {key.name: values.get(key.name, key.default) for key in KEYS}
    return Config(
        file=file,
        runtime_directory=found["runtime_directory"] or default_runtime_directory(),
        doors=found["doors"],
        policies=found["policies"],
        audit=found["audit"],
        containers=found["limits.containers"],
        connections=found["limits.connections"],
        connects=found["limits.connects"],
        attached=found["limits.attached"],
        message=found["limits.message"],
        hand_over=found["limits.hand_over"],
        descriptors=found["limits.descriptors"],
        session=Limits(
            snapshot=found["limits.snapshot"],
            restarts=found["limits.restarts"],
            restart_window=found["limits.restart_window"],
            hang=found["limits.hang"],
            path=found["limits.path"],
            mount=found["limits.mount"],
            in_flight=found["limits.in_flight"],
            rate=found["limits.rate"],
        ),
    )
