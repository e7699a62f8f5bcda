"""`Kernel.Memory`: whose memory is shared on a node, how old it is, and who holds what of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import sira
import sira.testing
from sira.kernel.authorize import Allow, Deny, Readable
from sira.kernel.identity import Principal
from sira.kernel.local import record
from sira.kernel.node import Node
from sira.v1 import kernel_pb2
from tests.integration.command import sira as command

from .lenders import PIECE, Memory, Peer, lending, on_node, pair
from .linked import linked
from .linked import on_node as on_node_with_links
from .raw import run, until, url_of

pytestmark = pytest.mark.integration
METHOD = "/sira.v1.Kernel/Memory"
PEER = f"unix:pid={os.getpid()},uid={os.getuid()}"


async def when(
    bus: sira.Bus, condition: Callable[[kernel_pb2.MemoryResponse], bool]
) -> kernel_pb2.MemoryResponse:
    """Ask until the answer is as wanted; the test's watchdog ends it."""
    while not condition(found := await bus.memory()):
        pass
    return found


# ---- what it tells -------------------------------------------------------------------------------


def test_a_segment_is_told_with_its_owner_and_who_holds_how_much_of_it(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with (
                lending(node) as publisher, lending(node) as one, lending(node) as two,
                sira.connect(url_of(node)) as bus,
            ):  # fmt: skip
                assert not (await bus.memory()).segments
                two.subscribe("cam.front")
                await two.opened()
                call = await pair(publisher, one, memory)
                for lease in (1, 2, 3):
                    publisher.publish(call, 1, lease)
                chunks = await one.chunks(3)
                await two.chunks(3)
                one.give_back(chunks[0].lent.lease)
                found = await when(bus, lambda f: sum(h.leases for h in f.segments[0].holders) == 5)
                (segment,) = found.segments
                assert (segment.topic, segment.bytes) == ("cam.front", memory.size)
                assert (segment.state, segment.leases) == ("open", 3)
                assert (segment.owner.peer, segment.owner.gone) == (PEER, False)
                assert segment.owner.tenant == "default" and len(segment.owner.client) == 32
                held = {holder.leases: holder for holder in segment.holders}
                assert set(held) == {2, 3}
                assert {n: h.bytes for n, h in held.items()} == {2: 2 * PIECE, 3: 3 * PIECE}
                assert all(h.reads and 0 < h.held_ns <= segment.age_ns for h in held.values())
                ids = {h.party.client for h in held.values()} | {segment.owner.client}
                assert len(ids) == 3, "three clients, each by its own id"
                stats = await bus.stats()
                assert ids <= {client.id for client in stats.clients}
                assert (found.bytes, found.left_out) == (memory.size, 0)
                later = (await bus.memory()).segments[0]
                assert later.age_ns > segment.age_ns
                assert min(h.held_ns for h in later.holders) > min(h.held_ns for h in held.values())

    on_node(tmp_path, work)


def test_who_has_given_all_back_still_has_it_mapped_and_holds_nothing(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with (
                lending(node) as publisher, lending(node) as reader,
                sira.connect(url_of(node)) as bus,
            ):  # fmt: skip
                call = await pair(publisher, reader, memory)
                publisher.publish(call, 1, 1)
                (chunk,) = await reader.chunks(1)
                reader.give_back(chunk.lent.lease)
                await until(lambda: publisher.returned == [1])
                ((holder,),) = (s.holders for s in (await bus.memory()).segments)
                told = (holder.leases, holder.bytes, holder.held_ns, holder.reads)
                assert told == (0, 0, 0, True)

    on_node(tmp_path, work)


def test_what_a_dead_publisher_lent_is_told_until_it_is_given_back(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with lending(node) as reader, sira.connect(url_of(node)) as bus:
                async with lending(node) as publisher:
                    call = await pair(publisher, reader, memory)
                    publisher.publish(call, 1, 1)
                    (chunk,) = await reader.chunks(1)
                found = await when(bus, lambda f: f.segments[0].state == "ended")
                (segment,) = found.segments
                assert (segment.owner.gone, segment.leases) == (True, 1)
                ((leases, reads),) = ((h.leases, h.reads) for h in segment.holders)
                assert (leases, reads) == (1, False)
                reader.give_back(chunk.lent.lease)
                assert (await when(bus, lambda f: not f.segments)).bytes == 0

    on_node(tmp_path, work)


def test_a_reader_whose_stream_ended_is_told_for_what_it_holds(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with (
                lending(node) as publisher, lending(node) as reader,
                sira.connect(url_of(node)) as bus,
            ):  # fmt: skip
                stream = reader.subscribe()
                await reader.opened()
                publisher.bring(1, [memory.fd], memory.size)
                publisher.publish(publisher.call("Publish"), 1, 1)
                await reader.chunks(1)
                reader.channel.send(record.CANCEL, stream, b"")
                await until(lambda: publisher.stopped == [1])
                (segment,) = (await bus.memory()).segments
                assert segment.state == "stopped"
                ((leases, reads),) = ((h.leases, h.reads) for h in segment.holders)
                assert (leases, reads) == (1, False)

    on_node(tmp_path, work)


def test_a_pattern_leaves_out_other_topics_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as front, Memory() as back:
            async with lending(node) as publisher, sira.connect(url_of(node)) as bus:
                publisher.bring(1, [front.fd], front.size)
                publisher.bring(2, [back.fd], back.size, "lab.back")
                publisher.call("Publish")
                await when(bus, lambda f: len(f.segments) == 2)
                found = await bus.memory("lab.>")
                assert [each.topic for each in found.segments] == ["lab.back"]
                assert found.bytes == back.size
                assert not (await bus.memory("none.of.these")).segments
                with pytest.raises(sira.BadTopic):
                    await bus.memory("lab..x")

    on_node(tmp_path, work)


def test_more_segments_than_one_answer_takes_are_counted(tmp_path: Path) -> None:
    count = 1_010

    async def work(node: Node) -> None:
        with Memory(4_096) as memory:
            async with lending(node) as publisher, sira.connect(url_of(node)) as bus:
                publisher.call("Publish")
                for number in range(1, count + 1):
                    publisher.bring(number, [memory.fd], memory.size, f"cam.c{number}")
                await until(lambda: node.lent.held.segments == count)
                found = await bus.memory()
                assert (len(found.segments), found.left_out) == (1_000, count - 1_000)
                assert found.bytes == count * memory.size

    on_node(tmp_path, work, lent_segments_max=count)


# ---- links ---------------------------------------------------------------------------------------


def test_a_link_is_told_with_its_ends_and_what_waits_in_each_cell(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with (
            linked(node) as publisher, linked(node) as reader, sira.connect(url_of(node)) as bus,
        ):  # fmt: skip
            assert not (await bus.memory()).links
            reader.subscribe("cam.*")
            await reader.opened()
            call = publisher.call("Publish")
            front, back = [await publisher.granted(call, f"cam.{n}") for n in ("front", "back")]
            for _ in range(3):
                publisher.post(front, "cam.front")
            publisher.post(back, "cam.back")
            await until(lambda: len(reader.cells_open()) == 2)
            (target,) = front.targets
            reader.readers[target.link].look(True)
            assert reader.readers[target.link].take(target.cell) is not None
            found = await bus.memory()
            (link,) = found.links
            assert (link.link, link.state) == (target.link, "open")
            assert link.age_ns > 0 and found.bytes == link.bytes > 512 * 512
            assert (link.writer.peer, link.reader.peer) == (PEER, PEER)
            assert link.writer.client != link.reader.client
            cells = {each.topic: each for each in link.cells}
            told = {t: (c.pending, c.delivered, c.open, c.pattern) for t, c in cells.items()}
            assert told == {"cam.front": (2, 1, True, "cam.*"), "cam.back": (1, 0, True, "cam.*")}
            assert {c.publisher for c in cells.values()} == {link.writer.client}
            assert {c.subscriber for c in cells.values()} == {link.reader.client}
            publisher.left(front.ask)
            await when(bus, lambda f: [c.open for c in f.links[0].cells] == [False, True])
            only = await bus.memory("cam.back")
            assert [c.topic for c in only.links[0].cells] == ["cam.back"]
            assert not (await bus.memory("cam.other")).links

    on_node_with_links(tmp_path, work)


def test_what_a_dead_publisher_posted_is_told_until_it_is_taken(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as reader, sira.connect(url_of(node)) as bus:
            async with linked(node) as publisher:
                reader.subscribe()
                await reader.opened()
                route = await publisher.granted(publisher.call("Publish"), "cam.front")
                publisher.post(route, "cam.front")
                await until(reader.cells_open)
            found = await when(bus, lambda f: f.links[0].state == "ended")
            ((cell,),) = (each.cells for each in found.links)
            assert (cell.pending, cell.open, found.links[0].writer.gone) == (1, False, True)
            assert len(reader.taken_from(route.targets[0].link, route.targets[0].cell)) == 1
            assert not (await when(bus, lambda f: not f.links)).bytes

    on_node_with_links(tmp_path, work)


def test_what_is_shown_for_a_link_is_told_as_held_by_it(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with (
                linked(node) as publisher, linked(node) as reader,
                sira.connect(url_of(node)) as bus,
            ):  # fmt: skip
                reader.subscribe()
                await reader.opened()
                publisher.bring(1, [memory.fd], memory.size)
                route = await publisher.granted(publisher.call("Publish"), "cam.front")
                assert list(route.segments) == [1]
                (segment,) = (await bus.memory()).segments
                ((link, leases, reads),) = ((h.link, h.leases, h.reads) for h in segment.holders)
                assert (link, leases, reads) == (route.targets[0].link, 0, True)

    on_node_with_links(tmp_path, work)


# ---- who may ask ---------------------------------------------------------------------------------


async def memory_for(peer: Peer) -> list[str]:
    """Return the topics of the memory that a client is told of; or the code of the refusal."""
    answer = await peer.unary(METHOD, b"")
    if isinstance(answer, str):
        return [answer]
    return [each.topic for each in kernel_pb2.MemoryResponse.FromString(answer).segments]


def test_a_tenant_is_told_of_its_own_memory_and_operators_of_all(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as blue_memory, Memory() as red_memory:
            async with (
                lending(node, who="blue/agent/a") as blue, lending(node, who="red/agent/a") as red,
                lending(node, who="system/user/root") as operator,
            ):  # fmt: skip
                for peer, memory, name in ((blue, blue_memory, "a"), (red, red_memory, "b")):
                    peer.subscribe()
                    await peer.opened()
                    peer.bring(1, [memory.fd], memory.size, f"cam.{name}")
                    peer.publish(peer.call("Publish"), 1, 1, topic=f"cam.{name}")
                    await peer.chunks(1)
                assert await memory_for(blue) == ["cam.a"]
                assert await memory_for(red) == ["cam.b"]
                assert await memory_for(operator) == ["cam.a", "cam.b"]

    on_node(tmp_path, work)


class NoLooking:
    """A policy that lets one principal look at nothing."""

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        del context
        if (principal.name, action, resource) == ("curious", "inspect", "sira.memory"):
            return Deny("DENIED", "the test says no")
        return Allow()

    def readable(self, principal: Principal, pattern: str) -> Readable:
        return Readable((pattern,))


def test_who_may_not_inspect_is_told_nothing(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        node.access.change(policy=NoLooking())
        async with (
            lending(node, who="default/agent/curious") as curious,
            lending(node, who="default/agent/other") as other,
        ):
            assert await memory_for(curious) == ["DENIED"]
            assert await memory_for(other) == []

    on_node(tmp_path, work)


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_shows_what_the_sdk_lends_and_who_looks_at_it() -> None:
    size = 4 << 20

    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("mem.x") as messages,
        ):
            await bus.publish("mem.x", {"x": np.arange(size, dtype=np.uint8)})
            message = await messages.next(timeout_s=60)
            array = message["x"]
            ended = command("mem", "mem.>", "--json", url=node.socket_url)
            (row,) = ended.items()
            assert (row["kind"], row["topic"], row["state"]) == ("segment", "mem.x", "open")
            ((leases, bytes_),) = ((h["leases"], h["bytes"]) for h in row["holders"])
            assert leases >= 1 and bytes_ == array.nbytes == size <= row["bytes"]
            assert row["owner"]["peer"] == PEER and row["holders"][0]["party"]["peer"] == PEER
            assert row["owner"]["client"] != row["holders"][0]["party"]["client"]
            assert ended.data["segments"] == 1 and ended.data["bytes"] == row["bytes"]
            shown = command("mem", "mem.>", url=node.socket_url)
            assert "mem.x" in shown.out and "4 MiB" in shown.out
            assert f"pid={os.getpid()}" in shown.out

    with sira.testing.node() as node:
        run(work)
