"""YAML with lines and columns: the text of a policy as a tree that remembers where it stood.

PyYAML's parser gives events; the tree is built here, so that scalars are those of YAML 1.2's core
schema (`no` and `on` are strings, octal is 0o17), and so that tags, anchors and aliases, duplicate
keys and endless nesting are findings and not surprises.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from unicodedata import combining, east_asian_width

import yaml

from supervisor.errors import PolicyError
from supervisor.policy.scalars import core_scalar

SIZE_MAX: Final = 1 << 20
_DEPTH_MAX: Final = 32
NODES_MAX: Final = 120_000
# So many findings of one file are kept, and so many are shown: what comes later is mostly the same.
NOTED_MAX: Final = 1000
_FINDINGS_MAX: Final = 100
_EXCERPT_MAX: Final = 100
_CUT: Final = "..."
_MESSAGE_MAX: Final = 600
_KEYS_MAX: Final = 1000
_COLUMN_BITS: Final = SIZE_MAX.bit_length()

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Mark(NamedTuple):
    """A place in a file; both count from 1, columns in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a policy, or worth a warning.

    `excerpt` is the line, or of a long one the part around the place, from column `shift` on.
    `included` says by which lines of which files the file is a part, the nearest first.
    """

    file: str
    mark: Mark
    message: str
    severity: str = "error"
    excerpt: str = ""
    shift: int = 0
    included: tuple[str, ...] = ()

    def text(self) -> str:
        """FILE:LINE:COLUMN: what is wrong, then the line with a caret below it."""
        out = f"{self.file}:{self.mark.line}:{self.mark.column}: {self.severity}: {self.message}"
        out += "".join(f"\n  included from {place}" for place in self.included)
        if not self.excerpt:
            return out
        number = str(self.mark.line)
        before = (self.excerpt + " ")[: self.mark.column - 1 - self.shift]
        caret = "".join(map(_blank, before))
        return f"{out}\n  {number} | {self.excerpt}\n  {' ' * len(number)} | {caret}^"


class PolicyFindings(PolicyError):
    """A policy with errors: all of them at once, file by file."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        ordered = in_order(findings)
        super().__init__("\n".join(finding.text() for finding in ordered[:_FINDINGS_MAX]))
        self.findings = tuple(ordered)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """By file, in the order in which the files first appear, and by place; none twice."""
    files = {finding.file: None for finding in findings}
    order = {file: number for number, file in enumerate(files)}
    return sorted(dict.fromkeys(findings), key=lambda found: (order[found.file], found.mark))


_NONE: Final[Any] = MappingProxyType({})


class Node:
    """A value with its place: a scalar, a list or a mapping of keys (nodes) to values.

    `source` is the file that it stands in: a policy can be put together from several. A policy has
    very many of them: they are small, and only lists and mappings can be changed.
    """

    __slots__ = ("_place", "_source", "items", "kind", "pairs", "plain", "scalar")

    def __init__(
        self,
        mark: Mark,
        source: Source,
        scalar: str | None = None,
        *,
        plain: bool = False,
        items: list[Node] | None = None,
        kind: str = "scalar",
    ) -> None:
        self._place = mark.line << _COLUMN_BITS | mark.column
        self._source = source.ref
        self.scalar = scalar
        self.plain = plain
        self.kind = kind
        self.items: list[Node] = _NONE
        self.pairs: dict[str, tuple[Node, Node]] = _NONE
        if kind == "list":
            self.items = [] if items is None else items
        elif kind == "mapping":
            self.pairs = {}

    @property
    def source(self) -> Source:
        """The file that it stands in, which has to be kept as long as its nodes are used."""
        found = self._source()
        assert found is not None, "nobody has kept the file of this node"
        return found

    @property
    def mark(self) -> Mark:
        """Where it begins."""
        return Mark(self._place >> _COLUMN_BITS, self._place & (1 << _COLUMN_BITS) - 1)

    def value(self) -> Any:
        """The value in Python's types."""
        if self.kind == "list":
            return [item.value() for item in self.items]
        if self.kind == "mapping":
            return {key: value.value() for key, (_, value) in self.pairs.items()}
        assert self.scalar is not None
        return core_scalar(self.scalar) if self.plain else self.scalar

    def at(self, where: Sequence[int | str], *, key: bool = False) -> Node:
        """The node that a path of keys and indexes leads to; as far as it leads.

        A step that the text left out (a single value where a list may stand) stays where it is.
        `key`: the key of the last step, not its value.
        """
        node = self
        for number, step in enumerate(where):
            if node.kind == "mapping" and isinstance(step, str) and step in node.pairs:
                name, value = node.pairs[step]
                node = name if key and number == len(where) - 1 else value
            elif node.kind == "list" and isinstance(step, int) and step < len(node.items):
                node = node.items[step]
        return node


