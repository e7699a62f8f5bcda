"""Suspicion comes with silence, goes with a beat, and is slow to forgive who comes and goes."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sira.registry.health import Heard, Rules, Status, beat, begun, judge, lose, phi

RULES = Rules()


def test_who_beats_is_up_however_long() -> None:
    rng, now_ms = random.Random(1), 0
    vital = begun(0, RULES)
    for _ in range(1_000):
        now_ms += RULES.beat_ms + rng.randrange(-400, 400)
        assert not judge(vital, now_ms, RULES)
        assert not beat(vital, now_ms, RULES)
        assert vital.status is Status.UP


def test_a_late_beat_is_suspected_by_what_is_usual_for_the_agent() -> None:
    regular, irregular, now_ms = begun(0, RULES), begun(0, RULES), 0
    for index in range(200):
        now_ms += RULES.beat_ms
        beat(regular, now_ms, RULES)
        beat(irregular, now_ms + (2_000 if index % 2 else 0), RULES)
    beat(irregular, now_ms, RULES)
    at_ms = now_ms + 9_000
    assert judge(regular, at_ms, RULES) and regular.status is Status.SUSPECT
    assert not judge(irregular, at_ms, RULES)
    assert judge(irregular, now_ms + RULES.suspect_ms, RULES), "but nobody is silent for so long"


@given(st.integers(0, 60_000))
def test_silence_makes_suspect_then_down(silent_ms: int) -> None:
    vital = begun(0, RULES)
    judge(vital, silent_ms, RULES)
    if silent_ms >= RULES.lease_ms:
        assert vital.status is Status.DOWN
    elif silent_ms >= RULES.suspect_ms:
        assert vital.status is Status.SUSPECT
    elif silent_ms < RULES.patience_ms:
        assert vital.status is Status.UP
    assert (vital.reason == "") == (vital.status is Status.UP)


def test_a_beat_brings_back_and_says_what_the_agent_says() -> None:
    vital = begun(0, RULES)
    assert judge(vital, RULES.lease_ms, RULES)
    assert beat(vital, RULES.lease_ms + 1, RULES, in_flight=3, waiting=2)
    assert (vital.status, vital.in_flight, vital.waiting) == (Status.UP, 3, 2)
    assert beat(vital, RULES.lease_ms + 2, RULES, draining=True)
    assert vital.status is Status.DRAINING


def test_a_dead_process_is_down_at_once_and_a_lost_connection_suspect() -> None:
    vital = begun(0, RULES)
    assert lose(vital, 1, RULES, reason="the connection was lost", is_gone=False)
    assert (vital.status, vital.reason) == (Status.SUSPECT, "the connection was lost")
    assert lose(vital, 2, RULES, reason="its process has ended", is_gone=True)
    assert (vital.status, vital.reason) == (Status.DOWN, "its process has ended")
    assert beat(vital, 3, RULES)
    assert vital.status is Status.UP


def test_an_agent_that_lags_is_never_silently_up() -> None:
    vital = begun(0, RULES)
    assert beat(vital, 5_000, RULES, lag_ms=RULES.lag_ms_max + 1)
    assert vital.status is Status.SUSPECT and "lags" in vital.reason
    assert beat(vital, 10_000, RULES, lag_ms=3)
    assert vital.status is Status.UP


def test_who_comes_and_goes_is_believed_only_after_a_while() -> None:
    vital, now_ms = begun(0, RULES), 0
    for _ in range(5):
        now_ms += 100
        lose(vital, now_ms, RULES, reason="gone", is_gone=True)
        now_ms += 100
        beat(vital, now_ms, RULES)
    assert vital.status is Status.SUSPECT and "too often" in vital.reason
    returned_ms = now_ms
    while vital.status is Status.SUSPECT:
        now_ms += RULES.beat_ms
        beat(vital, now_ms, RULES)
    assert vital.status is Status.UP
    # A penalty of 4 and more halves at least once before it is below 1.5.
    assert now_ms - returned_ms >= RULES.flap_half_ms


def test_another_instance_inherits_the_penalty() -> None:
    vital, now_ms = begun(0, RULES), 0
    for _ in range(5):
        now_ms += 100
        lose(vital, now_ms, RULES, reason="gone", is_gone=True)
        vital = begun(now_ms, RULES, vital)
    assert vital.status is Status.SUSPECT and "too often" in vital.reason


def test_one_restart_is_forgiven() -> None:
    vital = begun(0, RULES)
    lose(vital, 5, RULES, reason="gone", is_gone=True)
    assert begun(10, RULES, vital).status is Status.UP


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(100, 1e5), st.floats(10, 1e5))
def test_suspicion_grows_with_silence(
    a_ms: float, b_ms: float, mean: float, deviation: float
) -> None:
    low, high = sorted((a_ms, b_ms))
    assert 0 <= phi(low, mean, deviation) <= phi(high, mean, deviation) < float("inf")


def test_a_node_that_stood_still_blames_nobody() -> None:
    clock = Heard(1_000, step_ms=1_000)
    vital = begun(clock.tick(2_000), RULES)
    assert not judge(vital, clock.tick(602_000), RULES), "ten minutes of SIGSTOP are three seconds"
    assert vital.status is Status.UP
    for second in range(20):
        judge(vital, clock.tick(603_000 + second * 1_000), RULES)
    assert vital.status is Status.DOWN
