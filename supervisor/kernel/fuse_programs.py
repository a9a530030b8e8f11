"""FUSE programs by name: what `via: fuse` can be told without a template of its own.

In an argv {source} is the image, {target} where it is to be mounted, {options} what the caller
gave and what a container needs. A program has to stay in the foreground.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "fuse2fs": ("/usr/bin/fuse2fs", "-f", "-o", "{options}", "{source}", "{target}"),
    "squashfuse": ("/usr/bin/squashfuse", "-f", "-o", "{options}", "{source}", "{target}"),
    "ntfs-3g": ("/usr/bin/ntfs-3g", "-o", "no_detach,{options}", "{source}", "{target}"),
    "exfat-fuse": ("/usr/sbin/mount.exfat-fuse", "-d", "-o", "{options}", "{source}", "{target}"),
}

# Everybody in the container may use the mount; the kernel checks permissions, not the program.
OPTIONS: Final = "allow_other,default_permissions"
SOURCE: Final = "/dev/image"
TARGET: Final = "/mnt"


def makes_no_process(program: Sequence[str]) -> bool:
    """Whether it is known never to fork: so all its memory is that of one process."""
    return tuple(program) in PROGRAMS.values()


def argv(program: Sequence[str], options: Sequence[str]) -> list[str]:
    """The command line; ValueError where the template has another word in braces."""
    words = {"source": SOURCE, "target": TARGET, "options": ",".join([OPTIONS, *options])}
    try:
        return [word.format_map(words) for word in program]
    except (KeyError, IndexError) as error:
        raise ValueError(f"no such word in a FUSE program's template: {error}") from error
