"""Decisions on mounts, from the semantics that docs/mounts.md promises."""

from __future__ import annotations

import errno
import itertools
import json
from typing import Any

import pytest

from supervisor.kernel.bpf import RET_USER_NOTIF
from supervisor.kernel.mounts import MS
from supervisor.kernel.simulate import run
from supervisor.kernel.syscalls import I386
from supervisor.model import Decision, Facts, MountCeiling, MountSettings, Snapshot, Source, Verdict
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.mounts import split_options
from supervisor.policy.shadows import shadows
from supervisor.policy.source import PolicyFindings
from tests.support.policies import mknod, mount_call, mounts
from tests.support.policies import policy as policy_of

KERNEL = (
    '{fstype: [ext4, xfs], source: ["/dev/loop*", "block 8:1-3", "/images/*.img"], do: emulate}'
)
FUSE = "{fstype: ext4, do: {emulate: {via: fuse}}}"
IMAGE = Source("image", b"/images/a.img")
LOOP = Source("device", b"/dev/loop3", (7, 3))
DISK = Source("device", b"/dev/sda2", (8, 2))


def first(policy: CompiledPolicy, call: Snapshot) -> Decision:
    return policy.decide("mount", call)


def second(
    policy: CompiledPolicy, call: Snapshot, source: Source | None = IMAGE, target: bytes = b"/mnt",
    uid: int = 0,
) -> Decision:
    return policy.decide("mount", call, Facts(target, uid, 0, source, target))


def settings(decision: Decision) -> MountSettings:
    assert isinstance(decision.settings, MountSettings)
    return decision.settings


def test_what_no_rule_names_is_the_kernels_where_the_policy_says_so() -> None:
    policy = mounts(KERNEL)
    for fstype in (b"tmpfs", b"proc", b"overlay", b"", 0, b"ext4\xff"):
        decision = first(policy, mount_call(b"x", fstype=fstype))
        assert (decision.verdict, decision.needs_facts) == (Verdict.CONTINUE, False)
    strict = mounts(KERNEL, otherwise="refuse")
    assert first(strict, mount_call(fstype=b"tmpfs")).verdict is Verdict.REFUSE


def test_a_mount_is_granted_for_what_its_source_really_is() -> None:
    policy = mounts(KERNEL)
    call = mount_call(b"/anything")
    assert first(policy, call).needs_facts
    assert first(policy, call).verdict is Verdict.EMULATE
    for source, verdict in (
        (IMAGE, Verdict.EMULATE),
        (LOOP, Verdict.EMULATE),
        (DISK, Verdict.EMULATE),
        (Source("device", b"/dev/sda", (8, 0)), Verdict.CONTINUE),
        (Source("image", b"/etc/images/a.img"), Verdict.CONTINUE),
        (Source("device", b"", (254, 0)), Verdict.CONTINUE),
        (None, Verdict.CONTINUE),
    ):
        assert second(policy, call, source).verdict is verdict, source
    assert second(mounts(KERNEL, otherwise="refuse"), call, None).verdict is Verdict.REFUSE


def test_devices_by_the_kernel_and_images_by_a_program() -> None:
    policy = mounts('{fstype: ext4, source: "/dev/loop*", do: emulate}', FUSE)
    assert settings(first(policy, mount_call())).via == "fuse", "what has to be opened, is"
    assert settings(second(policy, mount_call(), LOOP)).via == "kernel"
    assert settings(second(policy, mount_call(), IMAGE)).via == "fuse"


def test_settings_are_safe_where_nothing_is_said() -> None:
    how = settings(second(mounts(KERNEL), mount_call()))
    assert how == MountSettings("kernel", (), False, "auto", MS["nodev"], False)
    said = "do: {emulate: {shift: true, force: [nosuid, ro]}}"
    more = mounts(KERNEL.replace("do: emulate", said))
    how = settings(second(more, mount_call()))
    assert (how.shift, how.force) == ("true", MS["nodev"] | MS["nosuid"] | MS["ro"])
    devices = mounts(KERNEL.replace("do: emulate", "do: {emulate: {devices: true, shift: false}}"))
    assert settings(second(devices, mount_call())).force == 0
    template = mounts(
        '{fstype: foo, do: {emulate: {via: fuse, program: [/bin/f, "{source}", "{target}"], '
        "from: container}}}"
    )
    how = settings(second(template, mount_call(fstype=b"foo")))
    assert (how.program, how.inside) == (("/bin/f", "{source}", "{target}"), True)


