"""The head and what it is worth: learned alike each time, bounded, never sure for less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.kernel.errors import BadRequest
from sira.registry.embed import features
from sira.registry.rank import head as heads
from sira.registry.rank import margin
from sira.registry.rank.answer import Answer, answer
from sira.registry.rank.calibrate import (
    DEFAULT,
    DEFAULT_WITH_EXAMPLES,
    SIGNALS,
    Calibration,
    fit,
    fit_here,
)
from sira.registry.rank.head import Head, train
from sira.registry.rank.learn import learn
from sira.registry.rank.ranker import Ranker
from tests.unit.registry.agents_of_a_house import EXAMPLES, house

NUMBERS = st.floats(0, 4, allow_nan=False)


def _best(head: Head, text: str) -> str:
    rows = np.arange(len(head.keys))
    return head.keys[int(head.scores(*features.features(text), rows).argmax())]


@pytest.mark.parametrize(("work_max", "dims"), [(margin.WORK_MAX, margin.DIMS), (0, heads.DIMS)])
def test_every_example_is_its_own_agents(
    work_max: int, dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By margins, and by the ridge where those would take too long."""
    monkeypatch.setattr(margin, "WORK_MAX", work_max)
    head = train(house())
    assert head is not None and head.texts == 6 * 7 and head.weights.shape == (6, dims)
    for name, (_, examples) in EXAMPLES.items():
        assert {_best(head, example) for example in examples} == {name}


def test_the_order_of_entries_does_not_matter_and_a_word_more_does() -> None:
    one, same, other = train(house()), train(house()[::-1]), train(house(examples=5))
    assert one is not None and same is not None and other is not None
    assert one.digest == same.digest != other.digest


def test_both_ways_to_solve_find_the_same() -> None:
    """With fewer texts than dims a system of texts is solved, else one of dims."""
    rows = features.rows([text for _, texts in EXAMPLES.values() for text in texts])
    owner = np.repeat(np.arange(6), 6)
    root = np.full(36, 1 / 6, np.float32)
    rarity = np.ones(features.PLACES, np.float32)
    for dims in (16, 64):
        few, many = (by(rows, owner, root, rarity, dims) for by in (heads.by_texts, heads.by_dims))
        assert few.shape == many.shape == (6, dims) and np.abs(few).max() > 0.05
        assert np.allclose(few, many, atol=1e-3)


def test_margins_are_where_their_loss_is_least() -> None:
    """There every column is the sum of the texts that are on its wrong side, by how far."""
    rows = features.rows([text for _, texts in EXAMPLES.values() for text in texts])
    texts, owner = margin.folded(rows, np.ones(features.PLACES, np.float32)), np.arange(36) // 6
    made = margin.margins(texts, owner, rounds=60)
    scores = np.stack([values @ made[places] for places, values in texts])
    own = np.arange(6) == owner[:, None]
    wrong = np.where(own, np.maximum(1 - scores, 0), -np.maximum(scores, 0))
    least = np.zeros_like(made)
    for (places, values), by in zip(texts, wrong, strict=True):
        least[places] += 2 * margin.COST * values[:, None] * by
    assert scores[own].min() > 0.3 and (scores[~own] < scores[own].min()).all()
    assert np.abs(made - least).max() < 2e-3


def test_a_thousand_entries_or_so_many_texts_are_too_many_for_margins() -> None:
    assert margin.fits(5 * 800, 800) and margin.fits(14_700, 200)
    assert not margin.fits(2 * 1_025, 1_025) and not margin.fits(20_001, 200)


def test_a_query_is_scored_alike_however_the_weights_lie() -> None:
    head = train(house())
    assert head is not None and head.weights.flags.f_contiguous
    query, rows = features.features("turn on the lamp in the kitchen"), np.array([5, -1, 0, 2])
    one, other = (
        replace(head, weights=weights).scores(*query, rows)
        for weights in (head.weights, np.ascontiguousarray(head.weights))
    )
    assert np.isnan(one[1]) and np.allclose(one, other, atol=1e-5, equal_nan=True)
    assert Head.from_bytes(head.to_bytes()).weights.flags.f_contiguous


