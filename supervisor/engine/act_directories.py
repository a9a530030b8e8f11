"""Directories that are made for a caller: what its path work is told, and the second decision."""

from __future__ import annotations

from errno import EPERM

from supervisor.engine.works import Job, path_of, put
from supervisor.kernel.shim import lib
from supervisor.kernel.syscalls import AT_FDCWD
from supervisor.kernel.text import printable
from supervisor.model import DirectorySettings, Facts, Outcome, Verdict
from supervisor.plans import MakeDirectory, Place


def fill(job: Job, plan: MakeDirectory) -> None:
    """All that the work is told. Where there is no decision to be taken again it is done in one go.
    """
    work = job.work
    work.op = lib.SD_WORK_DIRECTORY
    work.mode = plan.mode
    work.length[1] = -1
    work.call_flags = 0
    work.host_node[0] = b"\0"
    work.flags = job.wanted or (lib.SD_WORK_PROBE if job.probe_only else 0)
    put(work, 0, plan.place)
    job.made = "directory"
    if not work.flags:
        _lead(job, plan.settings)


def second_look(job: Job, on_error: int) -> Outcome | None:
    """Decides again on where the path was found to lead; None: the work goes on.

    What is refused is not made, and gets the errno that the kernel has for who may not make it.
    """
    work = job.work
    assert job.redecide is not None
    path = path_of(work)
    decision = job.decision = job.redecide(Facts(path, work.fsuid, work.fsgid))
    if decision.verdict not in (Verdict.EMULATE, Verdict.REFUSE):
        return Outcome(EPERM, path=path, decision=decision)  # or what that says
    if not job.valid():
        return Outcome(on_error, "the caller has gone", decision=decision)
    work.flags = 0
    if decision.verdict is Verdict.REFUSE:
        work.flags = lib.SD_WORK_PROBE
    elif isinstance(decision.settings, DirectorySettings):
        _lead(job, decision.settings)
    return None


def _lead(job: Job, settings: DirectorySettings) -> None:
    """Another directory is to be made, where a rule says so: its path begins at the caller's root.
    """
    if settings.redirect:
        job.work.flags |= lib.SD_WORK_ELSEWHERE
        job.made = f"directory {printable(settings.redirect)}"
        put(job.work, 0, Place(AT_FDCWD, settings.redirect))
