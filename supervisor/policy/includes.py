"""Puts a policy together from its files: `include`, and the named lists of `lists`.

This works on trees, before anything is known of what values mean: every value keeps the file and
the place that it came from. Of an included file its lists and its rules count, nothing else.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from supervisor.errors import PolicyError
from supervisor.policy import store
from supervisor.policy.compiled import Included
from supervisor.policy.keys import LIST_NAME
from supervisor.policy.source import NODES_MAX, Node, PolicyFindings, Source
from supervisor.policy.validate import validate

_FILES_MAX: Final = 32
_DEPTH_MAX: Final = 8
_LISTS_DEPTH_MAX: Final = 32
_NAME: Final = re.compile(LIST_NAME)
# The keys of a rule whose values are no lists of what it matches.
_NO_LISTS: Final = frozenset(("do", "mode", "silent", "accept_race"))


@dataclass(slots=True)
class _File:
    source: Source
    # Entries of each list, all names in them filled in.
    lists: dict[str, list[Node]] = field(default_factory=dict)


class Assembly:
    """One policy with all that it includes. `files` says what was included, for the cache; `unused`
    are the names of lists of the policy's own that stand nowhere in a rule or in another list.
    """

    def __init__(
        self, source: Source, folder: Path, model: type[BaseModel], search: Sequence[Path] | None
    ) -> None:
        self.files: list[Included] = []
        self._used: set[int] = set()
        self._main = source
        self._model = model
        self._search = search
        self._done: dict[Path, _File] = {}
        self._room = NODES_MAX
        path = (folder / Path(source.file).name).resolve()
        self._top = _File(source)
        self._assemble(self._top, [path], folder)

    def _assemble(self, here: _File, way: list[Path], folder: Path) -> None:
        """Includes what `here` includes, fills in its lists, and appends the included rules."""
        root = here.source.root
        if root.kind != "mapping":
            return
        inherited: dict[str, tuple[Node, list[Node]]] = {}
        appended: list[_File] = []
        for entry in _entries(root, "include"):
            child = self._include(entry, way, folder)
            if child is None:
                continue
            for name, items in child.lists.items():
                known = inherited.setdefault(name, (entry, items))
                if known[1] is not items and name not in _names(root):
                    here.source.at(
                        entry,
                        f"the list {name} is also in line {known[0].mark.line}'s file: "
                        "define it here",
                    )
            appended.append(child)
        here.lists = {name: items for name, (_, items) in inherited.items()}
        self._define(here)
        for node in _rules(root):
            self._fill_rule(node, here.lists)
        for other in appended:
            _append(root, other.source.root)

    def _include(self, entry: Node, way: list[Path], folder: Path) -> _File | None:
        given = entry.value()
        if not isinstance(given, str):
            return None  # the schema says so
        source = entry.source
        try:
            file = store.included_file(given, folder, self._search)
            real = file.resolve()
            if real in way:
                circle = " > ".join(one.name for one in [*way[way.index(real) :], real])
                source.at(entry, f"{given} includes itself: {circle}")
                return None
            if real in self._done:
                # Its rules are there already; its lists are of use once more.
                nothing = Source(str(file), b"{}")
                return _File(nothing, self._done[real].lists)
            if len(self._done) >= _FILES_MAX or len(way) > _DEPTH_MAX:
                source.at(entry, f"more than {_FILES_MAX} files, or {_DEPTH_MAX} one in another")
                return None
            content = store.read(file, given)
            self.files.append(Included(given, str(folder), str(file), store.digest(content)))
            child = _File(Source(str(file), content))
        except PolicyFindings as error:
            source.at(entry, f"{given} cannot be read")
            self._main.findings += error.findings
            return None
        except (PolicyError, OSError, ValueError) as error:
            text = error.what if isinstance(error, PolicyError) else str(error)
            hint = f" ({error.hint})" if isinstance(error, PolicyError) and error.hint else ""
            source.at(entry, f"{text}{hint}")
            return None
        child.source.entry = entry
        source.included.append(child.source)
        self._done[real] = child
        _may_be_part(child.source)
        self._assemble(child, [*way, real], real.parent)
        # What is wrong beside its rules is said here; rules are looked at as part of the whole.
        with contextlib.suppress(PolicyFindings):  # which it has noted
            validate(child.source.root, self._model)
        return child

    @property
    def unused(self) -> list[Node]:
        """The keys of lists that nothing refers to."""
        root, lists = self._main.root, self._top.lists
        own = root.pairs["lists"][1].pairs if "lists" in root.pairs else {}
        return [
            key for name, (key, _) in own.items()
            if name in lists and id(lists[name]) not in self._used
        ]  # fmt: skip

    # -- lists

    def _define(self, here: _File) -> None:
        root = here.source.root
        own = root.pairs["lists"][1] if "lists" in root.pairs else None
        if own is None or own.kind != "mapping":
            return
        raw: dict[str, Node] = {}
        for name, (key, value) in own.pairs.items():
            if not _NAME.fullmatch(name):
                here.source.at(key, f"the name of a list is a word of letters and digits: {name}")
            elif value.kind == "list":
                raw[name] = value
        lists: dict[str, list[Node]] = dict(here.lists)
        for name in raw:
            lists.pop(name, None)

        def fill(name: str, way: tuple[str, ...]) -> list[Node]:
            if name not in lists:
                lists[name] = []
                out = []
                for item in raw[name].items:
                    used = _used(item)
                    if used is not None and used in (*way, name):
                        here.source.at(item, f"the list {used} is part of itself")
                    elif used is not None and len(way) >= _LISTS_DEPTH_MAX:
                        here.source.at(item, f"lists in lists, deeper than {_LISTS_DEPTH_MAX}")
                    elif used is not None and used in raw:
                        out += self._paid(item, fill(used, (*way, name)))
                    else:
                        out += self._filled(item, lists)
                lists[name] = out
            return lists[name]

        for name in raw:
            fill(name, ())
        here.lists = lists

    def _fill_rule(self, rule: Node, lists: Mapping[str, list[Node]]) -> None:
        if rule.kind != "mapping":
            return
        for key, (name, value) in list(rule.pairs.items()):
            if key not in _NO_LISTS:
                rule.pairs[key] = (name, self._with_lists(value, lists))

    def _with_lists(self, value: Node, lists: Mapping[str, list[Node]]) -> Node:
        if value.kind == "mapping":
            for key, (name, inner) in list(value.pairs.items()):
                value.pairs[key] = (name, self._with_lists(inner, lists))
        elif value.kind == "list":
            value.items = [part for item in value.items for part in self._filled(item, lists)]
        elif _used(value) is not None:
            return Node(value.mark, value.source, items=self._filled(value, lists), kind="list")
        return value

    def _filled(self, item: Node, lists: Mapping[str, list[Node]]) -> list[Node]:
        """The entries that an entry stands for: itself, or those of a list."""
        name = _used(item)
        if name is None:
            return [item]
        if name not in lists:
            near = difflib.get_close_matches(name, lists, 1, 0.6)
            hint = f": did you mean ${near[0]}?" if near else ""
            item.source.at(item, f"unknown list ${name}{hint}")
            return [item]  # what it would have been for nobody knows
        return self._paid(item, lists[name])

    def _paid(self, item: Node, entries: list[Node]) -> list[Node]:
        """The entries; all lists together may give a policy so many and no more."""
        self._used.add(id(entries))
        self._room -= len(entries)
        if self._room < 0:
            item.source.at(item, f"more than {NODES_MAX} values, with its lists filled in")
            self._main.fail()
        return entries


def _used(node: Node) -> str | None:
    """The name of the list that a value stands for; None where it stands for itself."""
    text = node.scalar
    if node.kind == "scalar" and text is not None and text[:1] == "$" and _NAME.fullmatch(text[1:]):
        return text[1:]
    return None


def _entries(root: Node, key: str) -> list[Node]:
    value = root.pairs[key][1] if key in root.pairs else None
    if value is None or value.kind == "mapping":
        return []
    return value.items if value.kind == "list" else [value]


def _names(root: Node) -> set[str]:
    value = root.pairs["lists"][1] if "lists" in root.pairs else None
    return set(value.pairs) if value is not None else set()


def _families(root: Node) -> Mapping[str, tuple[Node, Node]]:
    if root.kind != "mapping" or "syscalls" not in root.pairs:
        return {}
    return root.pairs["syscalls"][1].pairs


def _list_of(section: Node) -> Node | None:
    """The list of a family's rules."""
    if section.kind == "mapping" and "rules" in section.pairs:
        section = section.pairs["rules"][1]
    return section if section.kind == "list" else None


