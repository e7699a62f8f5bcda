"""Messages past the node: cells of links bound to mailboxes, their order, their ends."""

from __future__ import annotations

import gc
import os
import select
import weakref

import numpy as np
import pytest

from sira import _native
from sira.v1 import message_pb2

from .client_harness import SUBSCRIPTION, Box, attached, code_of, frame, inline_item, message
from .link_harness import STAMP, TOPIC, Link, bound, cell_end, cell_open

ZEROS = {"x": np.zeros(1000)}


def rings(reader: _native.ShmReader) -> bool:
    return bool(select.select([reader.bell], [], [], 0)[0])


def test_what_is_posted_into_a_bound_cell_is_popped_and_counted_as_taken_then() -> None:
    link, box = bound()
    link.send("a", "b", "c")
    assert link.reader.distribute() == 3
    assert (box.depth, link.reader.depth, link.counts()) == (3, 3, (3, 0, 3))
    first = box.pop()
    assert first is not None
    assert (first.text, first.topic, link.counts()) == ("a", TOPIC, (3, 1, 2))
    assert box.texts() == ["b", "c"]
    assert (box.depth, box.held_bytes, link.reader.depth, link.counts()) == (0, 0, 0, (3, 3, 0))


def test_messages_of_a_link_have_the_type_the_context_and_the_stamp_of_their_mailbox() -> None:
    class Own(_native.Message):
        pass

    link, box = Link(), Box()
    box.configure(message_type=Own, context="c", credit_every=0, wake=None, on_credit=None)
    box.bind(link.reader, 0, TOPIC, STAMP)
    link.send({"x": np.arange(5)}, correlation_id=_native.new_id(), source="gpu-1")
    link.reader.distribute()
    got = box.pop()
    assert type(got) is Own
    assert (got.context, got.principal, got.tenant, got.source) == ("c", "alice", "lab", "gpu-1")
    assert got["x"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 40, 110, 5_000, 400_000])
def test_a_body_of_any_size_is_read_where_it_lies_and_goes_back_with_its_last_array(
    count: int,
) -> None:
    link, box = bound()
    body = {"x": np.arange(count, dtype=np.float32), "y": np.full((2, 3), 9, np.int16)}
    link.send(body, priority=3)
    link.reader.distribute()
    got = box.pop()
    assert got is not None
    assert (got.priority, got.principal) == (3, "alice")
    x = got["x"]
    np.testing.assert_array_equal(x, body["x"])
    np.testing.assert_array_equal(got["y"], body["y"])
    del got
    gc.collect()
    assert link.writer.collect()[1] == (count > 100)  # held while an array lives
    del x
    gc.collect()
    assert link.writer.collect() == (64, 0)


def test_a_head_too_long_for_a_slot_gets_its_stamp_too() -> None:
    link, box = bound()
    names = [f"tensor-{i:03d}-with-a-rather-long-name" for i in range(40)]
    link.send({name: np.full(50, i, np.uint8) for i, name in enumerate(names)})
    link.reader.distribute()
    got = box.pop()
    assert got is not None
    assert (got.principal, list(got)) == ("alice", names)
    assert [got[name].tolist() for name in names] == [[i] * 50 for i in range(40)]


def test_the_ttl_of_a_message_is_what_is_left_of_it() -> None:
    link, box = bound()
    link.send("a", ttl_ns=3600 * 10**9)
    link.send("b")
    link.reader.distribute()
    a, b = box.pop(), box.pop()
    assert a is not None and b is not None
    assert 0 < a.ttl_ns < 3600 * 10**9
    assert b.ttl_ns == 0


def test_expired_messages_are_passed_over() -> None:
    link, box = bound()
    link.send("late", ttl_ns=1)
    link.send("good")
    link.send("late", ttl_ns=1)
    link.reader.distribute()
    assert box.depth == 3
    assert box.texts() == ["good"]
    assert (box.depth, link.counts()) == (0, (3, 1, 0))


def test_priorities_of_links_and_of_the_node_are_one_order() -> None:
    inbox, box = attached()
    link = Link()
    box.bind(link.reader, 0, TOPIC, STAMP)
    link.send("link0")
    link.send("link5", priority=5)
    inbox.feed(frame(inline_item(message("node3", priority=3)), inline_item(message("node0"))))
    inbox.feed(frame(inline_item(message("node7", priority=7))))
    link.send("link6", priority=6)
    link.reader.distribute()
    assert box.texts() == ["node7", "link6", "link5", "node3", "link0", "node0"]


