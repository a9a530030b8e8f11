"""Which calls may concern a node of ours."""

from __future__ import annotations

import os

from supervisor.engine.names import LiveNodes, last_component
from supervisor.model import Settings
from supervisor.plans import ChangeNode, LinkNode, MakeNode, Place, RemoveNode, RenameNode

NO_TASK = -1


def at(path: bytes | None, dirfd: int = -100) -> Place:
    return Place(dirfd, path)


def make(nodes: LiveNodes, path: bytes) -> None:
    plan = MakeNode(at(path), 0o20666, (1, 3), Settings())
    nodes.expect(plan)
    nodes.bound()


def foreign(nodes: LiveNodes, path: bytes) -> bool:
    return nodes.surely_foreign(RemoveNode(at(path)), NO_TASK)


def test_last_component() -> None:
    assert last_component(b"/dev//null//") == b"null"
    assert last_component(b"null") == b"null"
    assert last_component(b"/") == b""
    assert last_component(None) == b""


def test_nothing_concerns_us_before_there_is_a_node() -> None:
    nodes = LiveNodes()
    assert not nodes.any
    assert foreign(nodes, b"null")


def test_a_name_that_was_one_of_ours_may_be_again() -> None:
    nodes = LiveNodes()
    make(nodes, b"a/null")
    assert nodes.any
    assert not foreign(nodes, b"elsewhere/null")
    assert foreign(nodes, b"a/zero")
    rename = RenameNode(at(b"b/null"), at(b"b/zero"), 0)
    assert not nodes.surely_foreign(rename, NO_TASK)
    nodes.expect(rename)
    assert not foreign(nodes, b"zero"), "before the rename: others may be quicker than we are"
    assert not foreign(nodes, b"null")
    nodes.expect(LinkNode(at(b"zero"), at(b"full"), 0))
    assert not foreign(nodes, b"full")


def test_a_real_node_is_nothing_to_us() -> None:
    nodes = LiveNodes()
    nodes.expect(MakeNode(at(b"null"), 0o20666, (1, 3), Settings()))
    assert not nodes.any
    assert foreign(nodes, b"null")


def test_an_exchange_leaves_both_names() -> None:
    nodes = LiveNodes()
    make(nodes, b"a")
    nodes.expect(RenameNode(at(b"a"), at(b"b"), 2))
    assert not foreign(nodes, b"a")
    assert not foreign(nodes, b"b")


def test_what_may_lead_to_a_node_by_a_symlink() -> None:
    nodes = LiveNodes()
    make(nodes, b"null")
    assert not nodes.surely_foreign(ChangeNode(at(b"other"), True, "fowner"), NO_TASK)
    assert nodes.surely_foreign(ChangeNode(at(b"other"), False, "fowner"), NO_TASK)
    assert not nodes.surely_foreign(LinkNode(at(b"other"), at(b"x"), 0x400), NO_TASK)
    assert nodes.surely_foreign(LinkNode(at(b"other"), at(b"x"), 0), NO_TASK)


def test_open_files_go_by_their_names() -> None:
    nodes = LiveNodes()
    make(nodes, b"null")
    task = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    with open("/dev/null", "rb") as null, open("/dev/zero", "rb") as zero:
        try:
            for path, dirfd in ((None, null.fileno()), (b"/proc/self/fd/%d" % null.fileno(), -100)):
                plan = ChangeNode(at(path, dirfd), True, "fowner")
                assert not nodes.surely_foreign(plan, task)
            for path, dirfd in ((None, zero.fileno()), (b"/dev/fd/%d" % zero.fileno(), -100)):
                plan = ChangeNode(at(path, dirfd), True, "fowner")
                assert nodes.surely_foreign(plan, task)
            assert not nodes.surely_foreign(ChangeNode(at(None, 9999), True, "fowner"), task)
        finally:
            os.close(task)


def test_nothing_is_sure_after_another_session() -> None:
    nodes = LiveNodes(known=False)
    assert nodes.any
    assert not foreign(nodes, b"anything")
