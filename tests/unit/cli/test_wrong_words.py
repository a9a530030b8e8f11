"""Words that mean nothing get one clear message, before anything is done."""

from __future__ import annotations

import os
import shlex
import socket
import threading
from pathlib import Path

import pytest

from supervisor.cli.main import main

MKNOD = "mknod pathname=/x mode=char dev=1:3"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\x00\xfe")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "mapping").write_text("{}")
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("learn --merge ./binary empty", 1, "binary:1:1: error: not UTF-8"),
        ("learn --merge ./nothere empty", 1, "./nothere: cannot read the policy: No such file"),
        ("learn --base ./binary empty", 1, "binary:1:1: error: not UTF-8"),
        ("learn folder", 1, "folder: cannot read it: Is a directory"),
        ("run --learn o.yaml --merge ./binary -- touch ran", 1, "binary:1:1: error: not UTF-8"),
        ("run --learn o.yaml --merge ./nothere -- touch ran", 1, "./nothere: cannot read the"),
        ("run --learn no/o.yaml -- touch ran", 2, "no/o.yaml: no is no folder"),
        ("run --learn empty/o.yaml -- touch ran", 2, "empty/o.yaml: empty is no folder"),
        ("serve --check-config --config nothere", 1, "nothere: cannot read the configuration: No"),
        ("serve --check-config --config folder", 1, "folder: cannot read the configuration: Is a"),
        ("profile --policy default --base mapping", 1, "no seccomp profile: it has no default"),
        ("profile --policy default --base deep", 1, "deep: not JSON"),
        ("profile --policy default --listener x", 2, "--listener x: not an absolute path"),
        ("profile --policy build --format lxc --metadata x", 2, "--metadata is for --format oci"),
        (f"explain --capability mkno {MKNOD}", 2, "'mkno' is no capability"),
        (f"explain --source dev {MKNOD}", 2, "a source is device MAJOR:MINOR NAME or image PATH"),
        (f"explain --source 'device x' {MKNOD}", 2, "a source is device MAJOR:MINOR NAME or"),
        ("lxc-hook --socket nothere x", 1, "nothere: no daemon hears: No such file"),
        ("trace --syscall mknodd", 2, "no policy is about mknodd: did you mean mknod?"),
        ("trace --verdict refused", 2, "invalid choice: 'refused' (choose from "),
        ("lxc-hook", 2, "arguments are required: CONTAINER"),
    ],
)
def test_said_at_once(
    place: Path, capsys: pytest.CaptureFixture[str], words: str, status: int, says: str
) -> None:
    assert main(shlex.split(words)) == status
    out, err = capsys.readouterr()
    assert says in err
    assert err.startswith("seccompd: ")
    assert out == ""
    assert sorted(os.listdir(place)) == ["binary", "deep", "empty", "folder", "mapping"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [(socket.SOCK_STREAM, ["ps"]), (socket.SOCK_SEQPACKET, ["lxc-hook", "box"])],
)
@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"[1]\n", b"5\n", b"[" * 3000 + b"\n", b""])
def test_a_socket_of_somebody_else(
    place: Path, capsys: pytest.CaptureFixture[str], kind: int, words: list[str], answer: bytes
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind("sock")
        server.listen()

        def speak() -> None:
            peer = server.accept()[0]
            with peer:
                peer.recv(4096)
                if answer:
                    peer.sendall(answer)

        talker = threading.Thread(target=speak)
        talker.start()
        try:
            assert main([words[0], "--socket", "sock", *words[1:]]) == 1
        finally:
            talker.join()
    says = "the daemon has closed" if kind == socket.SOCK_STREAM and not answer else "sock: "
    assert capsys.readouterr().err.startswith(f"seccompd: {says}")
    assert place.exists()
