"""Connects that are settled: a porter makes and answers equal ones by itself (csrc/errands.c)."""

from __future__ import annotations

from supervisor.engine.porters import Porter, PorterError, Porters
from supervisor.kernel.shim import lib


class Errands:
    """Who makes them: one porter, for a process has one that does."""

    def __init__(self, porters: Porters) -> None:
        self._porters = porters
        self._runner: Porter | None = None

    def ready(self) -> bool:
        """Whether there is one; has one made where there is none yet."""
        if self._runner is not None and lib.sd_errands_porter() < 0:  # it has gone
            self._porters.lose(self._runner)
            self._runner = None
        if self._runner is None:
            try:
                self._runner = self._porters.take()
            except PorterError:
                return False
            lib.sd_errands_by(self._runner.sock, self._runner.number)
        return True

    def begun(self) -> Porter | None:
        """Who makes a call that takes longer, and does none of these any more."""
        porter, self._runner = self._runner, None
        return porter

    def rest(self) -> None:
        """Nobody calls: who would do it lets go of the listener."""
        if self._runner is not None:
            lib.sd_errands_by(-1, 0)
            self._porters.lose(self._runner)
            self._runner = None
