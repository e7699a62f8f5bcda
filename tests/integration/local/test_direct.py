"""Routes past the node: who gets one, what is told to whom, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import sira
from sira.kernel.local import record
from sira.kernel.local.links import Link
from sira.kernel.node import Node
from sira.v1 import bus_pb2

from .lenders import lending
from .linked import Linked, ledger_row, linked, on_node
from .raw import until, url_of

TOPIC = "cam.front"


async def pair(publisher: Linked, subscriber: Linked, **fields: object) -> int:
    """Have the one listen and the other begin to publish; return the Publish call."""
    subscriber.subscribe(**fields)
    await subscriber.opened()
    return publisher.call("Publish")


def test_a_route_is_granted_and_what_is_posted_arrives_and_stands_in_the_ledger(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            call = await pair(publisher, subscriber)
            route = await publisher.granted(call, TOPIC)
            (target,) = route.targets
            assert (route.matched, target.window) == (1, 512)
            assert publisher.word(route) == route.value
            for text in ("a", "b", "c"):
                assert min(publisher.post(route, TOPIC, text)) > 0
            await until(subscriber.cells_open)
            (opened,) = subscriber.cells_open()
            assert (opened.link, opened.cell, opened.topic) == (target.link, target.cell, TOPIC)
            row = await ledger_row(node, TOPIC)
            assert row is not None
            assert (row.published, row.owed, row.pending, row.delivered) == (3, 3, 3, 0)
            got = subscriber.taken_from(target.link, target.cell)
            assert [each.text for each in got] == ["a", "b", "c"]
            row = await ledger_row(node, TOPIC)
            assert row is not None
            assert (row.published, row.owed, row.pending, row.delivered) == (3, 3, 0, 3)

    on_node(tmp_path, work)


@pytest.mark.parametrize("ends", [False, True])
def test_a_publisher_hears_of_its_route_when_its_reader_surely_hears_of_the_cell(
    tmp_path: Path, ends: bool
) -> None:
    """Else what it posts would be lost where the node dies in between: nobody opens the cell."""

    async def work(node: Node) -> None:
        window_bytes = 1_000
        async with (
            linked(node) as publisher,
            linked(node, window_bytes=window_bytes) as subscriber,
        ):
            subscriber.reads = False
            reading = subscriber.subscribe("other", 1)
            subscriber.say(reading, bus_pb2.Item(open=bus_pb2.Open(subscription=2, pattern=TOPIC)))
            await subscriber.opened(2)
            call = publisher.call("Publish")
            publisher.send(call, "other", headers={"long": "x" * 2 * window_bytes})
            await until(lambda: any(each.HasField("message") for each in subscriber.items))
            ask = publisher.ask(call, TOPIC)
            await until(lambda: node.direct.totals.granted)
            await publisher.unary("/sira.v1.Kernel/Introspect", b"")
            assert ask not in publisher.routes, "the reader's window is shut"
            assert not subscriber.cells_open()
            if ends:
                subscriber.close()
                route = await publisher.answer(ask)
                assert publisher.word(route) != route.value, "and nothing is posted by it"
                return
            subscriber.channel.send(record.WINDOW, reading, record.grant(4 * window_bytes))
            await publisher.answer(ask)
            await until(subscriber.cells_open)

    on_node(tmp_path, work)


def looks_of(link: Link, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note each look at a link from now on, and how many cells it has then."""
    looks, look = list[int](), link.look

    def noted() -> None:
        look()
        looks.append(len(link.cells))

    monkeypatch.setattr(link, "look", noted)
    return looks


def look_in_time(node: Node, times: int) -> None:
    for _ in range(times):
        list(node.direct.look(in_time=True))


def test_a_silent_link_is_not_looked_at_until_it_moves_or_somebody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            route = await publisher.granted(await pair(publisher, subscriber), TOPIC)
            (link,) = node.direct.links.values()
            (cell,) = link.cells.values()
            target = route.targets[0]
            look_in_time(node, 10)
            looks = looks_of(link, monkeypatch)
            look_in_time(node, 20)
            assert looks == [], "nothing is read but whether something was posted"
            publisher.post(route, TOPIC)
            list(node.direct.look())
            assert cell.seen.posted == 1, "who asks has it looked at"
            for posted in (2, 3):
                publisher.post(route, TOPIC)
                look_in_time(node, 1)
                assert cell.seen.posted == posted, "where something was new it is looked at again"
            look_in_time(node, 10)
            looks.clear()
            look_in_time(node, 20)
            assert looks == [1] * 4, "what waits may be taken at any time: of five looks one"
            assert len(subscriber.taken_from(target.link, target.cell)) == 3
            look_in_time(node, 5)
            assert (cell.seen.posted, cell.seen.taken) == (3, 3)
            look_in_time(node, 10)
            looks.clear()
            look_in_time(node, 20)
            assert looks == [], "all was taken: it is silent again"
            publisher.post(route, TOPIC)
            look_in_time(node, 5)
            assert cell.seen.posted == 4, "what was posted after the silence is found"

    on_node(tmp_path, work)


