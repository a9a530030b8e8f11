"""What one filter does not notify and another one would: held against the two filters."""

from __future__ import annotations

import itertools

import pytest

from supervisor.handlers.registry import FAMILIES
from supervisor.kernel import bpf
from supervisor.kernel.simulate import run
from supervisor.kernel.syscalls import X86_64, number
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.notified import Notified, beyond
from tests.support.policies import BLOCK, CHAR, device, policy

NODES = "version: 1\nsyscalls:\n  mknod:\n    otherwise: kernel\n    rules:\n"
MOUNTS = "version: 1\nsyscalls:\n  mount:\n    otherwise: kernel\n    rules:\n"
OPTIONS = "version: 1\nsyscalls:\n  setsockopt:\n    otherwise: kernel\n    rules:\n"
POLICIES = {
    "null": NODES + '      - {devices: ["null"], do: emulate}\n',
    "memory": NODES + "      - {devices: ['char 1:0-15'], do: emulate}\n",
    "loops": NODES + "      - {devices: ['block 7:*', 'char 1:3'], do: emulate}\n",
    "silent": NODES + "      - {devices: ['char *:*'], do: {errno: EACCES}, silent: true}\n",
    "all": "version: 1\nsyscalls:\n  mknod: []\n",
    "ext4": MOUNTS + "      - {fstype: ext4, do: {emulate: {via: fuse}}}\n",
    "kernel": MOUNTS + "      - {fstype: ext4, source: '**', do: {emulate: {via: kernel}}}\n",
    "read-only": MOUNTS
    + "      - {options: {allow: [ro]}, fstype: ext4, do: {emulate: {via: fuse}}}\n",
    "a mark": OPTIONS + "      - {optname: SO_MARK, do: refuse}\n",
    "a level": OPTIONS + "      - {level: SOL_SOCKET, do: refuse}\n",
    "one for some": OPTIONS + "      - {optname: TCP_REPAIR, uid: 0, do: refuse}\n",
    "all options": "version: 1\nsyscalls:\n  setsockopt: []\n",
    "no mounts": "version: 1\nsyscalls:\n  mount: []\n",
    "a directory": "version: 1\nsyscalls:\n  mkdir:\n    - {path: /a, do: emulate}\n",
    "directories left": "version: 1\nsyscalls: {mkdir: {otherwise: kernel}}\n",
    "nothing": "version: 1\nsyscalls: {}\n",
}
DEVICES = [
    (kind, device(major, minor))
    for kind in (CHAR, BLOCK) for major in (0, 1, 7, 10) for minor in (0, 3, 5, 20, 300)
]  # fmt: skip
FLAGS = [sum(1 << bit for bit in bits) for count in range(3)
         for bits in itertools.combinations(range(26), count)]  # fmt: skip


@pytest.fixture(scope="module")
def policies() -> dict[str, CompiledPolicy]:
    return {name: policy(text, "private") for name, text in POLICIES.items()}


def notified(found: CompiledPolicy) -> set[tuple[str, tuple[int, ...]]]:
    """Of some calls those that the filter notifies."""
    calls = [
        *(("mknod", (0, kind, dev)) for kind, dev in DEVICES),
        *(("mount", (0, 0, 0, flags, 0)) for flags in FLAGS),
        *(("setsockopt", (3, *one, 0, 4)) for one in ((1, 36), (1, 2), (6, 19), (6, 36), (36, 1))),
        *((name, (0, 0, 0, 0, 0)) for name in ("umount2", "rename", "unlinkat", "mkdirat")),
    ]
    out = set()
    for name, args in calls:
        nr = number(name, X86_64)
        assert nr is not None
        if run(found.filter, nr, X86_64, args).action == bpf.RET_USER_NOTIF:
            out.add((name, args))
    return out


def test_what_is_missing(policies: dict[str, CompiledPolicy]) -> None:
    seen = {name: notified(found) for name, found in policies.items()}
    made = {name: Notified.of(found, FAMILIES) for name, found in policies.items()}
    looked_at = {name for name, _ in set().union(*seen.values())}
    assert {"mknod", "mount", "umount2", "rename"} <= looked_at
    for new, old in itertools.product(policies, repeat=2):
        missing = {name for name, _ in seen[new] - seen[old]}
        found = set(beyond(made[new], made[old]))
        assert found & looked_at == missing, (new, old)
        again = Notified.from_json(made[old].to_json())
        assert set(beyond(made[new], again)) == found
