"""The C core's features are those of a plain twin in Python, for any text; and what it refuses."""

from __future__ import annotations

import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sira import _native
from sira.registry.embed import features
from sira.registry.embed.hashed import fold, seats

# Many kinds of words in few characters: capitals, digits, endings, other scripts, none at all.
PIECES = ["get", "HTTP", "Status", "ings", "ization", "ss", "ed", "9", "42", "_", " ", ", ", "the",
          "ß", "Zürich", "你好", "ﬁ", "\u0661", "\ud800", "\u0130", "é"]  # fmt: skip
TEXTS = st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


def _twin(text: str) -> dict[int, int]:
    """Place -> how often, as the docstring of `features` says it."""
    words, marked = features.words(text), list[str]()
    for word in words:
        marked.append(f"w{features.stem(word)}")
        if word not in features.STOP_WORDS:
            whole = f" {word} "
            marked += [whole[i : i + n] for n in (3, 4, 5) for i in range(len(whole) - n + 1)]
    marked += [f"b{features.stem(a)} {features.stem(b)}" for a, b in pairwise(words)]
    return Counter(zlib.crc32(each.encode()) % features.PLACES for each in marked)


@settings(max_examples=400)
@given(TEXTS)
def test_features_are_the_twins(text: str) -> None:
    places, values = features.features(text)
    wanted = sorted(_twin(text).items())
    assert places.tolist() == [place for place, _ in wanted]
    counts = np.array([count for _, count in wanted], np.float32)
    assert np.array_equal(values, 1 + np.log(counts).astype(np.float32))


@given(TEXTS)
def test_stems_are_the_twins(text: str) -> None:
    words = [word for word in features.words(text) if word not in features.STOP_WORDS]
    assert features.stems(text) == [features.stem(word) for word in words]


def test_every_function_word_and_ending_is_known_to_both() -> None:
    endings = [suffix for suffix, _ in features._SUFFIXES]
    for word in (*features.STOP_WORDS, *(f"{head}{end}" for head in ("ab", "abc", "abcd", "zürabc")
                                         for end in endings)):  # fmt: skip
        found, _ = features.features(f"{word} x")
        assert found.tolist() == sorted(_twin(f"{word} x")), word


@given(st.text(max_size=100), st.sampled_from([64, 512, 2_048]))
def test_folding_is_a_sum_by_seats(text: str, dims: int) -> None:
    places, values = features.features(text)
    at, signs = seats(places, dims)
    wanted = np.bincount(at, signs * values, dims).astype(np.float32)
    assert np.array_equal(fold(places, values, dims), wanted)
    unit = _native.fold_places(places, values, dims, True)
    length = float(np.linalg.norm(wanted)) or 1.0
    assert unit == pytest.approx(wanted / length, abs=1e-6)


def test_what_is_not_of_ascii_comes_as_words() -> None:
    with pytest.raises(ValueError, match="list of its words"):
        _native.text_features("Zürich")
    for wrong in ([""], ["x" * 33], [7]):
        with pytest.raises(ValueError, match="no word"):
            _native.text_features(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _native.text_features(b"bytes")  # type: ignore[arg-type]


@given(st.lists(st.text(max_size=60), max_size=4))
def test_packed_features_are_those_of_the_texts(texts: list[str]) -> None:
    made = features.packed(texts)
    assert len(made) == len(texts)
    for i, text in enumerate(texts):
        for one, other in zip(features.unpacked(made, i), features.features(text), strict=True):
            assert np.array_equal(one, other)


@given(st.lists(st.text("abcde 0é", max_size=80), min_size=1, max_size=6), st.booleans())
def test_cosines_are_those_of_vectors_of_all_places(texts: list[str], is_sharp: bool) -> None:
    have, kept = np.zeros(features.PLACES, np.int32), np.log1p(np.arange(2, dtype=np.float32))
    logs, spread = np.zeros(features.PLACES, np.float32), np.zeros(features.PLACES, np.float32)
    rows = [features.packed(texts[:2]), features.packed(texts[2:])]
    for row in (*rows, rows[0]):
        _native.count_features(have, logs, kept, row, 1)
    _native.count_features(have, logs, kept, rows[0], -1)
    most = float(np.log1p(len(texts)) + 1)
    rarity = (most - np.log1p(have)) ** (1.5 if is_sharp else 1.0)
    dense = np.zeros((len(texts), features.PLACES))
    for i, text in enumerate(texts):
        places, values = features.features(text)
        dense[i, places] = values * rarity[places]
    asked = features.features(texts[-1])
    found = _native.cosines(rows, len(texts), logs, most, is_sharp, spread, *asked)
    lengths = np.linalg.norm(dense, axis=1) * np.linalg.norm(dense[-1])
    wanted = (dense @ dense[-1]) / np.where(lengths > 0, lengths, 1)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert not spread.any()


def test_arrays_that_do_not_fit_are_refused() -> None:
    have, spread = np.zeros(features.PLACES, np.int32), np.zeros(features.PLACES, np.float32)
    logs, kept = np.zeros(features.PLACES, np.float32), np.zeros(4, np.float32)
    places, values = features.features("book a table")
    row = features.packed(["book a table"])
    args = (1.0, True, spread, places, values)
    assert _native.cosines([row], 1, logs, *args) == pytest.approx([1.0])
    assert len(_native.cosines([], 0, logs, *args)) == 0
    assert not spread.any()
    for rows, count in (([row], 0), ([row], 2), ([row, row], 1), ([], 1)):
        with pytest.raises(ValueError, match=r"rows"):
            _native.cosines(rows, count, logs, *args)
        assert not spread.any()
    with pytest.raises(ValueError, match="fit"):
        _native.cosines([row], 1, logs[:9], *args)
    for wrong in (([row], 1, have), ([None], 1, logs)):
        with pytest.raises(TypeError):
            _native.cosines(*wrong, *args)  # type: ignore[arg-type]
    for short in ((have[:9], logs), (have, logs[:9])):
        with pytest.raises(ValueError, match="all places"):
            _native.count_features(*short, kept, row, 1)
    one = np.ones(1, np.int32)
    for place in (-1, features.PLACES):
        with pytest.raises(ValueError, match="place"):
            _native.Features([(np.array([place], np.int32), one)])
    for counts in (0 * one, np.ones(2, np.int32)):
        with pytest.raises(ValueError, match="count"):
            _native.Features([(one, counts)])
    for strange in ((one,), (one, values[:1]), one):
        with pytest.raises(TypeError):
            _native.Features([strange])  # type: ignore[list-item]
    assert row.row(0)[0].tolist() == places.tolist()
    for number in (-1, 1):
        with pytest.raises(IndexError):
            row.row(number)
    assert _native.Features([(one, 20_000 * one)]).row(0)[1].tolist() == [16_383]
    with pytest.raises(ValueError, match="power of two"):
        _native.fold_places(places, values, 100)


def test_a_slot_is_taken_anew_and_given_up_once() -> None:
    held = _native.Bm25(1)
    held.put(3, [(1.0, "alpha beta")])
    held.put(3, [(1.0, "gamma")])
    assert len(held) == 1 and held.have("alpha") == 0 and held.has(3, "gamma")
    assert not held.has(7, "gamma") and len(held.scores("gamma", 0.5, 2.0, 0.5)) == 4
    assert held.drop(3) and not held.drop(3) and not held.drop(99) and len(held) == 0
    for wrong in (-1, 1 << 70):
        with pytest.raises((OverflowError, TypeError)):
            held.drop(wrong)
    with pytest.raises(TypeError):
        held.put(0, [(1.0,)])  # type: ignore[list-item]