def test_flags_and_options_are_allowed_by_name() -> None:
    rule = KERNEL.replace("do:", 'options: {allow: [ro, nosuid, rw, "data=*", noload]}, do:')
    policy = mounts(rule)

    def asked(flags: int = 0, data: bytes | int = 0) -> Decision:
        return first(policy, mount_call(flags=flags, data=data))

    for flags in (0, MS["ro"], MS["ro"] | MS["nosuid"] | MS["silent"] | MS["relatime"]):
        assert asked(flags).verdict is Verdict.EMULATE
    assert asked(0xC0ED0000 | MS["ro"]).verdict is Verdict.EMULATE
    assert asked(0, b"data=journal,noload,,").verdict is Verdict.EMULATE
    for flags, data, name in (
        (MS["noexec"], 0, "noexec"),
        (1 << 30, 0, "0x40000000"),
        (0, b"noload,errors=panic", "errors=panic"),
        (0, b'context="a,b"', 'context="a'),
    ):
        refused = asked(flags, data)
        assert refused.verdict is Verdict.CONTINUE
        assert refused.reason == f"{name} is not allowed by p.yaml:6"
        assert second(policy, mount_call(flags=flags, data=data)).reason == refused.reason
    assert first(mounts(KERNEL), mount_call(flags=MS["noexec"])).verdict is Verdict.EMULATE
    assert first(mounts(KERNEL), mount_call(data=b"errors=panic")).verdict is Verdict.CONTINUE
    assert first(mounts(KERNEL), mount_call(data=b"")).verdict is Verdict.EMULATE
    every = mounts(KERNEL.replace("do:", 'options: {allow: "*"}, do:'))
    assert first(every, mount_call(flags=1 << 30, data=b"x=y")).verdict is Verdict.EMULATE


@pytest.mark.parametrize(
    "option", ["logdev=/dev/sdb", "device=/dev/sdb", "journal_path=/a", "journal_dev=8", "fd=0"]
)
def test_other_devices_have_to_be_named(option: str) -> None:
    """That all options are allowed is no word about those that bring in another device."""
    name = option.partition("=")[0]
    call = mount_call(data=f"a=b,{option}".encode())
    for globs, granted in (
        ('"*"', False), (f'["*", "{name[:-1]}*"]', False), (f'["*", "{name}=x*"]', False),
        (f'["*", "{option}"]', True), (f'["a=*", "{name}=*"]', True),
    ):  # fmt: skip
        policy = mounts(KERNEL.replace("do:", f"options: {{allow: {globs}}}, do:"))
        decision = first(policy, call)
        assert (decision.verdict is Verdict.EMULATE) == granted, globs
        if not granted:
            assert decision.reason == f"{option} is not allowed by p.yaml:6"
    # a FUSE program has no other devices to be given
    every = FUSE.replace("do:", 'options: {allow: "*"}, do:')
    assert first(mounts(every), call).verdict is Verdict.EMULATE


def test_another_rule_may_allow_what_one_does_not() -> None:
    readable = KERNEL.replace("do: emulate", "options: {allow: ro}, do: {emulate: {force: ro}}")
    policy = mounts(readable, '{fstype: ext4, source: "/images/mine.img", uid: 5, do: emulate}')
    mine = Source("image", b"/images/mine.img")
    call = mount_call(flags=MS["noatime"])
    assert second(policy, call, mine, uid=5).rule == "p.yaml:7"
    assert second(policy, call, mine, uid=6).verdict is Verdict.CONTINUE
    assert second(policy, mount_call(flags=MS["ro"]), mine, uid=5).rule == "p.yaml:6"


def test_a_refusal_in_front_of_a_grant_is_found_at_the_second_look() -> None:
    policy = mounts("{target: /etc/**, do: {errno: EACCES}}", KERNEL, otherwise="refuse")
    call = mount_call(target=b"/etc/x")
    assert first(policy, call).verdict is Verdict.EMULATE
    assert second(policy, call, target=b"/etc/x").verdict is Verdict.ERRNO
    assert second(policy, call).verdict is Verdict.EMULATE
    unknown = policy.decide("mount", call, Facts(None, 0, 0, IMAGE))
    assert unknown.verdict is Verdict.ERRNO, "what nobody knows is refused"
    # and without a grant: where it leads to has to be seen all the same
    look = first(policy, mount_call(fstype=b"tmpfs"))
    assert (look.verdict, look.needs_facts, settings(look).text) == (Verdict.EMULATE, True, True)
    assert second(policy, mount_call(fstype=b"tmpfs")).verdict is Verdict.REFUSE


