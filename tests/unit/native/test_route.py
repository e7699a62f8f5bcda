"""Routes past the node: when one is asked for, what a grant is worth, when it is left."""

from __future__ import annotations

import contextlib
import gc
import os
import weakref
from typing import Any

import pytest

from sira import _native
from sira.kernel.errors import SiraError

from .client_harness import LATER_NS, code_of, frame, large, receipt
from .route_harness import TOPIC, WORD, Link, Page, Routed


def test_the_second_message_within_ten_seconds_has_a_route_asked_for() -> None:
    routed = Routed()
    routed.outbox.push(TOPIC, "1")
    assert routed.asks() == []
    assert not routed.outbox.asking(TOPIC)
    routed.outbox.push(TOPIC, "2")
    assert routed.outbox.asking(TOPIC)
    assert routed.asks() == [(1, TOPIC)]
    assert routed.outbox.route_state(TOPIC) == "asked"
    routed.outbox.push("lab.y", "1")
    routed.outbox.push("lab.y", "2")
    assert routed.asks() == [(2, "lab.y")]  # numbers are never used twice


def test_without_links_nothing_is_asked() -> None:
    routed = Routed()
    routed.outbox.links = False
    for _ in range(10):
        routed.outbox.push(TOPIC, "x")
    assert routed.asks() == []
    assert routed.outbox.direct(TOPIC, "x") is None
    assert routed.outbox.route_state(TOPIC) is None


@pytest.mark.parametrize("options", [{"dedupe_key": "a"}, {"grade": 2}, {"fence_token": 3}])
def test_what_only_a_node_can_keep_asks_for_nothing_and_goes_by_the_node(
    options: dict[str, Any],
) -> None:
    routed, made = Routed(), _native.Options(**options)
    for _ in range(5):
        routed.outbox.push(TOPIC, "x", made)
    assert routed.asks() == []
    link, cell = routed.live()
    assert routed.outbox.direct(TOPIC, "x", made) is None
    assert link.texts(cell) == []


def test_the_ask_leaves_behind_everything_that_was_queued() -> None:
    routed = Routed(chunk_bytes=4096, chunk_bytes_busy=4096, lends=False)
    outbox = routed.outbox
    outbox.placer = None
    outbox.push(TOPIC, "1")
    outbox.push(TOPIC, "2")
    outbox.push("lab.large", large(count=300_000))
    outbox.push(TOPIC, "3", _native.Options(priority=3))
    kinds = [item.WhichOneof("kind") for item in routed.leaving()]
    assert kinds[-1] == "ask"
    assert kinds.count("ask") == 1
    assert kinds.count("chunk") == 74


def test_the_ask_waits_for_chunks_that_have_no_credit() -> None:
    routed = Routed(chunk_bytes=4096, transfer_window_bytes=4096, lends=False)
    outbox = routed.outbox
    outbox.placer = None
    made = outbox.push("lab.large", large(count=300_000))
    outbox.push(TOPIC, "1")
    outbox.push(TOPIC, "2")
    assert routed.asks() == []
    assert not outbox.ready
    outbox.feed(frame(receipt(made, "DENIED")))  # it is given up
    assert outbox.ready
    assert routed.asks() == [(1, TOPIC)]


def test_a_message_past_the_node_arrives_as_it_was_and_its_receipt_says_so() -> None:
    routed = Routed()
    link, cell = routed.live(matched=1)
    options = _native.Options(id=bytes(range(16)), priority=3, headers={"k": "v"})
    made = routed.outbox.direct(TOPIC, "hello", options)
    assert made is not None
    assert (made.lanes, made.matched, made.copies, made.bytes) == (["shm"], 1, 1, 5)
    assert made.grade == "accepted"
    got = link.take(cell)
    assert got is not None
    assert (got.text, got.topic, got.source, got.priority) == ("hello", TOPIC, "me", 3)
    assert got.id == made.id
    assert got.headers == {"k": "v"}
    assert routed.leaving() == []
    assert routed.outbox.posted == 1


