"""Python runs inside the data plane to resolve topics: whatever it does, nothing breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sira import _native
from sira.kernel.errors import Denied
from sira.v1 import bus_pb2

from .hub_harness import Bench, Publisher, chunks, head, item, message


def on_first_resolve(bench: Bench, act: Callable[[], object]) -> None:
    """Do something from inside the next resolve()."""
    pending = [act]

    def refuse(topic: str) -> Exception | None:
        if pending:
            pending.pop()()
        return None

    bench.refuse = refuse


def assert_empty(bench: Bench) -> None:
    bench.assert_balanced()
    stats = bench.hub.stats
    assert (stats["messages_held"], stats["transfers"], stats["chunk_bytes_held"]) == (0, 0, 0)
    assert stats["parked"] == 0


@pytest.mark.parametrize("large", [False, True])
def test_a_stream_closed_from_its_own_resolve_takes_nothing(large: bool) -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    on_first_resolve(bench, publisher.close)
    made = bus_pb2.Item(head=head("x", [10])) if large else item(message("x"))
    publisher.send(made, item(message("y")))
    assert subscriber.items() == []
    assert publisher.answers() == []
    assert_empty(bench)


@pytest.mark.parametrize("large", [False, True])
def test_a_stream_closed_from_a_resolve_that_refuses_is_not_answered(large: bool) -> None:
    bench = Bench()
    publisher = bench.publisher()

    def refuse(topic: str) -> Exception:
        publisher.close()
        return Denied("no")

    bench.refuse = refuse
    publisher.send(bus_pb2.Item(head=head("x", [10])) if large else item(message("x")))
    assert publisher.answers() == []
    assert_empty(bench)


def parked(bench: Bench) -> tuple[Publisher, _native.Sub, list[bytes]]:
    """A publisher with messages parked on `x` and `y`; the topics' routes are stale."""
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open(">", window_messages=1)
    for topic in ("x", "x", "x", "y"):
        publisher.publish(topic, topic.encode())
    got = subscriber.payloads()
    subscriber.take(sub, 1)
    subscriber.payloads()
    assert publisher.stream.parked > 0
    bench.hub.touch()
    return publisher, sub, got


def test_a_stream_closed_while_its_parked_messages_are_routed_anew_lets_them_go() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, _, _ = parked(bench)
    on_first_resolve(bench, publisher.close)
    subscriber = bench.subs[0]
    bench.hub.tick(bench.now_ns)
    bench.tick(60)
    assert publisher.stream.parked == 0 and subscriber.pending <= 1
    bench.assert_balanced()


def test_room_made_from_inside_a_resolve_posts_each_parked_message_once() -> None:
    """The resolver of a parked message lets its subscriber take more, which would post it too."""
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    sent = [bytes([n]) for n in range(6)]
    for payload in sent:
        publisher.publish("x", payload)
    assert publisher.stream.parked == 5
    got: list[bytes] = []

    def refuse(topic: str) -> None:
        if sub.in_flight:
            subscriber.take(sub, sub.in_flight)
        frame = subscriber.stream.next_frame(bench.now_ns)
        if frame:
            got.extend(i.message.tensors[0].data for i in bus_pb2.Frame.FromString(frame).items)

    bench.refuse = refuse
    for _ in range(50):
        bench.hub.touch()
        got.extend(subscriber.payloads())
        if sub.in_flight:
            subscriber.take(sub, sub.in_flight)
        bench.tick()
    assert got == sent
    assert len(publisher.receipts()) == 6
    assert_empty(bench)


def test_a_frame_fed_to_a_stream_from_inside_its_own_resolve_is_an_error_of_ours() -> None:
    bench = Bench()
    publisher = bench.publisher()
    seen: list[str] = []

    def feed() -> None:
        try:
            publisher.publish("y")
        except Exception as error:
            seen.append(getattr(error, "code", repr(error)))

    on_first_resolve(bench, feed)
    publisher.publish("x")
    assert seen == ["INTERNAL"]
    assert len(publisher.receipts()) == 1


