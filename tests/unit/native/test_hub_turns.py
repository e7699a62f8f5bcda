"""A frame is taken a turn at a time where its sender makes it cost much."""

from __future__ import annotations

import pytest

from sira import _native
from sira.v1 import bus_pb2

from .hub_harness import Bench, frame, item, message, rows


def _in_turns(bench: Bench, stream: _native.Ingress, whole: bytes) -> list[int]:
    """Feed a frame with the least work a turn; return where each turn ended."""
    ends, at = [], 0
    while True:
        at = stream.feed(whole, bench.now_ns, at, 1)
        ends.append(at)
        if not at:
            return ends


def test_a_turn_ends_after_a_topic_that_had_to_be_resolved() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("a.*")
    sent = [message(f"a.{number}") for number in range(5)]
    ends = _in_turns(bench, publisher.stream, frame(*map(item, sent)))
    assert len(ends) == 5 and ends[-1] == 0 and ends[:-1] == sorted(set(ends[:-1]))
    got = [each.message.topic for each in subscriber.items()]
    assert got == [each.topic for each in sent]
    assert bench.hub.stats["frames_in"] == 1
    assert sub.pending == 0


def test_a_turn_of_known_topics_ends_after_sixteen_and_nothing_is_lost_or_twice() -> None:
    bench = Bench()
    publisher = bench.publisher()
    bench.subscriber().open("a")
    publisher.send(item(message("a")))
    whole = frame(*(item(message("a")) for _ in range(40)))
    assert len(_in_turns(bench, publisher.stream, whole)) == 3
    assert bench.row("a")["owed"] == 41
    bench.assert_balanced()


def test_without_a_limit_a_frame_is_taken_at_once() -> None:
    bench = Bench()
    stream = bench.publisher().stream
    whole = frame(*(item(message(f"a.{number}")) for number in range(100)))
    assert stream.feed(whole, bench.now_ns) == 0
    assert len(rows(bench.hub)) == 100


def test_a_stream_that_is_closed_between_two_turns_takes_nothing_more() -> None:
    bench = Bench()
    stream = bench.publisher().stream
    whole = frame(*(item(message(f"a.{number}")) for number in range(3)))
    at = stream.feed(whole, bench.now_ns, 0, 1)
    assert 0 < at < len(whole)
    stream.close(bench.now_ns)
    with pytest.raises(Exception, match="closed"):
        stream.feed(whole, bench.now_ns, at, 1)
    assert len(rows(bench.hub)) == 1


def test_a_frame_that_breaks_off_later_is_refused_when_its_turn_comes() -> None:
    bench = Bench()
    stream = bench.publisher().stream
    whole = frame(*(item(message(f"a.{number}")) for number in range(3)))
    at = stream.feed(whole[:-1], bench.now_ns, 0, 1)
    with pytest.raises(Exception, match="past the end"):
        while at:
            at = stream.feed(whole[:-1], bench.now_ns, at, 1)
    assert len(rows(bench.hub)) == 2


@pytest.mark.parametrize("at", [-1, 10_000, "x"])
def test_a_place_that_is_not_in_the_frame_is_refused(at: object) -> None:
    bench = Bench()
    stream = bench.publisher().stream
    with pytest.raises((ValueError, OverflowError, TypeError)):
        stream.feed(bus_pb2.Frame().SerializeToString(), bench.now_ns, at, 1)  # type: ignore[arg-type]