def test_a_head_comes_back_from_its_bytes_and_broken_ones_are_refused() -> None:
    head = train(house(examples=2))
    assert head is not None
    data = head.to_bytes()
    back = Head.from_bytes(data)
    assert back.digest == head.digest and back.keys == head.keys and back.texts == head.texts
    for broken in (b"", b"no head", data[: len(data) // 2]):
        with pytest.raises(BadRequest):
            Head.from_bytes(broken)


def test_nothing_is_learned_from_descriptions_alone() -> None:
    assert train(house(examples=0)) is None and train(house()[:1]) is None
    found = learn(house(examples=0))
    assert found.head is None and found.calibration == DEFAULT and not found.held_out


def test_learning_twice_gives_the_same_and_uses_all_examples_in_the_end() -> None:
    one, two = learn(house()), learn(house())
    assert one.held_out == 6 and one.calibration == two.calibration == DEFAULT_WITH_EXAMPLES
    assert one.head is not None and two.head is not None
    assert one.head.digest == two.head.digest and one.head.texts == 42


@given(st.lists(NUMBERS, min_size=5, max_size=5), st.integers(0, 4), NUMBERS)
def test_more_of_a_signal_never_makes_less_sure(values: list[float], at: int, more: float) -> None:
    for calibration in (FITTED, DEFAULT, DEFAULT_WITH_EXAMPLES):
        low = np.array(values, np.float32)
        high = low.copy()
        high[at] += more
        assert 0 <= calibration.confidence(low) <= calibration.confidence(high) <= 1


def test_a_fit_says_how_often_it_is_right_and_answers_alone_from_where_that_suffices() -> None:
    sure = np.array([FITTED.confidence(row) for row in DRAWN])
    assert FITTED.fitted_on == len(DRAWN)
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 1.0)):
        part = (sure >= low) & (sure < high)
        assert abs(sure[part].mean() - RIGHT[part].mean()) < 0.1
    alone = sure >= FITTED.answer_from
    assert RIGHT[alone].mean() >= 0.95 and alone.sum() > 100
    assert 0 < (sure[RIGHT] < FITTED.nothing_below).mean() <= 0.02


def test_too_few_or_one_sided_requests_are_no_ground_for_a_fit() -> None:
    few = fit(DRAWN[:10], RIGHT[:10], instead=DEFAULT)
    assert few == DEFAULT == fit(DRAWN, np.ones(len(DRAWN), bool), instead=DEFAULT)


def test_who_learned_from_many_requests_sends_foreign_ones_away_and_no_others() -> None:
    ways = ("{}", "please {}", "could you {}", "{} now", "I would like this: {}", "hello, {}",
            "{}, if you can", "when you have time, {}", "{} and then stop", "first of all {}",
            "{} again", "for my sister: {}", "{} this evening")  # fmt: skip
    entries = [
        replace(
            entry,
            # Two that may be anyone's: some that are held out cannot be right.
            examples=tuple(
                way.format(text)
                for text in (*entry.examples, "do that once more", "show me how")
                for way in ways
            ),
        )
        for entry in house()
    ]
    learned = learn(entries)
    assert learned.calibration.fitted_on == learned.held_out > 100 and learned.right < 1
    ranker = Ranker()
    for entry in entries:
        ranker.put(entry)
    ranker.use_head(learned.head)

    def given(text: str, calibration: Calibration) -> Answer:
        return answer(ranker.rank(ranker.query(text)), calibration)

    for text in ("multiply two matrices, please", "could you tell me a joke, please"):
        assert not given(text, DEFAULT_WITH_EXAMPLES).no_match
        found = given(text, learned.calibration)
        assert found.no_match and "nothing here is about it" in found.reason
    for text in ("dim the bedroom", "play something", "is somebody at the gate"):
        assert not given(text, learned.calibration).no_match


@given(st.lists(NUMBERS, min_size=4, max_size=4), st.integers(0, 3), NUMBERS)
def test_more_evidence_never_makes_a_request_foreign(
    values: list[float], at: int, more: float
) -> None:
    low = np.array(values, np.float32)
    high = low.copy()
    high[at] += more
    assert HERE.is_foreign(low) or not HERE.is_foreign(high)
    assert not FITTED.is_foreign(low), "nothing was learned of it"


def test_few_of_those_that_are_here_are_sent_away_and_many_of_the_others() -> None:
    sent_away = [np.mean([HERE.is_foreign(row) for row in rows]) for rows in (PRESENT, ABSENT)]
    assert 0 < sent_away[0] <= 0.02 and sent_away[1] > 0.5
    assert fit_here(FITTED, PRESENT[:99], ABSENT) == FITTED, "too few"
    # However alike the examples are, what is likelier here than not is answered.
    apart = fit_here(FITTED, PRESENT + 9, ABSENT)
    assert apart.here_from == 0.5 and not any(apart.is_foreign(row) for row in PRESENT + 9)


_RNG = np.random.default_rng(5)
DRAWN = _RNG.uniform(0, 2, (3_000, len(SIGNALS))).astype(np.float32)
RIGHT = _RNG.random(3_000) < 1 / (1 + np.exp(-(3 * DRAWN[:, 0] + DRAWN[:, 3] - 2)))
FITTED = fit(DRAWN, RIGHT, instead=DEFAULT)
PRESENT = _RNG.normal(2.5, 0.5, (500, 4)).clip(0).astype(np.float32)
ABSENT = _RNG.normal(1.5, 0.5, (400, 4)).clip(0).astype(np.float32)
HERE = fit_here(FITTED, PRESENT, ABSENT)