def test_unreadable_pointers_are_the_kernels_errno() -> None:
    for policy in (mounts(KERNEL), mounts(KERNEL, otherwise="refuse")):
        for call, error in (
            (mount_call(fstype=-errno.EFAULT, source=-errno.EINVAL), errno.EFAULT),
            (mount_call(fstype=-errno.EINVAL), errno.EINVAL),
            (mount_call(source=-errno.EFAULT, data=-errno.EFAULT), errno.EFAULT),
            (mount_call(data=-errno.EFAULT), errno.EFAULT),
        ):
            decision = first(policy, call)
            assert (decision.verdict, decision.value) == (Verdict.ERRNO, error)
        assert first(policy, mount_call(source=-errno.ESRCH)).verdict is Verdict.REFUSE
    # what is wrong with the target comes first
    long = mount_call(data=-errno.E2BIG)
    look = first(mounts(KERNEL), long)
    assert (look.verdict, look.needs_facts, settings(look).text) == (Verdict.EMULATE, True, True)
    decision = second(mounts(KERNEL), long)
    assert (decision.verdict, decision.value) == (Verdict.ERRNO, errno.EINVAL)
    cut = first(mounts(KERNEL), mount_call(fstype=b"tmpfs", data=-errno.E2BIG))
    assert cut.verdict is Verdict.CONTINUE, "what the kernel cuts for itself is its own affair"


def test_flags_that_nobody_knows_are_the_kernels_to_refuse() -> None:
    policy = mounts(KERNEL, otherwise="refuse")
    for flags in (1 << 31, 1 << 32, 0xDEAD00000001):
        assert first(policy, mount_call(flags=flags)).verdict is Verdict.CONTINUE
    assert first(policy, mount_call(flags=0xDEADC0ED0001)).verdict is Verdict.EMULATE


def test_a_remount_stays_within_every_rule() -> None:
    policy = mounts(KERNEL.replace("do:", "options: {allow: [ro, nosuid]}, do:"))
    remount = MS["remount"]
    assert not first(policy, mount_call(flags=remount | MS["ro"])).reason
    for flags, data in ((MS["noexec"], 0), (0, b"errors=panic"), (0, -errno.E2BIG)):
        decision = first(policy, mount_call(flags=remount | flags, data=data))
        assert decision.verdict is Verdict.EMULATE
        assert decision.reason


def test_network_filesystems_go_by_their_text() -> None:
    policy = mounts('{fstype: [nfs, nfs4], source: "files:/export/*", do: emulate}')
    call = mount_call(b"files:/export/a", fstype=b"nfs")
    assert settings(first(policy, call)).text
    assert second(policy, call, Source("text", b"files:/export/a")).verdict is Verdict.EMULATE
    assert second(policy, call, Source("text", b"other:/export/a")).verdict is Verdict.CONTINUE


def test_the_ceiling_has_what_the_kernel_may_mount_and_no_more() -> None:
    policy = mounts(KERNEL, FUSE, '{fstype: nfs, source: "a:/*", do: {emulate: {force: nosuid}}}')
    how: dict[str, Any] = {
        "names": (b"/dev/loop*", b"/images/*.img"), "devices": ((8, 8, 1, 3),), "images": True,
    }  # fmt: skip
    assert policy.mounts == (
        MountCeiling(b"ext4", MS["nodev"], **how),
        MountCeiling(b"xfs", MS["nodev"], **how),
        MountCeiling(b"nfs", MS["nodev"] | MS["nosuid"], text=True, names=(b"a:/*",)),
    )
    narrow = mounts(
        '{fstype: ext4, source: "**", options: {allow: [noatime, "data=*", "x[^y]"]}, '
        "do: {emulate: {force: ro, shift: false}}}"
    ).mounts[0]
    always = MS["silent"] | MS["relatime"] | MS["strictatime"]
    operations = sum(MS[name] for name in ("remount", "bind", "move", "rec"))
    operations += sum(MS[name] for name in ("unbindable", "private", "slave", "shared"))
    forced = MS["nodev"] | MS["ro"]
    assert narrow.flags == MS["noatime"] | forced | always | operations
    assert (narrow.options, narrow.shift) == ((b"noatime", b"data=*", b"x*"), False)
    anywhere = mounts("{fstype: nfs, do: emulate}").mounts[0]
    assert (anywhere.names, anywhere.options) == ((b"*",), ())
    assert policy.fuse
    assert not mounts(KERNEL).fuse
    assert mounts(FUSE).mounts == ()
    wide = mounts('{fstype: ext4, source: "**", do: emulate}').mounts[0]
    assert (wide.devices, wide.names, wide.images) == (((0, 4095, 0, 1048575),), (), True)
    numbers = mounts('{fstype: ext4, source: "block 7:*", do: emulate}').mounts[0]
    assert (numbers.names, numbers.images) == ((), False)


