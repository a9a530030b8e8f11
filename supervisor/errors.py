"""The errors that a person sees: what went wrong, where, and what to do about it."""

from __future__ import annotations


class SeccompdError(Exception):
    """An error to be shown as one clear message, without a traceback.

    `status` is the exit status of the command: 1 for an error in what was asked for, 2 for
    wrong usage, 126 and 127 as a shell gives them for a command that cannot be run.
    """

    status = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class UsageError(SeccompdError):
    """The command line is wrong."""

    status = 2


class PolicyError(SeccompdError):
    """A policy cannot be found, read or understood; the text holds every finding."""


class KernelError(SeccompdError):
    """The kernel lacks a feature, or refuses one, that this work needs."""


class CommandNotFound(SeccompdError):
    """CMD does not exist (a shell's 127)."""

    status = 127


class CommandNotExecutable(SeccompdError):
    """CMD exists and cannot be executed (a shell's 126)."""

    status = 126
