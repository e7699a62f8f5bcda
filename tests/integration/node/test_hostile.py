"""Hostile input: each gets a typed error, and whoever stands beside it notices nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest

from sira.kernel import rpc
from sira.kernel.node import Node
from sira.v1 import bus_pb2, kernel_pb2, message_pb2, tensor_pb2
from tests.integration.door.keys import Keys, principal

from .plain import (
    OVER_TLS,
    Plain,
    code_of,
    data_of,
    frame,
    message,
    running,
    session,
    until,
    within,
)

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True, params=["plain", "tls"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Each of these tests on a plain listener, and on one with TLS and tokens."""
    over_tls = None
    if request.param == "tls":
        keys = Keys.new(tmp_path)
        flags = {k: v for k, v in keys.flags().items() if k not in ("listen", "data_dir")}
        ca = (tmp_path / "ca.pem").read_bytes()
        over_tls = flags, ca, keys.token(principal("anonymous"))
    was = OVER_TLS.set(over_tls)
    yield
    OVER_TLS.reset(was)


Attack = Callable[[Node, Plain], Awaitable[None]]


class Bystander:
    """Publishes to itself on connections of its own; any loss or disorder fails the test."""

    def __init__(self, node: Node) -> None:
        self._plain = Plain(node.address, client=os.urandom(16).hex())
        self._count = 0

    async def __aenter__(self) -> Bystander:
        self._sub, self._pub = self._plain.subscribing(), self._plain.publishing()
        await self._sub.opened(1, "bystander")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sees_nothing()
        await self._plain.channel.close()

    async def sees_nothing(self) -> None:
        for _ in range(3):
            self._count += 1
            sent = message("bystander", str(self._count).encode())
            (receipt,) = await self._pub.publish(sent)
            assert receipt.matched == 1
            assert data_of(await self._sub.next()) == str(self._count).encode()


def beside(attack: Attack, **flags: object) -> None:
    """Run an attack while a bystander works; then the ledger must balance."""

    async def work(node: Node, plain: Plain) -> None:
        async with Bystander(node) as bystander:
            await attack(node, plain)
            await bystander.sees_nothing()
        await plain.ledger()

    session(work, **flags)


async def _stream_error(plain: Plain, method: str, data: bytes) -> str:
    """Send raw bytes as one gRPC message and return the code that ends the stream."""
    call = plain.channel.stream_stream(f"/sira.v1.Bus/{method}")()
    await call.write(data)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await within(call.read()) is not grpc.aio.EOF:
            pass
        raise AssertionError("the stream ended well")
    return code_of(caught.value)


@pytest.mark.parametrize("method", ["Publish", "Subscribe"])
def test_a_frame_cut_anywhere_is_a_typed_error(method: str) -> None:
    async def attack(node: Node, plain: Plain) -> None:
        opening = bus_pb2.Open(subscription=1, pattern="cut.a")
        item = (
            bus_pb2.Item(message=message("cut.a", b"0123456789"))
            if method == "Publish"
            else bus_pb2.Item(open=opening)
        )
        whole = frame(item).SerializeToString()
        for cut in range(1, len(whole)):
            assert await _stream_error(plain, method, whole[:cut]) == "FRAME_CORRUPT", cut

    beside(attack)


