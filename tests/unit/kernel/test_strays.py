"""Bytes that are part of no call (kernel/edge/strays.py): who sends too many is named."""

from __future__ import annotations

from collections.abc import Mapping

from sira.kernel.edge.open_sockets import Peer, named, parse
from sira.kernel.edge.strays import Strays, Traffic

PER_S = 1_000_000.0
CALL = 100_000
ADA: Peer = ("10.0.0.1", 4_000)
BOB: Peer = ("2001:db8::7", 4_000)


def named_by(of: Strays, received: Mapping[Peer, int | None], now_s: float) -> list[Peer]:
    """Let `of` look to the end, and return whom it names."""
    return [peer for peer in of.look(received, now_s) if peer is not None]


def strays(*, is_looked_at: bool = True) -> Strays:
    return Strays(per_s_max=PER_S, call_bytes_max=CALL, is_looked_at=is_looked_at)


def test_who_sends_more_than_it_may_beside_calls_is_named_at_the_second_look() -> None:
    of = strays()
    assert named_by(of, {ADA: 0, BOB: 0}, 0.0) == []
    assert named_by(of, {ADA: 3_000_000, BOB: 10}, 0.5) == []
    assert named_by(of, {ADA: 6_000_000, BOB: 20}, 1.0) == [ADA]


def test_who_keeps_to_the_limit_is_never_named() -> None:
    of = strays()
    for second in range(100):
        assert named_by(of, {ADA: int(second * PER_S)}, float(second)) == []


def test_what_calls_take_is_no_stray_however_fast_it_comes() -> None:
    of, received = strays(), 0
    traffic = of.begin(named(ADA), 0.0, owes=True)
    for look in range(1, 100):
        for _ in range(100):
            traffic.take(1 << 20)
        received += 100 * ((1 << 20) + 100)
        assert named_by(of, {ADA: received}, look / 4) == []


def test_many_small_messages_with_all_that_is_around_them_are_no_strays() -> None:
    of, received = strays(), 0
    traffic = of.begin(named(BOB), 0.0, owes=True)
    for look in range(1, 100):
        for _ in range(10_000):  # of 10 bytes, with headers of HTTP/2 and gRPC, each a TLS record
            traffic.take(10)
        received += 10_000 * (10 + 5 + 9 + 29 + 13 + 13 + 29)
        assert named_by(of, {BOB: received}, look / 4) == []


def test_what_waits_unread_in_calls_under_way_is_no_stray() -> None:
    of = strays()
    calls = [of.begin(named(ADA), 0.0, owes=True) for _ in range(50)]
    unread = 50 * CALL + int(PER_S) - 1
    for look in range(20):
        assert named_by(of, {ADA: unread}, 0.001 * look) == []
    for traffic in calls:  # nor when all of them end unread
        of.end(traffic, 0.0, owes=True)
    assert named_by(of, {ADA: unread}, 0.03) == []
    assert named_by(of, {ADA: unread}, 0.04) == []


def test_calls_that_begin_late_explain_what_had_come_before() -> None:
    of = strays()
    named_by(of, {ADA: 0}, 0.0)
    assert named_by(of, {ADA: 4_000_000}, 0.25) == [], "the node was held up"
    of.begin(named(ADA), 0.3, owes=True).take(4_000_000)
    assert named_by(of, {ADA: 4_000_100}, 0.5) == []
    assert named_by(of, {ADA: 4_000_200}, 0.75) == []


def test_a_call_that_stays_open_hides_no_flood() -> None:
    of = strays()
    of.begin(named(ADA), 0.0, owes=True)
    assert named_by(of, {ADA: 3_000_000}, 0.5) == []
    assert named_by(of, {ADA: 6_000_000}, 1.0) == [ADA]


def test_a_connection_of_long_standing_is_not_judged_by_all_it_ever_sent() -> None:
    of = strays()
    named_by(of, {ADA: None}, 0.0)  # it stands; nothing was counted, nobody was busy
    assert named_by(of, {ADA: int(PER_S * 3_600)}, 3_600.0) == []
    assert named_by(of, {ADA: int(PER_S * 3_600)}, 3_600.25) == []


