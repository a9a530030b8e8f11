"""Opens of symbolic links by the name of what is given, or that lead to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, python
from tests.support.program import run
from tests.support.scratch import scratch


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch(0o777, "/var/tmp") as folder:
        (folder / "common").write_text("a\n")
        yield folder


# Links by the name of what is given, and the errno of each open of one.
LINKS = """
import errno, itertools, os, shutil
os.chdir(PLACE)
names = "O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_DIRECTORY", "O_RDWR"
def opened(path, flags):
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        return errno.errorcode[error.errno]
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
for target in ("real", "aside", "gone", "gone/deeper", "again", "turned", "/", "link/gone", "none"):
    os.mkdir("aside"), open("real", "w").close(), os.symlink("aside/new", "again")
    os.symlink("loop", "loop"), os.symlink("aside", "link")
    for name in ("turned", "link/turned"):
        os.symlink(target, name)
        for count in range(len(names) + 1):
            for some in itertools.combinations(names, count):
                flags = sum(getattr(os, name) for name in some)
                found = [opened(path, flags) for path in (name, os.path.abspath(name))]
                print(target, name, *some, *found, os.path.exists("aside/new"))
        os.unlink(name)
    for name in ("real", "again", "loop", "link", "gone", "none"):
        os.path.lexists(name) and os.unlink(name)
    shutil.rmtree("aside")
"""


def test_links_are_the_kernels(root: Person, place: Path) -> None:
    """Whatever they lead to, also to what is not there: it is what they lead to that is opened."""
    text = LINKS.replace("PLACE", repr(str(place)))
    rules = "version: 1\nsyscalls:\n  open:\n"
    for do in ("{content: x}", f"{{file: {place}/common, access: read-write}}",
               f"{{directory: {place}}}"):  # fmt: skip
        path = f"[{place}/turned, {place}/link/turned, {place}/aside/turned]"
        one = rules + f"    - {{path: {path}, do: {{inject: {do}}}}}\n"
        (place / "links.yaml").write_text(one)
        words = (python(root), "-c", text)
        done = run(root, *words, options=["--policy", str(place / "links.yaml")])
        (place / "links.yaml").write_text(rules + "    - {path: /a/b, do: {inject: {content: x}}}")
        without = run(root, *words, options=["--policy", str(place / "links.yaml")])
        assert (done.stderr, without.stderr) == ("", "")
        assert done.stdout.splitlines() == without.stdout.splitlines()
        assert done.stdout.count("\n") == 9 * 2 * 32


def test_a_link_to_what_is_not_there_is_no_way_past_a_refusal(root: Person, place: Path) -> None:
    """With O_CREAT the kernel makes what it leads to."""
    rules = f"""
version: 1
syscalls:
  open:
    - {{path: {place}/refused, do: {{errno: ENOSPC}}}}
    - {{do: continue, accept_race: true}}
"""
    (place / "refusing.yaml").write_text(rules)
    script = """
    cd "$0"; ln -s refused one; ln -s ./one two; mkdir below; ln -s ../two below/three
    for path in refused one two below/three "$0/below/three"; do echo >"$path"; done
    rm one two below/three; rmdir below; ls refused
    """
    words = ("sh", "-c", script, str(place))
    done = run(root, *words, options=["--policy", str(place / "refusing.yaml")])
    assert done.stderr.count("No space left on device") == 5, done.stderr
    assert not (place / "refused").exists()