def _rules(root: Node) -> Iterator[Node]:
    for _, section in _families(root).values():
        rules = _list_of(section)
        yield from rules.items if rules is not None else ()


def _append(root: Node, other: Node) -> None:
    """The rules of `other` behind those of `root`, family by family."""
    _may_be_part(root.source)
    if "syscalls" not in root.pairs or root.pairs["syscalls"][1].kind != "mapping":
        return
    mine = root.pairs["syscalls"][1]
    for family, (key, section) in _families(other).items():
        theirs = _list_of(section)
        if theirs is None:
            continue
        if family not in mine.pairs:
            mine.pairs[family] = (key, Node(key.mark, key.source, kind="list"))
        own = mine.pairs[family][1]
        if own.kind == "mapping" and "rules" not in own.pairs:
            own.pairs["rules"] = (key, Node(own.mark, own.source, kind="list"))
        rules = _list_of(own)
        if rules is not None:
            rules.items = [*rules.items, *theirs.items]


def _may_be_part(source: Source) -> None:
    """A file with lists, or with what it includes, needs no rules of its own."""
    root = source.root
    if root.kind == "mapping" and "syscalls" not in root.pairs and {"lists", "include"} & set(
        root.pairs
    ):
        key = Node(root.mark, source, "syscalls", plain=True)
        root.pairs["syscalls"] = (key, Node(root.mark, source, kind="mapping"))


def assemble(
    source: Source, folder: Path, model: type[BaseModel], search: Sequence[Path] | None = None
) -> Assembly:
    """Puts the tree of `source` together, in place. What is wrong becomes findings."""
    _may_be_part(source)
    return Assembly(source, folder, model, search)


