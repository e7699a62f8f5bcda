"""Agents: handlers of every kind, how tensors are bound, what failures become, how they stop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import sira


def _agent(bus: sira.Bus, topic: str, handler: Any, **settings: Any) -> sira.Agent:
    return sira.Agent("tester", topic=topic, handler=handler, bus=bus, **settings)


def plain(image: np.ndarray) -> dict[str, np.ndarray]:
    assert threading.current_thread() is not threading.main_thread()
    return {"mask": (image > 0.5).astype(np.uint8)}


async def asynchronous(image: np.ndarray) -> dict[str, np.ndarray]:
    assert threading.current_thread() is threading.main_thread()
    return {"mask": (image > 0.5).astype(np.uint8)}


class Callable:
    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return plain(image)


@pytest.mark.parametrize(
    "handler",
    [plain, asynchronous, Callable(), Callable],
    ids=["function", "coroutine", "object", "factory"],
)
async def test_a_handler_is_a_function_a_coroutine_an_object_or_a_factory(
    world: Any, topic: str, handler: Any
) -> None:
    async with world.bus() as bus, world.bus() as other, _agent(other, topic, handler):
        image = np.array([0.1, 0.9], np.float32)
        reply = await bus.request(topic, {"image": image}, timeout_s=60)
        np.testing.assert_array_equal(reply["mask"], [0, 1])


async def test_a_decorated_function_is_the_handler(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        agent = sira.Agent("decorated", topic=topic, bus=bus)

        @agent.handler
        def double(x: np.ndarray) -> dict[str, np.ndarray]:
            return {"y": x * 2}

        assert double(np.ones(1)) == {"y": np.full(1, 2.0)}
        async with agent:
            assert (await bus.request(topic, {"x": 4}, timeout_s=60))["y"] == 8
        with pytest.raises(sira.BadRequest):
            agent.handler(double)


async def test_a_generator_streams_its_values(world: Any, topic: str) -> None:
    def numbers(n: np.ndarray) -> Iterator[dict[str, int]]:
        for number in range(int(n)):
            yield {"n": number}

    async def numbers_async(n: np.ndarray) -> AsyncIterator[dict[str, int]]:
        for number in range(int(n)):
            await asyncio.sleep(0)
            yield {"n": number}

    for handler in (numbers, numbers_async):
        async with world.bus() as bus, world.bus() as other, _agent(other, topic, handler):
            for count in (0, 1, 300):
                got = [
                    int(r["n"]) async for r in bus.request_stream(topic, {"n": count}, timeout_s=60)
                ]
                assert got == list(range(count))


async def test_an_exception_midway_comes_after_the_values_before_it(
    world: Any, topic: str, caplog: Any
) -> None:
    def numbers() -> Iterator[dict[str, int]]:
        yield {"n": 0}
        raise ValueError("the second is bad")

    async with world.bus() as bus, _agent(bus, topic, numbers):
        stream = bus.request_stream(topic, timeout_s=60)
        assert (await anext(stream))["n"] == 0
        with pytest.raises(sira.HandlerFailed, match="the second is bad"):
            await anext(stream)


async def test_a_generator_is_closed_when_nobody_reads_any_more(world: Any, topic: str) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[dict[str, int]]:
        try:
            while True:
                yield {"n": 1}
        finally:
            closed.set()

    async with world.bus() as bus, world.bus() as other, _agent(other, topic, endless):
        async with bus.request_stream(topic, timeout_s=60) as stream:
            await anext(stream)
        await closed.wait()


async def test_tensors_bind_by_name_and_other_names_are_refused(world: Any, topic: str) -> None:
    def handler(x: Any, scale: Any = 2) -> dict[str, Any]:
        return {"y": x * scale}

    async with world.bus() as bus, _agent(bus, topic, handler):
        assert (await bus.request(topic, {"x": 3}, timeout_s=60))["y"] == 6
        assert (await bus.request(topic, {"x": 3, "scale": 5}, timeout_s=60))["y"] == 15
        with pytest.raises(sira.BadRequest) as caught:
            await bus.request(topic, {"z": 3}, timeout_s=60)
        assert caught.value.details == {"missing": "x", "extra": "z"}
        with pytest.raises(sira.BadRequest):
            await bus.request(topic, {"x": 3, "z": 3}, timeout_s=60)


async def test_the_rest_of_the_tensors_and_the_message_can_be_asked_for(
    world: Any, topic: str
) -> None:
    def handler(x: Any, message: sira.Message, **tensors: Any) -> dict[str, Any]:
        assert message.topic == topic
        return {"names": len(tensors), "headers": len(message.headers)}

    async with world.bus() as bus, _agent(bus, topic, handler):
        reply = await bus.request(topic, {"x": 1, "y": 2, "z": 3}, headers={"a": "b"}, timeout_s=60)
        assert (reply["names"], reply["headers"]) == (2, 1)


async def test_text_and_json_bind_too(world: Any, topic: str) -> None:
    def handler(text: Any) -> str:
        return f"{type(text).__name__} {text}"

    async with world.bus() as bus, _agent(bus, topic, handler):
        assert (await bus.request(topic, "hello", timeout_s=60)).text == "str hello"
        reply = await bus.request(
            topic, '{"text": [1, 2]}', content_type="application/json", timeout_s=10
        )
        assert reply.text == "list [1, 2]"
        with pytest.raises(sira.BadRequest):
            await bus.request(topic, "{", content_type="application/json", timeout_s=60)


async def test_an_exception_is_handler_failed_and_its_traceback_stays_here(
    world: Any, topic: str, caplog: Any
) -> None:
    def handler(x: Any) -> None:
        raise ZeroDivisionError("by zero")

    async with world.bus() as bus, world.bus() as other, _agent(other, topic, handler):
        with (
            caplog.at_level(logging.ERROR, logger="sira.agent"),
            pytest.raises(sira.HandlerFailed, match="by zero") as caught,
        ):
            await bus.request(topic, {"x": 1}, timeout_s=60)
        assert caught.value.details["exception"] == "ZeroDivisionError"
        assert "Traceback" not in str(caught.value)
        assert "ZeroDivisionError" in caplog.text


async def test_an_error_of_ours_reaches_the_caller_as_it_is(world: Any, topic: str) -> None:
    async def handler() -> None:
        raise sira.Denied("not today", details={"why": "holiday"})

    async with world.bus() as bus, _agent(bus, topic, handler):
        with pytest.raises(sira.Denied, match="not today") as caught:
            await bus.request(topic, timeout_s=60)
        assert caught.value.details == {"why": "holiday"}


async def test_messages_that_want_no_answer_are_handled_too(
    world: Any, topic: str, accounted: Any, until: Any
) -> None:
    seen: list[int] = []

    async def handler(n: Any) -> dict[str, int]:
        seen.append(int(n))
        return {"ignored": 1}

    async with world.bus() as bus, world.bus() as other, _agent(other, topic, handler):
        await bus.publish_many(topic, [{"n": n} for n in range(50)])
        await accounted(bus, topic)
        await until(lambda: len(seen) == 50)
        assert seen == list(range(50))


async def test_twins_share_the_work_and_handle_one_message_at_a_time(
    world: Any, topic: str
) -> None:
    running = {"a": 0, "b": 0}
    handled = {"a": 0, "b": 0}

    def make(name: str) -> Any:
        async def handler(n: Any) -> dict[str, int]:
            running[name] += 1
            assert running[name] == 1
            await asyncio.sleep(0.002)
            running[name] -= 1
            handled[name] += 1
            return {"n": int(n)}

        return handler

    async with (
        world.bus() as bus,
        world.bus() as first,
        world.bus() as second,
        _agent(first, topic, make("a")),
        _agent(second, topic, make("b")),
    ):
        asked = [bus.request(topic, {"n": n}, timeout_s=60) for n in range(60)]
        replies = await asyncio.gather(*asked)
        assert [int(reply["n"]) for reply in replies] == list(range(60))
        assert handled["a"] + handled["b"] == 60
        assert min(handled.values()) > 10


async def test_max_in_flight_is_how_many_run_at_once(world: Any, topic: str) -> None:
    running, most = 0, 0

    async def handler() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async with world.bus() as bus, _agent(bus, topic, handler, max_in_flight=3):
        await asyncio.gather(*(bus.request(topic, timeout_s=60) for _ in range(12)))
    assert most == 3


async def test_what_a_handler_sends_belongs_to_the_conversation(world: Any, topic: str) -> None:
    async with world.bus() as bus, world.bus() as other, bus.subscribe(f"{topic}.log") as log:

        async def inner(message: sira.Message) -> dict[str, int]:
            await other.publish(f"{topic}.log", message.id)
            return {"ok": 1}

        async def outer(message: sira.Message) -> dict[str, Any]:
            await other.publish(f"{topic}.log", message.id)
            reply = await other.request(f"{topic}.inner", timeout_s=60)
            return {"ok": reply["ok"]}

        async with _agent(other, f"{topic}.outer", outer), _agent(other, f"{topic}.inner", inner):
            reply = await bus.request(f"{topic}.outer", timeout_s=60)
        first, second = await log.next(timeout_s=60), await log.next(timeout_s=60)
        assert first.causation_id == first.text
        assert second.causation_id == second.text
        assert first.correlation_id == second.correlation_id == reply.correlation_id == first.text


async def test_a_traceparent_is_carried_on(world: Any, topic: str) -> None:
    from opentelemetry import trace

    context = trace.SpanContext(
        trace_id=0x0AF7651916CD43DD8448EB211C80319C,
        span_id=0xB7AD6B7169203331,
        is_remote=False,
        trace_flags=trace.TraceFlags(1),
    )
    written = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with world.bus() as bus, bus.subscribe(f"{topic}.log") as log:

        async def handler(message: sira.Message) -> None:
            assert message.traceparent == written
            await bus.publish(f"{topic}.log", b"from the handler")

        async with _agent(bus, topic, handler):
            with trace.use_span(trace.NonRecordingSpan(context)):
                await bus.request(topic, timeout_s=60)
        assert (await log.next(timeout_s=60)).traceparent == written


async def test_stopping_finishes_what_was_taken_and_takes_no_more(
    world: Any, topic: str, until: Any
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def handler() -> dict[str, int]:
        entered.set()
        await leave.wait()
        return {"done": 1}

    async with world.bus() as bus, world.bus() as other:
        agent = _agent(other, topic, handler)
        await agent.start()
        asking = asyncio.create_task(bus.request(topic, timeout_s=60))
        await entered.wait()
        stopping = asyncio.create_task(agent.stop())

        async def unsubscribed() -> bool:
            return not (await bus.explain(topic)).matches

        await until(unsubscribed)
        assert not stopping.done()
        leave.set()
        await stopping
        assert (await asking)["done"] == 1
        with pytest.raises(sira.NoMatch):
            await bus.request(topic, timeout_s=60)


async def test_an_agent_that_lacks_something_says_what(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.BadRequest):
            sira.Agent("", topic=topic)
        with pytest.raises(sira.BadRequest):
            sira.Agent("a", topic=topic, max_in_flight=0)
        with pytest.raises(sira.BadTopic):
            sira.Agent("a", topic="a..b")
        with pytest.raises(sira.BadRequest, match="no topic"):
            await sira.Agent("a", handler=plain, bus=bus).start()
        with pytest.raises(sira.BadRequest, match="no handler"):
            await sira.Agent("a", topic=topic, bus=bus).start()
        with pytest.raises(TypeError):
            await sira.Agent("a", topic=topic, bus=bus, handler=lambda *args: None).start()