def place_of(node: Node) -> str:
    """FILE:LINE of a node, as decisions name it."""
    return f"{node.source.name}:{node.mark.line}"


def rule_node(source: Source, family: str, index: int) -> Node:
    """The text of rule `index` of a family; for -1 that of `otherwise`, or the family's key."""
    if index >= 0:
        return source.root.at(("syscalls", family, "rules", index))
    section = source.root.at(("syscalls", family))
    if section.kind == "mapping" and "otherwise" in section.pairs:
        return section.pairs["otherwise"][1]
    return source.root.at(("syscalls", family), key=True)


def _blank(char: str) -> str:
    """As much room as a terminal gives a character."""
    room = "" if combining(char) else "  " if east_asian_width(char) in "WF" else " "
    return char if char == "\t" else room


def _shown(text: str) -> str:
    """What a file says is shown, never sent to the terminal as it is."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)


# What YAML counts as the end of a line.
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


class Source:
    """The text of one policy, its tree, and what was found wrong with it.

    `file` is how messages name it, `name` how decisions do. Findings collect in `findings`;
    `fail()` raises them, and those of the files in `included`. What leaves no tree to look at
    further (no YAML, not UTF-8, too large) is raised at once; duplicate keys, anchors and the like
    wait for what else there is to say.
    """

    def __init__(self, file: str, content: bytes) -> None:
        self.file = file
        self.name = PurePath(file).name
        # The tree of a large policy is to go with it at once, and not when garbage is collected.
        self.ref = weakref.ref(self)
        self.findings: list[Finding] = []
        self.included: list[Source] = []
        # The entry of `include` that this file is there for.
        self.entry: Node | None = None
        self._lines: list[str] = []
        if len(content) > SIZE_MAX:
            self.add(Mark(1, 1), f"larger than {SIZE_MAX} bytes")
            self.fail()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            start = content.rfind(b"\n", 0, error.start) + 1
            column = len(content[start : error.start].decode("utf-8", "replace")) + 1
            self.add(Mark(line, column), "not UTF-8")
            self.fail()
        self._lines = _BREAK.split(text)
        self.root = self._tree(text)

    def add(self, mark: Mark, message: str, severity: str = "error") -> None:
        """Notes a finding, unless there are very many already."""
        if self.full:
            return
        line = self._lines[mark.line - 1] if mark.line <= len(self._lines) else ""
        start = max(mark.column - 1 - _EXCERPT_MAX // 2, 0)
        if len(message) > _MESSAGE_MAX:
            half = _MESSAGE_MAX // 2
            message = f"{message[:half]} ... {message[-half:]}"
        excerpt = _shown(line[start : start + _EXCERPT_MAX])
        if start:
            start, excerpt = start - len(_CUT), _CUT + excerpt
        if len(line) > start + len(excerpt):
            excerpt += _CUT
        self.findings.append(
            Finding(self.file, mark, _shown(message), severity, excerpt, start, self._way())
        )

    def _way(self) -> tuple[str, ...]:
        if self.entry is None:
            return ()
        by = self.entry.source
        return (f"{by.file}:{self.entry.mark.line}", *by._way())

    @property
    def full(self) -> bool:
        """Whether so much was found that nothing more is noted."""
        return len(self.findings) >= NOTED_MAX

    @staticmethod
    def at(node: Node, message: str, severity: str = "error") -> None:
        """Notes a finding about a node, in the file that it stands in."""
        node.source.add(node.mark, message, severity)

    def everything(self) -> list[Finding]:
        """The findings of this file and of all that it includes."""
        return [*self.findings, *(one for source in self.included for one in source.everything())]

    def fail(self) -> None:
        """Raises PolicyFindings if there is any error, here or in an included file."""
        findings = self.everything()
        if any(finding.severity == "error" for finding in findings):
            raise PolicyFindings(findings)

    def _tree(self, text: str) -> Node:
        nothing = Node(Mark(1, 1), self, kind="mapping")
        loader = _Loader(text)
        try:
            return self._document(_events(loader)) or nothing
        except yaml.MarkedYAMLError as error:
            self._not_yaml(error)
            self.fail()
        except yaml.YAMLError as error:
            # libyaml gives no mark for a character that YAML does not allow.
            self.add(self._forbidden(text), f"not YAML: {str(error).splitlines()[0]}")
            self.fail()
        finally:
            loader.dispose()
        return nothing

    def _not_yaml(self, error: Any) -> None:
        at, context = error.problem_mark or error.context_mark, error.context_mark
        mark = Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
        message = ": ".join(filter(None, (error.context, error.problem)))
        line = self._lines[mark.line - 1] if mark.line <= len(self._lines) else ""
        if not "".join(self._lines[mark.line - 1 :]).strip():
            # The end of the file is no place to look at; what it left open is.
            if context is not None:
                mark = Mark(context.line + 1, context.column + 1)
            while mark.line > 1 and not "".join(self._lines[mark.line - 1 :]).strip():
                mark = Mark(mark.line - 1, len(self._lines[mark.line - 2]) + 1)
            if "end of stream" not in message:
                message += " before the end of the file"
        elif context is not None and context.line + 1 != mark.line:
            message += f" (begun in line {context.line + 1})"
        if line[mark.column - 1 : mark.column] == "\t":
            message += " (a tab): YAML is indented by spaces"
        self.add(mark, message)

    def _forbidden(self, text: str) -> Mark:
        found = re.search(
            "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text
        )
        if found is None:
            return Mark(1, 1)
        before = _BREAK.split(text[: found.start()])
        return Mark(len(before), len(before[-1]) + 1)

    def _document(self, events: Iterator[Any]) -> Node | None:
        root: Node | None = None
        stack: list[Node] = []
        keys: list[Node | None] = []
        count = documents = 0
        words: dict[str, str] = {}  # the same few again and again
        for event in events:
            start = event.start_mark
            mark = Mark(start.line + 1, start.column + 1)
            if isinstance(event, yaml.ScalarEvent):
                text = event.value
                node = Node(mark, self, words.setdefault(text, text), plain=not event.style)
                if event.anchor is not None or event.tag is not None:
                    self._decorated(event, mark)
            elif isinstance(event, yaml.CollectionStartEvent):
                kind = "list" if isinstance(event, yaml.SequenceStartEvent) else "mapping"
                node = Node(mark, self, kind=kind)
                if event.anchor is not None or event.tag is not None:
                    self._decorated(event, mark)
            elif isinstance(event, yaml.CollectionEndEvent):
                stack.pop()
                keys.pop()
                continue
            elif isinstance(event, yaml.AliasEvent):
                self.add(mark, "aliases (*name) are not allowed in a policy")
                node = Node(mark, self, "")
            else:
                documents += isinstance(event, yaml.DocumentStartEvent)
                if documents > 1:
                    self.add(mark, "one file holds one policy: a second document begins here")
                    return root
                continue
            count += 1
            if count > NODES_MAX:
                self.add(mark, f"more than {NODES_MAX} values")
                self.fail()
            if root is None:
                root = node
            elif (parent := stack[-1]).kind == "list":
                parent.items.append(node)
            elif (key := keys[-1]) is None:
                keys[-1] = node
            else:
                keys[-1] = None
                self._pair(parent, key, node)
            if node.kind != "scalar":
                if len(stack) >= _DEPTH_MAX:
                    self.add(mark, f"nested deeper than {_DEPTH_MAX}")
                    self.fail()
                stack.append(node)
                keys.append(None)
        return root

    def _decorated(self, event: Any, mark: Mark) -> None:
        if event.anchor is not None:
            self.add(mark, "anchors (&name) are not allowed in a policy")
        if event.tag is not None:
            self.add(mark, f"tags ({event.tag}) are not allowed in a policy")

    def _pair(self, parent: Node, key: Node, node: Node) -> None:
        if key.scalar is None:
            self.add(key.mark, "a key is a plain word")
        elif key.plain and not isinstance(core_scalar(key.scalar), str):
            self.add(key.mark, f"a key is a word; {key.scalar or 'nothing'!s} is not one")
        elif key.scalar in parent.pairs:
            first = parent.pairs[key.scalar][0].mark.line
            self.add(key.mark, f"the key {key.scalar} is here twice (first in line {first})")
        else:
            if len(parent.pairs) >= _KEYS_MAX:
                self.add(key.mark, f"more than {_KEYS_MAX} keys")
                self.fail()
            parent.pairs[key.scalar] = (key, node)


def _events(loader: Any) -> Iterator[Any]:
    while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
        yield event
