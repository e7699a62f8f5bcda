"""What the node has to do with messages that pass it by: the page of words that move with topics,
questions for a route, what must be over before one begins, and the books."""

from __future__ import annotations

import mmap
import os
import random
import struct
from collections.abc import Callable, Iterator

import pytest

from sira import _native
from sira.kernel.errors import BadRequest, BadTopic, ProtocolError, SiraError, Unsupported
from sira.v1 import bus_pb2

from .hub_harness import SECOND_NS, Bench, chunks, head, item, message, rows

WORDS = 4096
PAGE_BYTES = WORDS * 8


@pytest.fixture
def page() -> Iterator[tuple[Bench, int]]:
    bench = Bench()
    fd = bench.hub.open_page()
    yield bench, fd
    os.close(fd)


def words_of(fd: int) -> tuple[int, ...]:
    with mmap.mmap(fd, PAGE_BYTES, prot=mmap.PROT_READ) as mapped:
        return struct.unpack(f"<{WORDS}Q", mapped)


def other_word(hub: _native.Hub, name: str) -> str:
    """A name that moves another word."""
    return next(n for n in map(str, range(100)) if hub.word_of(n) != hub.word_of(name))


# ---- the page ----------------------------------------------------------------------------------


def test_each_change_of_a_topic_moves_its_word_and_no_other(page: tuple[Bench, int]) -> None:
    bench, fd = page
    hub = bench.hub
    name = "robot.arm.joints"
    changes: list[Callable[[], object]] = [
        lambda: hub.touch(name),  # nobody has declared it yet
        lambda: hub.declare(name),
        lambda: hub.touch(name),
        lambda: hub.declare(name, retain=True),
        lambda: hub.drop(name),
    ]
    for index, change in enumerate(changes):
        before = words_of(fd)
        change()
        after = words_of(fd)
        moved = [i for i in range(WORDS) if before[i] != after[i]]
        assert moved == [hub.word_of(name)], index
        assert after[moved[0]] == before[moved[0]] + 1 == hub.word(moved[0])


def test_a_touch_of_all_moves_every_word(page: tuple[Bench, int]) -> None:
    bench, fd = page
    before = words_of(fd)
    bench.hub.touch()
    assert words_of(fd) == tuple(word + 1 for word in before)


def test_what_changes_nothing_moves_no_word(page: tuple[Bench, int]) -> None:
    bench, fd = page
    subscriber = bench.subscriber()
    subscriber.open("x")
    publisher = bench.publisher()
    publisher.publish("x")  # declares it
    before = words_of(fd)
    for _ in range(20):
        publisher.publish("x")
    subscriber.items()
    bench.tick(1)
    bench.hub.drop("never.there")
    assert words_of(fd) == before


def test_names_are_spread_over_the_words() -> None:
    hub = Bench().hub
    used = {hub.word_of(f"fleet.{i}.pose") for i in range(4 * WORDS)}
    assert len(used) > 0.9 * WORDS and used <= set(range(WORDS))
    assert hub.word_of("a" * 255) == hub.word_of("a" * 255)
    with pytest.raises(TypeError):
        hub.word_of(b"x")  # type: ignore[arg-type]