def test_the_reader_is_rung_where_it_sleeps() -> None:
    routed = Routed()
    link, cell = routed.live()
    bells = _native.ShmBells(spin_us_max=0)
    token = bells.add(link.reader)
    assert bells.sleep()
    assert routed.outbox.direct(TOPIC, "x") is not None
    assert bells.wait(10) == [token]
    link.reader.look()
    assert link.texts(cell) == ["x"]


def test_a_moved_word_ends_the_route_before_the_next_message() -> None:
    routed = Routed()
    link, cell = routed.live()
    assert routed.outbox.direct(TOPIC, "1") is not None
    routed.page.move(WORD + 1)  # another topic's
    assert routed.outbox.direct(TOPIC, "2") is not None
    routed.page.move()
    assert routed.outbox.direct(TOPIC, "3") is None
    assert routed.outbox.asked_ended() == [1]
    assert routed.outbox.asked_ended() == []
    assert link.texts(cell) == ["1", "2"]
    assert routed.outbox.route_state(TOPIC) == "idle"


def test_a_message_by_the_node_leaves_the_route() -> None:
    routed = Routed()
    routed.live()
    routed.outbox.push(TOPIC, "by the node")
    assert routed.outbox.asked_ended() == [1]
    assert routed.outbox.direct(TOPIC, "x") is None
    assert routed.outbox.routes_live == 0


def test_a_message_by_the_node_after_the_ask_voids_the_grant() -> None:
    routed = Routed()
    link, ask = Link(), routed.asked()
    assert routed.outbox.asking(TOPIC)
    routed.outbox.push(TOPIC, "3")
    assert not routed.outbox.asking(TOPIC)
    assert not routed.grant(ask, (link, link.cell()))
    assert routed.outbox.direct(TOPIC, "x") is None
    assert routed.outbox.asked_ended() == []  # the caller gives it back


def test_a_message_before_the_ask_has_left_voids_nothing() -> None:
    routed = Routed()
    for text in ("1", "2", "3"):
        routed.outbox.push(TOPIC, text)
    assert not routed.outbox.asking(TOPIC)  # nobody waits for what may take long
    ((ask, _),) = routed.asks()
    assert routed.outbox.asking(TOPIC)
    link = Link()
    assert routed.grant(ask, (link, link.cell()))


def test_a_grant_whose_word_has_moved_or_that_nobody_asked_for_is_void() -> None:
    routed, link = Routed(), Link()
    ask = routed.asked()
    page = routed.page.shown
    target = [(link.writer, link.cell(), 10, 1)]
    assert not routed.outbox.route(ask + 1, page, WORD, page.word(WORD), target, [], 1)
    assert not routed.outbox.route(ask, page, WORD, page.word(WORD) + 1, target, [], 1)
    assert not routed.outbox.route(ask, page, WORD, page.word(WORD), target, [], 1)  # answered


def test_a_route_that_came_to_nothing_is_not_asked_for_again_at_once() -> None:
    routed, link = Routed(), Link()
    ask = routed.asked()
    routed.outbox.push(TOPIC, "3")
    assert not routed.grant(ask, (link, link.cell()))
    for _ in range(3):
        routed.outbox.push(TOPIC, "x")
    assert routed.asks() == []
    again: list[tuple[int, str]] = []
    while not again:  # pauses are some milliseconds
        routed.outbox.push(TOPIC, "x")
        again = routed.asks()
    assert again == [(2, TOPIC)]


def test_a_refusal_holds_until_its_word_moves() -> None:
    routed = Routed()
    page = routed.page.shown
    routed.outbox.refuse(routed.asked(), page, WORD, page.word(WORD), 0)
    assert not routed.outbox.asking(TOPIC)
    for _ in range(5):
        routed.outbox.push(TOPIC, "x")
    assert routed.asks() == []
    routed.page.move()
    routed.outbox.push(TOPIC, "x")
    assert routed.asks() == [(2, TOPIC)]


def test_a_refusal_for_a_time_ends_with_it() -> None:
    routed = Routed()
    routed.outbox.refuse(routed.asked(), None, 0, 0, 60_000)
    for _ in range(5):
        routed.outbox.push(TOPIC, "x")
    assert routed.asks() == []
    other = Routed()
    other.outbox.refuse(other.asked(), None, 0, 0, 1)
    again: list[tuple[int, str]] = []
    while not again:
        other.outbox.push(TOPIC, "x")
        again = other.asks()
    assert again == [(2, TOPIC)]


