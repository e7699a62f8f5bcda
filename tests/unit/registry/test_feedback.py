"""Feedback: bounded, explained, for like requests, and gone after a reset."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.registry.rank.answer import answer
from sira.registry.rank.calibrate import DEFAULT
from sira.registry.rank.feedback import (
    ALIKE_MAX,
    COUNT_MAX,
    GENERAL_MAX,
    REMEMBERED_MAX,
    SHIFT_MAX,
    Outcome,
    Record,
    after,
    after_calls,
    learned_examples,
    shift,
)
from sira.registry.rank.ranker import Ranker
from tests.unit.registry.agents_of_a_house import house

OUTCOMES = st.builds(
    Outcome,
    ok=st.booleans(),
    query=st.sampled_from(["", "turn the lamp off", "play a song", "lamp off now"]),
    kind=st.sampled_from(["", "error", "timeout"]),
)


def _after(*outcomes: Outcome) -> Record:
    record = Record()
    for outcome in outcomes:
        record = after(record, outcome)
    return record


@given(st.lists(OUTCOMES, max_size=300), st.sampled_from(["turn the lamp off", "x", ""]))
def test_no_history_shifts_past_the_bounds_or_grows_past_its_limit(
    outcomes: list[Outcome], query: str
) -> None:
    record = _after(*outcomes)
    found = shift(record, query)
    assert abs(found.general) <= GENERAL_MAX and abs(found.alike) <= ALIKE_MAX
    assert abs(found.total) <= SHIFT_MAX
    assert len(record.remembered) <= REMEMBERED_MAX and record.good + record.bad <= COUNT_MAX


def test_a_bad_answer_moves_like_requests_and_leaves_others_nearly_alone() -> None:
    record = _after(Outcome(False, "turn the lamp off"))
    same, like, other = (
        shift(record, text).alike
        for text in ("turn the lamp off", "turn the lamp off now", "play a song")
    )
    assert same < like < other == 0
    assert shift(record, "play a song").general < 0
    assert shift(record, "turn the lamp off").nearest == "turn the lamp off"


def test_a_word_weighs_more_than_an_error_and_that_more_than_a_timeout() -> None:
    word, error, timeout = (
        shift(_after(Outcome(False, "x y", kind)), "x y").total for kind in ("", "error", "timeout")
    )
    assert word < error < timeout < 0


def test_good_and_bad_words_cancel_and_a_reset_forgets() -> None:
    record = _after(Outcome(True, "lamp off"), Outcome(False, "lamp off"))
    assert shift(record, "lamp off").total == pytest.approx(0, abs=1e-6)
    assert shift(Record(), "lamp off") == shift(Record(), "")
    assert shift(Record(), "lamp off").total == 0


def test_what_a_person_liked_is_an_example_for_the_next_head_and_what_merely_worked_is_not() -> (
    None
):
    record = _after(
        Outcome(True, "lamp off"), Outcome(True, "worked", "error"), Outcome(False, "bad"),
        Outcome(True, "lamp off"),
    )  # fmt: skip
    assert learned_examples(record) == ("lamp off",)


def test_a_shift_is_told_among_the_reasons_with_the_request_behind_it() -> None:
    held = Ranker()
    for entry in house():
        held.put(entry)
    text = "turn the kitchen lamp off"
    shifts = {"lights": shift(_after(Outcome(False, text)), text)}
    ranking = held.rank(held.query(text), shifts={key: s.total for key, s in shifts.items()})
    found = answer(ranking, DEFAULT, shifts=shifts)
    listed = (*found.matches, *found.runners_up)
    (reason,) = [r for m in listed if m.key == "lights" for r in m.reasons if r.part == "feedback"]
    assert reason.value < 0 and repr(text) in reason.text


CALLS = st.lists(st.tuples(*[st.integers(0, 2_000)] * 3), max_size=20)


@given(CALLS)
def test_no_calls_shift_past_the_bounds_or_speak_for_an_agent(
    calls: list[tuple[int, int, int]],
) -> None:
    record = Record()
    for each in calls:
        record = after_calls(record, *each)
        found = shift(record, "any")
        assert -GENERAL_MAX <= found.general <= 0 == found.alike
        assert (found.general < 0) == (found.failing > 0)
        assert record.worked + record.failed <= COUNT_MAX * 1.001


def test_who_fails_more_is_ranked_lower_and_comes_back_by_what_works() -> None:
    none, few, many, all_ = (
        shift(after_calls(Record(), *each), "").general
        for each in ((100, 0, 0), (95, 5, 0), (60, 40, 0), (0, 100, 0))
    )
    assert none == few == 0 > many > all_
    late = shift(after_calls(Record(), 0, 0, 100), "").general
    assert all_ < late < 0
    record = after_calls(Record(), 0, 100, 0)
    for _ in range(60):
        record = after_calls(record, 50, 0, 0)
    assert shift(record, "").general == 0


def test_another_instance_of_an_agent_begins_anew_and_keeps_what_people_said() -> None:
    disliked = _after(Outcome(False, "lamp off"))
    failing = after_calls(disliked, 0, 100, 0, generation=3)
    again = after_calls(failing, 1, 0, 0, generation=4)
    assert shift(again, "lamp off") == shift(disliked, "lamp off")
    assert shift(failing, "").general < shift(again, "").general


def test_that_calls_failed_is_told_among_the_reasons() -> None:
    held = Ranker()
    for entry in house():
        held.put(entry)
    text = "turn the kitchen lamp off"
    shifts = {"lights": shift(after_calls(Record(), 10, 30, 0), text)}
    ranking = held.rank(held.query(text), shifts={key: s.total for key, s in shifts.items()})
    found = answer(ranking, DEFAULT, shifts=shifts)
    (match,) = (m for m in (*found.matches, *found.runners_up) if m.key == "lights")
    (reason,) = (r for r in match.reasons if r.part == "feedback")
    assert reason.value < 0 and "75% of its calls failed" in reason.text
