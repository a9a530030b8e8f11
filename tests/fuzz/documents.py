"""Documents for the policy reader that nobody would write, each made from its number alone.

Some are files of ours with bytes changed, some are policies by the grammar with mistakes in them,
some are heaps of YAML's own signs, and a few are as large as a policy may be.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

_SHIPPED = Path(__file__).resolve().parents[2] / "policies"
SEEDS: Sequence[bytes] = [file.read_bytes() for file in sorted(_SHIPPED.glob("*.yaml"))]

SIGNS: Sequence[bytes] = (
    b"&a ", b"*a", b"!!x ", b"!<tag:x> ", b"[", b"]", b"{", b"}", b": ", b"- ", b"\n", b"  ", b"\t",
    b'"', b"'", b"null", b"~", b"0o9", b"1e999", b"\xff", b"\0", b"? ", b"|\n", b">-\n ",
    b"%YAML 1.1\n", b"---\n", b"...\n", b"\xc2\x85",
    b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"#", b"<<: ", b"char 1:*",
    b"otherwise", b"999999999999999999999", b"\\x1b", b'"\\e[31m"', b"\xf0\x9f\x90\x8d", b"-.inf",
    b".nan", b"0x", b"$harmless", b"$", b"../", b"**", b"[!", b"`", b"@", b"\r\n", b"\r", b"\x1b",
    b'"\\udc80"', b"true", b"no", b"on", b"2026-11-21", b"1_000", b"0b1", b"12:30:45",
)  # fmt: skip

# For each key what it may be, and what it may not, or means nothing.
_WORDS: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "devices": (
        ("null", "zero", "loop*", "char 1:3", "char 1:*", "block 7:0-7", "block *:*", "ttyS0",
         "char 0:0", "char 4095:1048575", "char *:5", "tty0-63"),
        ("char 4096:0", "char 9-1:0", "nul", "sda", "/dev/zero", "block 8", "char 1:3-", "loop7-3",
         "$harmless", "$nothing"),
    ),
    "path": (
        ("/dev/**", "**", "/a/*/b", "/[a-z]x", "/*/*/*/*/*", "/" + "*a" * 60, "/**/**/**",
         "/\u00e9?"),
        ("/[", "/[]", "/[!]", "a/b", "/../x", "/a\\", "", "/\udc80", "/a\0", "$paths", "/{}"),
    ),
    "uid": (
        (0, 1000, "1000-1999", "0-4294967294", 4294967294),
        (-1, "9-1", "0-4294967295", 4294967295, 1.5, True, "0"),
    ),
    "capability": (("mknod", "sys_admin", "CAP_SYS_ADMIN"), ("cap_mknd", 21, "")),
    "executable": (("/usr/bin/*", "**/sh"), ("sh", "/[z-a]")),
    "cgroup": (("/system.slice/**", "**"), ("x",)),
    "fstype": (("ext4", "squashfs", "tmpfs", "nfs", "fuse.sshfs", "overlay"), ("ext5", "", 4)),
    "source": (
        ("/images/*.img", "/dev/loop*", "block 7:*", "**", "none", "//srv/x"), ("char 1:3", ""),
    ),
    "target": (("/mnt/**", "/", "**"), ("mnt",)),
    "options": (
        ({"allow": ["ro"]}, {"allow": "*"}, {"allow": ["data=*", "nosuid"]}, {"allow": []}),
        ({"allow": ["bind"]}, {"deny": []}, ["ro"], "ro", {"allow": ["a,b"]}, {"allow": [1]}),
    ),
    "mode": (("audit", "enforce"), ("complain", None, 1)),
    "silent": ((True, False), ("yes", "true", 0)),
    "accept_race": ((True, False), ("no", None)),
}  # fmt: skip
for _other in ("gid", "host_uid", "host_gid"):
    _WORDS[_other] = _WORDS["uid"]
_DO: Sequence[Any] = (
    "emulate", "continue", "refuse", "kill", "emulat", "allow", "", None, 1, [], {}, ["emulate"],
    {"errno": "EPERM"}, {"errno": "EPREM"}, {"errno": 1}, {"return": 0}, {"return": -1},
    {"return": 1 << 40}, {"return": True}, {"errno": "EIO", "return": 0}, {"emulate": {}},
    {"emulate": {"realise": "bind"}}, {"emulate": {"realise": "closed"}},
    {"emulate": {"realise": []}},
    {"emulate": {"via": "fuse"}}, {"emulate": {"via": "kernel"}}, {"emulate": {"via": {}}},
    {"emulate": {"via": "fuse", "program": ["/bin/x", "{source}", "{target}"]}},
    {"emulate": {"via": "fuse", "program": ["{x}", "{source}", "{target}", "{"]}},
    {"emulate": {"shift": True, "force": ["nodev", "ro"]}}, {"emulate": {"shift": {}, "force": 1}},
    {"emulate": {"devices": True, "force": "nodev"}}, {"emulate": None}, {"inject": {}},
)  # fmt: skip
_SOUND: Sequence[Any] = (
    "emulate", "emulate", "refuse", "continue", "kill", {"errno": "EACCES"}, {"return": 0},
    {"emulate": {}},
)  # fmt: skip
_COMMON = ("uid", "gid", "host_uid", "host_gid", "capability", "executable", "cgroup", "mode",
           "silent", "accept_race")  # fmt: skip
_KEYS = {
    "mknod": ("devices", "path", *_COMMON),
    "mount": ("fstype", "source", "target", "options", *_COMMON),
}
_ANYTHING: Sequence[Any] = (
    None, True, 0, -1, 1.5, float("inf"), 1 << 70, "", "x", "\x1b[31m", "\u202e", "\ud800", [], {},
    [[]], [{}], {"a": {}}, "null", "~", "$x", "é" * 40, "a" * 700, [None], {"": ""},
)  # fmt: skip
_TOP: dict[str, Sequence[Any]] = {
    "version": (1, 1, 1, 1, 2, "1", None, 1.0, True),
    "name": ("a", "a b", "", "x" * 65, 7, "../x", "\x1b[2J"),
    "description": ("words", "", 5, ["x"], "w" * 1001),
    "match": ({"door": "run"}, {"door": ["oci", "lxc"]}, {"door": "window"}, {"metadata": 1}, []),
    "include": ("default", ["default", "build"], "./p.yaml", ["./nothing.yaml"], "/etc/passwd",
                "/dev/zero", "no such", [[]], {"a": 1}, "..", "/", "\0", ["learn", "learn"]),
    "lists": ({"harmless": ["null", "zero"]}, {"a": ["$b"], "b": ["$a"]}, {"a": "x"}, {"1": []},
              {"paths": ["/a", "/b/**"]}, {"a": [[["$a"]]]}, [], {"harmless": []}),
    "mode": ("audit", "enforce", "x"),
    "on_error": ("EPERM", "EPREM", 1, "EWOULDBLOCK", None),
    "limits": ({"path": "2s"}, {"path": 0}, {"mount": "9h"}, {"snapshot": 1e-9}, {"x": 1}, [],
               {"path": float("nan")}, {"mount": "99999999999s"}, {"path": True}, {"path": "1.5m"}),
}  # fmt: skip


def _rule(rnd: random.Random, family: str, *, odd: bool) -> Any:
    if odd and rnd.random() < 0.03:
        return rnd.choice(_ANYTHING)
    rule: dict[str, Any] = {}
    for key in rnd.sample(_KEYS[family], rnd.choice((0, 1, 1, 2, 2, 3, 5))):
        sound, wrong = _WORDS[key]
        words = (*sound, *wrong) if odd else sound
        several = key not in ("options", "mode", "silent", "accept_race") and rnd.random() < 0.3
        count = rnd.choice((1, 2, 5, 0 if odd else 1))
        rule[key] = [rnd.choice(words) for _ in range(count)] if several else rnd.choice(words)
    if family == "mount" and not odd:
        rule.setdefault("fstype", "ext4")
        rule.setdefault("source", "/a/**")
    if not odd or rnd.random() < 0.97:
        rule["do"] = rnd.choice(_DO if odd and rnd.random() < 0.3 else _SOUND)
    if odd and rnd.random() < 0.06:
        rule[rnd.choice(("device", "paths", "Do", "", "\x1b[0m", "uid "))] = rnd.choice(_ANYTHING)
    if odd and rule and rnd.random() < 0.06:
        rule[rnd.choice(list(rule))] = rnd.choice(_ANYTHING)
    return rule


def _by_grammar(rnd: random.Random) -> dict[str, Any]:
    odd = rnd.random() < 0.5
    out: dict[str, Any] = {"version": 1}
    for key, values in _TOP.items() if odd else ():
        if rnd.random() < (0.04 if key == "version" else 0.1):
            out[key] = rnd.choice(values)
    syscalls: dict[str, Any] = {}
    for family in ("mknod", "mount"):
        if rnd.random() < 0.7:
            count = rnd.choice((0, 1, 1, 2, 3, 6))
            rules: Any = [_rule(rnd, family, odd=odd) for _ in range(count)]
            if rnd.random() < 0.4:
                words = ("kernel", "refuse", "kernl", None) if odd else ("kernel", "refuse")
                rules = {"rules": rules, "otherwise": rnd.choice(words)}
            syscalls[family] = rnd.choice(_ANYTHING) if odd and rnd.random() < 0.03 else rules
    if not odd or rnd.random() < 0.97:
        out["syscalls"] = rnd.choice(_ANYTHING) if odd and rnd.random() < 0.03 else syscalls
    if odd and rnd.random() < 0.03:
        out[rnd.choice(("syscall", "Version", "\u0000", "x" * 200))] = rnd.choice(_ANYTHING)
    return out


def _scalar(rnd: random.Random, value: Any) -> str:
    if not isinstance(value, str):
        text = json.dumps(value)
        return {"Infinity": ".inf", "NaN": ".nan"}.get(text, text)
    plain = bool(value) and all(char.isalnum() or char in "_./" for char in value)
    if plain and rnd.random() < 0.7:
        return value
    if rnd.random() < 0.3 and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value)


def _written(rnd: random.Random, value: Any, indent: int) -> str:
    """YAML in block or in flow style, as it comes."""
    if not isinstance(value, dict | list):
        return _scalar(rnd, value)
    block = bool(value) and rnd.random() < 0.4
    pad = "\n" + " " * indent
    if isinstance(value, list):
        parts = [_written(rnd, one, indent + 2) for one in value]
        return "".join(f"{pad}- {part}" for part in parts) if block else f"[{', '.join(parts)}]"
    pairs = [f"{_scalar(rnd, key)}: {_written(rnd, one, indent + 2)}" for key, one in value.items()]
    return "".join(pad + pair for pair in pairs) if block else f"{{{', '.join(pairs)}}}"


def _as_yaml(rnd: random.Random, value: dict[str, Any]) -> bytes:
    text = "\n".join(f"{key}: {_written(rnd, one, 2)}" for key, one in value.items())
    return text.encode("utf-8", "surrogatepass") + b"\n"


def _changed(rnd: random.Random, text: bytearray) -> bytes:
    for _ in range(rnd.choice((1, 1, 1, 2, 4))):
        at = rnd.randrange(len(text) + 1)
        match rnd.randrange(5):
            case 0 | 1:
                text[at:at] = rnd.choice(SIGNS)
            case 2:
                del text[at : at + rnd.randrange(12)]
            case 3:
                text[at:at] = text[rnd.randrange(len(text) + 1) :][: rnd.randrange(60)]
            case _:
                other = rnd.choice(SEEDS)
                text[at:at] = other[rnd.randrange(len(other)) :][: rnd.randrange(200)]
    return bytes(text)


_HEAD = "version: 1\nsyscalls:\n  mknod:\n"
_MOUNTS = "version: 1\nsyscalls:\n  mount:\n"


def large(rnd: random.Random, which: int) -> bytes:
    """One of the documents that cost most, not larger than a policy may be."""
    word = rnd.choice(("zero", "zaero", "char 1:3", "x" * 30))
    rules = (
        "    - {{devices: ['char {0}:{1}'], path: /s/{1}/**, do: emulate}}\n",
        "    - {{path: ['/a/{1}*'], uid: {1}, do: {2}}}\n",
        "    - {{devices: ['char 1:{1}-{3}'], do: refuse, silent: true}}\n",
        "    - {{x: {1}}}\n",
        "    - {{devices: [z{1}], path: [a{1}], do: x{1}}}\n",
        "    - {{uid: ['{1}-{3}', {1}], gid: [0, 5], host_uid: [{1}, 0], do: {2}}}\n",
        "    - {{devices: ['char *:{1}-{3}', 'block 0-{0}:*'], do: {2}, silent: true}}\n",
        "    - {{executable: '/x{1}', cgroup: '/**/y{1}*', do: {2}}}\n",
        "    - {{uid: ['{1}-{3}'], path: '/a{1}', do: {2}}}\n",
        f"    - {{{{path: '/{'*a' * 100}{{1}}*', do: {{2}}}}}}\n",
    )
    mounts = (
        "    - {{fstype: ext4, source: '/a/{1}/**', options: {{allow: ['a{1}*']}}, do: {2}}}\n",
        "    - {{fstype: [a, b, c, d], source: [/x, /y{1}], target: [/x, '/y/*'], do: {2}}}\n",
    )
    verdicts = rnd.choice((("emulate", "refuse"), ("continue", "refuse"), ("kill", "{errno: EIO}")))
    count = rnd.choice((3000, 6900, 11_900, 14_000))  # up to what a policy may have, and more

    def lines(head: str, pattern: str) -> str:
        return head + "".join(
            pattern.format(n % 4000, n, verdicts[n % 2], n * 3) for n in range(count)
        )

    texts: list[Callable[[], str]] = [partial(lines, _HEAD, rule) for rule in rules]
    texts += [partial(lines, _MOUNTS, rule) for rule in mounts]
    texts += [
        lambda: _HEAD + f"    - {{devices: [{', '.join([word] * 110_000)}], do: emulate}}\n",
        lambda: _HEAD + "    - {path: [" + ", ".join(f"/{n}/**" for n in range(90_000)) + "]}\n",
        lambda: _HEAD + "    - {devices: ["
        + ", ".join(f"'char 1:{2 * n}'" for n in range(50_000))
        + "], do: refuse, silent: true}\n",
        lambda: _MOUNTS + "    - {source: [" + ", ".join(f"/s{n}" for n in range(20_000))
        + "], target: [" + ", ".join(f"/t{n}" for n in range(20_000)) + "], do: refuse}\n",
        lambda: "[" + "[]," * 300_000,
        lambda: "[" * 1_000_000,
        lambda: "{a: " * 200_000,
        lambda: "".join(f"k{n}: 1\n" for n in range(90_000)),
        lambda: "".join(f"&a{n} k{n}: *a{n}\n" for n in range(40_000)),
        lambda: f"version: 1\nname: {'x' * 1_000_000}\n",
        lambda: f"version: 1\n{'x' * 500_000}: '{'y' * 500_000}'\n",
        lambda: "version: 1\nlists:\n"
        + "".join(f"  l{n}: [$l{n + 1}, $l{n + 1}]\n" for n in range(900)),
        lambda: f"version: 1\nlists: {{a: [{'zero,' * 10_000}]}}\nsyscalls:\n  mknod:\n"
        + "    - {devices: $a, do: emulate}\n" * 20,
        lambda: _HEAD + f"    - {{path: ['/{'*a' * 2000}'], do: emulate}}\n" * 200,
        lambda: "? " * 400_000,
        lambda: "- " * 400_000,
        lambda: "a: |\n" + "  x\n" * 250_000,
        lambda: '"' + "\\x41" * 250_000 + '"',
        lambda: "\n" * 1_000_000,
        lambda: "#" * 1_000_000,
    ]
    return texts[which % len(texts)]().encode()[: rnd.choice((1 << 20, 1 << 20, (1 << 20) + 1))]


def document(number: int) -> bytes:
    """The document with that number: always the same."""
    rnd = random.Random(number)
    if number % 1000 == 999:
        return large(rnd, number // 1000)
    kind = rnd.random()
    if kind < 0.4:
        return _changed(rnd, bytearray(rnd.choice(SEEDS)))
    if kind < 0.8:
        text = _as_yaml(rnd, _by_grammar(rnd))
        return text if rnd.random() < 0.8 else _changed(rnd, bytearray(text))
    if kind < 0.95:
        signs = [*SIGNS, b"version: 1\n", b"syscalls: ", b"mknod: ", b"do: emulate", b"rules: "]
        return b"".join(rnd.choice(signs) for _ in range(rnd.randrange(1, 40)))
    return rnd.randbytes(rnd.randrange(200))


_RECORD = (
    b'{"session": "s", "syscall": "mknodat", "arch": "x86_64", "uid": 0, "gid": 0, '
    b'"args": {"dirfd": -100, "pathname": "/a", "mode": 8630, "dev": 259}, "verdict": "refuse", '
    b'"rule": "p.yaml:3", "resolved": "/a", "facts": {"uid": 0, "gid": 0, "host_uid": 5, "source": '
    b'{"kind": "device", "name": "/dev/a", "device": "7:0"}, "capabilities": ["mknod"]}}\n'
)
_CALLS = (
    b'mknod("/dev/kvm", S_IFCHR|0666, makedev(0xa, 0xe8)) = -1 EPERM (Operation not permitted)\n',
    b'[pid  7] 18:54:31.4 mknodat(3</usr>, "a\\nb", S_IFBLK|0660, makedev(0x8, 0x1)) = 0\n',
    b'mount("/a", "/b", "ext4", MS_RDONLY|0x400, "x=(1") = 0\n',
    b'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("10.0.0.1")}, 16)\n',
    b"mount source=/a target=/b filesystemtype=ext4 mountflags=ro,nosuid data=x\n",
    b"mknod pathname=/x mode=char dev=kvm\n",
    b'ioctl(0, TIOCSTI, [10]) = 0\n',
    _RECORD,
    _RECORD,
)


def calls(number: int) -> bytes:
    """Lines of a log or of strace, some of them spoilt: always the same for a number."""
    rnd = random.Random(~number)
    lines = bytearray(b"".join(rnd.choice(_CALLS) for _ in range(4)))
    return _changed(rnd, lines)