@pytest.mark.parametrize("method", ["Publish", "Subscribe"])
@pytest.mark.parametrize(
    "data", [b"\xff" * 40, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", os.urandom(4_096)]
)
def test_bytes_that_are_no_frame_end_that_stream_alone(method: str, data: bytes) -> None:
    async def attack(node: Node, plain: Plain) -> None:
        call = plain.channel.stream_stream(f"/sira.v1.Bus/{method}")()
        await call.write(data)
        await call.done_writing()
        try:
            while await within(call.read()) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            assert code_of(error) in ("FRAME_CORRUPT", "BAD_REQUEST", "PROTOCOL_ERROR")

    beside(attack)


def _tensor(**fields: object) -> message_pb2.Message:
    made = message_pb2.Message(id=os.urandom(16), topic="h.a")
    made.tensors.add(**fields)
    return made


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (_tensor(dtype=99, shape=[1], data=b"x"), "FRAME_CORRUPT"),
        (_tensor(shape=[1], data=b"x"), "FRAME_CORRUPT"),
        (_tensor(dtype=tensor_pb2.DTYPE_F32, shape=[3], data=b"x" * 11), "FRAME_CORRUPT"),
        (_tensor(dtype=tensor_pb2.DTYPE_U8, shape=[2**63, 2], data=b"x"), "FRAME_CORRUPT"),
        (_tensor(dtype=tensor_pb2.DTYPE_U8, shape=[1] * 65, data=b"x"), "FRAME_CORRUPT"),
        (message(""), "BAD_TOPIC"),
        (message("a..b"), "BAD_TOPIC"),
        (message("a.*"), "BAD_TOPIC"),
        (message("a.>"), "BAD_TOPIC"),
        (message("a" * 65_536), "BAD_TOPIC"),
        (message("h.a", priority=8), "BAD_REQUEST"),
        (message_pb2.Message(id=b"short", topic="h.a"), "BAD_REQUEST"),
        (message_pb2.Message(topic="h.a"), "BAD_REQUEST"),
        (message("h.a", principal="sira://c/t/node/root"), "DENIED"),
        (message("h.a", tenant="other"), "DENIED"),
        (message("h.a", headers={str(i): "x" for i in range(65)}), "MESSAGE_TOO_LARGE"),
        (message("h.a", type="x" * 70_000), "MESSAGE_TOO_LARGE"),
        (message("sira.h"), "DENIED"),
        (message("proc.h"), "DENIED"),
        (message("_mine"), "DENIED"),
        (message("_reply.NOTHEX"), "BAD_REQUEST"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_message_is_refused_and_the_stream_goes_on(
    bad: message_pb2.Message, code: str
) -> None:
    async def attack(node: Node, plain: Plain) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "h.>")
        first, refused, last = await pub.publish(message("h.a", b"1"), bad, message("h.a", b"2"))
        assert refused.error.code == code, refused
        assert first.matched == last.matched == 1
        assert [data_of(await sub.next()), data_of(await sub.next())] == [b"1", b"2"]

    beside(attack)


def test_a_topic_that_is_not_utf8_is_refused() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        whole = frame(bus_pb2.Item(message=message("h.abcd"))).SerializeToString()
        call = plain.channel.stream_stream("/sira.v1.Bus/Publish")()
        await call.write(whole.replace(b"h.abcd", b"h.\xff\xfe\xfd\xfc"))
        answer = bus_pb2.Frame.FromString(await within(call.read()))
        assert answer.items[0].receipt.error.code == "BAD_TOPIC"

    beside(attack)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"subscription": 0, "pattern": "a"}, "BAD_REQUEST"),
        ({"subscription": 2, "pattern": ""}, "BAD_TOPIC"),
        ({"subscription": 2, "pattern": "a..b"}, "BAD_TOPIC"),
        ({"subscription": 2, "pattern": "a.>.b"}, "BAD_TOPIC"),
        ({"subscription": 2, "pattern": "a" * 65_536}, "BAD_TOPIC"),
        ({"subscription": 2, "pattern": "a", "group": "g" * 10_000}, "BAD_REQUEST"),
        ({"subscription": 2, "pattern": "a", "overflow": 9}, "BAD_REQUEST"),
        ({"subscription": 2, "pattern": "a", "contract": {"x": "f99[N"}}, "BAD_REQUEST"),
        ({"subscription": 1, "pattern": "a"}, "CONFLICT"),
    ],
)
def test_a_bad_subscription_ends_alone(fields: dict[str, object], code: str) -> None:
    async def attack(node: Node, plain: Plain) -> None:
        sub = plain.subscribing()
        await sub.opened(1, "good")
        await sub.send(bus_pb2.Item(open=bus_pb2.Open(**fields)))  # type: ignore[arg-type]
        answer = await sub.item()
        assert answer.ended.error.code == code, answer
        await plain.publishing().publish(message("good"))
        assert (await sub.next()).topic == "good"

    beside(attack)


