"""When it is worth learning, and the files of it: decided by counts, believed only when whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.kernel.errors import BadRequest
from sira.registry.learning import stored
from sira.registry.learning.when import Past, Rules, Seen, due_s, rest_until_s
from sira.registry.rank.entries import Entry, Vectors
from sira.registry.rank.learn import learn
from tests.unit.registry.agents_of_a_house import house

RULES = Rules(interval_s=300, examples_min=50)
ENOUGH = Seen(entries=6, examples=60, changed=60, learned_from=0)


@pytest.mark.parametrize(
    ("seen", "past", "due"),
    [
        (ENOUGH, None, -math.inf),
        (Seen(6, 49, 49, 0), None, math.inf),  # too few examples
        (Seen(1, 60, 60, 0), None, math.inf),  # of one alone
        (Seen(6, 60, 0, 60), None, math.inf),  # a restart: nothing has changed
        (ENOUGH, Past(1_000, 1), 1_300),
        (ENOUGH, Past(1_000, 60), 1_000 + 20 * 60),  # it took long
        (ENOUGH, Past(1_000, 1, failures=1), 1_600),
        (ENOUGH, Past(1_000, 1, failures=3), 1_000 + 8 * 300),
        (ENOUGH, Past(1_000, 1, failures=99), 1_000 + 64 * 300),
        (Seen(6, 1_000, 19, 1_000), Past(0, 1), 12 * 300),  # under 2 %: it can wait
        (Seen(6, 1_000, 20, 1_000), Past(0, 1), 300),
    ],
)
def test_it_is_worth_learning(seen: Seen, past: Past | None, due: float) -> None:
    assert due_s(RULES, seen, past) == due


@given(st.floats(0, 1e4), st.integers(0, 50))
def test_more_failures_never_shorten_the_rest(took_s: float, failures: int) -> None:
    one, more = (rest_until_s(RULES, Past(0, took_s, count)) for count in (failures, failures + 1))
    assert 300 <= one <= more


def trained() -> stored.Trained:
    found = learn(house(examples=2))
    assert found.head is not None
    return stored.Trained(
        "default", "agent", found.head, found.calibration, found.held_out, found.right,
        6, 12, {1: 2, 2**64 - 1: 10}, "", 5, 7,
    )  # fmt: skip


def test_what_was_learned_comes_back_from_its_file() -> None:
    one = trained()
    back = stored.from_bytes(stored.to_bytes(one))
    assert np.array_equal(back.head.weights, one.head.weights)
    assert (back.version, back.calibration, back.marks) == (one.version, one.calibration, one.marks)
    assert (back.tenant, back.kind, back.trained_ns) == ("default", "agent", 5)


@given(st.data())
def test_a_file_that_was_torn_or_changed_anywhere_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(WHOLE) - 1))
    changed = bytearray(WHOLE)
    changed[at] ^= data.draw(st.integers(1, 255))
    for broken in (WHOLE[:at], bytes(changed)):
        with pytest.raises(BadRequest):
            stored.from_bytes(broken)


def test_a_child_reads_what_it_is_given_with_the_vectors_of_liked_requests_made_late() -> None:
    entry = Entry("a/x", "a x", "sorts", {"n": "numbers"}, ("one", "two", "one"))
    rows = np.eye(5, 4, dtype=np.float32)
    with_vectors = Entry(
        entry.key, entry.name, entry.text, entry.params, entry.examples,
        Vectors(rows[0], rows[1], rows[[2, 3, 2]]),
    )  # fmt: skip
    for each, model in ((entry, None), (with_vectors, _Model())):
        made = stored.made(each, ("one", "liked"))
        ((mark, back),) = stored.given(made.record, model)
        assert mark == made.mark and made.examples == 3
        assert back.examples == ("one", "two", "liked")
        assert (back.key, back.text, back.params) == ("a/x", "sorts", {"n": "numbers"})
    assert back.vectors is not None
    assert np.array_equal(back.vectors.examples[:2], rows[2:4])
    assert np.array_equal(back.vectors.examples[2], np.full(4, 0.5)), "made by the model"


def test_only_words_that_are_learned_from_make_a_difference() -> None:
    one = Entry("a/x", "a", "sorts", {}, ("p",))
    mark = stored.made(one, ()).mark
    assert stored.made(Entry("a/x", "a", "sorts", {}, ("p",)), ()).mark == mark
    others = [
        stored.made(one, ("q",)),
        stored.made(Entry("a/x", "a", "sorts it", {}, ("p",)), ()),
        stored.made(Entry("b/x", "a", "sorts", {}, ("p",)), ()),
    ]
    assert mark not in {each.mark for each in others}
    assert stored.changed({1: 3, 2: 4}, {1: 3, 5: 0}) == 4 + 1


class _Model:
    name, dims = "try/1", 4

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 4), 0.5, np.float32)


WHOLE = stored.to_bytes(trained())
