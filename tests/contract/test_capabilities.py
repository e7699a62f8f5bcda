"""Agents by what they can do: registering, finding, calling, and who goes while it is asked."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import numpy as np
import pytest

import sira
from sira.client import beats
from sira.client.breaker import FAILURES_MAX
from sira.client.registering import Load
from sira.v1 import registry_pb2

_numbers = itertools.count(1)


@pytest.fixture
def words() -> str:
    """A capability that no other test has: words of its own."""
    return f"polish zirkon{next(_numbers)}x"


def _agent(world: Any, name: str, *capabilities: sira.Capability, **settings: Any) -> sira.Agent:
    return sira.Agent(name, capabilities=capabilities, url=world.url, **settings)


async def test_an_agent_is_found_while_inside_and_gone_after(world: Any, words: str) -> None:
    async with world.bus() as bus:
        async with _agent(
            world, f"a-{words[-4:]}",
            sira.Capability(words, examples=["make it shine"], effects="pure"),
            handler=lambda: "done", version="1.2.0", labels={"ward": "3"}, description="polisher",
            extra={"note": "kept"}, kind="agent",
        ) as agent:  # fmt: skip
            matches = await bus.discover(words)
            assert not matches.no_match
            first = matches[0]
            assert (first.agent, first.status, first.version) == (agent.name, "up", "1.2.0")
            assert first.topic == f"agents.{agent.name}.{first.capability}"
            assert first.effects == "pure"
            assert first.reasons
            (info,) = await bus.agents(name=agent.name)
            assert (info.labels, info.description) == ({"ward": "3"}, "polisher")
            assert info.extra == {"note": b"kept"}
            assert info.capabilities[0].examples == ["make it shine"]
            assert (await bus.discover(words, labels={"ward": "4"})).no_match
            assert (await bus.discover(words, version="<1")).no_match
            assert (await bus.discover(words, version="^1.1"))[0].agent == agent.name
            assert (await bus.discover(words, kind="device")).no_match
        assert await bus.agents(name=agent.name) == []
        nobody = await bus.discover(words)
        assert nobody.no_match and nobody.reason and not nobody


async def test_a_call_says_who_answered_and_why(world: Any, words: str) -> None:
    async with (
        world.bus() as bus,
        _agent(world, f"b-{words[-4:]}", sira.Capability(words), handler=lambda x: {"y": x + 1}),
    ):
        x = np.arange(4, dtype=np.float32)
        for _ in range(5):
            reply = await bus.call(words, {"x": x}, timeout_s=20)
            np.testing.assert_array_equal(reply["y"], x + 1)
        receipt = reply.receipt
        assert receipt is not None
        assert (receipt.agent, receipt.topic, receipt.tries) == (
            f"b-{words[-4:]}", f"agents.{receipt.agent}.{receipt.capability}", 1,
        )  # fmt: skip
        assert receipt.reasons and receipt.query == words
        assert receipt.lane in ("grpc", "socket", "shm")
        by_name = await bus.call(capability=receipt.capability, body={"x": x}, timeout_s=20)
        np.testing.assert_array_equal(by_name["y"], x + 1)
        assert (await bus.request(receipt.topic, {"x": x}, timeout_s=20)).receipt is None


async def test_what_fits_nobody_says_why(world: Any, words: str) -> None:
    async with world.bus() as bus, _agent(
        world, f"c-{words[-4:]}", sira.Capability(words, takes={"x": "f32[N<=8]"}),
        handler=lambda x: {"y": x},
    ):  # fmt: skip
        small = np.zeros(8, np.float32)
        assert (await bus.call(words, {"x": small}, timeout_s=20))["y"].shape == (8,)
        for other in (np.zeros(9, np.float32), np.zeros(8, np.float64)):
            with pytest.raises(sira.NoMatch) as caught:
                await bus.call(words, {"x": other}, timeout_s=20)
            assert any("f32[N<=8]" in text for text in caught.value.details.values())
        with pytest.raises(sira.NoMatch):
            await bus.call("compose a sonnet about xylophones", b"", timeout_s=20)


async def test_each_capability_has_its_handler_and_together_they_take_so_many(
    world: Any, words: str
) -> None:
    agent = _agent(world, f"d-{words[-4:]}", sira.Capability(words),
                   sira.Capability(f"count {words}", name="count"))  # fmt: skip
    at_once, most = 0, 0

    async def busy() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1

    @agent.handler(words)
    async def polish() -> str:
        await busy()
        return "polished"

    @agent.handler("count")
    async def count() -> str:
        await busy()
        return "counted"

    with pytest.raises(sira.BadRequest, match="no capability"):
        agent.handler("sing")
    with pytest.raises(sira.BadRequest, match="already"):
        agent.handler("count")(count)
    async with world.bus() as bus, agent:
        names = {each.name for each in (await bus.agents(name=agent.name))[0].capabilities}
        (first,) = names - {"count"}
        asked = [
            bus.request(f"agents.{agent.name}.{n}", timeout_s=20) for n in (first, "count") * 4
        ]
        replies = [reply.text for reply in await asyncio.gather(*asked)]
        assert replies == ["polished", "counted"] * 4
        assert most == 1, "max_in_flight"


async def test_a_capability_without_a_handler_is_not_begun(world: Any, words: str) -> None:
    with pytest.raises(sira.BadRequest, match="no handler"):
        await _agent(world, f"e-{words[-4:]}", sira.Capability(words)).start()


async def test_a_name_that_lives_is_another_s(world: Any, words: str) -> None:
    name = f"f-{words[-4:]}"
    first = _agent(world, name, sira.Capability(words), handler=lambda: "first")
    # Another connection for its beats, as of another process; and no second try in time.
    patient = sira.Retry(delay_min_s=120, delay_max_s=120)
    second = _agent(world, name, sira.Capability(words), handler=lambda: "second", retry=patient)
    async with world.bus() as bus:
        async with first:
            with pytest.raises(sira.Conflict):
                await second.start(timeout_s=30)
            assert (await bus.call(words, timeout_s=20)).text == "first"
        async with second:
            assert (await bus.call(words, timeout_s=20)).text == "second"


async def test_of_two_that_say_the_same_both_are_asked(world: Any, words: str) -> None:
    names = [f"g{n}-{words[-4:]}" for n in range(2)]
    agents = [_agent(world, n, sira.Capability(words), handler=lambda: "x") for n in names]
    async with world.bus() as bus, agents[0], agents[1]:
        asked = {(await bus.call(words, timeout_s=20)).receipt.agent for _ in range(40)}
        assert asked == set(names)


async def test_the_one_with_less_to_do_is_asked(world: Any, words: str, until: Any) -> None:
    leave = asyncio.Event()

    async def wait() -> str:
        await leave.wait()
        return "x"

    names = [f"h{n}-{words[-4:]}" for n in range(2)]
    agents = [_agent(world, n, sira.Capability(words), handler=wait) for n in names]
    async with world.bus() as bus, agents[0], agents[1]:
        asking = [asyncio.ensure_future(bus.call(words, timeout_s=30)) for _ in range(8)]

        async def are_all_asked() -> bool:
            rows = [row for name in names for row in await bus.ledger(f"agents.{name}.>")]
            return sum(row.owed for row in rows) == len(asking)

        await until(are_all_asked)
        leave.set()
        receipts = [(await each).receipt for each in asking]
        shares = [sum(receipt.agent == name for receipt in receipts) for name in names]
        assert shares == [4, 4]


async def test_another_is_asked_where_one_is_gone_also_when_it_may_not_be_done_twice(
    world: Any, words: str
) -> None:
    names = [f"i{n}-{words[-4:]}" for n in range(2)]
    agents = [_agent(world, n, sira.Capability(words), handler=lambda: "x") for n in names]
    async with world.bus() as bus, agents[0]:
        async with agents[1]:
            for _ in range(10):
                await bus.call(words, timeout_s=20)
        for _ in range(10):
            receipt = (await bus.call(words, timeout_s=20)).receipt
            assert receipt.agent == names[0]


async def test_who_is_up_and_does_not_listen_yet_is_asked_until_it_does(
    world: Any, words: str
) -> None:
    capability, name = sira.Capability(words, name="shine", effects="idempotent"), f"z-{words[-4:]}"
    topic = f"agents.{name}.shine"
    registration = registry_pb2.Registration(
        name=name, kind="agent", capabilities=[capability.to_proto(name, "shine")], max_in_flight=1
    )
    async with world.bus() as bus, world.bus() as asker:
        membership = await beats.enrol(
            bus, registration, Load(), timeout_s=20, listens=lambda: True
        )
        asking = asyncio.create_task(asker.call(words, {"x": 1}, timeout_s=600))
        while sum(r.dropped.get("NO_MATCH", 0) for r in await bus.ledger(topic)) <= FAILURES_MAX:
            assert not asking.done(), asking
            await asyncio.sleep(0.02)
        async with sira.Agent("late", topic=topic, handler=lambda x: {"y": x}, bus=bus):
            assert (await asking)["y"] == 1
        await membership.leave()


async def test_who_has_left_in_order_is_not_waited_for(world: Any, words: str) -> None:
    async with world.bus() as bus:
        async with _agent(
            world, f"y-{words[-4:]}", sira.Capability(words, effects="pure"), handler=lambda: "done"
        ):
            assert (await bus.call(words, timeout_s=600)).text == "done"
        with pytest.raises(sira.NoMatch) as caught:
            await bus.call(words, timeout_s=600)
        assert not caught.value.retryable


async def test_a_failing_handler_is_not_asked_again(world: Any, words: str) -> None:
    tries = []

    async def fail() -> str:
        tries.append(1)
        raise ValueError("no")

    async with (
        world.bus() as bus,
        _agent(world, f"j-{words[-4:]}", sira.Capability(words), handler=fail),
    ):
        with pytest.raises(sira.HandlerFailed):
            await bus.call(words, timeout_s=20, idempotent=True)
        assert len(tries) == 1


async def test_a_second_one_is_asked_too_where_the_first_is_slow(world: Any, words: str) -> None:
    leave, begun = asyncio.Event(), []

    def slow_once(name: str) -> Any:
        async def handle() -> str:
            begun.append(name)
            if len(begun) == 1:
                await leave.wait()
            return name

        return handle

    names = [f"k{n}-{words[-4:]}" for n in range(2)]
    agents = [_agent(world, n, sira.Capability(words), handler=slow_once(n)) for n in names]
    async with world.bus() as bus, agents[0], agents[1]:
        reply = await bus.call(words, timeout_s=30, idempotent=True, hedge_s=0.05)
        assert reply.text == begun[1] != begun[0]
        assert reply.receipt is not None and reply.receipt.tries == 2
        leave.set()


async def test_a_slow_one_is_given_up_for_another_in_time(world: Any, words: str) -> None:
    leave, begun = asyncio.Event(), []

    def slow_once(name: str) -> Any:
        async def handle() -> str:
            begun.append(name)
            if len(begun) == 1:
                await leave.wait()
            return name

        return handle

    names = [f"l{n}-{words[-4:]}" for n in range(2)]
    agents = [_agent(world, n, sira.Capability(words), handler=slow_once(n)) for n in names]
    async with world.bus() as bus, agents[0], agents[1]:
        reply = await bus.call(words, timeout_s=8, idempotent=True)
        assert (reply.text, reply.receipt.tries) == (begun[1], 2)
        leave.set()


async def test_a_watch_begins_with_all_and_tells_what_changes(world: Any, words: str) -> None:
    name = f"m-{words[-4:]}"
    async with world.bus() as bus:
        changes = bus.watch_agents()
        while (await anext(changes)).kind != "snapshot_end":
            pass
        async with _agent(world, name, sira.Capability(words), handler=lambda: "x"):
            while (change := await anext(changes)).agent is None or change.agent.name != name:
                pass
            assert (change.kind, change.agent.status) == ("put", "up")
        while (change := await anext(changes)).kind != "removed" or change.agent.name != name:
            pass
        await changes.aclose()


async def test_an_answer_can_be_rated(world: Any, words: str) -> None:
    async with (
        world.bus() as bus,
        _agent(world, f"n-{words[-4:]}", sira.Capability(words), handler=lambda: "x"),
    ):
        receipt = (await bus.call(words, timeout_s=20)).receipt
        worse = await receipt.rate(ok=False)
        assert worse <= 0
        assert await bus.rate(receipt.agent, receipt.capability, reset=True) == 0
        with pytest.raises(sira.NotFound):
            await bus.rate("nobody-at-all", "x")


async def test_an_agent_whose_calls_fail_is_ranked_lower_until_that_is_reset(
    world: Any, words: str, until: Any
) -> None:
    async def fail() -> str:
        raise ValueError("no")

    async def shift_of() -> float:
        (match,) = await bus.discover(words)
        return sum(each.value for each in match.reasons if each.part == "feedback")

    async with (
        world.bus() as bus,
        _agent(world, f"o-{words[-4:]}", sira.Capability(words), handler=fail),
    ):
        async with world.bus() as other:
            for _ in range(4):
                with pytest.raises(sira.HandlerFailed):
                    await other.call(words, timeout_s=20)
        while not await shift_of() < 0:  # noqa: ASYNC110  it is written a little later
            await asyncio.sleep(0.05)
        (match,) = await bus.discover(words)
        (reason,) = (each for each in match.reasons if each.part == "feedback")
        assert "100% of its calls failed" in reason.text
        assert await bus.rate(match.agent, match.capability, reset=True) == 0
        assert await shift_of() == 0


async def test_calls_are_shared_between_versions_as_the_configuration_says(
    world: Any, words: str
) -> None:
    def version(number: str, text: str) -> sira.Agent:
        name = f"w{number[0]}-{words[-4:]}"
        can = sira.Capability(text, name=f"w-{words[-4:]}", effects="pure")
        return _agent(world, name, can, version=number, handler=lambda: number)

    async def share_of(bus: Any, count: int, **further: Any) -> int:
        """Return how many of the calls version 2 has answered."""
        said = [await bus.call(words, timeout_s=20, **further) for _ in range(count)]
        return sum(each.text == "2.1.0" for each in said)

    key = f"registry.weights.w-{words[-4:]}"
    async with (
        world.bus() as bus,
        version("1.4.0", words),
        # It says more; by words alone it would be another capability.
        version("2.1.0", f"{words} and shine"),
    ):
        while await share_of(bus, 20) not in (0, 20):  # one of them is the better match
            pass
        await bus.config.set(key, {"^1": 90, "^2": 10})
        while not 0 < await share_of(bus, 30) < 20:
            pass  # what was found before holds until it is told that this has changed
        while abs(await share_of(bus, 100) - 10) > 4:  # one may be suspect for a moment
            pass
        (reason,) = (
            each for each in (await bus.discover(words))[0].reasons if each.part == "weight"
        )
        assert "of 100 calls" in reason.text
        assert await share_of(bus, 10, version="^2") == 10, "a pin holds"
        assert await share_of(bus, 10, version="<2") == 0
        await bus.config.set(key, {"^1": 0, "^2": 1})
        while await share_of(bus, 10) < 10:
            pass
        await bus.config.rollback(key, 1)
        while await share_of(bus, 10) == 10:
            pass
        with pytest.raises(sira.BadRequest, match="no number"):
            await bus.config.set(key, {"^1": "many"})
        with pytest.raises(sira.BadRequest):
            await bus.config.set("registry.weight", 1)
        await bus.config.set(key, {})
        while await share_of(bus, 20) not in (0, 20):
            pass


async def test_draining_it_finishes_what_it_took(world: Any, words: str, until: Any) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        entered.set()
        await leave.wait()
        return "finished"

    agent = _agent(world, f"o-{words[-4:]}", sira.Capability(words), handler=wait)
    async with world.bus() as bus:
        await agent.start()
        asking = asyncio.ensure_future(bus.call(words, timeout_s=30))
        await entered.wait()
        stopping = asyncio.ensure_future(agent.stop())

        async def is_draining() -> bool:
            (info,) = await bus.agents(name=agent.name)
            return info.status == "draining"

        await until(is_draining)
        assert (await bus.discover(words)).no_match, "it takes nothing new"
        leave.set()
        assert (await asking).text == "finished"
        await stopping
        assert await bus.agents(name=agent.name) == []


async def test_a_loop_that_is_blocked_is_told_and_so_is_that_it_runs_again(
    world: Any, words: str, until: Any
) -> None:
    """The beats leave from a thread of their own: a lagging agent is suspect, never silently up."""
    blocked, leave = threading.Event(), threading.Event()

    async def block() -> str:
        blocked.set()
        leave.wait(30)
        return "at last"

    def serve() -> None:
        asyncio.run(served())

    ready, end = threading.Event(), threading.Event()

    async def served() -> None:
        async with _agent(world, f"p-{words[-4:]}", sira.Capability(words), handler=block):
            ready.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=serve)
    thread.start()
    async with world.bus() as bus:
        await asyncio.to_thread(ready.wait)
        asking = asyncio.ensure_future(bus.call(words, timeout_s=50))

        async def state() -> Any:
            (info,) = await bus.agents(name=f"p-{words[-4:]}")
            return info.state

        async def is_suspect() -> bool:
            found = await state()
            return found.status == "suspect" and found.lag_ms > 1_000

        async def is_up() -> bool:
            return (await state()).status == "up"

        try:
            await until(is_suspect)
            assert blocked.is_set()
        finally:
            leave.set()
        assert (await asking).text == "at last"
        await until(is_up)
        end.set()
    await asyncio.to_thread(thread.join)


def test_the_twin_without_await_finds_calls_and_lists(world: Any, words: str) -> None:
    with (
        world.sync() as bus,
        _agent(
            world, f"q-{words[-4:]}", sira.Capability(words), handler=lambda x: {"y": x * 2}
        ) as agent,
    ):
        assert bus.discover(words)[0].agent == agent.name
        for number in range(8):
            reply = bus.call(words, {"x": np.full(3, number, np.float32)}, timeout_s=20)
            assert reply["y"].tolist() == [2 * number] * 3
        assert reply.receipt is not None
        assert reply.receipt.agent == agent.name
        assert reply.receipt.rate(ok=True) >= 0
        assert [each.name for each in bus.agents(name=agent.name)] == [agent.name]
        changes = bus.watch_agents()
        seen = []
        for change in changes:
            if change.kind == "snapshot_end":
                break
            assert change.agent is not None
            seen.append(change.agent.name)
        changes.close()
        assert agent.name in seen
        with pytest.raises(sira.NoMatch):
            bus.call("compose a sonnet about xylophones", b"", timeout_s=20)
