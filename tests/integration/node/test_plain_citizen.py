"""A client with generated stubs and nothing else of ours can do all that a node offers."""

from __future__ import annotations

import asyncio
import json
import os

import grpc
import pytest

from sira.kernel.node import Node
from sira.v1 import bus_pb2, kernel_pb2, message_pb2

from .plain import Plain, code_of, data_of, message, session, until, within

pytestmark = pytest.mark.integration
MIB = 1 << 20


def test_what_is_published_arrives_in_order_with_receipts_and_a_balanced_ledger() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "lab.*")
        sent = [message("lab.a", str(i).encode(), headers={"n": str(i)}) for i in range(100)]
        receipts = await pub.publish(*sent)
        assert [r.id for r in receipts] == [m.id for m in sent]
        assert {(r.matched, r.grade, tuple(r.lanes)) for r in receipts} == {
            (1, bus_pb2.GRADE_ACCEPTED, (bus_pb2.LANE_GRPC,))
        }
        got = [await sub.next() for _ in sent]
        assert [data_of(m) for m in got] == [data_of(m) for m in sent]
        assert [m.headers["n"] for m in got] == [m.headers["n"] for m in sent]
        assert {m.principal for m in got} == {"sira://local/default/user/anonymous"}

        async def confirmed() -> bool:
            return (await plain.ledger("lab.>"))["lab.a"].delivered == 100

        await until(confirmed)
        row = (await plain.ledger())["lab.a"]
        assert (row.published, row.owed, row.pending) == (100, 100, 0)

    session(work)


def test_a_message_that_nobody_matched_is_counted_and_the_receipt_says_so() -> None:
    async def work(node: Node, plain: Plain) -> None:
        (receipt,) = await plain.publishing().publish(message("lonely.a"))
        assert receipt.matched == 0 and not receipt.HasField("error")
        row = (await plain.ledger())["lonely.a"]
        assert (row.owed, dict(row.dropped)) == (1, {"NO_MATCH": 1})

    session(work)


def test_a_queue_group_shares_what_each_of_its_kind_gets_once() -> None:
    async def work(node: Node, plain: Plain) -> None:
        first, second, alone = plain.subscribing(), plain.subscribing(), plain.subscribing()
        await first.opened(1, "jobs.>", group="workers")
        await second.opened(1, "jobs.>", group="workers")
        await alone.opened(1, "jobs.>")
        receipts = await plain.publishing().publish(*(message("jobs.a") for _ in range(40)))
        assert {r.matched for r in receipts} == {2}
        assert len({(await alone.next()).id for _ in range(40)}) == 40
        share: list[bytes] = []

        async def collect(sub: object) -> None:
            while True:
                share.append((await sub.next()).id)  # type: ignore[attr-defined]

        tasks = [asyncio.create_task(collect(each)) for each in (first, second)]
        await until(lambda: len(share) == 40)
        assert len(set(share)) == 40
        for task in tasks:
            task.cancel()

    session(work)


def test_credit_is_all_that_a_subscriber_gets() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub = plain.subscribing()
        await sub.opened(1, "w.>", window_messages=2)
        await plain.publishing().publish(*(message("w.a", bytes([i])) for i in range(5)))
        for expected in (0, 1):
            assert data_of(await sub.next(confirm=False))[0] == expected
        stats = await plain.stats()
        (entry,) = stats.subscriptions
        assert (entry.in_flight, entry.pending) == (2, 3)
        await sub.credit(1, 2)
        for expected in (2, 3):
            assert data_of(await sub.next(confirm=False))[0] == expected

    session(work)


def test_a_large_message_crosses_in_chunks_bit_exact() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "big.>")
        whole = message("big.a", os.urandom(32 * MIB))
        limits = (await plain.kernel.Negotiate(kernel_pb2.NegotiateRequest())).limits
        window = limits["transfer_window_bytes"]
        receipt, got = await asyncio.gather(within(pub.upload(whole, window)), within(sub.next()))
        assert (receipt.matched, receipt.bytes) == (1, 32 * MIB)
        assert data_of(got) == data_of(whole)
        small = message("big.a", b"after")
        await pub.publish(small)
        assert data_of(await sub.next()) == b"after"

    session(work)


