"""The synchronous twin: the same names, from any thread, also inside a running loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sira


def test_publish_and_next(world: Any, topic: str) -> None:
    with world.sync(name="camera") as bus, bus.subscribe(topic) as messages:
        receipt = bus.publish(topic, {"x": np.arange(3)}, headers={"a": "b"})
        message = messages.next(timeout_s=60)
        assert (message.id, message.headers, message.source) == (receipt.id, {"a": "b"}, "camera")
        np.testing.assert_array_equal(message["x"], np.arange(3))
        with pytest.raises(sira.Timeout):
            messages.next(timeout_s=0.02)


def test_request_and_reply_across_threads(world: Any, topic: str) -> None:
    with (
        world.sync() as bus,
        world.sync() as other,
        other.subscribe(topic, group="workers") as messages,
    ):

        def serve() -> None:
            for message in messages:
                message.reply({"y": message["x"] * 2})

        worker = threading.Thread(target=serve)
        worker.start()
        for number in range(50):
            assert bus.request(topic, {"x": number}, timeout_s=60)["y"] == 2 * number
        messages.close()
        worker.join(30)
        assert not worker.is_alive()


def test_a_publisher_from_several_threads_loses_nothing(world: Any, topic: str) -> None:
    count, threads = 5_000, 4
    with world.sync() as bus, world.sync() as other, other.subscribe(topic) as messages:

        def send(first: int) -> None:
            with bus.publisher(topic) as publisher:
                for number in range(count):
                    publisher.send((first + number).to_bytes(4, "little"))
                publisher.flush()
                assert publisher.accepted == count
                assert len(list(publisher.receipts())) == count

        senders = [threading.Thread(target=send, args=(n * count,)) for n in range(threads)]
        for sender in senders:
            sender.start()
        got = [
            int.from_bytes(messages.next(timeout_s=60).bytes, "little")
            for _ in range(count * threads)
        ]
        for sender in senders:
            sender.join(30)
        assert sorted(got) == list(range(count * threads))
        for n in range(threads):
            own = [number for number in got if n * count <= number < (n + 1) * count]
            assert own == sorted(own)


def test_publish_many_and_streams_of_replies(world: Any, topic: str) -> None:
    with world.sync() as bus, bus.subscribe(topic) as messages:
        receipts = bus.publish_many(topic, ({"n": n} for n in range(10)))
        assert [messages.next(timeout_s=60).id for _ in range(10)] == [r.id for r in receipts]

        def serve() -> None:
            message = messages.next(timeout_s=60)
            for number in range(5):
                message.reply({"n": number}, end=number == 4)

        worker = threading.Thread(target=serve)
        worker.start()
        assert [int(r["n"]) for r in bus.request_stream(topic, timeout_s=60)] == list(range(5))
        worker.join(30)


def test_iteration_in_two_threads_shares_and_ends_at_close(world: Any, topic: str) -> None:
    with world.sync() as bus:
        messages = bus.subscribe(topic).open()
        seen: list[int] = []
        all_seen = threading.Event()

        def take() -> None:
            for message in messages:
                seen.append(int(message["n"]))
                if len(seen) == 200:
                    all_seen.set()

        takers = [threading.Thread(target=take) for _ in range(2)]
        for taker in takers:
            taker.start()
        bus.publish_many(topic, [{"n": n} for n in range(200)])
        assert all_seen.wait(30)
        messages.close()
        for taker in takers:
            taker.join(30)
            assert not taker.is_alive()
        assert sorted(seen) == list(range(200))


def test_topics_ledger_and_explain(world: Any, topic: str) -> None:
    with world.sync() as bus, bus.subscribe(topic):
        assert bus.topics.create(topic, contract={"x": "u8[N]"}).contract == {"x": "u8[N]"}
        assert [each.name for each in bus.topics.list(topic)] == [topic]
        assert bus.explain(topic).decision == "allow"
        assert bus.ledger(topic).balanced
        bus.topics.delete(topic)
        assert bus.stats().uptime_ns > 0
        assert bus.introspect().services


def test_errors_are_the_same(world: Any, topic: str) -> None:
    with world.sync() as bus:
        with pytest.raises(sira.NoMatch):
            bus.request(topic, timeout_s=60)
        with pytest.raises(sira.BadTopic):
            bus.publish("a..b")
        with pytest.raises(sira.NoMatch):
            bus.call("anything")
        with pytest.raises(sira.BadRequest):
            bus.subscribe(topic, overflow="never")
    with pytest.raises(sira.Unreachable):
        bus.publish(topic)


async def test_it_works_inside_a_running_loop(world: Any, topic: str) -> None:
    with world.sync() as bus, bus.subscribe(topic) as messages:
        bus.publish(topic, b"x")
        assert messages.next(timeout_s=60).bytes == b"x"
    await asyncio.sleep(0)


def test_an_agent_can_be_entered_without_a_loop(real_node: Any, topic: str) -> None:
    def double(x: Any) -> dict[str, Any]:
        return {"y": x * 2}

    with (
        sira.Agent("sync-agent", topic=topic, handler=double, url=real_node.url),
        sira.connect_sync(real_node.url) as bus,
    ):
        assert bus.request(topic, {"x": 21}, timeout_s=60)["y"] == 42


def test_a_forked_child_is_told_at_once_that_it_must_connect_by_itself(
    real_node: Any, topic: str
) -> None:
    with sira.connect_sync(real_node.url) as bus:
        bus.publish(topic, b"x")
        uses = (lambda: bus.publish(topic, b"y"), lambda: sira.connect_sync(real_node.url))
        told = [_in_child(use) for use in uses]
        assert all(text.startswith("Unreachable") and "spawn" in text for text in told), told
        assert bus.publish(topic, b"z").grade == "accepted"


def _in_child(use: Callable[[], object]) -> str:
    """Fork, and return what `use` raised in the child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = "nothing was raised"
        try:
            use()
        except BaseException as error:
            text = f"{type(error).__name__} {getattr(error, 'help', error)}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_a_child_forked_before_the_first_connection_connects(real_node: Any, topic: str) -> None:
    code = """
import os, sys, sira
child = os.fork()
with sira.connect_sync(sys.argv[1]) as bus:
    bus.publish(sys.argv[2], b"x")
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    with sira.connect_sync(real_node.url) as bus, bus.subscribe(topic) as messages:
        subprocess.run([sys.executable, "-c", code, real_node.url, topic], check=True, timeout=60)
        for _ in range(2):
            assert messages.next(timeout_s=60).bytes == b"x"
