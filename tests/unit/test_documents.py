"""The documents say what the code does: every example in them loads, every link leads somewhere."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from supervisor.daemon import config
from supervisor.handlers.base import CALLER_KEYS
from supervisor.handlers.registry import FAMILIES
from supervisor.intake import attach
from supervisor.intake.doors import DOORS
from supervisor.kernel.fuse_programs import PROGRAMS
from supervisor.kernel.opening import ACCESS_WORDS
from supervisor.kernel.syscalls import X86_64
from supervisor.model import Decision, Outcome, Snapshot, Verdict
from supervisor.observe import audit
from supervisor.observe.identity import identity
from supervisor.policy import globs, races, settle, shadows, shapes, store, validate
from supervisor.policy.applies import Applies
from supervisor.policy.mount_values import FLAG_NAMES, SETTINGS, VIAS
from supervisor.policy.mounts import MAX_MOUNTS, MOST_MOUNTS
from supervisor.policy.open_values import CONTENT_MAX, GRANTS
from supervisor.policy.schema import json_schema
from supervisor.policy.source import NODES_MAX
from supervisor.policy.traits import Traits

TOP = Path(__file__).resolve().parents[2]
PAGES = [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")]


def blocks(page: Path) -> list[str]:
    """Indented blocks, without their indentation."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page.read_text(), re.M)
    return ["".join(line[4:] or "\n" for line in block.splitlines(True)).strip() for block in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_the_readmes_policy_loads(tmp_path: Path) -> None:
    (text,) = [block for block in blocks(TOP / "README.md") if block.startswith("version:")]
    assert len(text.splitlines()) <= 10
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    policy = store.load(str(file), Traits("host"), families=FAMILIES)
    assert policy.name == "mine"


def test_the_sample_of_a_trace_names_the_rule_of_the_readme() -> None:
    (text,) = [block for block in blocks(TOP / "README.md") if block.startswith("version:")]
    found = re.findall(r"mine\.yaml:(\d+)", (TOP / "docs/run.md").read_text())
    assert found
    for line in found:
        assert '"null"' in text.splitlines()[int(line) - 1]


def examples(page: str) -> list[str]:
    """Every example of a policy, of a section or of rules on a page, as a whole policy."""
    out = []
    for block in blocks(TOP / page):
        if block.startswith("version:"):
            out.append(block)
        elif block.startswith("syscalls:"):
            out.append(f"version: 1\n{block}")
        elif block.startswith("limits:"):
            out.append(f"version: 1\n{block}\nsyscalls: {{}}")
        elif block.startswith("- {"):
            rules = "".join(f"\n    {line}" for line in block.splitlines())
            out.append(f"version: 1\nsyscalls:\n  mknod:{rules}")
    return out


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("docs/policies.md", 10), ("docs/mounts.md", 1), ("docs/sockets.md", 1),
        ("docs/opens.md", 1), ("docs/policy-tools.md", 1),
        *((f"docs/shipped/{page.name}", 0) for page in sorted((TOP / "docs/shipped").iterdir())),
    ],
)  # fmt: skip
def test_the_pages_on_policies_have_examples_that_load(
    tmp_path: Path, page: str, least: int
) -> None:
    (tmp_path / "site.yaml").write_text("version: 1\nlists: {}\n")
    found = examples(page)
    assert len(found) >= least
    for text in found:
        file = tmp_path / "page.yaml"
        file.write_text(text)
        store.load(str(file), Traits("private"), families=FAMILIES)


def test_the_page_on_policies_has_every_key() -> None:
    page = (TOP / "docs/policies.md").read_text()
    schema = json_schema(FAMILIES)
    rule = schema["$defs"]["mknod_rule"]["properties"]
    limits = schema["$defs"]["LimitsSection"]["properties"]
    keys = {*schema["properties"], *rule, *limits, "otherwise", "rules"}
    assert not {key for key in keys if f"`{key}`" not in page and f"`{key}:" not in page}
    shown = " ".join(examples("docs/policies.md"))
    missing = {key for key in {*rule, *limits} if f"{key}:" not in shown}
    assert not missing


def test_the_page_on_policies_has_each_family_with_what_it_has() -> None:
    page = (TOP / "docs/policies.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*) \|$", page.partition("\n## Families")[2], re.M))
    assert set(rows) == {name for name, family in FAMILIES.items() if family.keys is not None}
    alike = {"continue", "refuse", "errno", "return", "kill"}
    for name, row in rows.items():
        family = FAMILIES[name]
        said = json_schema(FAMILIES)["$defs"][f"{name}_rule"]["properties"]["do"]["anyOf"]
        do = [word for one in said for word in (*one.get("enum", ()), *one.get("properties", ()))]
        assert alike <= set(do)
        calls, *words = row.split(" | ")
        assert calls.split(", ") == [spec.name for spec in family.calls]
        assert [re.findall(r"`([a-z]+)`", cell) for cell in words] == [
            [key for key in family.keys or () if key not in CALLER_KEYS],
            [word for word in dict.fromkeys(do) if word not in alike],
            list(family.otherwise),
        ]


def test_the_page_on_sockets_has_every_key() -> None:
    page = (TOP / "docs/sockets.md").read_text()
    schema = json_schema(FAMILIES)
    for family in ("connect", "bind"):
        keys = schema["$defs"][f"{family}_rule"]["properties"].keys()
        own = keys - schema["$defs"]["mknod_rule"]["properties"].keys()
        assert {"family", "port", "abstract"} < own
        assert not {key for key in own if f"`{key}`" not in page}
    assert "`from`" in page


