"""Limits on routes: what passes, what is refused and how it is told, what is held."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sira.kernel.binding  # noqa: F401
from sira import _native
from sira.kernel.errors import QuotaExceeded, RateLimited
from sira.v1 import bus_pb2

from .hub_harness import SECOND_NS, Bench, chunks, frame, head, item, message, rows

KIB, MIB = 1 << 10, 1 << 20


class Model:
    """A token bucket in six lines: the level, and when it was."""

    def __init__(self, per_s: float, burst_s: float) -> None:
        self.per_s, self.burst, self.left, self.at_s = per_s, per_s * burst_s, per_s * burst_s, 0.0

    def wait_s(self, need: float, now_s: float) -> float:
        self.now = min(self.burst, self.left + max(0.0, now_s - self.at_s) * self.per_s)
        return max(0.0, (min(need, self.burst) - self.now) / self.per_s) if self.per_s else 0.0

    def take(self, need: float, now_s: float) -> None:
        self.left, self.at_s = self.now - need, max(self.at_s, now_s)


rates = st.sampled_from([0.0, 0.5, 3.0, 1_000.0, 1e6])
steps = st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 3 * SECOND_NS)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(rates, rates, st.sampled_from([0.25, 1.0, 5.0]), steps)
def test_a_bucket_passes_what_the_model_passes(
    messages_per_s: float, bytes_per_s: float, burst_s: float, steps: list[tuple[int, int]]
) -> None:
    bucket = _native.Bucket(
        "l", "k", messages_per_s=messages_per_s, bytes_per_s=bytes_per_s, burst_s=burst_s
    )
    models = Model(messages_per_s, burst_s), Model(bytes_per_s, burst_s)
    now_ns, refused = 0, 0
    for bytes_, passed_ns in steps:
        now_ns += passed_ns
        needs = 1.0, float(bytes_)
        wait_s = max(m.wait_s(n, now_ns / 1e9) for m, n in zip(models, needs, strict=True))
        if wait_s > 1e-9:
            with pytest.raises(RateLimited) as caught:
                _native.admit((bucket,), "t", 1, bytes_, now_ns)
            assert abs(caught.value.retry_after_ms - max(1.0, wait_s * 1e3)) <= 1
            refused += 1
        elif wait_s == 0:
            _native.admit((bucket,), "t", 1, bytes_, now_ns)
            for model, need in zip(models, needs, strict=True):
                model.take(need, now_ns / 1e9)
        else:
            return  # rounding decides: the two may differ from here on
    assert bucket.refused == refused


def test_a_refused_message_is_told_which_limit_whose_and_when() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("slow", "lab", messages_per_s=2),)
    pub = bench.publisher()
    for _ in range(3):
        pub.publish("a.b")
    first, second, third = pub.receipts()
    assert not first.HasField("error") and not second.HasField("error")
    error = third.error
    assert error.code == "RATE_LIMITED" and error.retryable and error.retry_after_ms == 500
    assert dict(error.details) == {"limit": "slow", "key": "lab", "topic": "a.b"}
    assert "'slow'" in error.message and "500 ms" in error.message
    assert bench.row("a.b")["refused"] == {"RATE_LIMITED": 1}
    assert pub.stream.limited_until_ns == bench.now_ns + SECOND_NS // 2
    bench.now_ns += SECOND_NS // 2
    pub.publish("a.b")
    assert not pub.receipts()[0].HasField("error")
    assert pub.stream.limited_until_ns == 0  # of this frame nothing was refused
    bench.assert_balanced()


def test_what_a_rate_refuses_of_one_frame_is_said_once_and_answered_and_counted_each_time() -> None:
    bench, told = Bench(), list[int]()
    bucket = _native.Bucket("slow", "lab", messages_per_s=2, on_refusal=lambda: told.append(1))
    bench.buckets = (bucket,)
    pub = bench.publisher()
    sent = [message("a.b", bytes([n])) for n in range(10)]
    pub.stream.feed(frame(*map(item, sent)), bench.now_ns)
    receipts = pub.receipts()
    assert [r.id for r in receipts] == [made.id for made in sent]
    assert [r.error.code for r in receipts] == [""] * 2 + ["RATE_LIMITED"] * 8
    assert {r.error.retry_after_ms for r in receipts[2:]} == {500}
    assert bucket.refused == 8 and len(told) == 1
    assert bench.row("a.b")["refused"] == {"RATE_LIMITED": 8}
    assert pub.stream.limited_until_ns == bench.now_ns + SECOND_NS // 2
    bench.now_ns += SECOND_NS // 4
    pub.stream.feed(frame(*map(item, sent[:3])), bench.now_ns)
    assert [r.error.retry_after_ms for r in pub.receipts()] == [250] * 3
    assert bucket.refused == 11 and len(told) == 2
    bench.assert_balanced()


def test_of_one_frame_each_refusal_names_its_own_limit_though_they_wait_as_long() -> None:
    bench = Bench()
    count = _native.Bucket("count", "t", messages_per_s=1.0005)
    bench.buckets = (count, _native.Bucket("bytes", "p", bytes_per_s=1))
    pub = bench.publisher()
    sizes = (1, 0, 1, 0)
    pub.stream.feed(frame(*(item(message("a", b"x" * n)) for n in sizes)), bench.now_ns)
    errors = [r.error for r in pub.receipts()[1:]]
    assert [e.retry_after_ms for e in errors] == [1_000] * 3
    assert [e.details["limit"] for e in errors] == ["count", "bytes", "count"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "free"]), st.sampled_from([0, 1, 40, 2_000])),
        max_size=12,
    )
)
def test_messages_of_one_frame_are_answered_as_if_each_had_come_alone(
    flow: list[tuple[str, int]],
) -> None:
    """Several topics, sizes and limits: an answer is only used again where it would be the same."""
    answers = []
    for together in (True, False):
        bench = Bench()
        bytes_, count = (
            _native.Bucket("bytes", "p", bytes_per_s=50),
            _native.Bucket("count", "t", messages_per_s=3),
        )
        resolve = bench.resolve

        def by_topic(
            topic: str, *, make: Any = resolve, bench: Any = bench, limits: Any = (bytes_, count)
        ) -> Any:
            bench.buckets = () if topic == "free" else limits
            return make(topic)

        bench.resolve = by_topic  # type: ignore[method-assign]
        pub = bench.publisher()
        items = [item(message(topic, b"x" * size)) for topic, size in flow]
        for each in [items] if together else [[one] for one in items]:
            pub.stream.feed(frame(*each), bench.now_ns)
        told = [
            (r.error.code, r.error.message, r.error.retry_after_ms, dict(r.error.details))
            for r in pub.receipts()
        ]
        refused = {row["topic"]: row["refused"] for row in rows(bench.hub)}
        answers.append((told, refused, bytes_.refused, count.refused))
    assert len(answers[0][0]) == len(flow)
    assert answers[0] == answers[1]


def test_routes_of_one_holder_share_a_bucket_and_all_limits_pass_or_none() -> None:
    bench = Bench()
    wide = _native.Bucket("wide", "t", messages_per_s=3)
    narrow = _native.Bucket("narrow", "p", bytes_per_s=10, burst_s=1)
    bench.buckets = (wide, narrow)
    one, other = bench.publisher(), bench.publisher()
    one.publish("a", b"x" * 10)
    other.publish("b", b"x")  # no bytes left: the message of `wide` is not used up
    other.publish("b", b"")
    one.publish("c", b"")
    one.publish("c", b"")
    assert [r.error.details["limit"] for r in other.receipts() if r.HasField("error")] == ["narrow"]
    assert [r.error.details["limit"] for r in one.receipts() if r.HasField("error")] == ["wide"]
    assert (wide.refused, narrow.refused) == (1, 1)


def test_a_large_message_is_charged_when_it_is_announced() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("rate", "p", bytes_per_s=MIB),)
    pub = bench.publisher()
    made = head("a", [4 * MIB])
    pub.send(bus_pb2.Item(head=made))
    pub.publish("a", b"x")
    refused = pub.receipts()
    assert [r.error.code for r in refused] == ["RATE_LIMITED"]
    assert refused[0].error.retry_after_ms == 3_001  # 4 MiB from 1, then one more byte
    pub.send(bus_pb2.Item(head=head("a", [1])))
    assert [r.error.code for r in pub.receipts()] == ["RATE_LIMITED"]
    for chunk in chunks(made, MIB):  # what was taken comes to its end
        pub.stream.feed(chunk, bench.now_ns)
    assert [r.matched for r in pub.receipts()] == [0]


def test_bytes_are_held_until_the_last_who_waits_for_them_has_them() -> None:
    bench = Bench()
    bucket = _native.Bucket("held", "p", held_bytes=3 * KIB)
    bench.buckets = (_native.Bucket("rate", "p", messages_per_s=1e6), bucket)
    sub = bench.subscriber()
    first = sub.open("a.>")
    second = sub.open("a.b", window_messages=1)
    pub = bench.publisher()
    for _ in range(4):
        pub.publish("a.b", b"x" * KIB)
    assert bucket.held_bytes == 3 * KIB
    error = pub.receipts()[3].error
    assert error.code == "QUOTA_EXCEEDED" and error.retryable and error.retry_after_ms == 100
    assert error.details["limit"] == "held"
    pub.publish("a.b", b"x" * (3 * KIB + 1))
    error = pub.receipts()[0].error
    assert error.code == "QUOTA_EXCEEDED" and not error.retryable and error.retry_after_ms == 0
    assert len(sub.messages()) == 4 - 1 + 1  # all of `first`, the first of `second`
    assert bucket.held_bytes == 2 * KIB
    sub.take(first, 3)
    sub.take(second, 1)
    sub.messages()
    assert bucket.held_bytes == KIB
    sub.close()
    assert bucket.held_bytes == 0
    assert bench.row("a.b")["refused"] == {"QUOTA_EXCEEDED": 2}
    bench.assert_balanced()


def test_what_is_parked_is_held_and_given_back_when_it_is_refused() -> None:
    bench = Bench(queue_messages_max=1, block_ns=SECOND_NS)
    bucket = _native.Bucket("held", "p", held_bytes=10 * KIB)
    bench.buckets = (bucket,)
    sub = bench.subscriber()
    sub.open("a", window_messages=1)
    pub = bench.publisher()
    for _ in range(4):
        pub.publish("a", b"x" * KIB)
    assert bucket.held_bytes == 4 * KIB and bench.hub.stats["parked"] == 3
    pub.send(item(message("a"), wait_ms=0))
    assert bucket.held_bytes == 4 * KIB  # refused for want of room: nothing stays
    bench.tick(2.0)
    assert bucket.held_bytes == KIB
    pub.close()
    sub.close()
    assert bucket.held_bytes == 0


def test_a_retained_message_is_held_until_the_next_takes_its_place() -> None:
    bench = Bench()
    bucket = _native.Bucket("held", "p", held_bytes=10 * KIB)
    bench.buckets = (bucket,)
    bench.hub.declare("a", retain=True)
    pub = bench.publisher()
    pub.publish("a", b"x" * KIB)
    assert bucket.held_bytes == KIB
    pub.publish("a", b"x" * 2 * KIB)
    assert bucket.held_bytes == 2 * KIB
    bench.hub.drop("a")
    assert bucket.held_bytes == 0


@pytest.mark.parametrize("end", ["whole", "aborted", "lost", "retained"])
def test_a_large_message_is_held_as_long_as_any_of_it_is_on_the_node(end: str) -> None:
    bench = Bench()
    bucket = _native.Bucket("held", "p", held_bytes=4 * MIB)
    bench.buckets = (bucket,)
    if end == "retained":
        bench.hub.declare("a", retain=True)
    sub = bench.subscriber()
    sub.open("a")
    pub = bench.publisher()
    made = head("a", [3 * MIB])
    pub.send(bus_pb2.Item(head=made))
    assert bucket.held_bytes == 3 * MIB
    pub.send(bus_pb2.Item(head=head("a", [2 * MIB])))
    assert pub.receipts()[0].error.code == "QUOTA_EXCEEDED"
    sub.items()
    assert bucket.held_bytes == 3 * MIB  # the head has left, its bytes are still to come
    if end == "lost":
        pub.close()
    elif end == "aborted":
        pub.send(bus_pb2.Item(abort=bus_pb2.Abort(message_id=made.id)))
    else:
        for chunk in chunks(made, MIB):
            pub.stream.feed(chunk, bench.now_ns)
        assert bucket.held_bytes == 3 * MIB
    sub.items()
    assert bucket.held_bytes == (3 * MIB if end == "retained" else 0)
    bench.hub.drop("a")
    assert bucket.held_bytes == 0
    bench.assert_balanced()


def test_an_envelope_that_is_no_small_one_counts_too() -> None:
    bench = Bench()
    bucket = _native.Bucket("held", "p", held_bytes=64 * KIB)
    bench.buckets = (bucket,)
    sub = bench.subscriber()
    sub.open("a", window_messages=1)
    bench.publisher().publish("a", b"", headers={"h": "x" * 8 * KIB})
    assert bucket.held_bytes > 8 * KIB


def test_who_is_told_of_a_refusal_may_close_the_stream() -> None:
    bench = Bench()
    told: list[str] = []

    def close() -> None:
        told.append("refused")
        pub.close()
        bench.buckets = ()
        bench.hub.touch()

    bench.buckets = (_native.Bucket("one", "p", messages_per_s=1, on_refusal=close),)
    pub = bench.publisher()
    pub.send(*[item(message("a")) for _ in range(5)])
    assert told == ["refused"]
    bench.assert_balanced()


def test_other_limits_leave_what_is_held_and_owed() -> None:
    bucket = _native.Bucket("l", "k", messages_per_s=1)
    _native.admit((bucket,), "t", 1, 0, SECOND_NS)
    bucket.configure(messages_per_s=2)
    with pytest.raises(RateLimited) as caught:
        _native.admit((bucket,), "t", 1, 0, SECOND_NS)
    assert caught.value.retry_after_ms == 500
    bucket.configure(held_bytes=5)
    with pytest.raises(QuotaExceeded):
        _native.admit((bucket,), "t", 1, 6, SECOND_NS)
    _native.admit((bucket,), "t", 1, 5, SECOND_NS)
    assert bucket.held_bytes == 0  # nobody holds what is only asked for


def test_a_bucket_is_idle_when_no_route_has_it_and_a_new_one_would_be_the_same() -> None:
    bench = Bench()
    bucket = _native.Bucket("l", "k", messages_per_s=1, held_bytes=KIB)
    bench.buckets = (bucket,)
    assert bucket.idle(0)
    pub, sub = bench.publisher(), bench.subscriber()
    sub.open("a")
    pub.publish("a")
    assert not bucket.idle(10 * SECOND_NS)  # a route and a message
    pub.close()
    assert not bucket.idle(10 * SECOND_NS)  # the message
    sub.messages()
    assert not bucket.idle(bench.now_ns)  # not full yet
    assert bucket.idle(10 * SECOND_NS)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"messages_per_s": -1.0}, ValueError),
        ({"bytes_per_s": float("nan")}, ValueError),
        ({"bytes_per_s": float("inf")}, ValueError),
        ({"messages_per_s": 1e308, "burst_s": 1e308}, ValueError),
        ({"burst_s": 0.0}, ValueError),
        ({"held_bytes": "x"}, TypeError),
    ],
)
def test_numbers_that_are_no_limits_are_refused(
    kwargs: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        _native.Bucket("l", "k", **kwargs)
    with pytest.raises(error):
        _native.Bucket("l", "k").configure(**kwargs)


def test_a_route_takes_a_tuple_of_buckets_and_nothing_else() -> None:
    hub = _native.Hub(encode_error=lambda error: b"")
    topic = hub.declare("a")
    wrong: Any
    for wrong in ([], (1,), None, (_native.Bucket("l", "k"), None)):
        with pytest.raises(TypeError):
            _native.Route(topic, [], buckets=wrong)
    with pytest.raises(TypeError):
        _native.admit(wrong, "t", 1, 0, 0)
    bucket = _native.Bucket("l", "k")
    route = _native.Route(topic, [], buckets=(bucket,))
    assert not bucket.idle(0)
    del route
    assert bucket.idle(0)
