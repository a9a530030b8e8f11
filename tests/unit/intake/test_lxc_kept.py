"""What is left of LXC's containers for the next daemon."""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.intake.lxc_commands import Announced
from supervisor.intake.lxc_kept import Kept
from supervisor.kernel.task import start_time
from supervisor.kernel.watch import Watches

OWN = os.getpid()


def test_containers_are_remembered(tmp_path: Path) -> None:
    those = [Announced("web", "/var/lib/lxc", "cookie"), Announced("db", "/srv")]
    Kept(tmp_path).remember(those)
    with (tmp_path / "lxc.containers").open("a") as file:
        file.write("nonsense\n")
    assert set(Kept(tmp_path).announced()) == set(those)


def test_what_was_received_is_found_again(tmp_path: Path) -> None:
    began = start_time(OWN)
    for expected in (0, 7):
        fd = Kept(tmp_path).watches(OWN, began)
        assert fd is not None
        watches = Watches(fd)
        assert watches[0].pending[0] == expected
        watches.keep_memory()  # whoever has no descriptor writes to the file all the same
        watches[0].pending[0] = 7
        watches.close()
    (file,) = (tmp_path / "lxc.watches").iterdir()
    assert (file.stat().st_mode & 0o777, file.stat().st_size) == (0o600, Watches.SIZE)
    assert file.stat().st_blocks * 512 < 65536, "what nobody uses takes no room"
    Kept(tmp_path).forget(OWN, began)
    assert list((tmp_path / "lxc.watches").iterdir()) == []


def test_another_process_of_the_same_number_is_another_container(tmp_path: Path) -> None:
    began = start_time(OWN)
    assert began is not None
    for init, start in ((OWN, began), (OWN, began - 1), (1 << 30, 1)):
        fd = Kept(tmp_path).watches(init, start)
        assert fd is not None
        os.close(fd)
    folder = tmp_path / "lxc.watches"
    (folder / f"0-{OWN}-{began}").touch()  # of another layout
    (folder / "nonsense").touch()
    Kept(tmp_path)
    assert [file.name for file in folder.iterdir()] == [f"1-{OWN}-{began}"]


def test_no_room(tmp_path: Path) -> None:
    (tmp_path / "lxc.watches").touch()
    assert Kept(tmp_path).watches(OWN, 1) is None
