"""The one list of families. Filter, decoder, schema and documentation are all made from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from supervisor.handlers.accepts import Accepts
from supervisor.handlers.base import Family
from supervisor.handlers.device_nodes import DeviceNodes
from supervisor.handlers.directories import Directories
from supervisor.handlers.listens import Listens
from supervisor.handlers.loops import Loops
from supervisor.handlers.mounts import Mounts
from supervisor.handlers.node_files import NodeFiles
from supervisor.handlers.opens import Opens
from supervisor.handlers.socket_names import SocketNames
from supervisor.handlers.socket_options import GetOptions, SetOptions
from supervisor.handlers.sockets import Binds, Connects
from supervisor.handlers.umounts import Umounts
from supervisor.handlers.xattrs import Xattrs

FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family for family in (
        DeviceNodes(), NodeFiles(), Mounts(), Umounts(), Connects(), Binds(), Accepts(),
        Directories(), SocketNames(), Listens(), Opens(), Loops(), SetOptions(), GetOptions(),
        Xattrs(),
    )
}