def test_json_round_trip() -> None:
    policy = mounts(
        KERNEL, FUSE, '{fstype: ext2, target: /m/**, uid: 1-2, gid: 0, options: {allow: [ro]}, '
        "source: block 7:*, do: {emulate: {shift: false}}}",
    )  # fmt: skip
    again = CompiledPolicy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy
    assert again.mounts == policy.mounts
    assert first(again, mount_call(arch=I386)) == first(policy, mount_call())


def test_options_are_split_as_the_kernel_splits_them() -> None:
    assert split_options(b"a,b=c,,d") == ["a", "b=c", "d"]
    # ext4 takes usrjquota="a,jqfmt=vfsv0,errors=remount-ro for three options
    assert split_options(b'x="a,b",c') == ['x="a', 'b"', "c"]
    assert split_options(b"") == []


def test_a_quote_hides_no_option() -> None:
    policy = mounts(KERNEL.replace("do:", 'options: {allow: ["subvol=*"]}, do:'))
    good, bad = mount_call(data=b'subvol="a"'), mount_call(data=b'subvol="a,errors=panic')
    assert second(policy, good).verdict is Verdict.EMULATE
    for decision in (first(policy, bad), second(policy, bad)):
        assert decision.verdict is Verdict.CONTINUE
        assert decision.reason.startswith("errors=panic is not allowed by")