# ---- order over a change of way ------------------------------------------------------------------
def test_what_the_mailbox_held_when_a_cell_was_bound_comes_before_it() -> None:
    inbox, box = attached()
    link = Link()
    inbox.feed(frame(inline_item(message("node1")), inline_item(message("node2"))))
    link.send("link1")
    box.bind(link.reader, 0, TOPIC, STAMP)
    link.send("link2")
    link.reader.distribute()
    assert box.texts() == ["node1", "node2", "link1", "link2"]


def test_what_the_node_sends_comes_behind_what_was_posted_before_it() -> None:
    inbox, box = attached()
    link = Link()
    box.bind(link.reader, 0, TOPIC, STAMP)
    link.send("link1", "link2")  # nobody has looked
    inbox.feed(frame(inline_item(message("node1"))))
    link.send("link3")
    inbox.feed(frame(inline_item(message("node2"))))
    assert box.texts() == ["link1", "link2", "node1", "link3", "node2"]


@pytest.mark.parametrize("same_link", [True, False])
def test_a_cell_comes_behind_what_lies_in_cells_that_were_bound_before_it(same_link: bool) -> None:
    box, old = Box(), Link()
    new = old if same_link else Link()
    box.bind(old.reader, 5, TOPIC, STAMP)
    old.send("old1", cell=5)  # nobody has looked when its publisher has another cell
    new.send("new1", cell=3)
    old.send("old2", cell=5, priority=7)
    box.bind(new.reader, 3, TOPIC, STAMP)
    new.send("new2", cell=3, priority=7)
    new.reader.distribute()
    assert box.texts() == ["old2", "new2", "old1", "new1"]


def test_what_a_barrier_finds_for_another_mailbox_wakes_it() -> None:
    inbox, box = attached()
    other, link = Box(), Link()
    box.bind(link.reader, 0, TOPIC, STAMP)
    other.bind(link.reader, 1, TOPIC, STAMP)
    other.arm()
    link.send("for the other", cell=1)
    inbox.feed(frame(inline_item(message("node"))))
    assert (other.wakes, other.depth) == (1, 1)
    assert link.reader.distribute() == 0  # seen already
    assert other.texts() == ["for the other"]


def test_expired_messages_do_not_let_a_later_one_past_the_node() -> None:
    inbox, box = attached()
    link = Link()
    box.bind(link.reader, 0, TOPIC, STAMP)
    link.send("late", ttl_ns=1)
    inbox.feed(frame(inline_item(message("node"))))
    link.send("link")
    link.reader.distribute()
    assert box.texts() == ["node", "link"]


# ---- the Subscribe stream ------------------------------------------------------------------------
def test_a_cell_opens_and_ends_where_its_item_stands_in_the_stream() -> None:
    inbox, box = attached()
    link = Link()
    inbox.link(1, link.reader)
    link.send("link1", "link2")
    before, behind = inline_item(message("node1")), inline_item(message("node2"))
    assert inbox.feed(frame(before, cell_open(), behind)) is None
    assert (link.reader.bound, box.cells, box.depth) == (1, 1, 4)
    assert [m.text for m in (box.pop(), box.pop()) if m] == ["node1", "link1"]
    assert inbox.feed(frame(cell_end(), inline_item(message("node3")))) is None
    assert (link.reader.bound, box.cells, link.reader.depth) == (0, 0, 0)
    assert box.texts() == ["node2", "node3"]
    assert link.counts() == (2, 1, 0)  # what was left there is nobody's


def test_an_opened_cell_wakes_its_mailbox() -> None:
    inbox, box = attached()
    link = Link()
    inbox.link(1, link.reader)
    box.arm()
    link.send("a")
    inbox.feed(frame(cell_open()))
    assert box.wakes == 1


def test_cells_of_unknown_links_and_subscriptions_come_out_for_python() -> None:
    inbox, _box = attached()
    link = Link()
    items = [cell_open(link=2), cell_end(link=2), cell_open(subscription=SUBSCRIPTION + 1)]
    controls = inbox.feed(frame(*items))
    assert controls is not None
    assert [kind for kind, _body in controls] == [18, 19, 18]
    inbox.link(2, link.reader)
    assert inbox.feed(frame(items[0])) is None
    inbox.unlink(2)
    inbox.unlink(2)
    assert (link.reader.bound, inbox.feed(frame(items[1]))) == (1, controls[1:2])


@pytest.mark.parametrize(
    "item",
    [
        cell_open(cell=16),
        cell_open(topic="no topic.*"),
        cell_open(topic=""),
        cell_open(stamp=b"\xff"),
        cell_open(stamp=b"\x00" * 2000),
        cell_open(stamp=message_pb2.Message(topic="other").SerializeToString()),
        cell_end(cell=16),
    ],
)
def test_what_no_node_says_of_cells_is_refused(item: object) -> None:
    inbox, box = attached()
    link = Link()
    inbox.link(1, link.reader)
    code_of(inbox.feed, frame(item))  # type: ignore[arg-type]
    assert (link.reader.bound, box.cells) == (0, 0)


