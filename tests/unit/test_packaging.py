"""What is shipped: one abi3 module, the policies as data, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy: building leaves files behind."""
    work = tmp_path_factory.mktemp("wheel")
    keep = {"supervisor", "csrc", "policies", "pyproject.toml", "setup.py", "README.md",
            "LICENSE", "MANIFEST.in", "CHANGELOG.md", "SECURITY.md"}
    shutil.copytree(
        TOP, work / "source",
        ignore=lambda folder, names: [
            name for name in names
            if (Path(folder) == TOP and name not in keep)
            or name.endswith((".so", ".o", ".pyc"))
            or name in ("__pycache__", "_shim.c")
        ],
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps",
         "--no-index", "-w", str(work), str(work / "source")],
        check=True, capture_output=True, text=True, timeout=240,
    )
    (built,) = work.glob("*.whl")
    return built


@pytest.mark.slow
def test_one_wheel_for_every_python(wheel: Path) -> None:
    assert re.fullmatch(r"seccompd-[0-9.]+-cp311-abi3-linux_\w+\.whl", wheel.name)


@pytest.mark.slow
def test_the_wheel_has_what_it_needs_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "supervisor/_shim.abi3.so" in names
    policies = {f"supervisor/policies/{path.name}" for path in (TOP / "policies").glob("*.yaml")}
    assert policies <= set(names)
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"supervisor"}
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_runs_without_the_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    script = (
        "from supervisor.policy import store; print(store.shipped()); "
        "from supervisor.cli.main import main; raise SystemExit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor"],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "installed" / "supervisor" / "policies")


def test_what_is_imported_is_required() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[><=]", entry)[0].lower() for entry in project["dependencies"]}
    assert required == {"cffi", "pydantic", "pyseccomp", "python-prctl", "pyyaml", "trio"}
    assert project["scripts"] == {"seccompd": "supervisor.cli.main:main"}


def test_make_help_lists_every_target_that_is_promised() -> None:
    text = subprocess.run(
        ["make", "-C", str(TOP), "--no-print-directory", "help"],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout
    for target in ("setup", "demo", "test", "lint", "bench", "clean", "attack", "soak"):
        assert re.search(rf"^  make {target} +\S", text, re.M), target


def test_the_readme_has_the_line_that_the_bare_proof_runs() -> None:
    lines = re.findall(r"^    (apt-get .*install.*)$", (TOP / "README.md").read_text(), re.M)
    assert len(lines) == 1
    assert "git" in lines[0].split()
    assert "make" in lines[0].split()
