"""Who waits for a maker is woken by each work that may have used one."""

from __future__ import annotations

import os

import trio
import trio.testing

from supervisor.engine.helpers import Makers, Resolvers
from supervisor.engine.works import NOT_BEGUN, Job, let_go
from supervisor.kernel.shim import lib


def test_a_work_that_goes_on_without_its_maker_wakes_others() -> None:
    """A direct attempt has used a maker, and goes on with a resolver: result LONG."""

    async def main() -> bool:
        mine, its = os.pipe()
        makers = Makers([its])
        try:
            for so_far, result in (
                (lib.SD_WORK_LONG, lib.SD_WORK_WAIT),
                (NOT_BEGUN, lib.SD_WORK_DONE),
            ):
                job = Job()
                job.maker = None
                job.result = so_far
                with trio.fail_after(5):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(makers.wait)
                        await trio.testing.wait_all_tasks_blocked()
                        let_go(job, None, result, Resolvers(), makers)
            return True
        finally:
            makers.close()
            os.close(mine)

    assert trio.run(main)
