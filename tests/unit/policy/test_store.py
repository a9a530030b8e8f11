"""Finding policies, and the cache of compiled ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from binascii import crc32
from pathlib import Path

import pytest

from supervisor.errors import PolicyError
from supervisor.handlers.registry import FAMILIES
from supervisor.policy import store
from supervisor.policy.cache import directory
from supervisor.policy.compiled import CompiledPolicy
from supervisor.policy.traits import Traits

HOST = Traits("host")
TEXT = 'version: 1\nsyscalls:\n  mknod:\n    - {devices: ["null"], do: emulate}\n'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache" / "seccompd"
    monkeypatch.setattr("supervisor.policy.cache.directory", lambda: place)
    return place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "mine.yaml"
    made.write_text(TEXT)
    return made


def load(name: object, *search: Path, traits: Traits = HOST) -> CompiledPolicy:
    return store.load(str(name), traits, search=search, families=FAMILIES)


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


def count_compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from supervisor.policy import compile as compiler

    seen: list[str] = []
    real = compiler.compile_policy

    def counting(*args: object, **kwargs: object) -> CompiledPolicy:
        seen.append(str(args[0]))
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(compiler, "compile_policy", counting)
    return seen


def test_a_name_is_found_in_order(tmp_path: Path, cache: Path) -> None:
    first, second = tmp_path / "run", tmp_path / "etc"
    for folder in (first, second):
        folder.mkdir()
        (folder / "a.yaml").write_text(TEXT)
    (second / "b.yaml").write_text(TEXT)
    (second / "b.test.yaml").write_text("")
    assert load("a", first, second).source == str(first / "a.yaml")
    assert load("b", first, second).source == str(second / "b.yaml")
    assert sorted(store.available((first, second))) == ["a", "b"]
    with pytest.raises(PolicyError, match=r"no policy named 'c'") as caught:
        load("c", first, second)
    assert "there are: a, b" in str(caught.value)
    assert cache.exists()


def test_a_file_is_what_has_a_slash_or_ends_in_yaml(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert load("./mine.yaml").name == "mine"
    assert load("mine.yaml").name == "mine"
    for name in ("mine", "", "..", ".hidden"):
        with pytest.raises(PolicyError):
            load(name)
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused(tmp_path: Path, cache: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "x.yaml")
    with pytest.raises(PolicyError, match=r"x\.yaml: (not a regular file|cannot read)"):
        load(tmp_path / "x.yaml")
    with pytest.raises(PolicyError, match="No such file"):
        load(tmp_path / "y.yaml")
    assert not entries(cache)


def test_the_second_load_comes_from_the_cache(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_compilations(monkeypatch)
    first = load(file)
    assert load(file) == first
    assert len(seen) == 1
    assert oct(cache.stat().st_mode & 0o777) == "0o700"
    assert [oct(entry.stat().st_mode & 0o777) for entry in entries(cache)] == ["0o600"]
    load(file, traits=Traits("none"))
    file.write_text(TEXT + "# more\n")
    load(file)
    load(file, traits=Traits("host", ("x",)))
    assert len(seen) == 4


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_could_have_written_is_not_believed(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    load(file)
    seen = count_compilations(monkeypatch)
    (entry,) = entries(cache)
    entry.chmod(mode)
    load(file)
    assert len(seen) == 1
    entry.chmod(0o600)
    cache.chmod(mode | 0o100)
    load(file)
    assert len(seen) == 2


def _with_checksum(text: bytes) -> bytes:
    return b"%08x\n" % crc32(text) + text


@pytest.mark.parametrize(
    "kind", ["symlink", "hard link", "fifo", "owner", "garbage", "torn", "one bit", "another's"]
)
def test_an_odd_entry_is_compiled_afresh(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    good = load(file)
    (entry,) = entries(cache)
    text = entry.read_bytes()
    spare = file.parent / "spare"
    match kind:
        case "symlink":
            entry.rename(spare)
            entry.symlink_to(spare)
        case "hard link":
            os.link(entry, spare)
        case "fifo":
            entry.unlink()
            os.mkfifo(entry, 0o600)
        case "owner":
            if os.geteuid():
                pytest.skip("only root can give a file away")
            os.chown(entry, 1000, 1000)
        case "garbage":
            entry.write_bytes(_with_checksum(b"[" * 100_000))
        case "torn":
            entry.write_bytes(text[: len(text) // 2])
        case "one bit":
            entry.write_bytes(text[:-9] + bytes([text[-9] ^ 1]) + text[-8:])
        case "another's":
            body = json.loads(text.partition(b"\n")[2])
            body["from"][1] += "# not quite that"
            entry.write_bytes(_with_checksum(json.dumps(body).encode()))
    seen = count_compilations(monkeypatch)
    assert load(file) == good
    assert len(seen) == 1


def test_a_cache_that_cannot_be_written_is_no_error(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (Path("/proc/nowhere/seccompd"), file / "x"):
        monkeypatch.setattr("supervisor.policy.cache.directory", lambda place=place: place)
        assert load(file).name == "mine"
    assert not entries(cache)


def test_the_cache_does_not_grow_for_ever(file: Path, cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    for number in range(100):
        (cache / f"{number}.json").write_text("{}")
    load(file)
    assert len(entries(cache)) == 64


def test_a_user_has_a_cache_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert directory() == Path("/home/u/.cache/seccompd")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert directory() == Path("/home/u/.cache/seccompd")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert directory() == Path("/c/seccompd")


def test_a_start_from_the_cache_imports_nothing_heavy(file: Path) -> None:
    code = f"""
import sys
from binascii import crc32
from pathlib import Path
from supervisor.policy import cache
cache.directory = lambda: Path({str(file.parent / "cache")!r})
from supervisor.intake import command
from supervisor.policy.traits import Traits
command.store.keep({str(file)!r}, Traits("host"), families=command._families)
heavy = ("yaml", "pydantic", "pyseccomp", "trio", "ctypes", "cffi", "dataclasses", "hashlib",
         "supervisor.model", "supervisor.policy.compile", "supervisor.handlers.registry")
print(*[name for name in heavy if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[2])}
    command = [sys.executable, "-c", code]
    loaded = [
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        for _ in range(2)
    ]
    assert "yaml" in loaded[0]
    assert loaded[1] == "\n"


def test_ten_thousand_rules_load(tmp_path: Path, cache: Path) -> None:
    big = tmp_path / "big.yaml"
    rules = "".join(
        f'    - {{devices: ["char {n % 4000}:{n}"], path: /s/{n}/**, do: emulate}}\n'
        for n in range(10_000)
    )
    big.write_text("version: 1\nsyscalls:\n  mknod:\n" + rules)
    assert len(load(big).families["mknod"].rules) == 10_000
    assert len(entries(cache)) == 1