def test_who_gets_the_page_can_read_it_and_nothing_else(page: tuple[Bench, int]) -> None:
    bench, fd = page
    before = words_of(fd)
    for opened in (fd, os.open(f"/proc/self/fd/{fd}", os.O_RDWR)):
        with pytest.raises(PermissionError):
            mmap.mmap(opened, PAGE_BYTES, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        with pytest.raises(PermissionError):
            os.pwrite(opened, bytes(8), 0)
        for size in (0, PAGE_BYTES - 1, PAGE_BYTES + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(opened, size)
        if opened != fd:
            os.close(opened)
    bench.hub.touch()  # and the node writes on
    assert words_of(fd) == tuple(word + 1 for word in before)


def test_each_one_who_opens_the_page_gets_the_same_memory_and_a_descriptor_of_its_own(
    page: tuple[Bench, int],
) -> None:
    bench, fd = page
    again = bench.hub.open_page()
    assert again != fd and os.fstat(again).st_ino == os.fstat(fd).st_ino
    os.close(again)
    bench.hub.touch("x")
    assert words_of(fd)[bench.hub.word_of("x")] == 1


def test_the_page_goes_with_its_hub_and_who_has_mapped_it_keeps_its_last_words() -> None:
    bench = Bench()
    fd = bench.hub.open_page()
    bench.hub.declare("x")
    bench.hub.close()  # drops all topics: routes to them have ended
    index, value = bench.hub.word_of("x"), bench.hub.word(bench.hub.word_of("x"))
    assert value >= 2
    del bench
    assert words_of(fd)[index] == value
    os.close(fd)


def test_a_hub_whose_page_nobody_opened_works_without_one() -> None:
    hub = Bench().hub
    hub.declare("x")
    hub.touch()
    with pytest.raises(Unsupported):
        hub.word(0)
    os.close(hub.open_page())
    assert hub.word(WORDS - 1) == 0
    with pytest.raises(IndexError):
        hub.word(WORDS)
    with pytest.raises(OverflowError):
        hub.word(-1)


# ---- questions ---------------------------------------------------------------------------------


def ask(number: int, topic: str) -> bus_pb2.Item:
    return bus_pb2.Item(ask=bus_pb2.RouteAsk(ask=number, topic=topic))


def test_a_question_is_heard_behind_all_that_stands_before_it_in_its_frame() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    heard: list[tuple[int, str, int]] = []
    publisher.stream.asked = lambda number, topic: heard.append((number, topic, sub.pending))
    publisher.send(item(message("x")), ask(7, "x"), item(message("x")), ask(8, "x.é"))
    assert heard == [(7, "x", 1), (8, "x.é", 2)]
    bench.assert_balanced()


def test_a_question_where_nobody_answers_any_ends_the_stream() -> None:
    publisher = Bench().publisher()
    assert publisher.stream.asked is None
    with pytest.raises(ProtocolError):
        publisher.send(ask(1, "x"))


@pytest.mark.parametrize("body", [b"\x0a\x01x", b"\x12\xff", b"\x08"])
def test_a_question_that_cannot_be_read_ends_the_stream(body: bytes) -> None:
    publisher = Bench().publisher()
    heard: list[object] = []
    publisher.stream.asked = lambda *args: heard.append(args)
    with pytest.raises(SiraError) as caught:
        publisher.stream.feed(_native.control_frame(17, body), SECOND_NS)
    assert caught.value.code == "FRAME_CORRUPT" and not heard


@pytest.mark.parametrize("topic", ["", "a..b", "a.*", ">", "a" * 256])
def test_a_question_for_what_is_no_topic_ends_the_stream(topic: str) -> None:
    publisher = Bench().publisher()
    heard: list[object] = []
    publisher.stream.asked = lambda *args: heard.append(args)
    with pytest.raises(BadTopic):
        publisher.send(ask(1, topic))
    assert not heard


@pytest.mark.parametrize("kind", [18, 19])
def test_what_only_the_node_says_of_cells_ends_a_publish_stream(kind: int) -> None:
    publisher = Bench().publisher()
    with pytest.raises(ProtocolError):
        publisher.stream.feed(_native.control_frame(kind, b""), SECOND_NS)


def test_a_control_frame_says_what_is_told_of_routes() -> None:
    opened = bus_pb2.CellOpen(subscription=3, link=4, cell=5, topic="x", stamp=b"\x01")
    frame = _native.control_frame(bus_pb2.Item.CELL_OPEN_FIELD_NUMBER, opened.SerializeToString())
    assert bus_pb2.Frame.FromString(frame).items[0].cell_open == opened
    with pytest.raises(BadRequest):
        _native.control_frame(20, b"")


def test_who_hears_a_question_may_publish_elsewhere_and_close_the_stream() -> None:
    bench = Bench()
    publisher, other, subscriber = bench.publisher(), bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")

    def asked(number: int, topic: str) -> None:
        other.publish(topic, b"inside")
        publisher.stream.asked = None
        publisher.close()

    publisher.stream.asked = asked
    publisher.send(item(message("x", b"before")), ask(1, "x"), item(message("x", b"never")))
    assert subscriber.payloads() == [b"before", b"inside"] and sub.pending == 0
    assert publisher.stream.asked is None
    bench.assert_balanced()


def test_what_is_raised_about_a_question_ends_the_frame() -> None:
    bench = Bench()
    publisher = bench.publisher()

    def asked(number: int, topic: str) -> None:
        raise ValueError("no more of these")

    publisher.stream.asked = asked
    with pytest.raises(ValueError, match="no more"):
        publisher.send(item(message("x")), ask(1, "x"), item(message("x")))
    assert len(publisher.receipts()) == 1


# ---- what must be over -------------------------------------------------------------------------


def test_a_stream_waits_on_a_topic_as_long_as_one_message_of_it_is_parked() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    for _ in range(3):  # one is sent, one queued, one parked
        assert not publisher.stream.waits("x")
        publisher.publish("x")
        subscriber.items()
    assert publisher.stream.waits("x") and not publisher.stream.waits("y")
    while sub.in_flight:
        subscriber.take(sub, sub.in_flight)
        bench.hub.release(bench.now_ns)
        subscriber.items()
    assert not publisher.stream.waits("x")
    with pytest.raises(TypeError):
        publisher.stream.waits(b"x")  # type: ignore[arg-type]


def test_a_stream_waits_on_a_topic_until_its_large_message_is_whole_or_given_up() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    first, second = head("x", [3000, 0]), head("x", [3000])
    publisher.send(bus_pb2.Item(head=first), bus_pb2.Item(head=second))
    for part in chunks(first, 1000):
        assert publisher.stream.waits("x") and not publisher.stream.waits("y")
        publisher.stream.feed(part, bench.now_ns)
    assert publisher.stream.waits("x")
    publisher.send(bus_pb2.Item(abort=bus_pb2.Abort(message_id=second.id)))
    assert not publisher.stream.waits("x")


def test_a_subscription_is_idle_when_all_that_it_was_given_has_been_sent() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub, other = subscriber.open("x"), subscriber.open("y")
    assert sub.idle
    publisher.publish("x")
    assert not sub.idle and other.idle
    subscriber.items()
    assert sub.idle and sub.in_flight == 1  # on its way: what follows comes behind
    made = head("x", [3000])
    publisher.send(bus_pb2.Item(head=made))
    assert not sub.idle
    for part in chunks(made, 1000):
        subscriber.items()  # the head, and what is there
        assert not sub.idle and sub.pending == 0 and other.idle
        publisher.stream.feed(part, bench.now_ns)
    assert not sub.idle
    subscriber.items()
    assert sub.idle
    subscriber.close_sub(sub)
    assert not sub.idle


def test_a_subscription_that_is_stalled_is_not_idle() -> None:
    bench = Bench(queue_messages_max=1, stall_ns=SECOND_NS, block_ns=SECOND_NS // 10)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=2, overflow=2)
    for _ in range(3):
        publisher.publish("x")
        subscriber.items()
    bench.tick(2)
    assert sub.stalled
    sub.withhold({"x"}, bench.now_ns)
    assert sub.pending == 0 and not sub.idle
    subscriber.take(sub, 1)
    assert sub.idle


# ---- the books ---------------------------------------------------------------------------------


def test_what_passed_by_counts_like_what_came() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    publisher.publish("x")
    subscriber.items()
    subscriber.take(sub, 1)
    topic, before = bench.hub.topic("x"), bench.hub.stats
    assert topic is not None
    bench.hub.account(topic, published=10, owed=20, pending=20, now_ns=5 * SECOND_NS)
    bench.assert_balanced()
    bench.hub.account(
        topic, delivered=12, pending=-20, expired=1, superseded=2,
        dropped={"PEER_LOST": 3, "UNSUBSCRIBED": 2, "STALLED": 0}, sub=sub,
    )  # fmt: skip
    bench.assert_balanced()
    assert bench.row("x") == {
        "topic": "x", "class_row": False, "published": 11, "owed": 21, "delivered": 13,
        "pending": 0, "retained": 0, "superseded": 2, "expired": 1,
        "dropped": {"PEER_LOST": 3, "UNSUBSCRIBED": 2}, "refused": {},
    }  # fmt: skip
    assert (sub.delivered, sub.dropped, topic.published) == (13, 6, 11)
    assert topic.used_ns == 5 * SECOND_NS
    assert bench.hub.dropped == {"PEER_LOST": 3, "UNSUBSCRIBED": 2}
    after = bench.hub.stats
    moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert moved == {
        "messages_in": 10, "messages_direct": 10, "deliveries_out": 12, "deliveries_direct": 12,
    }  # fmt: skip


@pytest.mark.parametrize(
    "counts",
    [
        {"owed": 1},
        {"owed": 2, "delivered": 1},
        {"delivered": 1},
        {"owed": 3, "delivered": 1, "pending": 1, "dropped": {"PEER_LOST": 2}},
        {"delivered": 3, "pending": -2},
        {"delivered": 4, "pending": -4},  # three are on links
        {"pending": -(2**63)},
        {"owed": 2**64 - 1, "pending": 2**63 - 1, "delivered": 2**63 - 1},
        {"owed": 0, "delivered": 2**64 - 1, "expired": 1},  # 0, modulo 2**64
    ],
)
def test_counts_that_cannot_be_are_refused_and_nothing_is_counted(
    counts: dict[str, object],
) -> None:
    bench = Bench()
    topic = bench.hub.declare("x")
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    for _ in range(5):
        publisher.publish("x")  # pending on the node: no link's
    bench.hub.account(topic, published=3, owed=3, pending=3)
    before = (rows(bench.hub), bench.hub.stats, bench.hub.dropped, sub.dropped)
    with pytest.raises(ValueError, match=r"x: "):
        bench.hub.account(topic, sub=sub, published=9, **counts)  # type: ignore[arg-type]
    assert (rows(bench.hub), bench.hub.stats, bench.hub.dropped, sub.dropped) == before


def test_counts_that_are_no_counts_are_refused() -> None:
    bench = Bench()
    topic, stranger = bench.hub.declare("x"), Bench().hub.declare("x")
    for name in ("published", "owed", "delivered", "expired", "superseded"):
        for value in (-1, 2**64):
            with pytest.raises(OverflowError):
                bench.hub.account(topic, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        bench.hub.account(topic, dropped={"PEER_LOST": 2**64 - 1, "STALLED": 1})
    with pytest.raises(OverflowError):
        bench.hub.account(topic, pending=2**63)
    with pytest.raises(ValueError, match="another hub"):
        bench.hub.account(stranger)
    with pytest.raises(ValueError, match="reasons"):
        bench.hub.account(topic, owed=17, dropped={f"R{i}": 1 for i in range(17)})
    for wrong in ({"dropped": 3}, {"dropped": {3: 1}}, {"dropped": {"X": "1"}}, {"sub": 1}):
        with pytest.raises(TypeError):
            bench.hub.account(topic, **wrong)  # type: ignore[arg-type]
    assert rows(bench.hub) == []


def test_what_is_on_links_when_its_topic_goes_is_settled_in_its_class() -> None:
    bench = Bench()
    topic = bench.hub.declare("own.x", group="own")
    bench.hub.account(topic, published=4, owed=4, pending=4)
    bench.hub.drop("own.x")
    again = bench.hub.declare("own.x", group="own")
    with pytest.raises(ValueError, match="on links"):
        bench.hub.account(again, delivered=4, pending=-4)
    bench.hub.account(topic, delivered=3, pending=-4, dropped={"PEER_LOST": 1})
    row = bench.row("own")
    assert (row["published"], row["delivered"], row["pending"]) == (4, 3, 0)
    bench.assert_balanced()


def test_two_topics_of_a_class_fold_with_what_they_have_on_links() -> None:
    bench, rng = Bench(), random.Random(3)
    topics = [bench.hub.declare(f"own.{i}", group="own") for i in range(5)]
    on_links = [rng.randrange(1, 50) for _ in topics]
    for topic, count in zip(topics, on_links, strict=True):
        bench.hub.account(topic, published=count, owed=count, pending=count)
    for topic in topics:
        bench.hub.drop(topic.name)
    assert bench.row("own")["pending"] == sum(on_links)
    for topic, count in zip(topics, on_links, strict=True):
        bench.hub.account(topic, delivered=count, pending=-count)
        bench.assert_balanced()
    assert bench.row("own")["pending"] == 0
