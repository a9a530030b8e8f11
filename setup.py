"""What pyproject.toml cannot say: the C module, its one abi3 wheel, and the policies as data."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPolicies(build_py):
    """Copies policies/ into the wheel as supervisor/policies; in the tree it stays on top."""

    def run(self) -> None:
        """Builds the packages, then adds the policies (an editable install reads the tree's)."""
        super().run()
        if not getattr(self, "editable_mode", False):
            goal = Path(self.build_lib, "supervisor", "policies")
            goal.mkdir(parents=True, exist_ok=True)
            for policy in Path("policies").glob("*.yaml"):
                shutil.copy(policy, goal)


setup(
    cffi_modules=["csrc/build_shim.py:ffibuilder"],
    cmdclass={"build_py": BuildWithPolicies},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
