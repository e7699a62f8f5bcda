"""What clients that take links may do wrong ends their route, stream or connection alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sira.kernel.local import end, record
from sira.kernel.node import Node

from .lenders import Memory, lending
from .linked import Linked, ledger_row, linked, on_node
from .raw import until
from .test_direct import TOPIC, pair

pytestmark = pytest.mark.integration


async def lives(node: Node, publisher: Linked, subscriber: Linked, call: int) -> None:
    """See that a route is had and used."""
    route = await publisher.granted(call, TOPIC)
    assert min(publisher.post(route, TOPIC)) > 0
    (target,) = route.targets
    assert len(subscriber.taken_from(target.link, target.cell)) == 1
    assert await ledger_row(node, TOPIC)


@pytest.mark.parametrize("wrong", ["the same number", "a smaller number", "no topic"])
def test_an_ask_that_is_none_ends_its_stream_alone(tmp_path: Path, wrong: str) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            call = await pair(publisher, subscriber)
            await publisher.answer(publisher.ask(call, TOPIC, 7))
            number = {"the same number": 7, "a smaller number": 6}.get(wrong, 8)
            publisher.ask(call, "a..b" if wrong == "no topic" else TOPIC, number)
            await until(lambda: call in publisher.statuses)
            code = "BAD_TOPIC" if wrong == "no topic" else "PROTOCOL_ERROR"
            assert publisher.statuses[call] == code
            await lives(node, publisher, subscriber, publisher.call("Publish"))

    on_node(tmp_path, work)


def test_an_ask_on_a_connection_that_takes_no_links_ends_its_stream(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node, links=False) as hostile:
            call = hostile.call("Publish")
            hostile.ask(call, TOPIC)
            await until(lambda: call in hostile.statuses)
            assert hostile.statuses[call] == "PROTOCOL_ERROR"

    on_node(tmp_path, work)


@pytest.mark.parametrize(
    "wrong", ["left, never asked", "link of others", "no link", "a page", "a route", "no links"]
)
def test_a_record_out_of_turn_ends_its_connection_alone(tmp_path: Path, wrong: str) -> None:
    async def work(node: Node) -> None:
        async with (
            linked(node) as publisher, linked(node) as subscriber,
            linked(node, links=wrong != "no links") as hostile,
        ):  # fmt: skip
            call = await pair(publisher, subscriber)
            route = await publisher.granted(call, TOPIC)
            link = route.targets[0].link
            if wrong == "left, never asked":
                hostile.left(1)
            elif wrong == "link of others":
                hostile.links_are_over(link)
            elif wrong == "no link":
                hostile.links_are_over(link + 1)
            elif wrong == "no links":
                hostile.left()
            else:
                kind = record.PAGE if wrong == "a page" else record.ROUTE
                hostile.channel.send(kind, 0, b"")
            assert await hostile.refused() == "PROTOCOL_ERROR"
            await lives(node, publisher, subscriber, call)

    on_node(tmp_path, work)


def test_a_link_that_its_reader_calls_corrupt_ends_and_its_pair_goes_by_the_node_for_a_while(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            call = await pair(publisher, subscriber)
            route = await publisher.granted(call, TOPIC)
            link = route.targets[0].link
            publisher.post(route, TOPIC)
            subscriber.links_are_over(link)
            await until(lambda: publisher.links_over == [link])
            row = await ledger_row(node, TOPIC)
            assert row is not None and dict(row.dropped) == {"PEER_LOST": 1}
            refused = await publisher.answer(publisher.ask(call, TOPIC))
            assert "broke" in refused.refused and refused.again_ms
            subscriber.links_are_over(link)  # said once more: both may say it at once
            publisher.left(route.ask)
            publisher.send(call, TOPIC)
            await until(lambda: any(each.HasField("message") for each in subscriber.items))

    on_node(tmp_path, work)


def test_any_bits_in_a_link_leave_the_node_and_its_books_whole(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            call = await pair(publisher, subscriber)
            rng = random.Random(7)
            for _ in range(40):
                route = await publisher.granted(call, TOPIC)
                memory = publisher.memory_of(route.targets[0].link)
                for _ in range(60):
                    at = rng.randrange(64, len(memory) - 8)
                    memory[at : at + 8] = rng.randbytes(8)
                assert await ledger_row(node, TOPIC)
                publisher.left(route.ask)
            memory.close()

    on_node(tmp_path, work)


def test_asks_without_end_are_refused_and_others_are_answered_meanwhile(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with (
            linked(node) as hostile, linked(node) as publisher, linked(node) as subscriber,
        ):  # fmt: skip
            call = await pair(publisher, subscriber)
            flood = hostile.call("Publish")
            for _ in range(2 * end.ASKS_MAX):
                hostile.ask(flood, "nobody.there")
            await lives(node, publisher, subscriber, call)
            await until(
                lambda: flood in hostile.statuses or len(hostile.routes) == 2 * end.ASKS_MAX
            )
            assert all(each.refused for each in hostile.routes.values())

    on_node(tmp_path, work)


def test_routes_of_one_connection_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, linked(node) as subscriber:
            call = await pair(publisher, subscriber, pattern="cam.>")
            for index in range(3):
                await publisher.granted(call, f"cam.{index}")
            refused = await publisher.answer(publisher.ask(call, "cam.3"))
            assert "3 routes" in refused.refused and refused.again_ms
            publisher.left(1)
            await publisher.granted(call, "cam.3")
            await publisher.granted(call, "cam.3")  # asked again: the one before is left
            assert node.direct.routes == 3

    monkeypatch.setattr("sira.kernel.local.direct.ROUTES_MAX", 3)
    on_node(tmp_path, work)


def test_who_talks_to_more_than_it_may_goes_by_the_node_until_one_is_not_talked_to(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        async with (
            linked(node) as publisher, linked(node) as a, linked(node) as b, linked(node) as c,
        ):  # fmt: skip
            call = publisher.call("Publish")
            for name, each in (("a", a), ("b", b), ("c", c)):
                each.subscribe(name)
                await each.opened()
            first = await publisher.granted(call, "a")
            await publisher.granted(call, "b")
            refused = await publisher.answer(publisher.ask(call, "c"))
            assert "links_per_connection_max = 2" in refused.refused
            publisher.left(first.ask)
            await until(lambda: node.direct.routes != 2)
            await ledger_row(node, "a")  # looks at the links: the cell was empty
            await publisher.answer(publisher.ask(call, "c"))
            await until(lambda: publisher.links_over == a.links_over == [first.targets[0].link])
            await publisher.granted(call, "c")

    on_node(tmp_path, work, links_per_connection_max=2)


def test_tenants_do_not_meet(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with (
            linked(node, who="one/agent/a") as publisher, linked(node, who="two/agent/b") as other,
            linked(node, who="one/agent/c") as same,
        ):  # fmt: skip
            call = await pair(publisher, other)
            refused = await publisher.answer(publisher.ask(call, TOPIC))
            assert "nobody listens" in refused.refused
            same.subscribe()
            await same.opened()
            route = await publisher.granted(call, TOPIC)
            assert route.matched == 1 and not other.readers

    on_node(tmp_path, work)


def test_the_memory_of_a_reply_is_shown_to_nobody_but_who_asked(tmp_path: Path) -> None:
    reply = "_reply.ab12"

    async def work(node: Node) -> None:
        with Memory() as memory:
            async with linked(node) as answers, linked(node) as asks, linked(node) as thief:
                asks.subscribe(reply)
                await asks.opened()
                for number, pattern in enumerate((reply, "_reply.>", "_reply.*", ">"), 1):
                    thief.subscribe(pattern, number)
                answers.bring(1, [memory.fd], memory.size, reply)
                call = answers.call("Publish")
                route = await answers.granted(call, reply)
                answers.publish(call, 1, 1, topic=reply)
                await asks.chunks(1)
                assert route.matched == 1 and list(route.segments) == [1]
                assert asks.linked_segments == {(route.targets[0].link, 1): memory.size}
                await thief.opened()  # ">", behind those that were refused
                refused = [i.ended.error.code for i in thief.items if i.HasField("ended")]
                assert len(refused) == 3 and set(refused) <= {"DENIED", "BAD_REQUEST"}
                assert not (thief.linked_segments or thief.shown or thief.readers)

    on_node(tmp_path, work)


def test_without_links_max_nothing_goes_past_the_node(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with linked(node) as publisher, lending(node) as subscriber:
            subscriber.subscribe()
            await subscriber.opened()
            call = publisher.call("Publish")
            publisher.ask(call, TOPIC)
            await until(lambda: publisher.statuses.get(call) == "PROTOCOL_ERROR")

    on_node(tmp_path, work, links_max=0)
