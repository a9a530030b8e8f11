"""The checks of `seccompd doctor`: each looks at one thing that `seccompd run` needs."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.errors import SeccompdError

if TYPE_CHECKING:
    from supervisor.kernel.idmap import Range

OLDEST_LIBSECCOMP = (2, 5, 0)
USUAL_NODES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0), "ptmx": (5, 2),
}
# What the makers of real device nodes need of root (linux/capability.h).
MAKER_CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27,
}

OK, NOTE, MISSING = "ok", "note", "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    `state` is "ok", "note" (`run` works, with less) or "missing" (it does not). `detail` says what
    was found, `remedy` what to do about it.
    """

    name: str
    state: str
    detail: str
    remedy: str = ""


def _text(path: str) -> str | None:
    """A small file's text without white space around it; None where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def libraries() -> Iterator[Finding]:
    """The C module and the Python packages: do they import?"""
    needs = {
        "supervisor._shim": "run `make build`, or install seccompd again",
        "prctl": "pip install python-prctl (its build needs gcc and libcap-dev)",
        "pyseccomp": "pip install pyseccomp, and the system's libseccomp (libseccomp2 in Debian)",
        "trio": "pip install trio",
        "pydantic": "pip install pydantic",
        "yaml": "pip install PyYAML",
    }
    for name, remedy in needs.items():
        try:
            importlib.import_module(name)
        # Whatever stops an import is this check's finding: pyseccomp raises RuntimeError.
        except Exception as error:
            yield Finding(f"library {name}", MISSING, f"does not import: {error}", remedy)
            continue
        yield Finding(f"library {name}", OK, "imports")


def libseccomp() -> Iterator[Finding]:
    """The version of libseccomp: user notification came with 2.5."""
    from supervisor.kernel import bpf

    version = bpf.libseccomp_version()
    text = ".".join(map(str, version))
    if version < OLDEST_LIBSECCOMP:
        yield Finding("libseccomp", MISSING, f"{text} is too old", "install 2.5 or later")
    else:
        yield Finding("libseccomp", OK, text)


def other_distributions() -> Iterator[Finding]:
    """PyPI has other distributions that bring a package named `supervisor`."""
    owners = {
        dist
        for dist in importlib.metadata.packages_distributions().get("supervisor", [])
        if dist.lower() != "seccompd"
    }
    if owners:
        yield Finding(
            "package name",
            MISSING,
            f"installed here by another distribution, too: {', '.join(sorted(owners))}",
            "install seccompd into an environment of its own (python3 -m venv)",
        )
    else:
        yield Finding("package name", OK, "`supervisor` is seccompd's alone here")


def kernel_version() -> Iterator[Finding]:
    """The running kernel."""
    release = os.uname().release
    from supervisor.kernel import features

    if features.version() < features.OLDEST:
        least = ".".join(map(str, features.OLDEST))
        remedy = f"run Linux {least} or later"
        yield Finding("kernel", MISSING, f"Linux {release} is too old", remedy)
    else:
        yield Finding("kernel", OK, f"Linux {release}")


def kernel_features() -> Iterator[Finding]:
    """Every feature of the table, save those that have a check of their own."""
    from supervisor.kernel import features

    for name, feature in features.FEATURES.items():
        if name in ("namespaces", "proc"):
            continue
        since = ".".join(map(str, feature.since))
        label = f"kernel {name}"
        if features.available(name):
            yield Finding(label, OK, feature.purpose.partition(";")[0])
            continue
        code = features.probe(name)
        why = "hidden for a test" if name in features.hidden() else _why(code)
        if not feature.required:
            yield Finding(label, NOTE, f"{why}: {feature.purpose}", f"comes with Linux {since}")
        elif name == "listener" or code < 0:
            yield Finding(label, MISSING, f"a filter with a listener cannot be installed: {why}",
                          "are you inside a container, or below another supervisor that holds "
                          "a listener (EBUSY)? run seccompd outside of it")
        else:
            yield Finding(label, MISSING, f"{why}: {feature.purpose}",
                          f"comes with Linux {since}, built with CONFIG_SECCOMP_FILTER")


def _why(code: int) -> str:
    return "not there" if code >= 0 else os.strerror(-code)


def namespaces() -> Iterator[Finding]:
    """User, mount and pid namespaces: made and used in a child; and a procfs mounted in them."""
    from supervisor.kernel import features

    if not features.available("namespaces"):
        hidden = "namespaces" in features.hidden()
        why = "hidden for a test" if hidden else _why(features.probe("namespaces"))
        yield Finding("user namespaces", MISSING, why, _namespace_remedy())
        return
    yield Finding("user namespaces", OK, "made and used in a trial")
    if features.available("proc"):
        yield Finding("procfs in them", OK, "mounted in a trial")
    else:
        why = _why(features.probe("proc"))
        yield Finding("procfs in them", NOTE, f"{why}: CMD sees the old one",
                      "parts of /proc are hidden here, as containers do it: "
                      "run seccompd outside of the container")


def _namespace_remedy() -> str:
    """What most likely refuses user namespaces here."""
    if _text("/proc/sys/user/max_user_namespaces") == "0":
        return "as root: sysctl -w user.max_user_namespaces=10000"
    if _text("/proc/sys/kernel/unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        return "as root: sysctl -w kernel.unprivileged_userns_clone=1"
    restricted = _text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if restricted not in (None, "0") and os.geteuid() != 0:
        return ("AppArmor keeps ordinary users from them; as root: "
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    if is_chrooted():
        return "the kernel refuses them in a chroot: run seccompd outside, or use pivot_root"
    return ("are you inside a container, or in a chroot (where the kernel refuses them)? run "
            "seccompd outside of it")


def is_chrooted() -> bool:
    """Whether this process' root is surely not a mount point, as after a plain chroot."""
    table = _text("/proc/self/mountinfo")
    if table is None:
        return False
    return all(line.split()[4] != "/" for line in table.splitlines())


