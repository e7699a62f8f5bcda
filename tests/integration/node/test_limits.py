"""Limits on a node, as any client meets them: typed, named, counted, and gone when room is back."""

from __future__ import annotations

import time

import grpc
import pytest

from sira.kernel.admission.limits import Limit
from sira.kernel.node import Node
from sira.v1 import bus_pb2

from .plain import Plain, code_of, message, session, until, within

pytestmark = pytest.mark.integration


def test_topics_are_counted_until_they_are_gone() -> None:
    async def work(node: Node, plain: Plain) -> None:
        bus = node.bus
        bus.set_limits((Limit("few", "tenant", topics=2),))
        pub = plain.publishing()
        await plain.create("a.declared")
        assert [r.error.code for r in await pub.publish(message("a.used"), message("a.more"))] == [
            "",
            "QUOTA_EXCEEDED",
        ]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(plain.create("b.>"))
        assert code_of(caught.value) == "QUOTA_EXCEEDED"
        await plain.create("a.used")  # there already: declared, it is still one
        (again,) = await pub.publish(message("a.used"))
        assert again.error.code == ""
        await within(plain.bus.DeleteTopic(bus_pb2.DeleteTopicRequest(name="a.declared")))
        (more,) = await pub.publish(message("a.more"))
        assert more.error.code == ""
        (refused,) = await pub.publish(message("a.third"))
        assert refused.error.details["limit"] == "few" and refused.error.details["allowed"] == "2"
        assert bus.hub.topic("a.third") is None

    session(work)


def test_classes_count_and_private_replies_do_not() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.bus.set_limits((Limit("one", "principal", topics=1),))
        await plain.create("b.>")
        sub = plain.subscribing()
        await sub.opened(1, "_reply.abc")
        (reply,) = await plain.publishing().publish(message("_reply.abc"))
        assert reply.error.code == ""
        (refused,) = await plain.publishing().publish(message("b.x"))
        assert refused.error.code == "QUOTA_EXCEEDED"
        await within(plain.bus.DeleteTopic(bus_pb2.DeleteTopicRequest(name="b.>")))
        (taken,) = await plain.publishing().publish(message("b.x"))
        assert taken.error.code == ""

    session(work)


def test_a_client_over_the_limit_is_refused_and_comes_in_when_one_is_gone() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.bus.set_limits((Limit("two", "principal", connections=2),))
        first, second = plain.publishing(), plain.publishing()  # two clients of one stream each
        await first.publish(message("a"))
        await second.publish(message("a"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.publishing().publish(message("a"))
        assert code_of(caught.value) == "QUOTA_EXCEEDED"
        await within(first.call.done_writing())
        await until(lambda: len(node.bus.clients) == 1)
        (taken,) = await plain.publishing().publish(message("a"))
        assert taken.error.code == ""

    session(work)


def test_a_rate_is_told_with_its_limit_and_stands_in_the_ledger() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.bus.set_limits((Limit("slow", "principal", messages_per_s=0.01, burst_s=500),))
        watch = plain.subscribing()
        await watch.opened(1, "sira.limit")  # one for the call, one for the client's stream
        pub = plain.publishing()  # and one for this
        receipts = await pub.publish(*[message("a") for _ in range(5)])
        codes = [r.error.code for r in receipts]
        assert codes == sorted(codes) and "" in codes and codes[-1] == "RATE_LIMITED"
        error = receipts[-1].error
        assert error.retryable and 0 < error.retry_after_ms <= 100_000
        assert error.details["limit"] == "slow" and error.details["topic"] == "a"
        assert b'"slow"' in (await watch.next()).tensors[0].data
        node.bus.set_limits(())
        refused = (await plain.ledger("a"))["a"].refused
        assert dict(refused) == {"RATE_LIMITED": codes.count("RATE_LIMITED")}
        (free,) = await pub.publish(message("a"))
        assert free.error.code == ""

    session(work)


def test_a_stream_whose_messages_are_refused_for_their_rate_is_not_read_for_a_while() -> None:
    """A flood costs its sender: each frame of it is read 100 ms after the one before."""

    async def work(node: Node, plain: Plain) -> None:
        node.bus.set_limits((Limit("slow", "topic", "flood.>", messages_per_s=0.001),))
        flood, honest = plain.publishing(), plain.publishing()
        await flood.publish(message("flood.a"))
        began_s = time.monotonic()
        for _ in range(5):
            (refused,) = await flood.publish(message("flood.a"))
            assert refused.error.code == "RATE_LIMITED"
        assert time.monotonic() - began_s >= 0.35
        (taken,) = await honest.publish(message("a"))
        assert taken.error.code == ""
        (also,) = await flood.publish(message("a"))  # no refusal, no rest
        assert also.error.code == ""

    session(work)
