"""Coming back, going down, and what is left: resume, drain, owned and idle topics."""

from __future__ import annotations

import asyncio
import gc
import json
import resource

import grpc
import pytest

from sira.kernel.node import Node
from sira.kernel.slices import at_once
from sira.kernel.streams import PublishStream
from sira.v1 import bus_pb2

from .plain import Plain, code_of, data_of, message, running, session, until, within

pytestmark = pytest.mark.integration


def test_a_retry_by_id_gets_its_first_receipt_and_is_not_delivered_twice() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub = plain.subscribing()
        await sub.opened(1, "r.>")
        sent = [message("r.a", bytes([i])) for i in range(3)]
        async with Plain(node.address, client="cd" * 16) as first:
            pub = first.publishing()
            await pub.publish(*sent[:2])
            pub.call.cancel()
        await until(lambda: node.bus.clients.get("cd" * 16) is None)
        async with Plain(node.address, client="cd" * 16) as second:
            resume = ("sira-resume", f"{node.bus.epoch.hex()}:3")
            receipts = await second.publishing(resume).publish(*sent)
        assert [(r.id, r.matched, r.error.code) for r in receipts] == [(m.id, 1, "") for m in sent]
        assert [data_of(await sub.next()) for _ in sent] == [b"\x00", b"\x01", b"\x02"]
        assert (await plain.ledger())["r.a"].owed == 3

    session(work)


@pytest.mark.parametrize("case", ["other epoch", "too old", "too many", "never here"])
def test_what_the_node_cannot_know_is_outcome_unknown_and_not_taken(case: str) -> None:
    async def work(node: Node, plain: Plain) -> None:
        client = "ef" * 16
        if case != "never here":
            async with Plain(node.address, client=client) as first:
                await first.publishing().publish(message("r.a"))
            await until(lambda: node.bus.clients.get(client) is None)
        if case == "too old":
            await until(lambda: _forgotten(node))
        epoch = bytes(16) if case == "other epoch" else node.bus.epoch
        count = 5_000 if case == "too many" else 2
        async with Plain(node.address, client=client) as second:
            pub = second.publishing(("sira-resume", f"{epoch.hex()}:{count}"))
            receipts = await pub.publish(message("r.a"), message("r.b"), message("r.a"))
        expected = "OUTCOME_UNKNOWN" if case == "too many" else ""
        assert [r.error.code for r in receipts] == ["OUTCOME_UNKNOWN"] * 2 + [expected]

    def _forgotten(node: Node) -> bool:
        node.worlds.default.ticker.hurry()
        return node.bus.clients.lingering == 0

    session(work, retry_window_s=0.05 if case == "too old" else 60)


def test_after_the_unknown_ones_routes_ask_no_question_any_more() -> None:
    async def work(node: Node, plain: Plain) -> None:
        pub = plain.publishing(("sira-resume", f"{bytes(16).hex()}:1"))
        receipts = await pub.publish(*(message("r.a") for _ in range(4)))
        assert [bool(r.error.code) for r in receipts] == [True, False, False, False]
        (stream,) = [s for c in node.bus.clients for s in c.publishes]
        assert isinstance(stream, PublishStream) and stream._unknown_left == 0

    session(work)