def procfs() -> Iterator[Finding]:
    """/proc: seccompd finds a caller's root, directory and ids there."""
    try:
        own = os.readlink("/proc/self")
    except OSError as error:
        yield Finding("/proc", MISSING, str(error), "mount -t proc proc /proc")
        return
    if own != str(os.getpid()):
        yield Finding("/proc", MISSING, "belongs to another pid namespace",
                      "mount a procfs of this pid namespace: mount -t proc proc /proc")
    else:
        yield Finding("/proc", OK, "a procfs of this pid namespace")


def yama() -> Iterator[Finding]:
    """Yama can forbid to read the memory of other processes."""
    scope = _text("/proc/sys/kernel/yama/ptrace_scope")
    if scope is None or scope == "0":
        yield Finding("Yama", OK, "does not restrict the reading of a caller's memory")
    elif scope == "3":
        yield Finding("Yama", MISSING, "ptrace_scope 3: nobody can read a caller's memory",
                      "boot with kernel.yama.ptrace_scope=1; 3 cannot be taken back")
    elif os.geteuid() == 0:
        yield Finding("Yama", OK, f"ptrace_scope {scope} does not hinder root")
    else:
        yield Finding("Yama", NOTE, f"ptrace_scope {scope}: `--map none` cannot read its callers",
                      "as root: sysctl -w kernel.yama.ptrace_scope=0")


def devices() -> Iterator[Finding]:
    """The host's own nodes: an ordinary user's nodes are bind mounts of them."""
    lacking = []
    for name, number in USUAL_NODES.items():
        try:
            found = os.stat(f"/dev/{name}")
        except OSError:
            lacking.append(name)
            continue
        device = (os.major(found.st_rdev), os.minor(found.st_rdev))
        if not stat.S_ISCHR(found.st_mode) or device != number:
            lacking.append(name)
    if lacking and os.geteuid() != 0:
        yield Finding("/dev", NOTE, f"not there: {', '.join(lacking)}",
                      "these cannot be made for an ordinary user: mount a devtmpfs")
    else:
        yield Finding("/dev", OK, "has the usual device nodes")


