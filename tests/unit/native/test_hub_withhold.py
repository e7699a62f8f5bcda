"""What a subscription may not read any more leaves its queue, and nothing else does."""

from __future__ import annotations

import pytest

from sira.v1 import bus_pb2

from .hub_harness import Bench, chunks, head


def test_what_waits_of_the_named_topics_is_dropped_and_the_rest_comes_in_order() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("lab.*")
    for number in range(6):
        made = "lab.a" if number % 2 else "lab.b"
        publisher.publish(made, bytes([number]), priority=number % 3)
    assert sub.waiting_topics() == {"lab.a", "lab.b"}
    assert sub.withhold({"lab.a", "lab.never"}, bench.now_ns) == 3
    assert sub.waiting_topics() == {"lab.b"} and sub.pending == 3
    assert subscriber.payloads() == [b"\x02", b"\x04", b"\x00"]
    assert bench.row("lab.a")["dropped"] == {"REVOKED": 3} and bench.row("lab.a")["pending"] == 0
    assert bench.row("lab.b")["dropped"] == {} and bench.row("lab.b")["pending"] == 3
    bench.assert_balanced()


def test_what_was_sent_stays_sent_and_is_confirmed_as_ever() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("lab.*", window_messages=1)
    for number in range(3):
        publisher.publish("lab.a", bytes([number]))
    assert subscriber.payloads() == [b"\x00"]
    assert sub.withhold({"lab.a"}, bench.now_ns, reason="ANOTHER") == 2
    subscriber.take(sub, 1)
    row = bench.row("lab.a")
    assert (row["delivered"], row["dropped"]) == (1, {"ANOTHER": 2})
    assert subscriber.payloads() == []
    bench.assert_balanced()


def test_a_newer_message_supersedes_nothing_that_was_withheld() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("lab.*", overflow=3)
    publisher.publish("lab.a", b"old")
    assert sub.withhold({"lab.a"}, bench.now_ns) == 1
    publisher.publish("lab.a", b"newer")
    publisher.publish("lab.a", b"newest")
    assert subscriber.payloads() == [b"newest"]
    assert bench.row("lab.a")["superseded"] == 1
    bench.assert_balanced()


def test_the_room_goes_to_who_waited_for_it() -> None:
    bench = Bench(queue_messages_max=2)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("lab.*")
    for topic in ("lab.a", "lab.a", "lab.b"):
        publisher.publish(topic, topic.encode())
    assert len(publisher.receipts()) == 2 and publisher.stream.parked == 1
    sub.withhold({"lab.a"}, bench.now_ns)
    (receipt,) = publisher.receipts()
    assert receipt.matched == 1 and publisher.stream.parked == 0
    assert subscriber.payloads() == [b"lab.b"]
    bench.assert_balanced()


@pytest.mark.parametrize("begun", [False, True])
def test_a_large_message_on_its_way_ends_for_this_subscription_alone(*, begun: bool) -> None:
    bench = Bench(transfer_window_bytes=4_000)
    publisher = bench.publisher()
    doomed, stays = bench.subscriber(), bench.subscriber()
    sub, other = doomed.open("lab.*"), stays.open("lab.*")
    made = head("lab.a", [8_000])
    parts = list(chunks(made, 1_000))
    publisher.send(bus_pb2.Item(head=made))
    for part in parts[:3]:
        publisher.stream.feed(part, bench.now_ns)
    got = doomed.items() if begun else []
    assert len(got) == 4 * begun and sub.waiting_topics() == {"lab.a"}
    assert sub.withhold({"lab.a"}, bench.now_ns) == 1
    assert sub.waiting_topics() == set()
    later = doomed.items()
    assert [i.abort.error.code for i in later] == ["REVOKED"] * begun, "an end, and no more"
    whole = stays.items()
    for part in parts[3:]:
        publisher.stream.feed(part, bench.now_ns)
        whole += stays.items()
    assert doomed.items() == []
    assert b"".join(i.chunk.data for i in whole) == b"".join(
        bus_pb2.Frame.FromString(part).items[0].chunk.data for part in parts
    )
    if begun:
        doomed.take(sub, 1)  # the client confirms what it was sent, aborted or not
    stays.take(other, 1)
    row = bench.row("lab.a")
    assert (row["owed"], row["delivered"], row["dropped"]) == (2, 1, {"REVOKED": 1})
    bench.assert_balanced()
    assert bench.hub.stats["transfers"] == 0 and bench.hub.stats["chunk_bytes_held"] == 0


def test_a_publisher_whose_only_reader_went_gets_credit_for_the_rest() -> None:
    bench = Bench(transfer_window_bytes=4_000)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("lab.*")
    made = head("lab.a", [8_000])
    publisher.send(bus_pb2.Item(head=made))
    parts = list(chunks(made, 1_000))
    for part in parts[:4]:
        publisher.stream.feed(part, bench.now_ns)
    assert publisher.answers() == []
    sub.withhold({"lab.a"}, bench.now_ns)
    assert sum(i.credit.bytes for i in publisher.answers()) == 4_000
    for part in parts[4:]:
        publisher.stream.feed(part, bench.now_ns)
    assert [r.error.code for r in publisher.receipts()] == [""]
    bench.assert_balanced()


def test_a_closed_subscription_has_nothing_to_withhold() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("lab.*")
    publisher.publish("lab.a")
    subscriber.close_sub(sub)
    assert sub.waiting_topics() == set() and sub.withhold({"lab.a"}, bench.now_ns) == 0
    with pytest.raises(TypeError):
        sub.withhold(["lab.a"], bench.now_ns)  # type: ignore[arg-type]
