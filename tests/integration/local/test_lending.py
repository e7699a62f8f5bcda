"""Tensors by reference between raw clients of a node: who sees which memory, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import sira
from sira.kernel.authorize import Allow, Deny, Readable, allow_all
from sira.kernel.errors import Denied
from sira.kernel.identity import Principal
from sira.kernel.local import record
from sira.kernel.node import Node
from sira.v1 import bus_pb2

from .lenders import PIECE, Memory, lending, on_node, pair, read
from .raw import until, url_of

pytestmark = pytest.mark.integration
OTHER = "default/agent/other"


class Forbids:
    """A policy that lets one principal read nothing of `cam`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        del context
        if principal.name == self._name and action == "subscribe" and resource.startswith("cam"):
            return Deny("DENIED", "the test says no")
        return Allow()

    def readable(self, principal: Principal, pattern: str) -> Readable:
        return Readable((pattern,))


# ---- what it is for ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 100])
def test_what_a_publisher_sent_last_before_it_died_is_delivered_or_was_never_there(
    tmp_path: Path, count: int
) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with lending(node) as subscriber, sira.connect(url_of(node)) as bus:
                async with lending(node) as publisher:
                    call = await pair(publisher, subscriber, memory)
                    publisher.publish(call, 1, 1)
                    await subscriber.chunks(1)
                    for lease in range(2, count + 2):
                        publisher.publish(call, 1, lease)
                await until(lambda: len(node.local) == 2)
                (row,) = await bus.ledger("cam.front")
                assert row.published == row.delivered + row.pending, row
                assert len(await subscriber.chunks(row.published)) == row.published

    on_node(tmp_path, work)


