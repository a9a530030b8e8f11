"""Which calls may concern a node of ours."""

from __future__ import annotations

import os

from supervisor.engine.names import LiveNodes, last_component
from supervisor.model import (
    ChangeNode,
    LinkNode,
    MakeNode,
    Place,
    RemoveNode,
    RenameNode,
    Settings,
)

NO_TASK = -1


def at(path: bytes | None, dirfd: int = -100) -> Place:
    return Place(dirfd, path)


def make(nodes: LiveNodes, path: bytes) -> None:
    plan = MakeNode(at(path), 0o20666, (1, 3), Settings())
    nodes.record(plan, made=True, gone=False, moved=False)


def foreign(nodes: LiveNodes, path: bytes) -> bool:
    return nodes.surely_foreign(RemoveNode(at(path)), NO_TASK)


def test_last_component() -> None:
    assert last_component(b"/dev//null//") == b"null"
    assert last_component(b"null") == b"null"
    assert last_component(b"/") == b""
    assert last_component(None) == b""


def test_nothing_concerns_us_before_there_is_a_node() -> None:
    nodes = LiveNodes()
    assert nodes.count == 0
    assert foreign(nodes, b"null")


def test_names_come_and_go() -> None:
    nodes = LiveNodes()
    make(nodes, b"a/null")
    make(nodes, b"b/null")
    assert nodes.count == 2
    assert not foreign(nodes, b"elsewhere/null")
    assert foreign(nodes, b"a/zero")
    nodes.record(RemoveNode(at(b"a/null")), made=False, gone=True, moved=False)
    assert not foreign(nodes, b"b/null")
    rename = RenameNode(at(b"b/null"), at(b"b/zero"), 0)
    assert not nodes.surely_foreign(rename, NO_TASK)
    nodes.record(rename, made=False, gone=False, moved=True)
    assert foreign(nodes, b"null")
    assert not foreign(nodes, b"zero")
    link = LinkNode(at(b"zero"), at(b"full"), 0)
    nodes.record(link, made=True, gone=False, moved=False)
    nodes.record(RenameNode(at(b"file"), at(b"full"), 0), made=False, gone=True, moved=False)
    assert foreign(nodes, b"full")
    assert nodes.count == 1


def test_an_exchange_leaves_both_names() -> None:
    nodes = LiveNodes()
    make(nodes, b"a")
    nodes.record(RenameNode(at(b"a"), at(b"b"), 2), made=False, gone=False, moved=False)
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
    assert nodes.count == 1
    assert not foreign(nodes, b"anything")
