"""The vital signs of many agents agree with those of each, and changes are told once."""

from __future__ import annotations

import random
import secrets
from copy import copy

from sira.registry.health import Rules, Status, judge
from sira.registry.live import Live
from sira.v1 import registry_pb2

RULES = Rules()


class Told:
    """Who was told what."""

    def __init__(self) -> None:
        self.live: Live[int] = Live(RULES, 0, changed=self._changed)
        self.status: dict[int, Status | None] = {}

    def _changed(self, key: int, before: Status | None) -> None:
        assert self.status.get(key) is before, "each change is told once, in order"
        vital = self.live.get(key)
        assert vital is not None and vital.status is not before
        self.status[key] = vital.status


def test_who_is_silent_is_out_within_a_lease_and_a_tick() -> None:
    told = Told()
    for key in range(100):
        told.live.begin(key, 0)
    now_ms = 0
    while now_ms < RULES.lease_ms + 1_000:
        now_ms += 1_000
        told.live.tick(now_ms)
        for key in range(50):
            if now_ms % RULES.beat_ms == 0:
                assert told.live.beat(key, registry_pb2.Beat(in_flight=key), now_ms)
    assert {told.status[key] for key in range(50)} == {Status.UP}
    assert {told.status[key] for key in range(50, 100)} == {Status.DOWN}
    assert told.live.state(7, now_ms).in_flight == 7
    assert sorted(told.live.down(for_ms=0, now_ms=now_ms)) == list(range(50, 100))
    assert list(told.live.down(for_ms=60_000, now_ms=now_ms)) == []
    told.live.forget(60)
    assert 60 not in list(told.live.down(for_ms=0, now_ms=now_ms))
    assert not told.live.beat(60, registry_pb2.Beat(), now_ms)


def test_who_was_registered_before_the_start_is_suspect_until_heard() -> None:
    told = Told()
    told.live.expect(1, 0)
    told.live.expect(2, 0)
    assert told.status == {1: Status.SUSPECT, 2: Status.SUSPECT}
    assert told.live.beat(1, registry_pb2.Beat(), 500)
    for now_ms in range(1_000, RULES.lease_ms + 1_000, 1_000):
        told.live.tick(now_ms)
    assert told.status[2] is Status.DOWN and told.status[1] in (Status.UP, Status.SUSPECT)


def test_ticks_miss_nobody_in_random_lives() -> None:
    """A tick looks at few; looking at all after it must find nothing that it should have told."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(20):
        told, now_ms = Told(), 0
        for _ in range(400):
            key = rng.randrange(8)
            match rng.randrange(8):
                case 0:
                    told.live.begin(key, now_ms)
                case 1 | 2 | 3:
                    beat = registry_pb2.Beat(
                        lag_ms=rng.choice((0, 0, 0, 2_000)), draining=rng.random() < 0.1
                    )
                    assert told.live.beat(key, beat, now_ms) == (key in told.status)
                case 4:
                    told.live.lose(key, now_ms, reason="lost", is_gone=rng.random() < 0.5)
                case 5 if rng.random() < 0.2:
                    told.live.forget(key)
                    told.status.pop(key, None)
                case _:
                    now_ms += rng.choice((10, 300, 1_000))
                    told.live.tick(now_ms)
                    for each in told.status:
                        vital = told.live.get(each)
                        assert vital is not None
                        heard_ms = vital.beaten_ms + told.live.state(each, now_ms).beat_age_ms
                        assert not judge(copy(vital), heard_ms, RULES), (seed, each)
            assert len(told.live) == len(told.status)
