"""Two streams of one link: receipts ride on Subscribe, credits on Publish, nothing is lost."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from sira.kernel.node import Node
from sira.v1 import bus_pb2, message_pb2

from .plain import (
    Plain,
    Publishing,
    Subscribing,
    code_of,
    frame,
    message,
    running,
    session,
    until,
    within,
)

pytestmark = pytest.mark.integration
ID = "ab" * 16
LINK = ("sira-link", "l1")


class Linked:
    """A client whose two streams have one link."""

    def __init__(self, node: Node) -> None:
        self.plain = Plain(node.address, client=ID)
        self.receipts: list[bus_pb2.Receipt] = []  # off either stream
        self.messages: list[message_pb2.Message] = []

    async def __aenter__(self) -> Linked:
        self.sub: Subscribing = self.plain.subscribing(LINK)
        await self.sub.opened(1, "own.>")
        self.pub: Publishing = self.plain.publishing(LINK)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.plain.channel.close()

    async def publish(self, *topics: str) -> list[bytes]:
        made = [message(topic) for topic in topics]
        await self.pub.send(*(bus_pb2.Item(message=each) for each in made))
        return [each.id for each in made]

    async def hear(self, *, receipts: int = 0, messages: int = 0) -> None:
        """Read the Subscribe stream until so many have come in all."""
        while len(self.receipts) < receipts or len(self.messages) < messages:
            await self.hear_one()

    async def hear_one(self) -> bool:
        got = await within(self.sub.call.read())
        if got is grpc.aio.EOF:
            return False
        for item in got.items:
            if item.HasField("aside"):
                self.receipts += [each.receipt for each in item.aside.items]
            elif item.HasField("message"):
                self.messages.append(item.message)
        return True


def total(count: int, subscription: int = 1) -> bus_pb2.Item:
    credit = bus_pb2.Credit(subscription=subscription, total=count)
    return bus_pb2.Item(aside=bus_pb2.Frame(items=[bus_pb2.Item(credit=credit)]))


def test_receipts_come_down_the_subscribe_stream_in_order_and_credits_go_up_the_other() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own:
            ids = []
            for i in range(50):
                made = message("own.a")
                await own.pub.send(bus_pb2.Item(message=made), total(i) if i else bus_pb2.Item())
                ids.append(made.id)
                await own.hear(receipts=i + 1, messages=i + 1)
            assert [r.id for r in own.receipts] == [m.id for m in own.messages] == ids
            row = (await plain.ledger("own.a"))["own.a"]
            assert (row.delivered, row.pending) == (49, 1)
            await own.pub.call.done_writing()
            assert await within(own.pub.call.read()) is grpc.aio.EOF  # nothing came down here
            await own.sub.credit(1)  # by number, of what no total has told

            async def all_delivered() -> bool:
                return (await plain.ledger("own.a"))["own.a"].delivered == 50

            await until(all_delivered)

    session(work)


def test_a_refusal_rides_in_its_place() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own:
            await own.publish("own.a", "sira.no", "own.b")
            await own.hear(receipts=3)
            assert [bool(r.error.code) for r in own.receipts] == [False, True, False]

    session(work)


@pytest.mark.parametrize("link", [(), (("sira-link", "other"),)], ids=["none", "another"])
def test_without_a_link_in_common_each_stream_keeps_its_own(link: tuple[tuple[str, str]]) -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own:
            pub = own.plain.publishing(*link)
            (receipt,) = await pub.publish(message("own.a"))
            assert receipt.matched == 1
            await pub.send(total(1))  # no stream to take it
            await pub.publish(message("own.a"))
            assert (await plain.ledger("own.a"))["own.a"].delivered == 0

    session(work)


def test_another_client_of_the_same_link_gets_none_of_it() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own, Plain(node.address, client="cd" * 16) as stranger:
            (receipt,) = await stranger.publishing(LINK).publish(message("own.a"))
            assert receipt.matched == 1
            await own.hear(messages=1)
            await stranger.publishing(LINK).publish(message("elsewhere"))
            pub = stranger.publishing(LINK)
            await pub.send(total(1))
            await pub.publish(message("elsewhere"))
            assert (await plain.ledger("own.a"))["own.a"].delivered == 0

    session(work)


def test_receipts_go_their_own_way_when_the_subscribe_stream_has_ended() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own:
            await own.publish("own.a")
            await own.hear(receipts=1, messages=1)
            await own.sub.credit(1)
            await own.sub.send(bus_pb2.Item(close=bus_pb2.Close(subscription=1)))
            await own.sub.call.done_writing()
            while await own.hear_one():
                pass
            receipts = await own.pub.publish(message("own.a"), message("own.b"))
            assert [r.matched for r in receipts] == [0, 0]

    session(work)


def test_a_subscribe_stream_that_breaks_off_ends_the_one_whose_answers_it_brought() -> None:
    """A receipt may be lost with it: the client asks again for all, and nothing is taken twice."""

    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own:
            first = message("own.a")
            await own.pub.send(bus_pb2.Item(message=first))
            await own.hear(receipts=1)
            assert own.sub.call.cancel()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await within(own.pub.call.read()) is not grpc.aio.EOF:
                    pass
            assert code_of(caught.value) == "PEER_LOST"
            again = own.plain.publishing(LINK, ("sira-resume", f"{node.bus.epoch.hex()}:1"))
            (receipt,) = await again.publish(first)
            assert receipt.id == first.id and receipt.matched == 1
            row = (await plain.ledger("own.a"))["own.a"]
            assert (row.published, row.owed) == (1, 1)

    session(work)


def test_a_publish_stream_that_ends_leaves_the_other_as_it_is() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own:
            await own.publish("own.a")
            await own.hear(receipts=1, messages=1)
            assert own.pub.call.cancel()
            await plain.publishing().publish(message("own.b"))
            await own.hear(messages=2)
            own.pub = own.plain.publishing(LINK)  # and the next one is carried again
            await own.publish("own.c")
            await own.hear(receipts=2, messages=3)

    session(work)


def test_a_publish_stream_that_sends_no_more_ends_after_its_last_answer_went_down() -> None:
    """One message waits for room: its receipt comes when there is some, down Subscribe."""

    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own, Plain(node.address) as slow:
            sub = slow.subscribing()
            await sub.opened(1, "full", window_messages=1)
            ids = await own.publish(*["full"] * 4)
            await own.pub.call.done_writing()
            ending = asyncio.ensure_future(within(own.pub.call.read()))
            for _ in ids:
                await sub.next()
            await own.hear(receipts=len(ids))
            assert [r.id for r in own.receipts] == ids
            assert await ending is grpc.aio.EOF

    session(work, queue_messages_max=1)


def test_a_subscribe_stream_that_sends_no_more_still_brings_receipts() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own:
            await own.sub.call.done_writing()
            for i in range(1, 6):
                await own.pub.send(bus_pb2.Item(message=message("own.a")), total(i - 1))
                await own.hear(receipts=i, messages=i)

    session(work)


def test_a_receipt_does_not_wait_behind_a_large_delivery() -> None:
    """It comes between two chunks, behind what was on its way already."""
    body = bytes(48 << 20)

    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own, Plain(node.address) as other:
            uploading = asyncio.ensure_future(
                other.publishing().upload(message("own.large", body), 8 << 20)
            )
            came = 0

            async def hear() -> None:
                nonlocal came
                for item in (await within(own.sub.call.read())).items:
                    came += len(item.chunk.data)
                    own.receipts += [each.receipt for each in item.aside.items]

            while not came:
                await hear()
            await own.publish("elsewhere")

            async def published() -> bool:
                return "elsewhere" in await plain.ledger("elsewhere")

            await until(published)
            while not own.receipts:
                await hear()
            assert came < len(body) // 2
            while came < len(body):
                await hear()
            assert not (await uploading).HasField("error")

    session(work)


def test_a_drain_tells_every_receipt_before_either_stream_ends() -> None:
    async def main() -> None:
        async with running(drain_s=20) as node, Plain(node.address), Linked(node) as own:
            ids = await own.publish("own.a")
            await own.hear(receipts=1)
            ids += await own.publish(*["own.a"] * 500)
            stopping = asyncio.create_task(node.stop())
            taken = 0
            try:
                while await own.hear_one():
                    if len(own.messages) > taken:
                        taken = len(own.messages)
                        await own.sub.send(
                            bus_pb2.Item(credit=bus_pb2.Credit(subscription=1, total=taken))
                        )
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass
            answers = len(own.receipts)
            try:
                while (got := await within(own.pub.call.read())) is not grpc.aio.EOF:
                    own.receipts += [item.receipt for item in got.items]
            except grpc.aio.AioRpcError as error:
                assert code_of(error) == "NODE_DRAINING"
            assert len(own.receipts) == answers  # the last came before the Subscribe stream ended
            assert [r.id for r in own.receipts] == ids
            accepted = [r.id for r in own.receipts if not r.HasField("error")]
            assert [m.id for m in own.messages] == accepted
            await within(stopping)

    asyncio.run(main())


def test_what_does_not_belong_into_an_aside_ends_the_publish_stream_alone() -> None:
    opening = bus_pb2.Item(open=bus_pb2.Open(subscription=9, pattern="own.>"))
    nested = bus_pb2.Frame(items=[bus_pb2.Item(aside=bus_pb2.Frame(items=[opening]))])
    cases = {
        "PROTOCOL_ERROR": [
            frame(bus_pb2.Item(aside=bus_pb2.Frame(items=[opening]))).SerializeToString(),
            frame(bus_pb2.Item(aside=nested)).SerializeToString(),
            frame(total(10**18)).SerializeToString(),
        ],
        "FRAME_CORRUPT": [b"\x0a\x05\x82\x01\x02\xff\xff"],  # Item.aside, two bytes of no frame
    }

    async def work(node: Node, plain: Plain) -> None:
        async with Linked(node) as own:
            for code, frames in cases.items():
                for each in frames:
                    call = own.plain.channel.stream_stream("/sira.v1.Bus/Publish")(
                        metadata=(*own.plain.metadata, LINK)
                    )
                    await call.write(each)
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        while await within(call.read()) is not grpc.aio.EOF:
                            pass
                    assert code_of(caught.value) == code, each
            await own.publish("own.a")
            await own.hear(receipts=1, messages=1)
        await plain.ledger()

    session(work)


def test_a_link_that_is_too_long_is_refused() -> None:
    async def work(node: Node, plain: Plain) -> None:
        pub = plain.publishing(("sira-link", "x" * 65))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(pub.call.read())
        assert code_of(caught.value) == "BAD_REQUEST"

    session(work)