def privileges() -> Iterator[Finding]:
    """Root's capabilities: real nodes are made with them. An ordinary user needs none."""
    from supervisor.kernel import idmap

    if os.geteuid() != 0:
        yield Finding("privileges", OK, "an ordinary user: nodes are bind mounts of the host's")
        return
    status = _text("/proc/self/status") or ""
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    held = int(lines.get("CapEff", "0"), 16)
    lacking = [name for name, bit in MAKER_CAPABILITIES.items() if not held >> bit & 1]
    if not idmap.in_initial_namespace():
        yield Finding("privileges", OK, "root of a container: nodes are bind mounts of its own")
    elif lacking:
        yield Finding("privileges", MISSING, f"root without {', '.join(lacking)}",
                      "run it with these capabilities, or as an ordinary user")
    else:
        yield Finding("privileges", OK, "root, with what makes real nodes")


def id_mapping() -> Iterator[Finding]:
    """newuidmap and newgidmap, which give an ordinary user more than one id."""
    from supervisor.kernel import idmap

    if os.geteuid() == 0:
        return
    for program in ("newuidmap", "newgidmap"):
        found = idmap.find_helper(program)
        if found is None:
            yield Finding(program, NOTE, "not there: CMD has one id, no chown to others works",
                          "apt-get install uidmap")
        elif not _is_privileged(found):
            yield Finding(program, MISSING, f"{found} is neither setuid root nor has capabilities",
                          "apt-get install --reinstall uidmap")
        else:
            yield Finding(program, OK, found)


def _is_privileged(program: str) -> bool:
    found = os.stat(program)
    if found.st_uid == 0 and found.st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def subordinate_ids() -> Iterator[Finding]:
    """The ids that `--map auto` gives this user's containers."""
    from supervisor.kernel import idmap

    maps, lacking = idmap.automatic()
    if lacking:
        yield Finding("subordinate ids", NOTE, f"one id alone: {lacking}",
                      "without them apt, chown to others and setgroups fail inside")
        return
    text = f"user ids {_ids(maps.uids)}; group ids {_ids(maps.gids)}"
    if os.geteuid() == 0 and maps.uids[0].outside == idmap.DEFAULT_START:
        text += " (root has no line in /etc/subuid: the documented default)"
    yield Finding("subordinate ids", OK, text)


def _ids(ranges: Sequence[Range]) -> str:
    """ "1000, 100000-165535 (65537)": the ids outside, and how many those are."""
    most = 4
    spans = [
        str(r.outside) if r.length == 1 else f"{r.outside}-{r.outside + r.length - 1}"
        for r in ranges[:most]
    ]
    if len(ranges) > most:
        spans.append("...")
    return f"{', '.join(spans)} ({sum(r.length for r in ranges)})"


def cache() -> Iterator[Finding]:
    """The place of compiled policies: only its user may write there. Without it starts are slow."""
    from supervisor.policy.cache import directory

    folder = directory()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    found = existing.stat()
    if existing == folder and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
        yield Finding("policy cache", NOTE, f"{folder} is not yours, or others may write there",
                      f"remove it: rm -r {folder}")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("policy cache", NOTE, f"{folder} cannot be made: each start compiles anew",
                      "set XDG_CACHE_HOME to a folder of your own")
    else:
        yield Finding("policy cache", OK, str(folder))


def guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an error that ends it is a finding, too."""
    try:
        yield from check()
    except (SeccompdError, OSError, ImportError) as error:
        name = check.__name__.replace("_", " ")
        yield Finding(name, MISSING, str(error).partition("\n")[0], "see the findings before")
