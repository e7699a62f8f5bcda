"""BM25: what it scores, and that coming and going leaves nothing behind."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.registry.lexical import K1, B, Bm25, terms

TERMS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([1.0, 2.0, 3.0]), max_size=6)
STEPS = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.none() | TERMS), max_size=40)


def _scores(held: Bm25, keys: list[str], query: str) -> list[float]:
    found = held.scores(Counter(query))
    return [float(found[held.slot(key)]) for key in keys]


@given(STEPS, st.text("abcdefg", max_size=5))
def test_adding_and_removing_in_any_order_scores_like_what_is_left(
    steps: list[tuple[str, dict[str, float] | None]], query: str
) -> None:
    walked, left = Bm25(), dict[str, dict[str, float]]()
    for key, held in steps:
        if held is None:
            assert walked.remove(key) == (left.pop(key, None) is not None)
        else:
            walked.add(key, held)
            left[key] = held
    fresh = Bm25()
    for key, held in left.items():
        fresh.add(key, held)
    assert len(walked) == len(left)
    assert _scores(walked, list(left), query) == pytest.approx(
        _scores(fresh, list(left), query), abs=1e-5
    )
    assert np.count_nonzero(walked.scores(Counter(query))) <= len(left)


def test_the_formula_is_okapis() -> None:
    held = Bm25()
    held.add("one", Counter("aab"))
    held.add("two", Counter("bcccc"))
    idf = np.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    full = K1 * (1 - B + B * 3 / 4)
    assert _scores(held, ["one", "two"], "a") == pytest.approx([idf * (K1 + 1) * 2 / (2 + full), 0])
    assert _scores(held, ["one"], "aa") == pytest.approx([2 * idf * (K1 + 1) * 2 / (2 + full)])


def test_a_rare_word_weighs_more_and_a_shorter_text_wins() -> None:
    held = Bm25()
    for i in range(20):
        held.add(f"plain {i}", {"common": 1, "filler": 3})
    held.add("short", {"common": 1, "rare": 1})
    held.add("long", {"common": 1, "rare": 1, "filler": 30})
    assert held.rarity("rare") > held.rarity("common") > 0 == held.rarity("unheard")
    found = held.scores({"rare": 1, "common": 1})
    assert found[held.slot("short")] > found[held.slot("long")] > found[held.slot("plain 3")]
    assert held.shared("short", ["common", "rare", "x"]) == ["rare", "common"]


def test_an_empty_index_and_an_unknown_word_score_nothing() -> None:
    held = Bm25()
    assert not held.scores({"a": 1}).any() and not held.remove("nobody")
    held.add("one", {})
    assert not held.scores({"a": 1}).any() and "one" in held


def test_words_side_by_side_count_as_one_term_more() -> None:
    assert terms(["a", "b", "a", "b"], pair_weight=0.5) == {
        "a": 2, "b": 2, "a b": 1.0, "b a": 0.5,
    }  # fmt: skip
    assert terms([]) == {} and terms(["a"]) == {"a": 1}