def test_all_targets_get_it_or_none() -> None:
    routed = Routed()
    one, other = Link(), Link(slots=16)
    cells = [one.cell(), one.cell(), other.cell()]
    targets = [(one, cells[0]), (one, cells[1]), (other, cells[2])]
    assert routed.grant(routed.asked(), *targets, window=4, matched=3)
    texts = [str(i) for i in range(4)]
    for text in texts:
        made = routed.outbox.direct(TOPIC, text)
        assert made is not None
        assert made.matched == 3
    assert routed.outbox.blocked(TOPIC) is None
    assert routed.outbox.direct(TOPIC, "too much") is None
    assert routed.outbox.blocked(TOPIC) is one.writer
    assert one.texts(cells[0]) == texts
    assert routed.outbox.blocked(TOPIC) is one.writer  # the second cell is full yet
    assert one.texts(cells[1]) == texts
    assert routed.outbox.blocked(TOPIC) is other.writer  # looked at again
    assert routed.outbox.direct(TOPIC, "too much") is None
    assert routed.outbox.blocked(TOPIC) is other.writer
    assert other.texts(cells[2]) == texts
    assert routed.outbox.direct(TOPIC, "more") is not None
    assert routed.outbox.blocked(TOPIC) is None
    assert one.texts(cells[0]) == one.texts(cells[1]) == other.texts(cells[2]) == ["more"]


def test_the_slots_of_one_link_are_asked_for_all_its_cells_together() -> None:
    routed, link = Routed(), Link(slots=64)
    cells = [link.cell() for _ in range(3)]
    assert routed.grant(routed.asked(), *((link, cell) for cell in cells), window=1000)
    count = 0
    while routed.outbox.direct(TOPIC, "x") is not None:
        count += 1
    assert count == (64 - 8) // 3
    assert {len(link.texts(cell)) for cell in cells} == {count}


def test_a_quiet_push_goes_past_the_node_by_itself() -> None:
    routed = Routed()
    link, cell = routed.live()
    made = routed.outbox.push(TOPIC, "x", _native.Options(quiet=True), object())
    got = link.take(cell)
    assert got is not None
    assert _native.Options(id=made) is not None
    assert got.id.replace("-", "") == made.hex()
    assert routed.outbox.unanswered == 2
    assert routed.leaving() == []
    routed.page.move()
    routed.outbox.push(TOPIC, "y", _native.Options(quiet=True))
    assert [item.message.tensors[0].data for item in routed.leaving()] == [b"y"]


def test_a_broken_link_ends_its_routes_and_is_told() -> None:
    routed = Routed()
    link, _ = routed.live()
    fd = os.dup(link.node.fileno())
    spoilt = bytearray(os.pread(fd, link.node.bytes, 0))
    for at in range(192, 192 + 8 * 64):  # whatever lies behind the head: bits of what never was
        spoilt[at] = 0xFF
    os.pwrite(fd, spoilt, 0)
    os.close(fd)
    while (posted := routed.outbox.direct(TOPIC, "x")) is not None:
        pass
    assert posted is None
    if routed.outbox.route_state(TOPIC) != "live":
        assert routed.outbox.broken_links() == [link.writer]
        assert routed.outbox.broken_links() == []
        assert routed.outbox.asked_ended() == [1]
    else:
        pytest.fail("the link was not found out")


def test_a_link_that_was_ended_ends_its_routes_without_a_word() -> None:
    routed = Routed()
    link, _ = routed.live()
    link.writer.end()
    assert routed.outbox.direct(TOPIC, "x") is None
    assert routed.outbox.broken_links() == []
    assert routed.outbox.asked_ended() == [1]


