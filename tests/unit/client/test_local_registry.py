"""Capabilities on a node in this process: found, called, followed, on a clock moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

import sira
import sira.testing

WATCHDOG_S = 60.0


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(guarded())


def _doubler(bus: sira.Bus, name: str = "doubler-1") -> sira.Agent:
    capability = sira.Capability("double numbers", name="double", effects="pure")
    return sira.Agent(name, capabilities=[capability], bus=bus, handler=lambda x: {"y": x * 2})


def test_an_agent_is_found_called_and_gone() -> None:
    async def work() -> None:
        async with sira.testing.LocalBus() as bus:
            async with _doubler(bus) as agent:
                for number in range(3):
                    reply = await bus.call("double numbers", {"x": number}, timeout_s=20)
                    assert reply["y"] == 2 * number
                    assert reply.receipt is not None
                    assert reply.receipt.agent == agent.name
                (info,) = await bus.agents()
                assert (info.name, info.status) == ("doubler-1", "up")
            assert await bus.agents() == []
            assert bus._calls is not None
            while bus._calls._kept.entries:  # noqa: ASYNC110  else somebody else is waited for
                await asyncio.sleep(0.005)
            with pytest.raises(sira.NoMatch):
                await bus.call("double numbers", {"x": 1}, timeout_s=600)

    run(work)


def test_a_watch_tells_who_comes_and_goes() -> None:
    async def work() -> None:
        async with sira.testing.LocalBus() as bus:
            changes = bus.watch_agents()
            assert (await anext(changes)).kind == "snapshot_end"
            async with _doubler(bus):
                change = await anext(changes)
                assert change.agent is not None
                assert (change.kind, change.agent.name) == ("put", "doubler-1")
            while (change := await anext(changes)).kind != "removed":
                pass
            await changes.aclose()

    run(work)


def test_what_was_found_is_kept_until_something_moves() -> None:
    async def work() -> None:
        async with sira.testing.LocalBus() as bus, _doubler(bus):
            assert bus._calls is not None
            kept = bus._calls._kept
            while not kept.entries:  # the watch begins with the first call
                await bus.call("double numbers", {"x": 1}, timeout_s=20)
            async with _doubler(bus, "doubler-2"):
                while kept.entries:  # noqa: ASYNC110  what is tested
                    await asyncio.sleep(0.005)
                asked = set()
                while len(asked) < 2:
                    reply = await bus.call("double numbers", {"x": 1}, timeout_s=20)
                    assert reply.receipt is not None
                    asked.add(reply.receipt.agent)
                assert asked == {"doubler-1", "doubler-2"}

    run(work)