# ---- waking --------------------------------------------------------------------------------------
def test_distribute_wakes_each_armed_mailbox_that_got_something_once() -> None:
    link, boxes = Link(), [Box() for _ in range(3)]
    for cell, box in enumerate(boxes):
        box.bind(link.reader, cell, TOPIC, STAMP)
        box.arm()
    link.send("a", "b", cell=0)
    link.send("c", cell=2)
    assert link.reader.distribute() == 3
    link.send("d", cell=0)
    assert link.reader.distribute() == 1
    assert [box.wakes for box in boxes] == [1, 0, 1]
    assert [box.texts() for box in boxes] == [["a", "b", "d"], [], ["c"]]


def test_an_empty_pop_looks_at_the_links_but_not_for_ever() -> None:
    link, box = bound()
    taken = 0
    link.send("x")
    while (got := box.pop()) is not None:
        assert got.text == "x"
        taken += 1
        link.send("x")
        assert taken < 1000, "a loop that pops would never end"
    assert taken > 1
    box.arm()  # the consumer waits: its loop has a turn
    assert box.pop() is not None


def test_iteration_gives_messages_of_links_without_suspending() -> None:
    link, box = bound()
    link.send("a", "b")

    async def read() -> list[str]:
        found = []
        with pytest.raises(LookupError, match="would wait"):
            async for got in box:
                found.append(got.text)
        return found

    reader = read()
    with pytest.raises(StopIteration) as stopped:
        reader.send(None)
    assert stopped.value.value == ["a", "b"]


def test_credits_are_of_messages_of_the_node_alone() -> None:
    inbox, box = attached()
    link = Link()
    box.bind(link.reader, 0, TOPIC, STAMP)
    link.send("link1")
    inbox.feed(frame(inline_item(message("node1"))))
    link.send("link2")
    link.reader.distribute()
    assert box.texts() == ["link1", "node1", "link2"]
    assert box.take_credit() == 1


# ---- many ----------------------------------------------------------------------------------------
def test_a_thousand_cells_of_one_mailbox() -> None:
    cells = 1000
    link, box = Link(slots=2048, cells=cells), Box()
    for cell in range(cells):
        box.bind(link.reader, cell, f"lab.t{cell}", STAMP)
    assert box.cells == link.reader.bound == cells
    for text in ("one", "two"):
        for cell in reversed(range(0, cells, 2)):
            link.send(text, cell=cell, topic=f"lab.t{cell}")
    assert link.reader.distribute() == cells
    got = [box.pop() for _ in range(cells)]
    assert box.pop() is None
    by_topic: dict[str, list[str]] = {}
    for each in got:
        assert each is not None
        by_topic.setdefault(each.topic, []).append(each.text)
    assert by_topic == {f"lab.t{cell}": ["one", "two"] for cell in range(0, cells, 2)}


def test_many_links_of_one_mailbox() -> None:
    box, links = Box(), [Link(cells=1, slots=8) for _ in range(100)]
    for number, link in enumerate(links):
        box.bind(link.reader, 0, f"lab.t{number}", STAMP)
    for number in (3, 50, 99):
        links[number].send(str(number), topic=f"lab.t{number}")
    assert sorted(box.texts()) == ["3", "50", "99"]
    for link in links[::2]:
        assert box.unbind(link.reader, 0)
    for number in (3, 50, 99):
        links[number].send(str(number), topic=f"lab.t{number}")
    box.arm()
    assert sorted(box.texts()) == ["3", "99"]


# ---- ends ----------------------------------------------------------------------------------------
def test_an_unbound_cell_gives_nothing_and_its_slots_and_chunks_return() -> None:
    inbox, box = attached()
    link = Link(cells=2)
    box.bind(link.reader, 0, TOPIC, STAMP)
    box.bind(link.reader, 1, TOPIC, STAMP)
    link.send("a", ZEROS, cell=0)
    link.send("b", cell=1)
    inbox.feed(frame(inline_item(message("node"))))
    link.send("unseen", cell=0)
    assert box.unbind(link.reader, 0)
    assert not box.unbind(link.reader, 0)
    assert box.depth == 2
    link.send("later", ZEROS, cell=0)  # the publisher has not heard of it yet
    link.reader.distribute()
    assert box.texts() == ["b", "node"]
    assert link.writer.collect() == (64, 0)
    assert link.counts(0) == (5, 0, 0)
    assert code_of(box.bind, link.reader, 0, TOPIC, STAMP) == "PROTOCOL_ERROR"