def test_streams_that_close_each_other_in_wake_and_drained_leave_the_books_balanced() -> None:
    bench = Bench(queue_messages_max=1)
    a, b, subscriber = bench.publisher(window_messages=2), bench.publisher(), bench.subscriber()
    sub = subscriber.open(">")
    a.stream.drained = b.close
    for _ in range(5):
        a.publish("x")
        b.publish("y")
    assert a.stream.full
    a.answers()
    for _ in range(10):
        subscriber.payloads()
        if sub.in_flight:
            subscriber.take(sub, sub.in_flight)
        a.answers()
    assert not a.stream.full
    with pytest.raises(Exception, match="closed"):
        b.publish("y")
    a.close()
    subscriber.close()
    assert_empty(bench)


def test_a_topic_dropped_by_admit_keeps_nothing() -> None:
    bench = Bench()
    topic = bench.hub.declare("state", retain=True)
    publisher = bench.publisher()

    def admit(messages: int, bytes_: int) -> None:
        bench.hub.drop("state")

    route = _native.Route(topic, [], admit=admit)
    stream = _native.Ingress(
        bench.hub, client=1, stamp=b"", resolve=lambda name: route, wake=lambda: None
    )
    made = message("state")
    stream.feed(bus_pb2.Frame(items=[item(made)]).SerializeToString(), bench.now_ns)
    stream.close(bench.now_ns)
    publisher.close()
    assert_empty(bench)


def test_the_stream_of_a_heir_is_woken_for_what_it_inherits() -> None:
    bench = Bench()
    publisher, one, two = bench.publisher(), bench.subscriber(), bench.subscriber()
    group = _native.Group("g")
    first = one.open("x", group=group, window_messages=2)
    publisher.publish("x", b"a")
    second = two.open("x", group=group)
    assert two.items() == []  # it waits to be woken
    woken = two.wakes
    assert first.pending == 1
    one.close()
    assert two.wakes == woken + 1
    assert two.payloads() == [b"a"] and second.in_flight == 1


def test_what_is_posted_while_a_stream_finds_nothing_wakes_it() -> None:
    """A message expires as the frame is built; the parked one in its place must not sleep."""
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    publisher.publish("x", b"old", ttl_ns=1000)
    publisher.publish("x", b"new")
    assert publisher.stream.parked == 1
    bench.now_ns += 2000
    woken = subscriber.wakes
    first = subscriber.stream.next_frame(bench.now_ns)
    assert first is not None or subscriber.wakes == woken + 1
    assert first is not None or subscriber.payloads() == [b"new"]


def test_a_large_message_given_up_while_it_is_parked_and_whole_is_let_go() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(window_bytes=1000), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    for _ in range(2):
        publisher.publish("x")
    subscriber.items()
    publisher.publish("x")
    made = head("x", [2000])
    publisher.send(bus_pb2.Item(head=made))
    for part in chunks(made, 2000):
        publisher.stream.feed(part, bench.now_ns)
    assert publisher.stream.full and bench.hub.stats["chunk_bytes_held"] == 2000
    assert publisher.stream.unanswered > 0
    publisher.send(bus_pb2.Item(abort=bus_pb2.Abort(message_id=made.id)))
    assert not publisher.stream.full and bench.hub.stats["chunk_bytes_held"] == 0
    assert [r.error.code for r in publisher.receipts() if r.id == made.id] == ["ABORTED"]
    assert bench.hub.stats["transfers"] == 0
    for _ in range(6):
        subscriber.items()
        if sub.in_flight:
            subscriber.take(sub, 1)
    assert_empty(bench)


def test_a_stream_closed_while_the_last_message_that_waits_for_a_limit_is_refused() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("slow", "p", messages_per_s=10, burst_s=0.1),)
    publisher, other = bench.publisher(waits=True), bench.publisher(waits=True)
    publisher.send(item(message("a")), item(message("a")))
    other.publish("b")
    assert bench.hub.stats["waiting"] == 2

    def refuse(topic: str) -> Exception | None:
        if topic == "b":
            return None
        publisher.close()
        return Denied("no")

    bench.refuse = refuse
    bench.hub.touch()
    for _ in range(3):  # what is left in the queue is gone over more than once
        bench.now_ns += 100_000_000
        bench.hub.release(bench.now_ns)
    assert bench.hub.stats["waiting"] == 0
    assert bench.hub.due_ns == 0, "nothing of the closed stream is left in the queue"
    other.close()
    assert_empty(bench)
