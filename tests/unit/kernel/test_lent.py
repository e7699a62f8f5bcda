"""How much may be lent: every segment is taken, taken and stopped, or refused, by one rule."""

from __future__ import annotations

import itertools

import pytest

from sira.kernel.lent import Held, Limits, Verdict, judge

LIMITS = Limits(segments_max=4, bytes_max=1_000, node_segments_max=6, node_bytes_max=3_000)


@pytest.mark.parametrize(
    ("bytes_", "mine", "every", "verdict"),
    [
        (1_000, (0, 0), (0, 0), Verdict.TAKEN),
        (1_001, (0, 0), (0, 0), Verdict.FULL),
        (2_000, (0, 0), (0, 0), Verdict.FULL),
        (2_001, (0, 0), (0, 0), Verdict.REFUSED),
        (1, (3, 3), (3, 3), Verdict.TAKEN),
        (1, (4, 4), (4, 4), Verdict.FULL),
        (1, (7, 7), (7, 7), Verdict.FULL),
        (1, (8, 8), (8, 8), Verdict.REFUSED),
        (1, (0, 0), (6, 6), Verdict.FULL),
        (1, (0, 0), (12, 12), Verdict.REFUSED),
        (1, (0, 0), (3, 3_000), Verdict.FULL),
        (1, (0, 0), (3, 6_000), Verdict.REFUSED),
        (1, (1, 1_000), (1, 1_000), Verdict.FULL),
        (1, (1, 2_000), (1, 2_000), Verdict.REFUSED),
    ],
)
def test_a_segment_is_judged_by_the_tightest_limit(
    bytes_: int, mine: tuple[int, int], every: tuple[int, int], verdict: Verdict
) -> None:
    assert judge(bytes_, mine=Held(*mine), every=Held(*every), limits=LIMITS) is verdict


def test_who_goes_on_past_every_limit_holds_at_most_twice_as_much() -> None:
    one, other, every = Held(), Held(), Held()
    for mine, bytes_ in itertools.product((one, other, one), (1, 70, 900, 400, 1, 1, 1, 1, 1)):
        if judge(bytes_, mine=mine, every=every, limits=LIMITS) is not Verdict.REFUSED:
            mine.add(bytes_)
            every.add(bytes_)
    assert (one.segments, every.segments) == (8, 12) and every.bytes == one.bytes + other.bytes
    assert one.bytes <= 2 * LIMITS.bytes_max and every.bytes <= 2 * LIMITS.node_bytes_max
    for mine in (one, other):
        while mine.segments:
            mine.less(mine.bytes // mine.segments)
    assert judge(1, mine=one, every=other, limits=LIMITS) is Verdict.TAKEN


def test_without_limits_nothing_is_lent() -> None:
    assert judge(1, mine=Held(), every=Held(), limits=Limits()) is Verdict.REFUSED
