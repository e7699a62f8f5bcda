"""BM25: what it scores, and that coming and going leaves nothing behind."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import log1p

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.registry.embed.features import stems
from sira.registry.lexical import K1, PAIR_WEIGHT, B, Bm25

WORDS = st.sampled_from(["kilo", "lima", "Zürich", "你好", "booking", "books", "the"])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
FIELDS = st.lists(st.tuples(st.sampled_from([1.0, 2.0]), TEXTS), max_size=3)
STEPS = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.none() | FIELDS), max_size=40)


def _scores(held: Bm25, keys: list[str], query: str) -> list[float]:
    found = held.scores(query)
    return [float(found[held.slot(key)]) for key in keys]


def _terms(text: str, weight: float, pair_weight: float) -> Counter[tuple[str, ...]]:
    """Stems and pairs of them, as BM25 counts them."""
    found: Counter[tuple[str, ...]] = Counter()
    of_text = stems(text)
    for each in of_text:
        found[(each,)] += weight  # type: ignore[assignment]  # any number
    for pair in pairwise(of_text):
        found[pair] += weight * pair_weight  # type: ignore[assignment]
    return found


def _okapi(entries: dict[str, list[tuple[float, str]]], query: str) -> list[float]:
    """Score by the formula, written down plainly."""
    held = {
        key: sum((_terms(text, weight, 1) for weight, text in fields), Counter[tuple[str, ...]]())
        for key, fields in entries.items()
    }
    lengths = {key: sum(terms.values()) for key, terms in held.items()}
    mean = sum(lengths.values()) / max(len(lengths), 1)
    made = []
    for key, terms in held.items():
        score = 0.0
        for term, times in _terms(query, 1, PAIR_WEIGHT).items():
            have = sum(term in each for each in held.values())
            if term in terms:
                idf = log1p((len(held) - have + 0.5) / (have + 0.5))
                full = K1 * (1 - B + B * lengths[key] / mean)
                score += times * idf * (K1 + 1) * terms[term] / (terms[term] + full)
        made.append(score)
    return made


@given(STEPS, TEXTS)
def test_adding_and_removing_in_any_order_scores_like_what_is_left(
    steps: list[tuple[str, list[tuple[float, str]] | None]], query: str
) -> None:
    walked, left = Bm25(), dict[str, list[tuple[float, str]]]()
    for key, fields in steps:
        if fields is None:
            assert walked.remove(key) == (left.pop(key, None) is not None)
        else:
            walked.add(key, fields)
            left[key] = fields
    assert len(walked) == len(left)
    assert _scores(walked, list(left), query) == pytest.approx(_okapi(left, query), abs=1e-4)
    assert np.count_nonzero(walked.scores(query)) <= len(left)


def test_thousands_come_and_go_and_what_is_left_scores_as_if_they_had_never_been() -> None:
    rng = np.random.default_rng(7)

    def text() -> str:
        return " ".join(f"{'abcdefgh'[rng.integers(8)]}{'xyz'[rng.integers(3)]}o{rng.integers(40)}"
                        for _ in range(12))  # fmt: skip

    walked, left = Bm25(), dict[str, list[tuple[float, str]]]()
    for step in range(6_000):
        key = f"k{rng.integers(500)}"
        if step % 3 == 0:
            assert walked.remove(key) == (left.pop(key, None) is not None)
        else:
            left[key] = [(1.0, text())]
            walked.add(key, left[key])
    fresh, query = Bm25(), text()
    for key, fields in left.items():
        fresh.add(key, fields)
    assert _scores(walked, list(left), query) == pytest.approx(
        _scores(fresh, list(left), query), abs=1e-4
    )
    best = list(walked.best(walked.scores(query), 2))
    by_score = dict(zip(left, _scores(walked, list(left), query), strict=True))
    assert len(best) > 100 and [by_score[key] for key in best] == sorted(
        (each for each in by_score.values() if each), reverse=True
    )


def test_the_best_come_in_order_however_many_are_wanted() -> None:
    held = Bm25()
    for i in range(3_000):
        held.add(f"e{i}", [(1.0, "rare " * (1 + i % 7) + "common " * (i % 5))])
    scores = held.scores("rare")
    keys = list(held.best(scores, 512))
    assert len(keys) == 3_000 == len(set(keys))
    found = [(-float(scores[held.slot(key)]), held.slot(key)) for key in keys]
    assert found == sorted(found)
    for count in (1, 7, 500, 2_999, 3_000, 4_000):
        assert held.top(scores, count) == keys[:count]


def test_the_formula_is_okapis() -> None:
    held = Bm25()
    held.add("one", [(2.0, "alpha"), (1.0, "beta")])
    held.add("two", [(1.0, "beta"), (4.0, "gamma")])
    idf = np.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    full = K1 * (1 - B + B * 3 / 4)
    found = _scores(held, ["one", "two"], "alpha")
    assert found == pytest.approx([idf * (K1 + 1) * 2 / (2 + full), 0])


def test_a_rare_word_weighs_more_and_a_shorter_text_wins() -> None:
    held = Bm25()
    for i in range(20):
        held.add(f"plain {i}", [(1, "common"), (3, "filler")])
    held.add("short", [(1, "common"), (1, "rarity")])
    held.add("long", [(1, "common"), (1, "rarity"), (30, "filler")])
    rare, common = stems("rarity common")
    assert held.rarity(rare) > held.rarity(common) > 0 == held.rarity("unheard")
    found = held.scores("rarity common")
    assert found[held.slot("short")] > found[held.slot("long")] > found[held.slot("plain 3")]
    assert held.shared("short", [common, rare, "x"]) == [rare, common]


def test_an_empty_index_and_an_unknown_word_score_nothing() -> None:
    held = Bm25()
    assert not held.scores("alpha").any() and not held.remove("nobody")
    held.add("one", [])
    assert not held.scores("alpha").any() and "one" in held


def test_words_side_by_side_count_as_one_term_more() -> None:
    held = Bm25()
    held.add("near", [(1.0, "red boat")])
    held.add("apart", [(1.0, "boat red")])
    found = held.scores("red boats")
    assert found[held.slot("near")] > found[held.slot("apart")] > 0
