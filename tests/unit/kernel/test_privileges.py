"""What a process of ours gives away. Each test looks at a child, since there is no way back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAD = "from supervisor.kernel import privileges as p\n"
STATUS = "print(*[l.split()[1] for l in open('/proc/self/status') if l.startswith({!r})])\n"


def child(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give away")
def test_limit_capabilities() -> None:
    code = "p.limit_capabilities({'kill'})\n" + STATUS.format(("CapEff", "CapPrm", "CapInh"))
    inheritable, permitted, effective = (int(word, 16) for word in child(code))
    assert (inheritable, permitted, effective) == (0, 1 << 5, 1 << 5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give away")
def test_limited_for_good() -> None:
    code = "p.limit_capabilities()\np.limit_capabilities({'kill', 'mknod'})\n"
    assert child(code + "print(p.holds('mknod'))") == ["False"]


def test_unknown_capability() -> None:
    from supervisor.kernel import privileges

    with pytest.raises(KeyError):
        privileges.limit_capabilities({"no_such"})


def test_name_and_no_new_privileges() -> None:
    code = "p.set_name('sd-name')\np.set_no_new_privileges()\n"
    assert child(code + STATUS.format(("Name", "NoNewPrivs"))) == ["sd-name", "1"]


def test_dumpable() -> None:
    code = "import prctl\np.set_dumpable(False)\nprint(prctl.get_dumpable())"
    assert child(code) in (["False"], ["0"])


def test_parent_death_signal() -> None:
    code = "import prctl\np.set_parent_death_signal(9)\nprint(prctl.get_pdeathsig())"
    assert child(code) == ["9"]


def test_subreaper() -> None:
    code = "import prctl\np.set_subreaper(True)\nprint(int(prctl.get_child_subreaper()))"
    assert child(code) == ["1"]