def test_credit_for_what_was_never_sent_ends_that_stream_alone() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        sub = plain.subscribing()
        await sub.opened(1, "a")
        await sub.credit(1, 10**9)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await within(sub.call.read()) is not grpc.aio.EOF:
                pass
        assert code_of(caught.value) == "PROTOCOL_ERROR"

    beside(attack)


def test_items_that_have_no_business_on_a_stream_end_it() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        for method, item in (
            ("Subscribe", bus_pb2.Item(message=message("a"))),
            ("Subscribe", bus_pb2.Item(receipt=bus_pb2.Receipt())),
            ("Publish", bus_pb2.Item(open=bus_pb2.Open(subscription=1, pattern="a"))),
        ):
            code = await _stream_error(plain, method, frame(item).SerializeToString())
            assert code == "PROTOCOL_ERROR", (method, item)

    beside(attack)


def test_ten_gibibytes_announced_cost_nothing_and_an_end_is_counted() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        sub = plain.subscribing()
        await sub.opened(1, "huge")
        head = message_pb2.Message(id=os.urandom(16), topic="huge")
        head.tensors.add(dtype=tensor_pb2.DTYPE_U8, shape=[10 << 30], data_bytes=10 << 30)
        before = node.bus.hub.stats
        async with Plain(node.address) as liar:
            pub = liar.publishing()
            chunk = bus_pb2.Chunk(message_id=head.id, data=b"0123456789")
            await pub.send(bus_pb2.Item(head=head), bus_pb2.Item(chunk=chunk))
            assert (await sub.item()).HasField("head")
            assert (await sub.item()).chunk.data == b"0123456789"
            held = node.bus.hub.stats["chunk_bytes_held"] - before["chunk_bytes_held"]
            assert held < 1 << 20
        assert (await sub.item()).abort.error.code == "PEER_LOST"
        row = (await plain.ledger())["huge"]
        assert dict(row.dropped) == {"PEER_LOST": 1}

    beside(attack)


def test_a_message_over_the_limit_is_refused_before_its_bytes_come() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        head = message_pb2.Message(id=os.urandom(16), topic="big")
        head.tensors.add(dtype=tensor_pb2.DTYPE_U8, shape=[17 << 30], data_bytes=17 << 30)
        pub = plain.publishing()
        await pub.send(bus_pb2.Item(head=head))
        (item,) = await pub.items(1)
        assert item.receipt.error.code == "MESSAGE_TOO_LARGE"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.bus.Request(message("big", bytes(3 << 20)), timeout=10)
        assert code_of(caught.value) == "MESSAGE_TOO_LARGE"

    beside(attack)


def test_a_frame_over_the_limit_ends_that_stream_alone() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        whole = frame(bus_pb2.Item(message=message("big", bytes(3 << 20))))
        code = await _stream_error(plain, "Publish", whole.SerializeToString())
        assert code == "MESSAGE_TOO_LARGE"
        call = plain.channel.stream_stream("/sira.v1.Bus/Publish")()
        await call.write(bytes(5 << 20))
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # gRPC itself says no: no details
            while await within(call.read()) is not grpc.aio.EOF:
                pass
        assert rpc.from_grpc(caught.value).code == "MESSAGE_TOO_LARGE"

    beside(attack)


def test_a_client_that_never_reads_holds_up_nobody_else() -> None:
    """It blocks its own topic, is marked stalled, dropped to, and served again when it reads."""

    async def attack(node: Node, plain: Plain) -> None:
        lazy, pub = plain.subscribing(), plain.publishing()
        facts = plain.subscribing()
        await facts.opened(1, "sira.stalled")
        await lazy.opened(1, "slow.>", window_messages=1)
        receipts = await pub.publish(*(message("slow.a", bytes([i])) for i in range(4)))
        assert all(r.matched == 1 for r in receipts)
        (full,) = await pub.publish(message("slow.a"), wait_ms=50)
        assert full.error.code == "QUEUE_FULL" and full.error.retryable
        assert (await facts.next()).topic == "sira.stalled"
        (dropped,) = await pub.publish(message("slow.a"))
        assert not dropped.HasField("error")
        row = (await plain.ledger())["slow.a"]
        assert row.dropped["STALLED"] >= 1 and row.refused["QUEUE_FULL"] == 1

    beside(attack, queue_messages_max=3, stall_s=0.3)


