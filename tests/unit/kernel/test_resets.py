"""What one connection may take back (kernel/edge/connections.py): a pure decision."""

from __future__ import annotations

import random

import pytest

from sira.kernel.edge.connections import Resets
from sira.kernel.edge.open_sockets import parse

A, B = "ipv4:127.0.0.1:1000", "ipv4:127.0.0.1:1001"


def _one_too_many(resets: Resets, peer: str, count: int, now_s: float) -> int:
    """Take back `count` calls at once; return how many of them were too many."""
    return sum(resets.note(peer, now_s) for _ in range(count))


def test_what_was_saved_up_may_be_taken_back_at_once_and_no_more() -> None:
    resets = Resets(per_s_max=50)
    assert _one_too_many(resets, A, 100, now_s=7.0) == 0
    assert resets.note(A, 7.0)


def test_who_keeps_to_the_rate_is_left_alone_for_ever() -> None:
    resets = Resets(per_s_max=50)
    assert not any(resets.note(A, turn / 50) for turn in range(10_000))


def test_each_connection_has_an_allowance_of_its_own() -> None:
    resets = Resets(per_s_max=50)
    assert _one_too_many(resets, A, 1_000, now_s=0.0) == 900
    assert _one_too_many(resets, B, 100, now_s=0.0) == 0


def test_a_rate_above_is_noticed_whatever_its_rhythm() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    resets, now_s = Resets(per_s_max=50), 0.0
    for count in range(1_000):
        now_s += source.uniform(0.0, 0.02)  # 100 a second
        if resets.note(A, now_s):
            assert count >= 100, "it had that many to begin with"
            return
    pytest.fail("twice the rate was never noticed")


def test_nothing_is_counted_without_a_limit() -> None:
    resets = Resets(per_s_max=0)
    assert _one_too_many(resets, A, 100_000, now_s=0.0) == 0
    assert len(resets) == 0


def test_connections_are_forgotten_when_their_allowance_is_full_again() -> None:
    resets = Resets(per_s_max=50)
    for port in range(1_000):
        resets.note(f"ipv4:10.0.0.1:{port}", 1.0)
    assert len(resets) == 1_000
    resets.note(A, 3.0)
    assert len(resets) == 1


def test_memory_is_bounded_whoever_comes() -> None:
    resets = Resets(per_s_max=50)
    for port in range(20_000):
        resets.note(f"ipv4:10.0.{port >> 8}.1:{port}", 1.0)
    assert len(resets) <= 4_096


def test_a_port_that_another_connection_gets_begins_anew() -> None:
    resets = Resets(per_s_max=50)
    _one_too_many(resets, A, 200, now_s=0.0)
    resets.forget(A)
    assert _one_too_many(resets, A, 100, now_s=0.0) == 0


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("ipv6:%5B::1%5D:8080", ("::1", 8080)),
        ("ipv6:[::1]:8080", ("::1", 8080)),
        ("ipv6:%5B::ffff:10.0.0.1%5D:8080", ("10.0.0.1", 8080)),
        ("unix:/tmp/gateway.sock", None),
        ("unix:", None),
        ("ipv4:nonsense:1", None),
        ("ipv4:127.0.0.1:port", None),
        ("", None),
    ],
)
def test_a_peer_is_what_grpc_calls_it(peer: str, expected: tuple[str, int] | None) -> None:
    assert parse(peer) == expected