def test_a_lost_connection_forgets_what_was_asked_and_keeps_what_is_live() -> None:
    routed = Routed()
    link, cell = routed.live()
    ask = routed.asked("lab.y")
    routed.outbox.rewind()
    assert not routed.outbox.asking("lab.y")
    assert routed.outbox.direct(TOPIC, "x") is not None
    assert link.texts(cell) == ["x"]
    assert not routed.grant(ask, (link, link.cell()))
    routed.outbox.links = False
    assert routed.outbox.direct(TOPIC, "x") is None
    assert routed.outbox.asked_ended() == []  # the next node knows nothing of them
    routed.outbox.links = True
    assert routed.asked() > ask


def test_clear_forgets_what_was_asked() -> None:
    routed = Routed()
    ask = routed.asked()
    routed.outbox.clear()
    link = Link()
    assert not routed.grant(ask, (link, link.cell()))


def test_topics_beyond_the_limit_are_forgotten_but_live_ones_are_not() -> None:
    routed = Routed()
    link, cell = routed.live()
    for i in range(5000):
        routed.outbox.push(f"lab.{i}", "x")
    assert routed.outbox.route_state("lab.0") is None
    assert routed.outbox.route_state("lab.4999") == "idle"
    assert routed.outbox.direct(TOPIC, "x") is not None
    assert link.texts(cell) == ["x"]


def test_so_many_are_asked_for_at_a_time() -> None:
    routed = Routed()
    for _ in range(2):
        for i in range(100):
            routed.outbox.push(f"lab.{i}", "x")
    assert len(routed.asks()) == 64
    for ask in range(1, 65):
        routed.outbox.refuse(ask, None, 0, 0, 60_000)
    for i in range(100):
        routed.outbox.push(f"lab.{i}", "x")
    assert len(routed.asks()) == 36


def test_a_topic_that_is_a_str_of_another_kind_is_the_same_topic() -> None:
    class Name(str):
        def __hash__(self) -> int:
            raise AssertionError("looked up by the program's own code")

        __eq__ = str.__eq__

    routed = Routed()
    link, cell = routed.live()
    assert routed.outbox.direct(Name(TOPIC), "x") is not None
    assert link.texts(cell) == ["x"]
    routed.outbox.push(Name(TOPIC), "y")
    assert routed.outbox.route_state(TOPIC) == "idle"


def test_routes_keep_writers_and_an_outbox_that_ends_lets_them_go() -> None:
    routed = Routed()
    link, _ = routed.live()
    gc.collect()  # what other tests have left does not go during this one
    before = len(os.listdir("/proc/self/fd"))
    writer = weakref.finalize(link, lambda: None)
    assert writer.alive
    node = link.node
    del link
    assert routed.outbox.direct(TOPIC, "x") is not None
    routed.outbox.links = False
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before
    assert node.counts()[0][0][0] == 1


def memory_files() -> set[str]:
    """Return the descriptors of shared memory: nobody beside this test has any come or go."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder's own
            if "memfd:" in os.readlink(f"/proc/self/fd/{fd}"):
                found.add(fd)
    return found


def test_the_page_is_read_only_and_checked() -> None:
    page = Page(words=16).shown
    assert page.words == 16
    assert page.word(3) == 0
    with pytest.raises(IndexError):
        page.word(16)
    fd = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 128)
    assert code_of(_native.ShmPage, fd, 16) == "LINK_CORRUPT"  # not sealed
    os.close(fd)  # the caller's still
    gc.collect()  # what other tests have left does not go during this one
    before = memory_files()
    kept = Page().shown
    assert memory_files() == before  # the mapping is enough
    assert kept.words == 16


def test_a_grant_out_of_range_is_refused_by_name() -> None:
    routed, link = Routed(), Link(cells=4)
    ask = routed.asked()
    page = routed.page.shown
    good = (link.writer, 0, 10, 1)
    for word, targets in (
        (16, [good]),
        (WORD, []),
        (WORD, [(link.writer, 4, 10, 1)]),
        (WORD, [good, good]),
        (WORD, [good] * 65),
    ):
        with pytest.raises(SiraError) as caught:
            routed.outbox.route(ask, page, word, 0, targets, [], 1)
        assert caught.value.code == "PROTOCOL_ERROR"
    assert routed.outbox.route(ask, page, WORD, 0, [good], [], 1)


def test_take_says_nothing_where_there_is_nothing() -> None:
    routed = Routed()
    assert routed.outbox.take(LATER_NS) is None