def test_a_request_finds_its_reply_and_the_asker_may_be_a_single_unary_call() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "lab.echo")

        async def answer() -> None:
            asked = await sub.next()
            assert 0 < asked.ttl_ns < 22 * 10**9  # gRPC rounds a deadline up by some percent
            partial = message(asked.reply_to, b"part", reply_kind=message_pb2.REPLY_KIND_PARTIAL)
            final = message(
                asked.reply_to,
                data_of(asked)[::-1],
                reply_kind=message_pb2.REPLY_KIND_FINAL,
                correlation_id=asked.correlation_id,
            )
            receipts = await pub.publish(partial, final)
            assert [r.matched for r in receipts] == [1, 1], receipts

        request = message("lab.echo", b"abc")
        _, reply = await asyncio.gather(answer(), plain.bus.Request(request, timeout=20))
        assert data_of(reply) == b"cba" and reply.correlation_id == request.id
        names = [t.name for t in (await plain.bus.ListTopics(bus_pb2.ListTopicsRequest())).topics]
        assert names == ["lab.echo"]
        assert "_reply.>" in await plain.ledger()  # folded, nothing of the private topic is left

    session(work)


def test_an_error_reply_is_the_callers_error() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub = plain.subscribing()
        await sub.opened(1, "lab.fail")

        async def answer() -> None:
            asked = await sub.next()
            reply = message(asked.reply_to, reply_kind=message_pb2.REPLY_KIND_ERROR)
            reply.error.code, reply.error.message = "HANDLER_FAILED", "it broke"
            await plain.publishing().publish(reply)

        answering = asyncio.create_task(answer())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.bus.Request(message("lab.fail"), timeout=20)
        assert code_of(caught.value) == "HANDLER_FAILED"
        await within(answering)

    session(work)


