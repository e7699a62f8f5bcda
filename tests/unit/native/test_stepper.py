"""The stepper: a coroutine that its waker runs at once."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from typing import Any

import pytest
import uvloop

from sira import _native
from tests.garbage import collected

WATCHDOG_S = 60.0
_who = ContextVar("who", default="nobody")


def on_both_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """Run `test` on asyncio's loop and on uvloop's."""

    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
    @wraps(test)
    def run(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(test())

    del run.__wrapped__  # type: ignore[attr-defined]  # else pytest asks it for the parameters
    return run


class Worker:
    """Takes what is in `work`, rests when there is none, and notes what it did."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stepper = _native.Stepper("worker", self.loop)
        self.work: list[Any] = []
        self.done: list[Any] = []

    async def run(self) -> None:
        while True:
            while self.work:
                item = self.work.pop(0)
                if isinstance(item, asyncio.Future):
                    item = await item
                elif isinstance(item, Exception):
                    raise item
                elif item is None:
                    await asyncio.sleep(0)
                elif item == "end":
                    return
                self.done.append(item)
            await self.stepper

    async def until_it_rests(self) -> None:
        async with asyncio.timeout(WATCHDOG_S):
            while not self.stepper.resting:  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0)

    async def begun(self) -> Worker:
        self.work.append("begun")
        self.stepper.begin(self.run())
        async with asyncio.timeout(WATCHDOG_S):
            while not self.done:  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0)
        self.done.clear()
        return self

    async def ended(self) -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await self.stepper.ended


@on_both_loops
async def test_it_does_nothing_before_the_next_turn() -> None:
    worker = Worker()
    worker.work.append("x")
    worker.stepper.begin(worker.run())
    assert worker.done == []
    await asyncio.sleep(0)
    assert worker.done == ["x"] and worker.stepper.resting
    worker.stepper.cancel()
    await worker.ended()


@on_both_loops
async def test_go_runs_it_inside_the_call() -> None:
    worker = await Worker().begun()
    worker.work.append("x")
    worker.stepper.go()
    assert worker.done == ["x"] and worker.stepper.resting
    worker.stepper.cancel()
    await worker.ended()


@on_both_loops
async def test_wake_runs_it_in_the_next_turn_and_once() -> None:
    worker = await Worker().begun()
    for item in "ab":
        worker.work.append(item)
        worker.stepper.wake()
    assert worker.done == []
    await asyncio.sleep(0)
    assert worker.done == ["a", "b"]
    worker.stepper.cancel()
    await worker.ended()


@on_both_loops
async def test_a_future_is_waited_for_and_neither_go_nor_wake_disturbs_that() -> None:
    worker = await Worker().begun()
    future: asyncio.Future[str] = worker.loop.create_future()
    worker.work += [future, "after"]
    worker.stepper.go()
    assert not worker.stepper.resting
    worker.stepper.go()
    worker.stepper.wake()
    await asyncio.sleep(0)
    assert worker.done == []
    future.set_result("came")
    await worker.until_it_rests()
    assert worker.done == ["came", "after"]
    worker.stepper.cancel()
    await worker.ended()


@on_both_loops
async def test_what_a_future_raises_is_raised_where_it_is_awaited() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    stepper, caught = _native.Stepper("careful", loop), []

    async def run() -> None:
        try:
            await future
        except ValueError as error:
            caught.append(error)

    stepper.begin(run())
    await asyncio.sleep(0)
    error = ValueError("no")
    future.set_exception(error)
    async with asyncio.timeout(WATCHDOG_S):
        await stepper.ended
    assert caught == [error]


@on_both_loops
async def test_sleep_0_lets_the_loop_run() -> None:
    worker = await Worker().begun()
    worker.work += [None, "after"]
    worker.stepper.go()
    assert worker.done == [] and not worker.stepper.resting
    await worker.until_it_rests()
    assert worker.done == [None, "after"]
    worker.stepper.cancel()
    await worker.ended()