@pytest.mark.parametrize(
    ("family", "page"),
    [("mount", "mounts"), ("connect", "sockets"), ("bind", "sockets"), ("accept", "sockets"),
     ("open", "opens"), ("setsockopt", "sockets"), ("getsockopt", "sockets")],
)
def test_every_key_of_a_family_stands_in_an_example(family: str, page: str) -> None:
    keys = json_schema(FAMILIES)["$defs"][f"{family}_rule"]["properties"]
    shown = " ".join(examples(f"docs/{page}.md") + examples("docs/policies.md"))
    assert not {key for key in keys if f"{key}:" not in shown}


def test_the_page_on_policies_has_the_limits_of_proofs() -> None:
    page = (TOP / "docs/policies.md").read_text()
    numbers = (
        races._STEPS_MAX, shadows._STEPS_MAX, shadows._PIECES_MAX, shapes._BOXES_MAX,
        shapes.NODES_MAX, shapes._TESTS_MAX, globs._LONG, globs._WORK_MAX, settle._CUBES_MAX,
    )  # fmt: skip
    table = [line for line in page.partition("## How far proofs go")[2].splitlines()
             if line.startswith("| ") and line[2:6] != "what"]  # fmt: skip
    for number, line in zip(numbers, table, strict=False):
        assert f"| {number:,}" in line
    assert f"{NODES_MAX:,} values" in page
    assert f"{validate._RULES_MAX:,} rules" in page


def test_every_option_of_run_is_on_its_page() -> None:
    page = (TOP / "docs/run.md").read_text()
    code = (TOP / "supervisor/cli/run.py").read_text()
    options = set(re.findall(r'"(--[a-z-]+)"', code))
    assert options
    assert not {option for option in options if f"`{option}" not in page}


def rows(page: str) -> dict[str, str]:
    """The lines of a page's tables by what stands in their first column."""
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    return {name: line for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_the_page_on_the_daemon_has_every_key(tmp_path: Path) -> None:
    page = (TOP / "docs/daemon.md").read_text()
    found = rows(page)
    for key in config.KEYS:
        default = key.default
        shown = f"[{', '.join(default)}]" if isinstance(default, tuple) else default
        if isinstance(default, int | float):
            shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert shown is None or f"| {shown} |" in found[key.name], key.name
    assert not {one.name for one in fields(Applies)} - found.keys()
    for verb in ("serve", "profile"):
        code = (TOP / f"supervisor/cli/{verb}.py").read_text()
        for option in re.findall(r'add_argument\(\s*"(--[a-z-]+)"', code):
            assert option in page, option
    text, match = [block for block in blocks(TOP / "docs/daemon.md")
                   if block.startswith(("version:", "match:"))]  # fmt: skip
    file = tmp_path / "file.yaml"
    file.write_text(text)
    assert config.load(file, tuple(DOORS)).containers == 500
    all_blocks = blocks(TOP / "docs/daemon.md")
    (granted,) = [block for block in all_blocks if block.startswith("# /etc/seccompd")]
    for whole in (f"version: 1\n{match}\nsyscalls: {{mknod: []}}\n", granted):
        file.write_text(whole)
        assert store.load(str(file), Traits("private"), families=FAMILIES).match is not None


def test_the_page_on_the_daemon_has_every_door_and_message() -> None:
    page = (TOP / "docs/daemon.md").read_text()
    for door in DOORS:
        assert f"### {door}.sock" in page
    for text in re.findall(r"`(\{.*?\})`", page):
        if '"do"' in text:
            assert attach.parse_request(text.encode())


def test_the_page_on_audit_has_every_key(tmp_path: Path) -> None:
    page = (TOP / "docs/audit.md").read_text()
    assert f"now **{audit.SCHEMA}**" in page
    file = tmp_path / "records"
    log = audit.AuditLog(os.open(file, os.O_WRONLY | os.O_CREAT), policy="mine", session="run-1")
    spec = FAMILIES["mknod"].calls[0]
    call = Snapshot(1, os.getpid(), X86_64, 133, 0, "mknod", (b"null", 0o20666, 0x103))
    unread = Snapshot(1, os.getpid(), X86_64, 133, 0, "mknod", (-errno.EFAULT, 0o20666, 0x103))
    granted = Decision(Verdict.EMULATE, "mine.yaml:3", "a reason")
    who = identity(os.getpid())
    log.record(call, spec, granted, Outcome(0, "node", b"/null"), 0.1, who=who, delivered=False)
    log.record(unread, spec, granted, Outcome(errno.EFAULT), 0.1, who=who, delivered=True)
    log.record(call, spec, Decision(Verdict.CONTINUE, "x"), Outcome(0, left_alone=True), 0.1,
               who=who, delivered=True, key=b"key")
    assert log.repeated(call.tid, b"key")
    log.event("error", syscall="mknod", error="an error")
    log.close(calls=1, granted=1, refused=0, undelivered=0, errors=0)
    keys = {key for line in file.read_text().splitlines() for key in json.loads(line)}
    assert {"repeats", "resolved", "delivered", "answered_by"} <= keys
    assert not {key for key in keys if f"`{key}`" not in page}


def test_the_page_on_mounts_has_every_word() -> None:
    page = (TOP / "docs/mounts.md").read_text()
    keys = FAMILIES["mount"].keys or {}
    words = {*SETTINGS, *VIAS, *FLAG_NAMES, *PROGRAMS, *keys}
    assert not [word for word in words if not re.search(rf"[` \[,\n]{word}[`, \]\n]", page)]
    assert f"{MAX_MOUNTS} mounts" in page
    assert f"at most {MOST_MOUNTS}" in page


def test_the_page_on_opens_has_every_word() -> None:
    page = (TOP / "docs/opens.md").read_text()
    words = {*GRANTS, *ACCESS_WORDS.values(), "device", "file", "content", "access", "path"}
    assert not [word for word in words if f"`{word}`" not in page]
    assert f"{CONTENT_MAX >> 10} KiB" in page