@pytest.mark.parametrize(
    "metadata",
    [("sira-client", "x"), ("sira-client", "AB" * 16), ("sira-resume", "zz:1"),
     ("sira-resume", "ab:-1"), ("sira-resume", f"ab:{'9' * 40}"), ("sira-resume", "ab")],
)  # fmt: skip
def test_bad_metadata_is_refused_by_its_field(metadata: tuple[str, str]) -> None:
    async def attack(node: Node, plain: Plain) -> None:
        call = plain.bus.Publish(metadata=(metadata,))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(call.read())
        assert code_of(caught.value) == "BAD_REQUEST"

    beside(attack)


def test_a_request_that_is_no_message_is_a_typed_error_at_every_unary_door() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        for each in node.catalog.methods():
            if not each.request_stream:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    call = plain.channel.unary_unary(each.name)
                    await within(call(b"\xff\xff\xff\xff"))
                assert code_of(caught.value) == "FRAME_CORRUPT", each.name

    beside(attack)


def test_bad_questions_about_the_node_are_typed_errors() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        explain = plain.kernel.Explain
        for call, code in (
            (plain.kernel.Ledger(kernel_pb2.LedgerRequest(pattern="a..b")), "BAD_TOPIC"),
            (explain(kernel_pb2.ExplainRequest(topic="")), "BAD_TOPIC"),
            (explain(kernel_pb2.ExplainRequest(topic="a", action="fly")), "BAD_REQUEST"),
            (explain(kernel_pb2.ExplainRequest(topic="a", principal="x")), "BAD_REQUEST"),
            (plain.bus.ListTopics(bus_pb2.ListTopicsRequest(pattern="*.*.>.x")), "BAD_TOPIC"),
            (plain.create("a..b"), "BAD_TOPIC"),
            (plain.create("sira.x"), "DENIED"),
            (plain.create(">"), "BAD_REQUEST"),
            (plain.create("a", kind=77), "BAD_REQUEST"),
            (plain.create("a", contract={"x": "["}), "BAD_REQUEST"),
        ):  # fmt: skip
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(call)
            assert code_of(caught.value) == code

    beside(attack)


def test_strangers_that_speak_no_http2_are_let_go() -> None:
    async def main() -> None:
        async with running(handshake_s=0.3) as node, Bystander(node) as bystander:
            host, port = node.address.rsplit(":", 1)
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
            loud = await asyncio.open_connection(host, int(port))
            loud[1].write(b"GET / HTTP/1.1\r\n\r\n" * 10)
            for reader, _ in silent:
                with_end = await within(_read_to_end(reader))
                assert with_end
            await within(_read_to_end(loud[0]))
            await bystander.sees_nothing()
            for _, writer in (*silent, loud):
                writer.close()

    asyncio.run(main())


async def _read_to_end(reader: asyncio.StreamReader) -> bool:
    try:
        while await reader.read(4_096):
            pass
    except ConnectionError:
        pass
    return True


def test_a_subscriber_killed_midway_is_counted_and_its_group_goes_on() -> None:
    async def attack(node: Node, plain: Plain) -> None:
        stays = plain.subscribing()
        await stays.opened(1, "work.>", group="g", window_messages=2)
        async with Plain(node.address) as dying:
            goes = dying.subscribing()
            await goes.opened(1, "work.>", group="g", window_messages=2)
            await plain.publishing().publish(*(message("work.a") for _ in range(20)))
            await goes.next(confirm=False)
        await until(lambda: len(node.bus.subscriptions) == 2)
        async with asyncio.timeout(60):
            for _ in range(18):
                await stays.next()

        async def settled() -> bool:
            row = (await plain.ledger())["work.a"]
            return row.delivered == 18 and dict(row.dropped) == {"PEER_LOST": 2}

        await until(settled)

    beside(attack)
