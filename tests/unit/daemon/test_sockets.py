"""The directory of the daemon's sockets, and what others may have put there."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from supervisor.daemon import sockets
from supervisor.daemon.sockets import RuntimeDirectory
from supervisor.errors import SeccompdError
from tests.support.people import Person


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_that_others_may_write_in(tmp_path: Path, mode: int) -> None:
    """They could have a runtime hand its listeners to them."""
    place = tmp_path / "run"
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(SeccompdError, match="others may write"):
        RuntimeDirectory(place)
    assert os.listdir(place) == []


def test_a_directory_of_somebody_else(root: Person, tmp_path: Path) -> None:
    assert root.name is None
    place = tmp_path / "run"
    place.mkdir(mode=0o755)
    os.chown(place, 1000, 1000)
    with pytest.raises(SeccompdError, match="others may write"):
        RuntimeDirectory(place)
    link = tmp_path / "link"
    link.symlink_to(place)
    with pytest.raises(SeccompdError, match="others may write"):
        RuntimeDirectory(link)
    os.chown(place, 0, 0)
    RuntimeDirectory(place).close()


def test_links_in_the_place_of_its_files(tmp_path: Path) -> None:
    place, other = tmp_path / "run", tmp_path / "other"
    place.mkdir()
    other.write_text("theirs")
    (place / "oci.sock").symlink_to(other)
    made = RuntimeDirectory(place)
    listening = made.listen("oci.sock", 0o600)
    assert stat.S_IMODE(os.lstat(place / "oci.sock").st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place / "oci.sock"))
    assert listening.fileno() >= 0
    made.close()
    assert other.read_text() == "theirs"
    (place / "lock").unlink()
    (place / "lock").symlink_to(other)
    with pytest.raises(SeccompdError, match="no place for the sockets"):
        RuntimeDirectory(place)


def test_nobody_is_early_with_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before anybody can connect: what the kernel can do is found out by a process
    of its own, which takes its time."""
    listened = []

    def refuse(sock: socket.socket) -> None:
        listened.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    monkeypatch.setattr(sockets, "refuse_descriptors", refuse)
    place = RuntimeDirectory(tmp_path)
    place.listen("one.sock", 0o600)
    assert listened == []
    place.listen("other.sock", 0o600, descriptors=False)
    assert listened == [0]
    place.close()