def test_a_lent_tensor_is_read_where_it_lies_and_its_lease_comes_back(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            memory.data[PIECE : 2 * PIECE] = b"\x07" * PIECE
            async with lending(node) as publisher, lending(node) as subscriber:
                call = await pair(publisher, subscriber, memory)
                publisher.publish(call, 1, 41, offset=PIECE)
                (chunk,) = await subscriber.chunks(1)
                assert not chunk.data and chunk.lent.bytes == PIECE and chunk.lent.offset == PIECE
                assert read(subscriber, chunk) == b"\x07" * PIECE
                (receipt,) = await publisher.receipts(1)
                assert receipt.matched == 1 and not receipt.HasField("error")
                assert list(receipt.lanes) == [bus_pb2.LANE_SHM]
                assert not publisher.returned and node.lent.leases == 1
                subscriber.give_back(chunk.lent.lease)
                await until(lambda: publisher.returned == [41])
                assert not node.lent.leases

    on_node(tmp_path, work)


def test_who_cannot_map_gets_the_bytes_and_the_lease_waits_for_all(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            memory.data[:PIECE] = bytes(range(256)) * (PIECE // 256)
            async with (
                lending(node) as publisher, lending(node) as maps,
                lending(node, lends=False) as copies,
                sira.connect(f"sira://{node.address}") as grpc, grpc.subscribe("cam.>") as got,
            ):  # fmt: skip
                copies.subscribe()
                await copies.opened()
                call = await pair(publisher, maps, memory)
                publisher.publish(call, 1, 1)
                (mapped,) = await maps.chunks(1)
                (copied,) = await copies.chunks(1)
                assert mapped.HasField("lent") and not copied.HasField("lent")
                assert read(maps, mapped) == copied.data == bytes(memory.data[:PIECE])
                message = await got.next(timeout_s=60)
                assert message["x"].tobytes() == copied.data
                assert not publisher.returned, "one still looks at it"
                maps.give_back(mapped.lent.lease)
                await until(lambda: publisher.returned == [1])
                lanes = {
                    each.client: each.lane for each in (await grpc.explain("cam.front")).matches
                }
                assert sorted(lanes.values()) == ["grpc", "shm", "socket"]
                values = (await grpc.stats()).values
                assert (values["lent_segments"], values["lent_bytes"]) == (1, memory.size)
                assert values["lent_leases"] == 0
                assert "sira_lent_stopped_total" in (await grpc.stats(prometheus=True)).prometheus

    on_node(tmp_path, work)


def test_what_a_topic_keeps_is_lent_to_who_comes_later(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            memory.data[:PIECE] = b"k" * PIECE
            async with lending(node) as late, sira.connect(url_of(node)) as bus:
                await bus.topics.create("cam.front", kind="latest")
                async with lending(node) as publisher:
                    publisher.bring(1, [memory.fd], memory.size)
                    publisher.publish(publisher.call("Publish"), 1, 1)
                    await publisher.receipts(1)
                    late.subscribe()
                    (chunk,) = await late.chunks(1)
                    assert chunk.HasField("lent") and read(late, chunk) == b"k" * PIECE
                    late.give_back(chunk.lent.lease)
                await until(lambda: len(late.gone) == 1)
                # Its publisher has gone: what is kept lies in no segment that is shown any more.
                late.subscribe(number=2)
                assert read(late, (await late.chunks(2))[1]) == b"k" * PIECE
                assert node.lent.held.segments == 1, "mapped for as long as it is kept"
                await bus.topics.delete("cam.front")

    on_node(tmp_path, work)


# ---- ends and rights -----------------------------------------------------------------------------


def test_what_a_dead_publisher_lent_stays_readable_until_it_is_given_back(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            memory.data[:PIECE] = b"z" * PIECE
            async with lending(node) as reader:
                async with lending(node) as publisher:
                    call = await pair(publisher, reader, memory)
                    publisher.publish(call, 1, 1)
                    (chunk,) = await reader.chunks(1)
                await until(lambda: len(node.local) == 1)
                assert read(reader, chunk) == b"z" * PIECE
                assert node.lent.held.segments == 1 and not reader.gone
                reader.give_back(chunk.lent.lease)
                await until(lambda: reader.gone == [chunk.lent.segment])
                await until(lambda: not node.lent.held.segments)

    on_node(tmp_path, work)


def test_who_may_not_read_any_more_is_shown_nothing_and_the_publisher_is_told(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory, Memory() as newer:
            async with (
                lending(node) as publisher, lending(node, who=OTHER) as denied,
                lending(node) as allowed,
            ):  # fmt: skip
                allowed.subscribe()
                await allowed.opened()
                call = await pair(publisher, denied, memory)
                publisher.publish(call, 1, 1)
                (chunk,) = await denied.chunks(1)
                await allowed.chunks(1)
                node.access.change(policy=Forbids("other"))
                await node.recheck()
                await until(lambda: publisher.stopped == [1])
                assert not denied.gone, "it looks at it still"
                denied.give_back(chunk.lent.lease)
                await until(lambda: denied.gone == [chunk.lent.segment])
                # Who has it already goes on with it; nobody is shown it anew.
                publisher.publish(call, 1, 2)
                assert (await allowed.chunks(2))[1].HasField("lent")
                async with lending(node) as late:
                    late.subscribe()
                    await late.opened()
                    publisher.publish(call, 1, 3)
                    assert not (await late.chunks(1))[0].HasField("lent") and not late.shown
                # A right that came back opens nothing that was open before.
                node.access.change(policy=allow_all)
                await node.recheck()
                denied.items.clear()
                denied.subscribe()
                await denied.opened()
                publisher.publish(call, 1, 4)
                assert not (await denied.chunks(1))[0].HasField("lent")
                publisher.bring(2, [newer.fd], newer.size)
                publisher.publish(call, 2, 5)
                assert (await denied.chunks(2))[1].HasField("lent")
                assert len(denied.shown) == 2 and publisher.stopped == [1]

    on_node(tmp_path, work)


def test_a_stream_that_ends_and_takes_nothing_is_shown_nothing_more_at_once(
    tmp_path: Path,
) -> None:
    """Its last words wait for a window that never opens; the publisher does not."""

    class Ends(Forbids):
        def __call__(
            self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
        ) -> Allow | Deny:
            if principal.name == "other" and action == "call":
                return Deny("DENIED", "the test says no")
            return Allow()

    async def work(node: Node) -> None:
        with Memory() as memory:
            async with (
                lending(node) as publisher,
                lending(node, who=OTHER, window_bytes=300) as hostile,
            ):
                hostile.reads = False
                call = await pair(publisher, hostile, memory)
                for lease in range(1, 9):
                    publisher.publish(call, 1, lease)
                await publisher.receipts(8)
                await until(lambda: hostile.shown)
                node.access.change(policy=Ends("other"))
                await node.recheck()
                await until(lambda: publisher.stopped == [1])
                assert not hostile.statuses and not hostile.over

    on_node(tmp_path, work)


def test_a_tap_gets_the_bytes_and_not_the_memory(tmp_path: Path) -> None:
    """Its right is to the copies that a rule sends it, and not to the topic."""

    class Taps(Forbids):
        def __call__(
            self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
        ) -> Allow | Deny:
            decision = super().__call__(principal, action, resource, context)
            if action == "publish" and isinstance(decision, Allow):
                return Allow((("tap", "audit.cam"),))
            return decision

    async def work(node: Node) -> None:
        with Memory() as memory:
            async with (
                lending(node) as publisher, lending(node) as reader,
                lending(node, who=OTHER) as tap,
            ):  # fmt: skip
                node.access.change(policy=Taps("other"))
                await node.recheck()
                tap.subscribe("audit.cam")
                await tap.opened()
                call = await pair(publisher, reader, memory)
                publisher.publish(call, 1, 1)
                assert (await reader.chunks(1))[0].HasField("lent")
                (chunk,) = await tap.chunks(1)
                assert chunk.data == bytes(PIECE) and not tap.shown

    on_node(tmp_path, work)


def test_a_stream_that_ends_leaves_its_connection_and_stops_the_segment(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with lending(node) as publisher, lending(node) as reader:
                number = reader.subscribe()
                await reader.opened()
                publisher.bring(1, [memory.fd], memory.size)
                call = publisher.call("Publish")
                publisher.publish(call, 1, 1)
                (chunk,) = await reader.chunks(1)
                reader.channel.send(record.CANCEL, number)
                await until(lambda: publisher.stopped == [1])
                assert read(reader, chunk) == bytes(PIECE) and not publisher.returned
                reader.give_back(chunk.lent.lease)
                await until(lambda: publisher.returned == [1] and len(reader.gone) == 1)

    on_node(tmp_path, work)


def test_a_segment_is_of_the_tenant_that_named_it_first(tmp_path: Path) -> None:
    """A connection may speak for two tenants; what it lends to the one is not the other's."""

    async def work(node: Node) -> None:
        with Memory() as memory:
            async with lending(node) as publisher, lending(node, who="blue/agent/reader") as blue:
                blue.subscribe()
                await blue.opened()
                publisher.bring(1, [memory.fd], memory.size)
                await until(lambda: len(node.local) == 2 and node.lent.held.segments == 1)
                publisher.publish(publisher.call("Publish"), 1, 1)
                assert (await publisher.receipts(1))[0].matched == 0
                (session,) = [each for each in node.local.sessions if each.peer.handed is None]
                lend = session.lender("blue")
                assert lend is not None
                with pytest.raises(Denied):
                    lend(1, 0, PIECE, 2, "cam.front")
                assert not blue.shown

    on_node(tmp_path, work)
