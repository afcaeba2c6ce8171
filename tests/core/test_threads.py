"""`sidecar.core.threads`: a cancelled caller waits for its thread."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from sidecar.core.threads import to_the_end


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
async def test_a_cancelled_caller_waits_for_the_thread(fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The thread's writes come before the caller's next step; its error is dropped."""
    began, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def work() -> None:
        began.set()
        assert go_on.wait(30)
        done.append("thread")
        if fails:
            raise OSError("the disk is full")

    async def caller() -> None:
        try:
            await to_the_end(work)
        finally:
            done.append("caller")

    task = asyncio.create_task(caller())
    assert await asyncio.to_thread(began.wait, 30)
    task.cancel()
    await asyncio.sleep(0)  # the cancellation has arrived
    await asyncio.sleep(0)
    assert done == []
    go_on.set()
    with caplog.at_level(logging.ERROR), pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["thread", "caller"]
    assert caplog.records == []


async def test_it_is_to_thread_else() -> None:
    """Arguments, results and errors are passed through."""
    assert await to_the_end(divmod, 7, 3) == (2, 1)
    assert await to_the_end(int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        await to_the_end(divmod, 1, 0)
