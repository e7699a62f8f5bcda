"""Routes and rights: what rules take away ends past the node, too; and who is shown memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sira.kernel.authorize import Allow, Deny, Readable
from sira.kernel.identity import Principal
from sira.kernel.local import record
from sira.kernel.node import Node

from .lenders import Memory
from .linked import ledger_row, linked, on_node
from .raw import until
from .test_direct import TOPIC, pair

pytestmark = pytest.mark.integration
OTHER = "default/agent/other"


class Rules:
    """Refuses one principal an action on `cam`; with `obliged` asks for something of the others."""

    def __init__(self, action: str = "", obliged: tuple[tuple[str, str], ...] = ()) -> None:
        self._action, self._obliged = action, obliged

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        del context
        if (principal.name, action) == ("other", self._action) and resource.startswith("cam"):
            return Deny("DENIED", "the test says no")
        return Allow(self._obliged if action == "publish" else ())

    def readable(self, principal: Principal, pattern: str) -> Readable:
        return Readable((pattern,))


def test_a_reader_that_may_not_read_any_more_takes_nothing_more_and_its_publisher_writes_elsewhere(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with linked(node) as publisher, linked(node, who=OTHER) as reader:
                call = await pair(publisher, reader)
                publisher.bring(1, [memory.fd], memory.size, TOPIC)
                route = await publisher.granted(call, TOPIC)
                assert list(route.segments) == [1]
                (target,) = route.targets
                assert reader.linked_segments == {(target.link, 1): memory.size}
                publisher.post(route, TOPIC)
                node.access.change(policy=Rules("subscribe"))
                await node.recheck()
                await until(lambda: reader.cells_ended() == [(target.link, target.cell)])
                assert publisher.word(route) != route.value
                await until(lambda: publisher.stopped == [1])
                row = await ledger_row(node, TOPIC)
                assert row is not None and dict(row.dropped) == {"REVOKED": 1}
                refused = await publisher.answer(publisher.ask(call, TOPIC))
                assert "nobody listens" in refused.refused and not refused.again_ms
                publisher.channel.send(record.GONE, 0, record.segments([1]))
                await until(lambda: reader.gone_of_links == [(target.link, [1])])

    on_node(tmp_path, work)


def test_a_publisher_that_may_not_publish_any_more_is_not_heard_even_if_it_goes_on(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        async with linked(node, who=OTHER) as publisher, linked(node) as reader:
            call = await pair(publisher, reader)
            route = await publisher.granted(call, TOPIC)
            (target,) = route.targets
            node.access.change(policy=Rules("publish"))
            await node.recheck()
            await until(lambda: reader.cells_ended() == [(target.link, target.cell)])
            publisher.post(route, TOPIC)  # the word has moved, and it does not look
            row = await ledger_row(node, TOPIC)
            assert row is not None and (row.delivered, dict(row.dropped)) == (0, {"REVOKED": 1})
            refused = await publisher.answer(publisher.ask(call, TOPIC))
            assert "may not publish" in refused.refused and not refused.again_ms

    on_node(tmp_path, work)


@pytest.mark.parametrize("obligation", [("rate", "5"), ("tap", "audit.cam"), ("path", "node")])
def test_a_rule_that_asks_for_something_brings_all_back_to_the_node(
    tmp_path: Path, obligation: tuple[str, str]
) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as reader:
            call = await pair(publisher, reader)
            route = await publisher.granted(call, TOPIC)
            node.access.change(policy=Rules(obliged=(obligation,)))
            await node.recheck()
            assert publisher.word(route) != route.value
            refused = await publisher.answer(publisher.ask(call, TOPIC))
            assert "a rule asks" in refused.refused

    on_node(tmp_path, work)


def test_a_rule_that_asks_for_the_direct_path_keeps_nothing_at_the_node(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as reader:
            node.access.change(policy=Rules(obliged=(("path", "direct"),)))
            await publisher.granted(await pair(publisher, reader), TOPIC)

    on_node(tmp_path, work)


def test_memory_is_shown_for_its_topic_alone_and_known_segments_are_not_shown_twice(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        with Memory() as first, Memory() as second:
            async with linked(node) as publisher, linked(node) as reader:
                call = await pair(publisher, reader, pattern=">")
                publisher.bring(1, [first.fd], first.size, TOPIC)
                publisher.bring(2, [second.fd], second.size, "lidar")
                route = await publisher.granted(call, TOPIC)
                link = route.targets[0].link
                assert list(route.segments) == [1] and set(reader.linked_segments) == {(link, 1)}
                again = await publisher.granted(call, TOPIC)
                assert list(again.segments) == [1]
                other = await publisher.granted(call, "lidar")
                assert list(other.segments) == [2] and other.targets[0].link == link
                assert set(reader.linked_segments) == {(link, 1), (link, 2)}
                publisher.channel.send(record.GONE, 0, record.segments([1]))
                await until(lambda: reader.gone_of_links == [(link, [1])])
                assert not list((await publisher.granted(call, TOPIC)).segments)

    on_node(tmp_path, work)


def test_what_a_stream_was_shown_is_written_to_no_more_when_the_stream_ends(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with linked(node) as publisher, linked(node) as reader:
                stream = reader.subscribe()
                await reader.opened()
                call = publisher.call("Publish")
                publisher.bring(1, [memory.fd], memory.size, TOPIC)
                await publisher.granted(call, TOPIC)
                reader.channel.send(record.CANCEL, stream)
                await until(lambda: publisher.stopped == [1])
                assert not publisher.links_over, "the connection lives, and so does its link"

    on_node(tmp_path, work)


def test_memory_of_a_publisher_that_died_stays_known_to_who_has_messages_in_it(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with linked(node) as reader:
                async with linked(node) as publisher:
                    call = await pair(publisher, reader)
                    publisher.bring(1, [memory.fd], memory.size, TOPIC)
                    route = await publisher.granted(call, TOPIC)
                    publisher.post(route, TOPIC)
                (target,) = route.targets
                await until(lambda: reader.links_over == [target.link])
                await until(lambda: not node.lent.held.segments)
                assert not reader.gone_of_links
                assert len(reader.taken_from(target.link, target.cell)) == 1
                await ledger_row(node, TOPIC)

    on_node(tmp_path, work)


def test_a_node_that_goes_down_grants_nothing_and_takes_its_routes_back(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as reader:
            call = await pair(publisher, reader)
            route = await publisher.granted(call, TOPIC)
            node.bus.drain()
            assert publisher.word(route) != route.value
            refused = await publisher.answer(publisher.ask(call, TOPIC))
            assert refused.refused

    on_node(tmp_path, work)


def test_a_publish_stream_that_ends_takes_its_routes_with_it(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as reader:
            call = await pair(publisher, reader)
            route = await publisher.granted(call, TOPIC)
            publisher.channel.send(record.CANCEL, call)
            await until(lambda: publisher.word(route) != route.value)
            publisher.left(route.ask)
            await until(lambda: not node.direct.routes)

    on_node(tmp_path, work)