def test_the_port_of_one_that_is_gone_begins_anew() -> None:
    of = strays()
    named_by(of, {ADA: 0}, 0.0)
    named_by(of, {ADA: 5_000_000}, 0.25)
    assert named_by(of, {ADA: 1_000}, 0.5) == []
    assert named_by(of, {ADA: 2_000}, 0.75) == []


def test_connections_that_are_gone_are_forgotten_and_others_are_not() -> None:
    of = strays()
    traffic = of.begin(named(ADA), 0.0, owes=True)
    named_by(of, {ADA: 0, BOB: 0}, 0.0)
    assert len(of) == 2
    for walk in range(3):
        named_by(of, {}, float(walk))
    assert len(of) == 1, "a call of it is still under way"
    of.end(traffic, 0.0, owes=True)
    named_by(of, {}, 4.0)
    assert len(of) == 0
    assert of.begin(named(ADA), 5.0, owes=True) is not traffic


def test_what_nobody_looks_at_is_not_remembered() -> None:
    unseen = strays(is_looked_at=False)
    unseen.begin(named(ADA), 0.0, owes=True)
    assert named_by(unseen, {ADA: 1 << 40}, 1.0) == []
    assert len(unseen) == 0
    of = strays()
    assert isinstance(of.begin("unix:/run/gateway.sock", 0.0, owes=True), Traffic)
    assert len(of) == 0


def test_without_a_limit_nobody_is_named_and_connections_are_known_all_the_same() -> None:
    of = Strays(per_s_max=0, call_bytes_max=CALL)
    traffic = of.begin(named(ADA), 0.0, owes=True)
    for look in range(3):
        assert named_by(of, {ADA: look << 40}, float(look)) == []
    assert of.begin(named(ADA), 3.0, owes=True) is traffic


def test_a_connection_whose_calls_end_without_a_request_is_empty_once() -> None:
    of = strays()
    calls = [of.begin(named(ADA), 0.0, owes=True) for _ in range(3)]
    assert [of.end(traffic, 0.0, owes=True) for traffic in calls] == [True, False, False]
    assert of.end(of.begin(named(BOB), 0.0, owes=True), 0.0, owes=True), "each for itself"


def test_a_connection_that_has_sent_a_request_is_never_empty() -> None:
    of = strays()
    traffic, other = of.begin(named(ADA), 0.0, owes=True), of.begin(named(ADA), 0.0, owes=True)
    traffic.take(0)
    assert not of.end(other, 0.0, owes=True)
    assert not of.end(traffic, 0.0, owes=True)
    assert not of.end(of.begin(named(ADA), 1.0, owes=True), 0.0, owes=True)


def test_what_comes_by_no_tcp_is_never_empty() -> None:
    of = strays()
    for _ in range(2):
        assert not of.end(of.begin("unix:/run/gateway.sock", 0.0, owes=True), 0.0, owes=True)


def test_a_name_we_give_is_one_that_we_read() -> None:
    for peer in (ADA, BOB):
        assert parse(named(peer)) == peer


def test_a_connection_is_owed_an_answer_while_its_call_is_under_way_and_for_a_while_after() -> None:
    of = strays()
    assert not of.is_owed(ADA, 0.0), "it has never called"
    asking, watching = of.begin(named(ADA), 1.0, owes=True), of.begin(named(BOB), 1.0, owes=False)
    assert of.is_owed(ADA, 2.0), "however long it takes"
    assert not of.is_owed(BOB, 0.0)
    of.end(asking, 3.0, owes=True)
    of.end(watching, 3.0, owes=False)
    assert of.is_owed(ADA, 3.0)
    assert not of.is_owed(ADA, 3.1)
    assert not of.is_owed(BOB, 0.0), "it was told what it listened for, and nothing more"