def test_what_is_forced_may_be_asked_for() -> None:
    """mount(8) repeats in a remount what is there."""
    policy = mounts(
        KERNEL.replace("do: emulate", "options: {allow: ro}, do: {emulate: {force: nosuid}}")
    )
    forced = MS["nosuid"] | MS["nodev"]
    assert first(policy, mount_call(flags=forced)).verdict is Verdict.EMULATE
    assert first(policy, mount_call(flags=forced | MS["noexec"])).verdict is Verdict.CONTINUE
    assert first(policy, mount_call(flags=MS["remount"] | forced)).reason == ""
    assert first(policy, mount_call(flags=MS["remount"] | forced | MS["sync"])).reason
    # so it does with options that nobody asked for, and no others
    again = MS["remount"] | forced
    assert first(policy, mount_call(flags=again, data=b"idmapped,errors=continue")).reason == ""
    assert first(policy, mount_call(flags=again, data=b"idmapped,errors=panic")).reason


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{do: emulate}", "emulate needs fstype"),
        ("{fstype: ext4, do: emulate}", "via: kernel needs source"),
        ("{fstype: [ext4, nfs], source: /x, do: emulate}", "rules of their own"),
        ("{fstype: nfs, do: {emulate: {via: fuse}}}", "via: fuse is for a device or an image"),
        ("{fstype: xfs, do: {emulate: {via: fuse}}}", "via: fuse needs a program for xfs"),
        ("{fstype: [ext4, squashfs], do: {emulate: {via: fuse}}}", "needs a program for"),
        ("{fstype: ext4, source: images/*, do: emulate}", "'images/*' is no path"),
        ("{fstype: ext4, source: images/*, do: {emulate: {via: fuse}}}", "'images/*' is no path"),
        ("{fstype: ext4, source: a, do: refuse}", "'a' is no path"),
        ("{fstype: ext5, source: /x, do: emulate}", "unknown filesystem 'ext5': did you mean ext4"),
        ("{fstype: [tmpfs, sqaushfs], do: refuse}", "did you mean squashfs?"),
        ("{fstype: ext4, source: char 1:3, do: emulate}", "no character device is a source"),
        ("{fstype: a/b, do: refuse}", "is no type of a filesystem"),
        ("{fstype: ext4, options: [ro], do: refuse}", "options is a mapping with allow"),
        ("{fstype: ext4, options: {allow: [bind]}, do: refuse}", "bind is another call"),
        ("{fstype: ext4, options: {require: rw}, do: refuse}", "'rw' is no flag that can be"),
        ("{fstype: ext4, options: {}, do: refuse}", "options is a mapping with allow"),
        ("{fstype: ext4, options: {allow: ['a,b']}, do: refuse}", "is no flag and no option"),
        ("{fstype: ext4, do: {emulate: {via: fus}}}", "did you mean fuse?"),
        ("{fstype: ext4, do: {emulate: {realise: bind}}}", "unknown setting 'realise'"),
        ("{fstype: ext4, do: {emulate: {shift: maybe}}}", "unknown shift 'maybe'"),
        ("{fstype: ext4, do: {emulate: {via: fuse, shift: true}}}", "shift is for via: kernel"),
        ("{fstype: ext4, do: {emulate: {program: fuse2fs}}}", "are for via: fuse"),
        ("{fstype: proc, do: emulate}", "emulate of proc would give the container the host's"),
        ("{fstype: [tmpfs, overlay], do: emulate}", "emulate of overlay would give"),
        ("{fstype: ext4, do: {emulate: {force: [noatime]}}}", "force cannot have 'noatime'"),
        ("{fstype: ext4, do: {emulate: {devices: true, force: nodev}}}", "opposites"),
        ("{fstype: ext4, do: {emulate: {devices: maybe}}}", "devices is true or false"),
        ("{fstype: ext4, do: {emulate: {via: fuse, program: fuse3fs}}}", "did you mean fuse2fs"),
        ("{fstype: x, do: {emulate: {via: fuse, program: [f]}}}", "given by its path"),
        ("{fstype: x, do: {emulate: {via: fuse, program: [/f]}}}", "has no {source}"),
        (
            '{fstype: x, do: {emulate: {via: fuse, program: [/f, "{source}{target}{x}"]}}}',
            "no such word",
        ),
        ("{fstype: tmpfs, target: /x, do: continue}", "goes by fstype and options alone"),
        ("{fstype: ext4, do: refuse}", "`otherwise: kernel` beside a refusal by fstype is a race"),
        ("{fstype: ext4, do: emulate, silent: true}", "silent is for refusals"),
    ],
)
def test_mistakes_are_told(rule: str, message: str) -> None:
    with pytest.raises(PolicyFindings) as caught:
        mounts(rule)
    assert message in str(caught.value)


def test_a_continue_beside_a_refusal_has_to_be_meant() -> None:
    rule = "{fstype: tmpfs, do: continue}"
    with pytest.raises(PolicyFindings, match="is a race"):
        mounts(rule, otherwise="refuse")
    meant = mounts(rule.replace("}", ", accept_race: true}"), otherwise="refuse")
    assert first(meant, mount_call(fstype=b"tmpfs")).verdict is Verdict.CONTINUE
    assert first(meant, mount_call(fstype=b"ramfs")).verdict is Verdict.REFUSE
    assert first(mounts(rule), mount_call(fstype=b"tmpfs")).rule == "p.yaml:6"


def test_types_that_nobody_here_has_heard_of_may_be_named() -> None:
    """Of a kernel that has more than Linux, or of a FUSE program."""
    for name in ("acmefs", "fuse.sshfs", "fuse.ext5", "x"):
        rule = f"{{fstype: {name}, do: refuse}}"
        assert first(mounts(rule, otherwise="refuse"), mount_call(fstype=name.encode())).rule


def test_a_rule_about_texts_does_not_match_an_image() -> None:
    """A source that is no path is a text of nfs or cifs: no image is called that."""
    rules = ("{source: 'nas:*', do: {errno: EIO}}", "{do: {errno: EACCES}}")
    policy = mounts(*rules, otherwise="refuse")
    assert second(policy, mount_call()).value == errno.EACCES
    nas = Source("text", b"nas:/x")
    assert second(policy, mount_call(b"nas:/x", fstype=b"nfs"), nas).value == errno.EIO