def test_closed_cells_give_nothing_and_leave_all_where_it_lies() -> None:
    inbox, box = attached()
    link = Link(cells=2)
    box.bind(link.reader, 0, TOPIC, STAMP)
    link.send("a", "b")
    link.reader.distribute()
    inbox.feed(frame(inline_item(message("node"))))
    box.close_cells()
    assert box.depth == 1
    link.send("c")
    box.bind(link.reader, 1, TOPIC, STAMP)
    link.send("d", cell=1)
    link.reader.distribute()
    assert box.texts() == ["node"]
    assert (link.counts(0), link.counts(1)) == ((3, 0, 3), (1, 0, 1))
    box.unbind_all()
    link.reader.distribute()
    assert (box.cells, link.reader.depth, link.counts(0)) == (0, 0, (3, 0, 0))


def test_a_link_that_is_given_up_leaves_its_mailboxes() -> None:
    link, boxes = Link(), [Box() for _ in range(3)]
    for cell, box in enumerate(boxes):
        box.bind(link.reader, cell, TOPIC, STAMP)
        link.send("x", cell=cell)
    link.reader.distribute()
    link.reader.unbind_all()
    assert [(box.cells, box.depth, box.pop()) for box in boxes] == [(0, 0, None)] * 3
    assert link.reader.bound == 0


def test_a_discarded_cell_that_was_never_bound_takes_no_slots() -> None:
    link = Link()
    link.send("a")
    link.reader.discard(0)
    link.send("b")
    link.reader.distribute()
    assert link.writer.collect() == (64, 0)
    with pytest.raises(IndexError):
        link.reader.discard(16)


def test_what_a_dead_publisher_had_posted_is_found() -> None:
    link, box = bound()
    link.send("a", "b")
    assert link.reader.distribute(True) == 2
    assert link.reader.distribute(True) == 0
    assert box.texts() == ["a", "b"]


# ---- strangers -----------------------------------------------------------------------------------
@pytest.mark.parametrize("topic", ["lab.other", "lab.xx", "lab.y", "lab"])
def test_a_message_of_another_topic_breaks_its_link_alone(topic: str) -> None:
    link, box = bound()
    other = Link()
    box.bind(other.reader, 0, TOPIC, STAMP)
    link.send("good")
    link.send("evil", topic=topic)
    link.send("behind")
    other.send("other")
    link.reader.distribute()
    assert link.reader.broken is None
    assert box.texts() == ["good", "other"]
    assert link.reader.broken is not None and "topic" in link.reader.broken
    assert rings(link.reader)
    assert other.reader.broken is None
    assert link.reader.distribute() == 0
    other.send("more")
    box.arm()
    assert box.texts() == ["more"]


def test_a_body_in_a_segment_that_was_not_introduced_breaks_the_link() -> None:
    link, box = bound()
    post = _native.ShmPost(TOPIC, ZEROS, None, link.arena)
    assert link.writer.post(post, 0) > 0
    link.reader.distribute()
    assert box.pop() is None
    assert link.reader.broken is not None and "segments" in link.reader.broken


# ---- life ----------------------------------------------------------------------------------------
def test_a_mailbox_that_goes_leaves_its_link_usable() -> None:
    link, box = bound()
    link.send("a", ZEROS)
    link.reader.distribute()
    box.context = box
    alive = weakref.ref(box)
    del box
    gc.collect()
    assert alive() is None
    assert link.reader.bound == 0
    assert link.writer.collect() == (64, 0)
    again = Box()
    again.bind(link.reader, 1, TOPIC, STAMP)
    link.send("b", cell=1)
    assert again.texts() == ["b"]


def test_a_mailbox_keeps_the_links_that_it_takes_from() -> None:
    link, box = bound()
    link.send({"x": np.arange(1000)})
    del link.reader
    gc.collect()
    got = box.pop()
    assert got is not None
    box.unbind_all()
    del box
    gc.collect()
    assert got["x"].tolist() == list(range(1000))


def test_a_child_takes_nothing_of_its_parents_links() -> None:
    link, box = bound()
    link.send("a")
    link.reader.distribute()
    pid = os.fork()
    if pid == 0:
        codes = [code_of(box.pop), code_of(link.reader.distribute)]
        box.unbind_all()
        os._exit(0 if codes == ["CONNECTION_CLOSED"] * 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert link.counts() == (1, 0, 1)
    assert box.texts() == ["a"]
