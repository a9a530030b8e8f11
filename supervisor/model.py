"""What every room of the house may import: the frozen values that travel between them.

Names follow seccomp_unotify(2). Paths are bytes as the caller wrote them, without the NUL.
Device numbers are pairs (major, minor). An errno is positive here; the shim negates it on the
way to the kernel, and nobody else does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

Arg = int | bytes


class Verdict(StrEnum):
    """What becomes of a call.

    REFUSE is the refusal that the kernel itself would give, with the errno and the precedence
    that the kernel has for it; ERRNO is a refusal with an errno that the policy names.
    """

    CONTINUE = "continue"
    REFUSE = "refuse"
    ERRNO = "errno"
    RETURN = "return"
    EMULATE = "emulate"
    INJECT = "inject"
    KILL = "kill"

    @property
    def grants(self) -> bool:
        """Whether the caller gets something that a refusal would have kept from it."""
        return self in (Verdict.CONTINUE, Verdict.RETURN, Verdict.EMULATE, Verdict.INJECT)


class Message(NamedTuple):
    """What a call sends: control messages as a 64-bit caller has them, and data, both read once.

    `cut`: there is more data. `errno`: what could not be read, or 0. `told_at`: where in the
    caller's memory sendmmsg(2) says how much was sent, 0 for the others.
    """

    control: bytes
    payload: bytes
    cut: bool = False
    errno: int = 0
    told_at: int = 0


class Snapshot(NamedTuple):
    """One received call, read exactly once.

    `args` has one entry for each parameter of the system call, already cut to the width of its
    type: integers, the bytes of a string, or for a string that could not be read the negative
    errno (-EFAULT, -ENAMETOOLONG); 0 for a NULL pointer where the call may have one (mount's
    source, type and data; -E2BIG is data that is longer than the kernel takes).
    `tid` is the calling thread in seccompd's pid namespace, `listener` the descriptor that the
    call came by. `message` is what a call sends, None for all others. An address is the bytes of a
    struct sockaddr, and 0 where the message has none. `begun`: a porter makes the call already.
    Of the value of an extended attribute the beginning is there, and all of it is the message.
    """

    id: int
    tid: int
    arch: int
    nr: int
    ip: int
    name: str
    args: tuple[Arg, ...]
    listener: int = -1
    message: Message | None = None
    begun: bool = False


class Facts(NamedTuple):
    """What only path work could find out: the second look of a decision.

    `path` is the resolved path below the caller's root directory (absolute, no symlink, no "..");
    `uid` and `gid` are the caller's file system ids as its own user namespace numbers them.
    `source` is what a mount's source really is, `target` where it is mounted. `peer` is the struct
    sockaddr of who has connected, where a connection is accepted. `nowhere`: the path led to
    nothing; then what a rule of `mode: audit` asks of it counts as found, for it lets calls go.

    The rest is there where a rule asks for it, and None where it could not be found out: `host_uid`
    and `host_gid` as seccompd's user namespace numbers them; `capabilities` that are effective in
    the session's user namespace, by name; `executable`, the program's path from the root of its
    mount namespace; `cgroup`, as the session's cgroup namespace names it.
    """

    path: bytes | None
    uid: int
    gid: int
    source: Source | None = None
    target: bytes | None = None
    host_uid: int | None = None
    host_gid: int | None = None
    capabilities: frozenset[str] | None = None
    executable: bytes | None = None
    cgroup: bytes | None = None
    peer: bytes | None = None
    nowhere: bool = False


class Source(NamedTuple):
    """What the source of a mount really is, found out by path work.

    `kind` is "device" (a block device: `name` is the kernel's own name of it, /dev/sda1, which no
    container can choose, and `device` its number), "image" (a regular file: `name` is its resolved
    path below the caller's root), or "text" (what the caller wrote, for a filesystem that has no
    device).
    """

    kind: str
    name: bytes
    device: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class MountSettings:
    """How an `emulate` rule wants its mount done.

    `via`: "kernel" or "fuse". `program`: for fuse the argv, in which {source}, {target} and
    {options} are filled in; the first one is a path, of the host's tree or (`inside`) of the
    container's. `shift`: "auto", "true" or "false" (kernel alone). `force`: MS_* flags that are
    added and cannot be taken away again. `text`: the source is no path (nfs, cifs, hugetlbfs).
    """

    via: str = "kernel"
    program: tuple[str, ...] = ()
    inside: bool = False
    shift: str = "auto"
    force: int = 0
    text: bool = False


@dataclass(frozen=True, slots=True)
class Balance:
    """Backends that connections are shared out to, each a struct sockaddr as `redirect` has one.

    `by`: "round-robin", "least-connections" or "hash". One that fails is left out for `rest`
    seconds, and one that has not answered after `wait` seconds has failed.
    """

    to: tuple[bytes, ...]
    by: str = "round-robin"
    rest: float = 10.0
    wait: float = 5.0


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """How a rule wants a call on a socket made: led to the struct sockaddr `redirect`, at the port
    that the caller asked for if it has none of its own; b"": to where the caller asked. `prefix`:
    an IPv4 address is led to the IPv6 address that it has below this one (RFC 6052), as (16 bytes,
    bits that count). `balance`: it is led to one of several. `peername`: getpeername(2) shows the
    address that the caller asked for. `options`: names and values of what is set on the socket
    before. `host`: it is made in the host's network, where the container has another one.
    """

    redirect: bytes = b""
    prefix: tuple[bytes, int] | None = None
    balance: Balance | None = None
    peername: bool = False
    options: tuple[tuple[str, int | str], ...] = ()
    host: bool = False


@dataclass(frozen=True, slots=True)
class OptionSettings:
    """How a rule wants an option of a socket set, or told: as this `value`, whatever was asked for;
    None: as it was asked for, or as it is.
    """

    value: int | str | None = None


@dataclass(frozen=True, slots=True)
class MountCeiling:
    """All that a maker can be asked to mount with one rule of `via: kernel`: one fstype, what it
    may be mounted from, the MS_* flags that it always gets (`force`) and those that may be asked
    for (`flags`, which has all of `force`), globs for its options, and whether it may be idmapped.

    `names` are globs for the kernel's names of block devices, or for texts; `devices` numbers of
    block devices as (lowest major, highest major, lowest minor, highest minor). A device has to
    match either.
    """

    fstype: bytes
    force: int
    flags: int = 0xFFFFFFFF
    options: tuple[bytes, ...] = ()
    shift: bool = True
    names: tuple[bytes, ...] = ()
    devices: tuple[tuple[int, int, int, int], ...] = ()
    images: bool = False
    text: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """How an `emulate` rule wants its emulation done; `None` and defaults where it says nothing.

    `realise`: auto (a real node where it would open, else a bind mount), node, bind, or closed (a
    node that is there and cannot be opened; for an ordinary user as bind).
    """

    realise: str = "auto"


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """How a rule wants a directory made: as `redirect`, a path below the caller's root, in the
    place of the one that was asked for; b"": where it was asked for.
    """

    redirect: bytes = b""


@dataclass(frozen=True, slots=True)
class XattrSettings:
    """How an extended attribute is set or removed: as the caller, or (`root`) as the host's root.
    `nodes`: the call is the kernel's to do, but for nodes of ours that are bind mounts.
    """

    root: bool = False
    nodes: bool = False


@dataclass(frozen=True, slots=True)
class XattrCeiling:
    """All that a maker can be asked to do with extended attributes by one rule: a glob for names,
    and the one value that they may be set to; None: any, and they may be removed.
    """

    name: bytes
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Inject:
    """What an `inject` rule gives: a device (type, major, minor), a file or a directory of the
    host's, a file with this content, loop devices with numbers from the first to the last of
    `loops`, or a file that `fits` the caller's cgroup: one of engine/fitted.py. `writes`: for
    writing, too (below a directory).
    """

    device: tuple[str, int, int] | None = None
    file: str | None = None
    content: str | None = None
    writes: bool = False
    directory: str | None = None
    loops: tuple[int, int] | None = None
    fits: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it is a file that we make."""
        return self.content is not None or self.fits is not None

    def text(self) -> str:
        """For a record."""
        if self.device is not None:
            kind, major, minor = self.device
            return f"device {'char' if kind == 'c' else 'block'} {major}:{minor}"
        if self.loops is not None:
            return f"loops {self.loops[0]}-{self.loops[1]}"
        if self.directory is not None:
            return f"directory {self.directory}"
        if self.fits is not None:
            return f"fits {self.fits}"
        return "content" if self.file is None else f"file {self.file}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer to one call. `value` is the errno of ERRNO, the result of RETURN.

    `rule` is where the rule stands ("build.yaml:7"), or "otherwise" with the policy's file.
    `needs_facts` says that the decision holds only if it is taken again with Facts, and comes
    out as a grant there too. `as_written`: it would come out the same for the very path that the
    caller wrote, so it need not be taken again where that path leads through no symbolic link.
    `asks_caller`: of accept, who calls may settle it before there is a connection.
    `silent` refusals are not recorded. `audit`: the decision is recorded and nothing comes of it;
    the call goes the way that it would have gone without seccompd. `caller` is what the rule asks
    of the caller: the entries of each of its keys, as a policy has them.
    """

    verdict: Verdict
    rule: str
    reason: str = ""
    value: int = 0
    settings: (
        Settings | MountSettings | SocketSettings | OptionSettings | DirectorySettings
        | XattrSettings | Inject
    ) = Settings()
    needs_facts: bool = False
    silent: bool = False
    audit: bool = False
    as_written: bool = False
    asks_caller: bool = False
    caller: tuple[tuple[str, tuple[int | str, ...]], ...] = ()


class Given(NamedTuple):
    """A descriptor that a caller gets a copy of, with O_CLOEXEC in `flags` or without; whoever
    answers closes it. `node`: of the shim; who makes an equal call may get that, opened with
    `flags`, where its path surely leads to `path`. `opener`: the same, opened by one of that kind,
    the thing of that number. Without both equal calls are looked at anew.
    """

    fd: int
    flags: int
    node: Any = None
    path: bytes = b""
    opener: tuple[int, int] | None = None

    @property
    def again(self) -> bool:
        """Whether who makes an equal call may be given the same."""
        return self.node is not None or self.opener is not None


class Tcp(NamedTuple):
    """What the kernel knows of a TCP connection that is there (TCP_INFO): the size of a segment and
    of a packet in bytes, the time to the other end and back in microseconds, how often it had to
    send again."""

    mss: int
    pmtu: int
    rtt: int
    retransmits: int


class Outcome(NamedTuple):
    """What a carried out plan came to.

    `errno` 0 is success. `left_alone` means that the call does not concern anything of ours and
    is the kernel's to do, with the caller's own rights. `how` goes into the audit record
    ("node", "bind", "resolver: deadline", ...); `path` is the resolved path where it is known.
    `facts` are those that the decision was taken again with. `value` is what the call returns, and
    `told` a number that is to be written to the caller's memory first, with where; `named` an
    address, with where that and its length are written; `filled` bytes, each with where. `give`:
    the caller gets a descriptor. `tcp`: of a connection. `errand`: the struct sd_socket with which
    equal calls can be made again without a decision. `nowhere`: an errno came before the decision
    could be taken again, which is this one.
    """

    errno: int
    how: str = ""
    path: bytes | None = None
    left_alone: bool = False
    decision: Decision | None = None
    facts: Facts | None = None
    value: int = 0
    told: tuple[int, int] | None = None
    named: tuple[int, int, bytes] | None = None
    tcp: Tcp | None = None
    give: Given | None = None
    errand: Any = None
    filled: tuple[tuple[int, bytes], ...] = ()
    nowhere: int = 0