def test_how_many_mounts_there_may_be() -> None:
    text = "version: 1\nsyscalls:\n  mount:\n    max_mounts: LIMIT\n    rules: []\n"
    assert mounts().max_mounts == 64
    assert mknod("{do: emulate}").max_mounts == 0
    compiled = policy_of(text.replace("LIMIT", "0"))
    assert compiled.max_mounts == 0
    compiled = policy_of(text.replace("LIMIT", "256"))
    assert CompiledPolicy.from_json(json.loads(json.dumps(compiled.to_json()))).max_mounts == 256
    for wrong in ("257", "-1", "many", "1.5", "true"):
        with pytest.raises(PolicyFindings, match=r"p\.yaml:4:\d+: error: max_mounts"):
            policy_of(text.replace("LIMIT", wrong))


REQUIRE = (
    "{fstype: ext4, options: {require: [ro, nosuid]}, do: {errno: EROFS}}",
    "{fstype: ext4, options: {allow: [noatime], require: ro}, do: {emulate: {via: fuse}}}",
    "{fstype: ext4, options: {allow: '*', require: lazytime}, do: {emulate: {via: fuse}}}",
)


def test_flags_that_have_to_be_there() -> None:
    compiled = mounts(*REQUIRE, otherwise="refuse")

    def rule(*flags: str, data: bytes = b"") -> tuple[str, str]:
        found = first(compiled, mount_call(flags=sum(MS[name] for name in flags), data=data))
        return found.rule, found.reason

    assert rule("ro", "nosuid", data=b"any")[0] == "p.yaml:6"
    assert rule("ro", "noatime")[0] == rule("ro")[0] == "p.yaml:7"
    assert rule("ro", "nosuid", "noatime", "nodev")[0] == "p.yaml:6"
    assert rule("lazytime", "nodev", data=b"any")[0] == "p.yaml:8"
    assert rule() == ("p.yaml:4", "ro is missing, and required by p.yaml:6")
    assert rule("nosuid")[0] == "p.yaml:4"
    # What has to be there is locked, where the kernel can: a remount cannot take it away.
    granted = second(compiled, mount_call(flags=MS["ro"]))
    assert settings(granted).force == MS["ro"] | MS["nodev"]
    changed = CompiledPolicy.from_json(json.loads(json.dumps(compiled.to_json())))
    assert changed.families == compiled.families


def test_a_remount_keeps_what_has_to_be_there() -> None:
    compiled = mounts(
        "{fstype: ext4, source: /a, options: {allow: [noatime], require: ro}, do: emulate}"
    )
    remount = MS["remount"]
    assert first(compiled, mount_call(flags=remount | MS["ro"])).reason == ""
    assert first(compiled, mount_call(flags=remount)).reason == (
        "ro is missing, and required by p.yaml:6"
    )


@pytest.mark.parametrize("otherwise", ["kernel", "refuse"])
def test_the_filter_notifies_what_a_rule_with_required_flags_wants(otherwise: str) -> None:
    compiled = mounts(*REQUIRE[1:], otherwise=otherwise)
    bits = [MS[name] for name in ("ro", "nosuid", "noatime", "lazytime", "mand")]
    for chosen in itertools.product((0, 1), repeat=len(bits)):
        flags = sum(bit for bit, there in zip(bits, chosen, strict=True) if there)
        for magic in (0, 0xC0ED0000):
            call = mount_call(flags=flags | magic)
            registers = [arg if isinstance(arg, int) else 1 for arg in call.args]
            action = run(compiled.filter, call.nr, call.arch, registers).action
            wanted = first(compiled, call).verdict is not Verdict.CONTINUE
            assert wanted <= (action == RET_USER_NOTIF), hex(flags | magic)
            if otherwise == "kernel" and not magic and action == RET_USER_NOTIF:
                assert wanted, hex(flags)


def test_required_flags_take_part_in_proofs() -> None:
    rules = mounts(
        "{options: {require: [ro]}, do: {errno: EIO}}",
        "{options: {require: [ro, nosuid]}, do: {errno: EROFS}}",
        "{fstype: ext4, options: {allow: [nosuid, ro]}, do: refuse}", otherwise="refuse",
    ).families["mount"]  # fmt: skip
    assert [shadow.index for shadow in shadows(rules)] == [1]
