"""The one list of the daemon's doors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from supervisor.daemon.main import DoorMaker
from supervisor.intake.attach import AttachDoor
from supervisor.intake.lxc import LxcDoor
from supervisor.intake.oci import OciDoor

DOORS: Final[Mapping[str, DoorMaker]] = {"oci": OciDoor, "lxc": LxcDoor, "attach": AttachDoor}
