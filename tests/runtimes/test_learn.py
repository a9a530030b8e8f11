"""A policy learned from a container that runs, as docs/policy-tools.md has it."""

from __future__ import annotations

from tests.support.bundles import bundle
from tests.support.daemon import run, serving
from tests.support.inside import wait_for
from tests.support.people import Person
from tests.support.program import seccompd
from tests.support.scratch import scratch

POLICY = """
version: 1
match: {door: oci}
syscalls:
  mknod:
    - {devices: ["null"], do: emulate}
"""
LEARNING = """
version: 1
include: learn
match: {door: oci, container: NAME}
"""


def test_from_a_container_that_runs(root: Person) -> None:
    with (
        scratch(0o755) as place,
        serving(root, place, {"web": POLICY}) as daemon,
        bundle(place, daemon.profile("web")) as box,
    ):
        name = box.start()
        assert box.exec(name, "mknod /tmp/before c 1 5").returncode != 0
        learning = place / "policies" / "00-learning.yaml"
        learning.write_text(LEARNING.replace("NAME", name))
        assert daemon.command("reload").returncode == 0
        script = "cd /tmp/dev; mknod zero c 1 5; mknod full c 1 7; mknod sda b 8 0"
        assert "not permitted" in box.exec(name, f"mkdir /tmp/dev; {script}").stderr
        learning.unlink()
        assert daemon.command("reload").returncode == 0
        assert box.exec(name, "mknod /tmp/after c 1 5").returncode != 0

        wait_for(
            daemon.audit.read_text,
            lambda text: text.count("/tmp/dev/") >= 2 and '"sda"' in text,
        )
        words = seccompd(root, "learn", "--session", f"oci:{name}", str(daemon.audit))
        done = run(words, env=root.environ(), cwd="/")
        assert done.returncode == 0, done.stderr
        assert '- {devices: [zero], path: "/tmp/dev/zero", do: emulate}' in done.stdout
        assert '- {devices: [full], path: "/tmp/dev/full", do: emulate}' in done.stdout
        assert "makedev(8, 0))  (the host's block devices: never learned)" in done.stdout

        (place / "policies" / "web.yaml").write_text(
            done.stdout.replace("syscalls:", "match: {door: oci}\nsyscalls:")
        )
        assert daemon.command("reload").returncode == 0
        again = f"rm /tmp/dev/*; {script}; echo made: *"
        assert box.exec(name, again).stdout == "made: full zero\n"
        assert box.exec(name, "mknod /tmp/elsewhere c 1 5").returncode != 0