@on_both_loops
async def test_it_cannot_be_run_from_inside_itself() -> None:
    loop, seen = asyncio.get_running_loop(), []
    stepper = _native.Stepper("inward", loop)

    async def run() -> None:
        stepper.go()
        stepper.wake()
        seen.append(stepper.resting)

    stepper.begin(run())
    async with asyncio.timeout(WATCHDOG_S):
        await stepper.ended
    assert seen == [False]


@on_both_loops
async def test_cancel_reaches_it_before_it_has_begun() -> None:
    worker = Worker()
    worker.work.append("x")
    worker.stepper.begin(worker.run())
    worker.stepper.cancel()
    await worker.ended()
    assert worker.done == []


@on_both_loops
async def test_cancel_cancels_what_it_waits_for() -> None:
    worker = await Worker().begun()
    future: asyncio.Future[str] = worker.loop.create_future()
    worker.work.append(future)
    worker.stepper.go()
    worker.stepper.cancel()
    await worker.ended()
    assert future.cancelled() and not worker.stepper.resting


@on_both_loops
async def test_cancel_by_itself_is_raised_at_the_next_wait() -> None:
    loop, seen = asyncio.get_running_loop(), []
    stepper = _native.Stepper("tired", loop)

    async def run() -> None:
        stepper.cancel()
        seen.append("still here")
        try:
            await stepper
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    stepper.begin(run())
    async with asyncio.timeout(WATCHDOG_S):
        await stepper.ended
    assert seen == ["still here", "cancelled"]


@on_both_loops
async def test_a_caught_cancel_lets_it_rest_and_go_on() -> None:
    loop, seen = asyncio.get_running_loop(), []
    stepper = _native.Stepper("stubborn", loop)

    async def run() -> None:
        try:
            await stepper
        except asyncio.CancelledError:
            seen.append("no")
        await stepper
        seen.append("yes")

    stepper.begin(run())
    await asyncio.sleep(0)
    stepper.cancel()
    await asyncio.sleep(0)
    assert seen == ["no"] and stepper.resting
    stepper.go()
    assert seen == ["no", "yes"]
    await stepper.ended


@on_both_loops
async def test_what_it_raises_goes_to_the_handler_of_the_loop() -> None:
    worker = await Worker().begun()
    told: list[dict[str, Any]] = []
    worker.loop.set_exception_handler(lambda _loop, context: told.append(context))
    error = RuntimeError("fault")
    worker.work.append(error)
    try:
        worker.stepper.go()
        await worker.ended()
    finally:
        worker.loop.set_exception_handler(None)
    assert [context["exception"] for context in told] == [error]
    assert "worker" in told[0]["message"]


@on_both_loops
async def test_it_begins_once_and_an_ended_one_can_be_told_anything() -> None:
    worker = await Worker().begun()
    worker.work.append("end")
    worker.stepper.go()
    await worker.ended()
    worker.stepper.go()
    worker.stepper.wake()
    worker.stepper.cancel()
    again = worker.run()
    with pytest.raises(RuntimeError, match="once"):
        worker.stepper.begin(again)
    again.close()
    assert not worker.stepper.resting


@on_both_loops
async def test_it_goes_on_in_its_own_context_and_keeps_nobody_elses() -> None:
    worker, seen = Worker(), []

    async def run() -> None:
        await worker.stepper
        await future
        seen.append(_who.get())

    future: asyncio.Future[None] = worker.loop.create_future()
    worker.stepper.begin(run())
    await asyncio.sleep(0)
    token = _who.set("somebody")
    worker.stepper.go()
    future.set_result(None)
    _who.reset(token)
    await worker.ended()
    assert seen == ["nobody"]


@on_both_loops
async def test_one_that_nobody_holds_any_more_is_let_go() -> None:
    worker = await Worker().begun()
    gone = weakref.ref(worker)
    del worker
    assert collected(gone)
