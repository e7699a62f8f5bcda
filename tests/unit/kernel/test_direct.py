"""Who may have a route past the node, and how counts in shared memory become rows of the ledger."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from sira import _native
from sira.kernel import direct
from sira.kernel.direct import (
    LATER_MS,
    NOTHING,
    TARGETS_MAX,
    WHEN_MOVED,
    Cell,
    Counted,
    Limits,
    Tally,
    Target,
    Topic,
)

PLAIN = Topic("cam.front")


def refused(topic: Topic = PLAIN, *targets: Target, **flags: bool) -> direct.Refusal | None:
    conditions = {"limited": False, "obliged": False, "draining": False} | flags
    return direct.refusal(topic, targets, **conditions)


def test_plain_topics_to_linked_subscribers_go_past_the_node() -> None:
    assert refused(PLAIN, Target()) is None
    assert refused(PLAIN, *[Target()] * TARGETS_MAX) is None
    assert refused(Topic("_reply.0"), Target()) is None


@pytest.mark.parametrize(
    ("topic", "target", "flags", "why"),
    [
        (Topic("sira.node"), Target(), {}, "only the node"),
        (Topic("t", retained=True), Target(), {}, "last message"),
        (Topic("t", contracted=True), Target(), {}, "contract"),
        (Topic("t", owned=True), Target(), {}, "owner"),
        (PLAIN, Target(members=2), {}, "queue group"),
        (PLAIN, Target(linked=False), {}, "takes no links"),
        (PLAIN, Target(), {"limited": True}, "limit"),
        (PLAIN, Target(), {"obliged": True}, "rule"),
        (PLAIN, Target(), {"draining": True}, "goes down"),
    ],
)
def test_what_needs_the_node_is_refused_until_the_word_moves(
    topic: Topic, target: Target, flags: dict[str, bool], why: str
) -> None:
    found = refused(topic, Target(), target, **flags)
    assert found is not None
    assert why in found.why
    assert found.again_ms == WHEN_MOVED


def test_nobody_or_too_many_are_not_reached_past_the_node() -> None:
    nobody, many = refused(PLAIN), refused(PLAIN, *[Target()] * (TARGETS_MAX + 1))
    assert nobody is not None and "nobody" in nobody.why
    assert many is not None and str(TARGETS_MAX) in many.why


def test_a_stalled_subscriber_is_asked_about_again_later_as_no_word_moves_when_it_resumes() -> None:
    found = refused(PLAIN, Target(stalled=True))
    assert found is not None and found.again_ms == LATER_MS


def test_limits_say_which_is_reached_and_by_whom() -> None:
    limits = Limits(links_max=3, per_connection_max=2)
    assert limits.refusal(1, 1, 2) is None
    every, writer, reader = (limits.refusal(*row) for row in ((0, 0, 3), (2, 1, 2), (1, 2, 2)))
    assert every is not None and every.why.startswith("links_max = 3")
    assert writer is not None and "publisher" in writer.why
    assert reader is not None and "subscriber" in reader.why
    assert Limits().refusal(0, 0, 0) is not None


def test_a_look_takes_nothing_back_and_nothing_that_no_honest_client_writes() -> None:
    none = (0,) * 7
    seen = direct.look(NOTHING, 5, 2, none)
    assert (seen.posted, seen.taken, seen.pending) == (5, 2, 3)
    assert direct.look(seen, 4, 1, none) == seen
    assert direct.look(seen, 5, 9, none) == Counted(5, 5, none)  # never more than was posted
    assert direct.look(seen, 5, 0, (0, 0, 0, 0, 4, 0, 0)) is seen  # more than there is room for
    assert direct.look(seen, 1 << 60, 0, none) is seen


def test_torn_and_hostile_looks_keep_the_books_balanced_and_rest_makes_them_exact() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        hub = hub_of()
        topic = hub.declare("t")
        cell, posted, taken, less = cell_of(hub, topic), 0, 0, [0] * 7
        for _ in range(rng.randrange(40)):
            step = rng.randrange(4)
            free = posted - taken - sum(less)
            if step == 0:
                posted += rng.randrange(5)
            elif step == 1 and free:
                taken += rng.randint(0, free)
            elif step == 2 and free:
                less[rng.choice((0, 4))] += 1
            torn = rng.randrange(3)
            cell.look(
                posted - rng.randint(0, posted) * (torn == 0),
                max(0, taken - rng.randrange(9) * (torn == 1)),
                less if rng.random() < 0.9 else [rng.getrandbits(64) for _ in less],
            )
            check(hub.row("t"))
        wild = any(each > sum(less) for each in cell.seen.withdrawn)
        cell.look(posted, taken, less)
        row = hub.row("t")
        check(row)
        assert row is not None
        if not wild:
            assert (row["owed"], row["delivered"], row["pending"]) == (
                posted, taken, posted - taken - sum(less),
            )  # fmt: skip
            assert row["expired"] == less[0]
        cell.end("UNSUBSCRIBED")
        check(hub.row("t"))
        cell.look(posted + 3, taken, less)
        row = hub.row("t")
        check(row)
        assert row is not None and row["pending"] == 0


def test_what_is_posted_for_one_that_has_ended_is_dropped_for_the_reason_that_it_ended_for() -> (
    None
):
    hub = hub_of()
    cell = cell_of(hub, hub.declare("t"))
    cell.look(3, 1, (0,) * 7)
    assert cell.tally.pending == 2
    cell.end("UNSUBSCRIBED")
    cell.end("PEER_LOST")
    assert cell.tally.pending == 0
    cell.look(4, 4, (0,) * 7)
    row = hub.row("t")
    assert row is not None
    assert (row["owed"], row["delivered"], row["dropped"]) == (4, 1, {"UNSUBSCRIBED": 3})
    assert cell.publisher.client.published_before == 4


def hub_of() -> _native.Hub:
    return _native.Hub(encode_error=lambda error: str(error).encode())


class Publisher:
    """Of a stream: where cells count."""

    def __init__(self) -> None:
        self.client = SimpleNamespace(published_before=0)


class Subscriber:
    """Of a subscription: where its deliveries are counted."""

    def __init__(self, hub: _native.Hub) -> None:
        self.egress = _native.Egress(hub, client=1, wake=lambda: None)
        self.sub = self.egress.open(1, pattern="t")


def cell_of(hub: _native.Hub, topic: _native.HubTopic) -> Cell:
    parts: Any = (Publisher(), Subscriber(hub))
    return Cell(0, None, topic, *parts, Tally(), first=True, ledger=hub, now_ns=lambda: 1)


def check(row: dict[str, Any] | None) -> None:
    if row is not None:
        accounted = row["delivered"] + row["pending"] + row["expired"] + row["superseded"]
        assert row["owed"] == accounted + sum(row["dropped"].values()), row


def test_who_is_to_leave_may_post_what_was_under_way_and_nothing_after_a_while() -> None:
    hub, now = hub_of(), 1
    cell = cell_of(hub, hub.declare("t"))
    cell.now_ns = lambda: now
    cell.leave(at_once=False)
    cell.look(1, 1, (0,) * 7)
    assert not cell.grow_old() and not cell.is_over
    now += 1_000_000_000
    assert not cell.grow_old() and cell.is_over
    cell.look(2, 1, (0,) * 7)
    assert cell.grow_old()


def test_who_has_left_is_over_as_soon_as_all_is_taken() -> None:
    hub = hub_of()
    cell = cell_of(hub, hub.declare("t"))
    cell.look(2, 1, (0,) * 7)
    cell.leave(at_once=True)
    assert not cell.grow_old() and not cell.is_over
    cell.look(2, 2, (0,) * 7)
    assert cell.is_over


def test_what_a_publisher_takes_back_is_dropped_for_a_reason_that_people_know() -> None:
    before, now = NOTHING, Counted(9, 1, (1, 1, 1, 1, 1, 1, 1))
    assert direct.account(before, now, first=False) == {
        "owed": 9, "delivered": 1, "pending": 1, "expired": 1, "superseded": 1,
        "dropped": {"ABORTED": 3, "REVOKED": 1, "PEER_LOST": 1},
    }  # fmt: skip


def test_who_is_kept_busy_by_others_is_asked_about_ever_less_often() -> None:
    again = [direct.busy_again_ms(times) for times in range(100)]
    assert again[0] == direct.BUSY_MS and again == sorted(again)
    assert again[-1] == again[-2] == 5_000
