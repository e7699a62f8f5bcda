"""How often something may happen for each (kernel/edge/allowances.py): a pure decision."""

from __future__ import annotations

import random

import pytest

from sira.kernel.edge.allowances import Allowances
from sira.kernel.edge.open_sockets import parse

A, B = "ipv4:127.0.0.1:1000", "ipv4:127.0.0.1:1001"


def _one_too_many(allowances: Allowances, peer: str, count: int, now_s: float) -> int:
    """Let it happen `count` times at once; return how many of them were too many."""
    return sum(allowances.note(peer, now_s) for _ in range(count))


def test_what_was_saved_up_may_happen_at_once_and_no_more() -> None:
    allowances = Allowances(per_s_max=50)
    assert _one_too_many(allowances, A, 100, now_s=7.0) == 0
    assert allowances.note(A, 7.0)


def test_who_keeps_to_the_rate_is_left_alone_for_ever() -> None:
    allowances = Allowances(per_s_max=50)
    assert not any(allowances.note(A, turn / 50) for turn in range(10_000))


def test_each_has_an_allowance_of_its_own() -> None:
    allowances = Allowances(per_s_max=50)
    assert _one_too_many(allowances, A, 1_000, now_s=0.0) == 900
    assert _one_too_many(allowances, B, 100, now_s=0.0) == 0


def test_a_rate_above_is_noticed_whatever_its_rhythm() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    allowances, now_s = Allowances(per_s_max=50), 0.0
    for count in range(1_000):
        now_s += source.uniform(0.0, 0.02)  # 100 a second
        if allowances.note(A, now_s):
            assert count >= 100, "it had that many to begin with"
            return
    pytest.fail("twice the rate was never noticed")


def test_nothing_is_counted_without_a_limit() -> None:
    allowances = Allowances(per_s_max=0)
    assert _one_too_many(allowances, A, 100_000, now_s=0.0) == 0
    assert len(allowances) == 0


def test_who_has_a_full_allowance_again_is_forgotten() -> None:
    allowances = Allowances(per_s_max=50)
    for port in range(1_000):
        allowances.note(f"ipv4:10.0.0.1:{port}", 1.0)
    assert len(allowances) == 1_000
    allowances.note(A, 3.0)
    assert len(allowances) == 1


def test_memory_is_bounded_whoever_comes() -> None:
    allowances = Allowances(per_s_max=50)
    for port in range(20_000):
        allowances.note(f"ipv4:10.0.{port >> 8}.1:{port}", 1.0)
    assert len(allowances) <= 4_096


def test_how_often_it_has_happened_is_told_since_the_allowance_was_full() -> None:
    allowances = Allowances(per_s_max=50)
    assert allowances.count(A) == 0
    _one_too_many(allowances, A, 130, now_s=0.0)
    assert allowances.count(A) == 130
    allowances.note(A, 9.0)
    assert allowances.count(A) == 1


def test_a_port_that_another_connection_gets_begins_anew() -> None:
    allowances = Allowances(per_s_max=50)
    _one_too_many(allowances, A, 200, now_s=0.0)
    allowances.forget(A)
    assert _one_too_many(allowances, A, 100, now_s=0.0) == 0


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