def test_topics_are_declared_listed_and_deleted() -> None:
    async def work(node: Node, plain: Plain) -> None:
        made = await plain.create("lab.x", contract={"x": "u8[N]"})
        assert made.declared and made.kind == bus_pb2.TOPIC_KIND_VOLATILE and not made.owned
        again = await plain.create("lab.x", contract={"x": "u8[N]"})
        assert again == made
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.create("lab.x", kind=bus_pb2.TOPIC_KIND_LATEST)
        assert code_of(caught.value) == "CONFLICT"
        wrong = message("lab.x")
        wrong.tensors[0].name = "y"
        bad, good = await plain.publishing().publish(wrong, message("lab.x"))
        assert bad.error.code == "CONTRACT_MISMATCH" and not good.HasField("error")

        pages, after = [], ""
        await plain.create("cam.>")
        await plain.publishing().publish(*(message(f"cam.{i}") for i in range(5)))
        while True:
            request = bus_pb2.ListTopicsRequest(after=after, count_max=2)
            page = await plain.bus.ListTopics(request)
            pages += [t.name for t in page.topics]
            after = page.next
            if not after:
                break
        assert pages == ["cam.0", "cam.1", "cam.2", "cam.3", "cam.4", "cam.>", "lab.x"]
        listed = await plain.bus.ListTopics(bus_pb2.ListTopicsRequest(pattern="cam.*"))
        assert {t.class_name for t in listed.topics if t.name != "cam.>"} == {"cam.>"}

        await plain.bus.DeleteTopic(bus_pb2.DeleteTopicRequest(name="lab.x"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.bus.DeleteTopic(bus_pb2.DeleteTopicRequest(name="lab.x"))
        assert code_of(caught.value) == "NOT_FOUND"
        (receipt,) = await plain.publishing().publish(wrong)
        assert not receipt.HasField("error")

    session(work)


def test_a_class_declared_later_holds_for_topics_in_use_from_their_next_message() -> None:
    async def work(node: Node, plain: Plain) -> None:
        pub = plain.publishing()
        await pub.publish(*(message(f"late.{i}") for i in range(1_000)), message("other"))
        await plain.create("late.*", contract={"y": "f32[N]"}, kind=bus_pb2.TOPIC_KIND_LATEST)
        (receipt,) = await pub.publish(message("late.999"))
        assert receipt.error.code == "CONTRACT_MISMATCH"
        (receipt,) = await pub.publish(message("other"))
        assert not receipt.HasField("error")
        await until(lambda: not node.bus.topics._behind)
        topic = node.bus.hub.topic("late.0")
        assert topic is not None and topic.retain and topic.group == "late.*"
        await plain.bus.DeleteTopic(bus_pb2.DeleteTopicRequest(name="late.*"))
        (receipt,) = await pub.publish(message("late.0"))
        assert not receipt.HasField("error")
        await plain.ledger()

    session(work)


def test_a_latest_topic_gives_its_last_message_to_whoever_comes() -> None:
    async def work(node: Node, plain: Plain) -> None:
        await plain.create("state.*", kind=bus_pb2.TOPIC_KIND_LATEST)
        pub = plain.publishing()
        await pub.publish(*(message("state.a", bytes([i])) for i in range(3)), message("state.b"))
        sub = plain.subscribing()
        await sub.opened(1, "state.>")
        got = {m.topic: data_of(m) for m in [await sub.next(), await sub.next()]}
        assert got == {"state.a": b"\x02", "state.b": b"x"}
        exact = plain.subscribing()
        await exact.opened(1, "state.a")
        assert data_of(await exact.next()) == b"\x02"
        await plain.ledger()

    session(work)


def test_contracts_of_both_sides_are_unified_before_a_byte_moves() -> None:
    async def work(node: Node, plain: Plain) -> None:
        await plain.create("ct.a", contract={"x": "f32[H, W]"})
        sub = plain.subscribing()
        refused = await sub.open(1, "ct.>", contract={"x": "u8[N]"})
        assert refused.ended.error.code == "CONTRACT_MISMATCH"
        assert "\n" in refused.ended.error.message
        await sub.opened(2, "ct.>", contract={"x": "f32[512, W]"})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.create("ct.b", contract={"x": "bf16[*]"})
        assert code_of(caught.value) == "CONTRACT_MISMATCH"

    session(work)


def test_a_client_is_its_streams_and_what_it_owned_dies_with_the_last() -> None:
    async def work(node: Node, plain: Plain) -> None:
        facts = plain.subscribing()
        await facts.opened(1, "sira.>")
        async with Plain(node.address, client="ab" * 16) as owner:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await owner.create("mine.a", owned=True)
            assert code_of(caught.value) == "BAD_REQUEST"  # it has no stream to die with
            sub, pub = owner.subscribing(), owner.publishing()
            await sub.opened(1, "other.>")
            made = await owner.create("mine.a", owned=True)
            assert made.owned
            await pub.publish(message("mine.a"))
            sub.call.cancel()
            await until(lambda: len(node.bus.subscriptions) == 1)
            assert node.bus.clients.get("ab" * 16) is not None
        await until(lambda: node.bus.clients.get("ab" * 16) is None)
        await until(lambda: node.bus.hub.topic("mine.a") is None)
        rows = await plain.ledger()
        assert "mine.a" not in rows and dict(rows[">"].dropped) == {"NO_MATCH": 1}
        told = []
        while not told or told[-1][0] != "sira.topic.dropped":
            fact = await facts.next()
            told.append((fact.topic, json.loads(data_of(fact))))
        topics = [topic for topic, _ in told]
        assert topics == [
            "sira.subscription.opened", "sira.client.connected", "sira.subscription.opened",
            "sira.topic.created", "sira.subscription.ended", "sira.client.gone",
            "sira.topic.dropped",
        ] or set(topics) >= {"sira.client.gone", "sira.topic.created"}  # fmt: skip
        gone = dict(told)["sira.client.gone"]
        assert gone["client"] == "ab" * 16 and gone["reason"] == "PEER_LOST"

    session(work)


def test_negotiate_says_who_and_what_the_node_is() -> None:
    async def work(node: Node, plain: Plain) -> None:
        got = await plain.kernel.Negotiate(kernel_pb2.NegotiateRequest(lanes=["shm", "grpc"]))
        assert (got.protocol, list(got.lanes), got.epoch) == (1, ["grpc"], node.bus.epoch)
        assert got.principal == "sira://local/default/user/anonymous"
        assert got.limits["message_bytes_max"] == 16 << 30
        assert {f.name for f in got.features} >= {"publish", "latest_topics", "ledger"}
        for bad in (
            kernel_pb2.NegotiateRequest(protocol_min=2, protocol_max=9),
            kernel_pb2.NegotiateRequest(lanes=["carrier-pigeon"]),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await plain.kernel.Negotiate(bad)
            assert code_of(caught.value) == "UNSUPPORTED"

    session(work)


def test_introspection_describes_every_method_setting_and_fact() -> None:
    async def work(node: Node, plain: Plain) -> None:
        got = await plain.kernel.Introspect(kernel_pb2.IntrospectRequest())
        by_name = {m.name: m for s in got.services for m in s.methods}
        for method in by_name.values():
            schema = json.loads(method.request_schema)
            assert schema["$ref"].removeprefix("#/$defs/") in schema["$defs"]
            assert method.effects in ("read", "idempotent", "once") and method.summary
        publish = by_name["/sira.v1.Bus/Publish"]
        assert publish.request_stream and publish.response_stream
        sources = {s.name: s.source for s in got.settings}
        assert sources["listen"] == "flag" and sources["stall_s"] == "default"
        assert json.loads(got.event_schemas["sira.client.gone"])["type"] == "object"
        assert "sira.>" in {c.pattern for c in got.topic_classes}
        only = await plain.kernel.Introspect(kernel_pb2.IntrospectRequest(service="sira.v1.Bus"))
        assert [s.name for s in only.services] == ["sira.v1.Bus"]

    session(work)


def test_stats_have_latency_per_class_and_read_as_prometheus() -> None:
    async def work(node: Node, plain: Plain) -> None:
        await plain.create("cam.>")
        sub = plain.subscribing()
        await sub.opened(1, "cam.>")
        await plain.publishing().publish(message("cam.a"), message("cam.a"))
        await sub.next()
        await sub.next()
        got = await plain.stats(prometheus=True)
        (cam,) = [h for h in got.histograms if h.labels["topic_class"] == "cam.>"]
        assert sum(cam.counts) == 2 and len(cam.counts) == len(cam.bounds_ns) + 1
        assert got.values["clients"] == 2 and got.values["subscriptions"] == 1
        assert {c.published for c in got.clients} == {0, 2}
        text = got.prometheus
        assert 'sira_node_latency_seconds_count{topic_class="cam.>"} 2.0' in text
        assert "sira_messages_in_total 2.0" in text

    session(work)


def test_explain_says_who_would_get_it_and_what_stands_in_the_way() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub = plain.subscribing()
        await sub.opened(1, "lab.>", group="g")
        got = await plain.kernel.Explain(kernel_pb2.ExplainRequest(topic="lab.a"))
        assert got.decision == "allow"
        (match,) = got.matches
        assert (match.pattern, match.group, match.lane, match.state) == (
            "lab.>", "g", "grpc", "ready",
        )  # fmt: skip
        for topic in ("sira.x", "proc.x", "_private.x"):
            got = await plain.kernel.Explain(kernel_pb2.ExplainRequest(topic=topic))
            assert got.decision == "deny" and any("DENIED" in r for r in got.reasons), topic
        got = await plain.kernel.Explain(kernel_pb2.ExplainRequest(topic="nobody"))
        assert any("NO_MATCH" in r for r in got.reasons)

    session(work)
