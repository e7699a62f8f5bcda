"""Which agent is asked: by load, and not the one that has just failed."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sira.client.breaker import FAILURES_MAX, WAIT_S_MAX, WAIT_S_MIN, Breaker
from sira.client.choosing import SCAN_MAX, Choice, Peer, Turns, choose
from sira.client.matches import AgentState, Match
from sira.client.outcomes import Tally
from sira.client.plans import Target, of_one_version
from sira.client.resolutions import Resolutions

_TIMES = st.floats(0, 100, allow_nan=False)


def peers(*own: int, slots: int = 1) -> list[Choice]:
    made = []
    for number, count in enumerate(own):
        choice = Choice(Peer(f"agent-{number}", 1, slots), 0)
        choice.peer.flying += [None] * count
        made.append(choice)
    return made


def shut(choice: Choice, now_s: float = 0.0) -> None:
    for _ in range(FAILURES_MAX):
        choice.peer.breaker.fail(now_s)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=SCAN_MAX), st.integers())
def test_of_few_the_one_with_the_least_to_do_is_asked(loads: list[int], seed: int) -> None:
    chosen = choose(peers(*loads), random.Random(seed), 0.0, fresh=True)
    assert chosen is not None
    assert chosen.peer.own == min(loads)


@given(st.lists(st.integers(0, 9), min_size=SCAN_MAX + 1, max_size=40), st.integers())
def test_of_many_never_the_busiest_alone(loads: list[int], seed: int) -> None:
    choices = peers(*loads)
    chosen = choose(choices, random.Random(seed), 0.0, fresh=True)
    assert chosen is not None
    busiest = max(loads)
    assert chosen.peer.own < busiest or loads.count(busiest) > 1


def test_of_many_equals_each_gets_its_share() -> None:
    choices, rng = peers(*[0] * 20), random.Random(3)
    for _ in range(2_000):
        chosen = choose(choices, rng, 0.0, fresh=True)
        assert chosen is not None
        chosen.peer.flying.append(None)
    shares = [each.peer.own for each in choices]
    assert max(shares) - min(shares) <= 6, "two choices keep it even"


def test_of_equals_none_comes_first_always() -> None:
    rng = random.Random(5)
    asked = {choose(peers(0, 0, 0), rng, 0.0, fresh=True).peer.name for _ in range(50)}  # type: ignore[union-attr]
    assert len(asked) == 3


def test_who_takes_more_at_a_time_gets_more() -> None:
    small, large = Choice(Peer("small", 1, 1), 0), Choice(Peer("large", 1, 4), 0)
    small.peer.flying += [None]
    large.peer.flying += [None] * 3
    chosen = choose([small, large], random.Random(1), 0.0, fresh=True)
    assert chosen is large


def test_what_others_asked_counts_while_it_is_fresh_and_ones_own_is_not_counted_twice() -> None:
    busy = Peer("busy", 1, 1)
    busy.flying += [None] * 2
    reported = Choice(busy, 5)
    assert reported.load(fresh=True) == 5
    assert reported.load(fresh=False) == 2
    assert Choice(busy, 1).load(fresh=True) == 2, "what ended meanwhile is not negative"


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers())
def test_who_has_failed_is_passed_over_and_when_all_have_nobody_is_asked(
    failing: list[bool], seed: int
) -> None:
    choices = peers(*[0] * len(failing))
    for choice, fails in zip(choices, failing, strict=True):
        if fails:
            shut(choice)
    chosen = choose(choices, random.Random(seed), WAIT_S_MIN / 2, fresh=True)
    if all(failing):
        assert chosen is None
    else:
        assert chosen is not None
        assert not chosen.peer.breaker.until_s


@given(st.lists(st.tuples(st.sampled_from("fsb"), _TIMES), max_size=60))
def test_a_breaker_opens_only_after_failures_in_a_row_and_waits_within_bounds(
    steps: list[tuple[str, float]],
) -> None:
    breaker, now_s, in_a_row = Breaker(), 0.0, 0
    for step, after_s in steps:
        now_s += after_s
        if step == "b":
            if breaker.allows(now_s):
                breaker.begin()
        elif step == "f":
            breaker.fail(now_s)
            in_a_row += 1
        else:
            breaker.succeed()
            in_a_row = 0
        assert bool(breaker.until_s) == (in_a_row >= FAILURES_MAX)
        if breaker.until_s:
            assert breaker.until_s <= now_s + WAIT_S_MAX


def test_an_open_breaker_lets_one_through_when_it_has_waited() -> None:
    (choice,) = peers(0)
    breaker = choice.peer.breaker
    shut(choice)
    assert not breaker.allows(WAIT_S_MIN - 0.01)
    assert breaker.allows(WAIT_S_MIN)
    breaker.begin()
    assert not breaker.allows(WAIT_S_MIN), "one at a time"
    breaker.fail(WAIT_S_MIN)
    assert not breaker.allows(WAIT_S_MIN + 1.99 * WAIT_S_MIN), "twice as long now"
    assert breaker.allows(WAIT_S_MIN + 2 * WAIT_S_MIN)
    breaker.begin()
    breaker.abandon()
    assert breaker.allows(WAIT_S_MIN + 2 * WAIT_S_MIN), "nobody heard how that ended"
    breaker.begin()
    breaker.succeed()
    assert breaker.allows(0.0)


def test_a_resolution_is_kept_until_something_moves() -> None:
    kept: Resolutions[str] = Resolutions()
    assert not kept.put("a", "1", epoch=kept.epoch), "nobody would tell of a move"
    assert kept.told(7, 1)
    assert kept.put("a", "1", epoch=kept.epoch)
    assert not kept.told(7, 1), "told again"
    assert kept.entries == {"a": "1"}
    assert kept.told(7, 2), "a status"
    assert kept.entries == {}


def test_what_was_asked_before_a_move_is_not_kept_after_it() -> None:
    kept: Resolutions[str] = Resolutions()
    kept.told(7, 1)
    epoch = kept.epoch
    kept.told(8, 1)
    assert not kept.put("a", "of before", epoch=epoch)
    kept.lost()
    assert not kept.put("a", "of before", epoch=kept.epoch)
    kept.told(8, 1)
    assert not kept.put("a", "of before", epoch=epoch), "what was not told may have moved"


@given(st.lists(st.integers(0, 20), max_size=100))
def test_no_more_is_kept_than_there_is_room_for_and_the_newest_is(keys: list[int]) -> None:
    kept: Resolutions[int] = Resolutions(entries_max=4)
    kept.told(1, 1)
    for key in keys:
        kept.put(key, key, epoch=kept.epoch)
        assert key in kept.entries
        assert len(kept.entries) <= 4


def versions(**weights: float | None) -> list[Target]:
    made = []
    for name, weight in weights.items():
        match = Match(
            name, "agent", "blur", f"agents.{name}.blur", 1.0, 1.0, (), AgentState("up"), "1.0.0",
            1, 1, 1, "pure", name.rstrip("0123456789"), weight,
        )  # fmt: skip
        made.append(Target(match, Peer(name, 1, 1), Tally(name, "blur")))
    return made


@given(st.lists(st.integers(1, 100), min_size=2, max_size=6), st.integers(), st.integers(1, 300))
def test_each_version_gets_its_share_of_any_calls_in_a_row(
    weights: list[int], seed: int, calls: int
) -> None:
    targets = versions(**{chr(ord("a") + n): weight for n, weight in enumerate(weights)})
    turns = Turns(random.Random(seed))
    got = [of_one_version(targets, turns.next())[0].match.agent for _ in range(calls)]
    for target in targets:
        share = calls * (target.match.weight or 0) / sum(weights)
        assert abs(got.count(target.match.agent) - share) <= 4


@given(st.floats(0, 1, exclude_max=True))
def test_a_version_is_all_its_agents_and_one_without_weight_gets_nothing(turn: float) -> None:
    chosen = of_one_version(versions(a1=90, b1=0, a2=90), turn)
    assert [each.match.agent for each in chosen] == ["a1", "a2"]
    for nobody in (versions(a1=0, b1=0), versions(a1=None, b1=None)):
        assert of_one_version(nobody, turn) == nobody