def test_a_route_that_is_left_ends_its_cell_once_that_is_empty(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            call = await pair(publisher, subscriber)
            route = await publisher.granted(call, TOPIC)
            cell = route.targets[0].link, route.targets[0].cell
            publisher.post(route, TOPIC)
            publisher.left(route.ask)
            await until(lambda: not node.direct.routes)
            await ledger_row(node, TOPIC)
            assert subscriber.cells_ended() == []
            assert len(subscriber.taken_from(*cell)) == 1
            await ledger_row(node, TOPIC)
            await until(lambda: subscriber.cells_ended() == [cell])
            again = await publisher.granted(call, TOPIC)
            assert (again.targets[0].link, again.targets[0].cell) == (cell[0], cell[1] + 1)

    on_node(tmp_path, work)


def test_whoever_subscribes_moves_the_word_before_it_is_told_that_it_did(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber, linked(node) as third:
            call = await pair(publisher, subscriber)
            route = await publisher.granted(call, TOPIC)
            third.subscribe(TOPIC)
            await third.opened()
            assert publisher.word(route) != route.value
            again = await publisher.granted(call, TOPIC)
            assert again.matched == 2

    on_node(tmp_path, work)


def test_what_waits_in_a_cell_is_dropped_with_its_subscription(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            stream = subscriber.subscribe()
            await subscriber.opened()
            call = publisher.call("Publish")
            route = await publisher.granted(call, TOPIC)
            publisher.post(route, TOPIC)
            publisher.post(route, TOPIC)
            cell = route.targets[0].link, route.targets[0].cell
            assert len(subscriber.taken_from(*cell)) == 2
            publisher.post(route, TOPIC)
            subscriber.unsubscribe(stream)
            await until(lambda: subscriber.cells_ended() == [cell])
            publisher.post(route, TOPIC)  # one that had compared the word before
            row = await ledger_row(node, TOPIC)
            assert row is not None
            assert (row.owed, row.delivered, dict(row.dropped)) == (4, 2, {"UNSUBSCRIBED": 2})

    on_node(tmp_path, work)


def test_the_death_of_a_reader_is_told_and_what_it_had_not_taken_is_dropped(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher:
            async with linked(node) as subscriber:
                call = await pair(publisher, subscriber)
                route = await publisher.granted(call, TOPIC)
                publisher.post(route, TOPIC)
            await until(lambda: publisher.links_over == [route.targets[0].link])
            row = await ledger_row(node, TOPIC)
            assert row is not None
            assert (row.owed, dict(row.dropped)) == (1, {"PEER_LOST": 1})
            assert publisher.word(route) != route.value

    on_node(tmp_path, work)


def test_what_a_publisher_posted_before_it_died_is_taken_and_counted(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as subscriber:
            async with linked(node) as publisher:
                call = await pair(publisher, subscriber)
                route = await publisher.granted(call, TOPIC)
                publisher.post(route, TOPIC)
            (target,) = route.targets
            await until(lambda: subscriber.links_over == [target.link])
            row = await ledger_row(node, TOPIC)
            assert row is not None and (row.pending, row.delivered) == (1, 0)
            assert len(subscriber.taken_from(target.link, target.cell)) == 1
            row = await ledger_row(node, TOPIC)
            assert row is not None and (row.pending, row.delivered) == (0, 1)

    on_node(tmp_path, work)


def test_a_subscriber_without_links_keeps_all_at_the_node_and_the_publisher_is_told_why(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, lending(node) as subscriber:
            subscriber.subscribe()
            await subscriber.opened()
            call = publisher.call("Publish")
            refused = await publisher.answer(publisher.ask(call, TOPIC))
            assert "takes no links" in refused.refused
            assert not refused.again_ms
            assert publisher.word(refused) == refused.value
            assert not node.direct.links

    on_node(tmp_path, work)


def test_explain_says_whether_messages_go_past_the_node_and_why_not(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with (
            linked(node) as linked_one, lending(node) as plain, sira.connect(url_of(node)) as bus,
        ):  # fmt: skip
            linked_one.subscribe(TOPIC)
            await linked_one.opened()
            found = await bus.explain(TOPIC)
            assert any("hand messages over past it" in each for each in found.reasons)
            assert "; nothing" not in found.matches[0].lane_reason
            plain.subscribe("cam.>")
            await plain.opened()
            found = await bus.explain(TOPIC)
            why = "takes no links"
            assert any("go by the node" in each and why in each for each in found.reasons)
            reasons = {each.pattern: each.lane_reason for each in found.matches}
            assert why in reasons["cam.>"] and why not in reasons[TOPIC]
            found = await bus.explain(TOPIC, action="subscribe")
            assert not any("past" in each or "by the node" in each for each in found.reasons)

    on_node(tmp_path, work)


def test_two_subscriptions_of_one_client_have_a_cell_each_in_one_link(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            subscriber.subscribe("cam.>")
            subscriber.subscribe(TOPIC)
            await subscriber.opened(2)
            call = publisher.call("Publish")
            route = await publisher.granted(call, TOPIC)
            assert [(each.link, each.cell) for each in route.targets] == [(1, 0), (1, 1)]
            publisher.post(route, TOPIC)
            assert [len(subscriber.taken_from(1, cell)) for cell in (0, 1)] == [1, 1]
            row = await ledger_row(node, TOPIC)
            assert row is not None and (row.published, row.delivered) == (1, 2)

    on_node(tmp_path, work)


def test_publishers_wait_only_for_subscribers_that_block_them(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            rules = (bus_pb2.OVERFLOW_BLOCK, bus_pb2.OVERFLOW_DROP, bus_pb2.OVERFLOW_LATEST)
            for overflow in rules:
                subscriber.subscribe(TOPIC, overflow=overflow)
            await subscriber.opened(3)
            route = await publisher.granted(publisher.call("Publish"), TOPIC)
            assert [each.waits for each in route.targets] == [True, False, False]

    on_node(tmp_path, work)


def test_a_client_hears_itself_past_the_node(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as alone:
            call = await pair(alone, alone)
            route = await alone.granted(call, TOPIC)
            alone.post(route, TOPIC)
            assert len(alone.taken_from(1, 0)) == 1
            assert await ledger_row(node, TOPIC)

    on_node(tmp_path, work)


def test_a_link_that_is_used_up_is_followed_by_another_and_ends_when_nothing_goes_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            call = await pair(publisher, subscriber, pattern=">")
            kept = await publisher.granted(call, "kept")
            last = await publisher.granted(call, TOPIC)
            while last.targets[0].link == kept.targets[0].link:
                publisher.post(last, TOPIC)
                subscriber.taken_from(last.targets[0].link, last.targets[0].cell)
                last = await publisher.granted(call, TOPIC)
            await ledger_row(node, TOPIC)
            assert len(node.direct.links) == 2
            assert min(publisher.post(kept, "kept")) > 0
            subscriber.taken_from(kept.targets[0].link, kept.targets[0].cell)
            publisher.left(kept.ask)
            await until(lambda: subscriber.links_over == publisher.links_over == [1])
            assert min(publisher.post(last, TOPIC)) > 0
            row = await ledger_row(node, TOPIC)
            assert row is not None and (row.pending, row.delivered) == (1, 4)

    monkeypatch.setattr("sira.kernel.local.links.CELLS", 20)
    on_node(tmp_path, work)


def test_what_waits_of_a_topic_past_the_node_keeps_only_that_topic_waiting(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            call = await pair(publisher, subscriber)
            route = await publisher.granted(call, TOPIC)
            publisher.post(route, TOPIC)
            refused = await publisher.answer(publisher.ask(call, TOPIC))
            assert "not taken" in refused.refused and refused.again_ms == 50
            refused = await publisher.answer(publisher.ask(call, TOPIC))
            assert refused.again_ms == 100
            await publisher.granted(call, "cam.back")
            (target,) = route.targets
            assert len(subscriber.taken_from(target.link, target.cell)) == 1
            await publisher.granted(call, TOPIC)

    on_node(tmp_path, work)