def test_coming_back_ends_what_is_left_of_the_lost_stream() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Plain(node.address, client="12" * 16) as owner:
            old = owner.publishing()
            await old.publish(message("r.a"))
            new = owner.publishing(("sira-resume", f"{node.bus.epoch.hex()}:1"))
            await new.publish(message("r.b"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await within(old.call.read()) is not grpc.aio.EOF:
                    pass
            assert code_of(caught.value) == "PEER_LOST"
            await new.publish(message("r.c"))

    session(work)


def test_a_drain_delivers_what_was_accepted_and_takes_nothing_new() -> None:
    async def main() -> None:
        async with running(drain_s=20) as node, Plain(node.address) as plain:
            sub, pub = plain.subscribing(), plain.publishing()
            await sub.opened(1, "d.>", window_messages=8)
            accepted = await pub.publish(*(message("d.a", bytes([i])) for i in range(200)))
            assert all(r.matched == 1 for r in accepted)
            stopping = asyncio.create_task(node.stop())
            await until(lambda: node.bus.draining)
            (late,) = await pub.publish(message("d.a"))
            assert late.error.code == "NODE_DRAINING" and late.error.retryable
            refused = plain.publishing()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(refused.call.read())
            assert code_of(caught.value) == "NODE_DRAINING"
            got = [data_of(await sub.next())[0] for _ in range(200)]
            assert got == list(range(200))
            ended = await sub.item()
            assert ended.ended.error.code == "NODE_DRAINING"
            for stream in (sub, pub):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    while await within(stream.call.read()) is not grpc.aio.EOF:
                        pass
                assert code_of(caught.value) == "NODE_DRAINING"
            await within(stopping)

    asyncio.run(main())


def test_a_drain_lets_requests_under_way_finish() -> None:
    async def main() -> None:
        async with running(drain_s=20) as node, Plain(node.address) as plain:
            sub, pub = plain.subscribing(), plain.publishing()
            await sub.opened(1, "lab.echo")
            await pub.publish(message("elsewhere"))
            asking = asyncio.ensure_future(plain.bus.Request(message("lab.echo"), timeout=30))
            asked = await sub.next()
            stopping = asyncio.create_task(node.stop())
            await until(lambda: node.bus.draining)
            (receipt,) = await pub.publish(message(asked.reply_to, b"late but there"))
            assert receipt.matched == 1
            assert data_of(await within(asking)) == b"late but there"
            await within(stopping)

    asyncio.run(main())


def test_a_drain_gives_up_on_a_subscriber_that_takes_nothing_and_counts_it() -> None:
    async def main() -> None:
        async with running() as node, Plain(node.address) as plain:
            sub, pub = plain.subscribing(), plain.publishing()
            await sub.opened(1, "d.>", window_messages=1)
            await pub.publish(*(message("d.a") for _ in range(5)))
            hub = node.bus.hub
            await within(node.stop(0.2))
            (row,) = [
                r for r in hub.walk().rows(100) if r["topic"] == ">"
            ]  # folded when the hub closed
            assert (row["owed"], row["pending"]) == (5, 0)
            assert row["dropped"] == {"NODE_DRAINING": 5}

    asyncio.run(main())


def test_owned_topics_made_and_dropped_leave_memory_flat() -> None:
    """100,000 of them, in rounds; the second half must not grow what the first half needed."""

    async def work(node: Node, plain: Plain) -> None:
        topics = node.bus.topics
        anchor = plain.subscribing()
        await anchor.opened(1, "anchor")

        async def round_of(number: int, count: int) -> None:
            async with Plain(node.address, client=f"{number:032x}") as owner:
                sub = owner.subscribing()
                await sub.opened(1, "o.>")
                client = node.bus.clients.get(owner.id)
                assert client is not None
                for i in range(count):
                    request = bus_pb2.CreateTopicRequest(name=f"o.{number}.{i}", owned=True)
                    at_once(topics.creating(request, owner=client.number, by=client.principal))
                    if i % 500 == 0:
                        await asyncio.sleep(0)
                await owner.publishing().publish(message(f"o.{number}.0"))
                assert len(topics) >= count
            await until(lambda: len(topics) == 0)

        await round_of(1, 20_000)
        await round_of(2, 20_000)
        gc.collect()
        before_kib = _rss_kib()
        for number in (3, 4, 5):
            await round_of(number, 20_000)
        gc.collect()
        # A topic takes about 1 KiB: 60,000 that stayed would be 60 MiB. The allocator moves by 6.
        assert _rss_kib() - before_kib < 16 << 10
        assert node.bus.hub.stats["topics"] == 0
        row = (await plain.ledger())[">"]
        assert row.owed == 5 and row.class_row

    session(work)


def _rss_kib() -> int:
    """Resident memory now, in KiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def test_idle_topics_are_forgotten_and_their_counts_kept() -> None:
    async def work(node: Node, plain: Plain) -> None:
        pub = plain.publishing()
        await pub.publish(message("idle.a"), message("idle.b"))
        assert node.bus.hub.topic("idle.a") is not None
        await until(lambda: node.bus.hub.topic("idle.a") is None)
        await until(lambda: node.bus.hub.topic("idle.b") is None)
        row = (await plain.ledger())[">"]
        assert (row.owed, dict(row.dropped)) == (2, {"NO_MATCH": 2})
        (again,) = await pub.publish(message("idle.a"))
        assert not again.HasField("error")

    session(work, topic_idle_s=0.2)


def test_topics_are_limited_and_the_limit_is_named() -> None:
    async def work(node: Node, plain: Plain) -> None:
        facts = plain.subscribing()
        await facts.opened(1, "sira.limit")
        await plain.create("t.1")
        pub = plain.publishing()
        ok, over, known = await pub.publish(message("t.2"), message("t.3"), message("t.1"))
        assert over.error.code == "QUOTA_EXCEEDED"
        assert over.error.details["setting"] == "topics_max"
        assert not ok.HasField("error") and not known.HasField("error")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.create("t.4")
        assert code_of(caught.value) == "QUOTA_EXCEEDED"
        told = json.loads(data_of(await facts.next()))
        assert (told["setting"], told["value"]) == ("topics_max", 2)

    session(work, topics_max=2)


def test_streams_and_subscriptions_of_a_client_are_limited() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Plain(node.address, client="77" * 16) as one:
            sub = one.subscribing()
            await sub.opened(1, "a")
            await sub.opened(2, "b")
            assert (await sub.open(3, "c")).ended.error.details["setting"] == (
                "subscriptions_per_client_max"
            )
            await one.publishing().publish(message("x"))
            third = one.publishing()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(third.call.read())
            assert code_of(caught.value) == "QUOTA_EXCEEDED"
            other = plain.subscribing()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(other.call.read())
            assert code_of(caught.value) == "QUOTA_EXCEEDED"

    session(work, subscriptions_per_client_max=2, streams_per_client_max=2, clients_max=1)
