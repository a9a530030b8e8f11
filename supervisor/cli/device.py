"""`seccompd device`: gives a container that runs a device, lists what was given, takes it away."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from typing import Any, Final

from supervisor.cli import client
from supervisor.errors import SeccompdError
from supervisor.observe.text import printable

STILL_HELD: Final = 3
_COLUMNS = ("CONTAINER", "PATH", "DEVICE", "MODE", "OWNER", "BY", "SINCE", "STATE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the three verbs."""
    client.add_arguments(parser)
    verbs = parser.add_subparsers(dest="order", required=True, metavar="add|list|remove")
    add = verbs.add_parser("add", help="give a container a device")
    add.add_argument("container", metavar="CONTAINER", help="its id, or how that begins")
    add.add_argument(
        "device", metavar="DEVICE", help='a node of the host\'s, or as a policy has it: "char 1:5"'
    )
    add.add_argument("path", metavar="PATH", help="where it is to be in the container")
    add.add_argument(
        "--mode", metavar="OCTAL", help="permissions (those of the host's node, or 0660)"
    )
    add.add_argument(
        "--owner", metavar="UID:GID", default="0:0", help="as the container numbers them (0:0)"
    )
    shown = verbs.add_parser("list", help="show what containers have been given")
    shown.add_argument("container", metavar="CONTAINER", nargs="?")
    remove = verbs.add_parser("remove", help="take a device away")
    remove.add_argument("container", metavar="CONTAINER")
    remove.add_argument("path", metavar="PATH", help="where it was given")
    for verb in (add, shown, remove):
        client.add_arguments(verb, again=True)


def main(args: argparse.Namespace) -> int:
    """0; of remove STILL_HELD where somebody has it, or may have it, still."""
    orders = {"add": _add, "list": _list, "remove": _remove}
    return orders[args.order](args)


def _add(args: argparse.Namespace) -> int:
    device, mode = _device(args.device)
    request = {
        "do": "add_device", "container": args.container, "device": device, "path": args.path,
        "mode": args.mode or mode, "owner": args.owner,
    }  # fmt: skip
    row = client.ask(args, request)["added"]
    if args.output == "json":
        _json(row)
    for note in row["notes"]:
        print(f"seccompd: {_safe(note)}", file=sys.stderr)
    return 0


def _device(text: str) -> tuple[str, str | None]:
    """A device as a policy has it, and the permissions of the host's node where it is one."""
    if "/" not in text:
        return text, None
    try:
        found = os.stat(text)
    except OSError as error:
        raise SeccompdError(str(error.strerror), where=text) from None
    kinds = {stat.S_IFCHR: "char", stat.S_IFBLK: "block"}
    kind = kinds.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        raise SeccompdError("no device", where=text)
    numbers = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return f"{kind} {numbers}", f"{stat.S_IMODE(found.st_mode) & 0o777:04o}"


def _list(args: argparse.Namespace) -> int:
    found = client.ask(args, {"do": "devices", "container": args.container})["devices"]
    if args.output == "json":
        _json(found)
        return 0
    names = ("container", "path", "device", "mode", "owner", "by", "at")
    rows = [_COLUMNS, *((*(_safe(row[name]) for name in names), _state(row)) for row in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 0


def _state(row: dict[str, Any]) -> str:
    where = ", ".join(row["mounted"])
    return f"{row['state']}: {where}" if row["state"] == "moved" else str(row["state"])


def _remove(args: argparse.Namespace) -> int:
    found = client.ask(
        args, {"do": "remove_device", "container": args.container, "path": args.path}
    )
    if args.output == "json":
        _json(found)
    else:
        for one in found["holders"]:
            where = f" at {one['path']}" if one["path"] else ""
            sys.stdout.write(f"still {one['how']}{where}: {one['comm']}[{one['pid']}]\n")
    if found["hidden"]:
        print(
            "seccompd: it is nobody's in the container, but a mount of it is hidden below another "
            "one; remove it again once that has gone", file=sys.stderr,
        )  # fmt: skip
    if not found["complete"]:
        print("seccompd: who holds it was not found out in time", file=sys.stderr)
    return STILL_HELD if found["holders"] or found["hidden"] or not found["complete"] else 0


def _json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def _safe(value: Any) -> str:
    return printable(os.fsencode(str(value)))
