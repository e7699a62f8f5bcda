"""The ranker: entries come and go, parts are mixed, and the answer says why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sira.kernel.errors import BadRequest
from sira.registry.embed.hashed import HashedEmbedder
from sira.registry.embed.interface import F32
from sira.registry.rank import mix, ranker
from sira.registry.rank.answer import Answer, answer
from sira.registry.rank.calibrate import DEFAULT, signals_of
from sira.registry.rank.entries import Entry, Vectors
from sira.registry.rank.head import train
from sira.registry.rank.ranker import Ranker
from tests.unit.registry.agents_of_a_house import house

REQUESTS = ("turn the lamp on", "set the radiator to 20", "play an album", "add milk to the list")


def _filled(entries: Sequence[Entry], *, model: HashedEmbedder | None = None) -> Ranker:
    made = Ranker(model)
    for entry in entries:
        made.put(entry)
    return made


def _scores(held: Ranker, text: str) -> list[tuple[str, float]]:
    ranking = held.rank(held.query(text))
    return [(each.key, round(each.score, 4)) for each in ranking.scored]


def _answer(held: Ranker, text: str, *, k: int = 5, answer_from: float = 0.5) -> Answer:
    calibration = replace(DEFAULT, answer_from=answer_from, nothing_below=0.0)
    return answer(held.rank(held.query(text)), calibration, k=k)


def test_a_request_finds_who_says_that_it_does_it() -> None:
    held = _filled(house(examples=0))
    assert [_scores(held, text)[0][0] for text in REQUESTS] == [
        "lights", "heating", "music", "shopping",
    ]  # fmt: skip


def test_examples_find_what_no_description_says() -> None:
    assert _scores(_filled(house()), "I am freezing in the study")[0][0] == "heating"


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
@settings(max_examples=15)
def test_coming_and_going_in_any_order_scores_like_a_fresh_start(
    steps: list[tuple[int, bool]],
) -> None:
    entries = house(examples=2)
    walked, left = _filled(entries[:2]), {entry.key: entry for entry in entries[:2]}
    for i, comes in steps:
        if comes:
            walked.put(entries[i])
            left[entries[i].key] = entries[i]
        else:
            assert walked.remove(entries[i].key) == (left.pop(entries[i].key, None) is not None)
        walked.rank(walked.query("the lamp"))  # what is kept between requests must not grow old
    fresh = _filled(list(left.values()))
    for text in REQUESTS:
        found, wanted = dict(_scores(walked, text)), dict(_scores(fresh, text))
        assert found == pytest.approx(wanted, abs=2e-3)


def test_another_process_ranks_alike() -> None:
    code = (
        "from tests.unit.registry.test_ranker import _filled, _scores, REQUESTS, house\n"
        "print([_scores(_filled(house()), text) for text in REQUESTS])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert found.stdout.strip() == repr([_scores(_filled(house()), text) for text in REQUESTS])


def test_only_those_are_answered_that_may_be() -> None:
    held = _filled(house())
    ranking = held.rank(held.query("turn the lamp off"), among={"heating", "music", "nobody"})
    assert {each.key for each in ranking.scored} == {"heating", "music"}
    assert held.rank(held.query("x"), among=set()).scored == ()


def test_of_many_entries_those_with_its_words_or_named_by_an_index_are_scored() -> None:
    many = [Entry(f"n{i}", f"n{i}", f"counts the apples of tree {i} zone{i}") for i in range(300)]
    held = _filled(many)
    assert len(many) > ranker.SCORED_ALL_MAX
    assert _scores(held, "what grows in zone217")[0][0] == "n217"
    ranking = held.rank(held.query("zone217 pears"), found={"n3", "nobody"}, count=500)
    assert {"n217", "n3"} <= {each.key for each in ranking.scored}
    only = held.rank(held.query("zone217"), found={"n3"}, among={f"n{i}" for i in range(290)} - {
        "n3"}, count=500)  # fmt: skip
    assert "n3" not in {each.key for each in only.scored}
    assert _answer(held, "quarks").reason == "nothing here shares a word with it"
    assert _answer(held, "").reason == "the request has no words"
    assert _answer(Ranker(), "quarks").reason == "there is nobody to ask"


def test_a_shift_moves_a_candidate_by_what_it_says_and_no_other() -> None:
    held = _filled(house())
    query = held.query("turn it down")
    before = {each.key: each.score for each in held.rank(query).scored}
    after = {each.key: each.score for each in held.rank(query, shifts={"music": 0.75}).scored}
    assert after.pop("music") - before.pop("music") == pytest.approx(0.75, abs=1e-5)
    assert after == before


def test_an_entry_that_the_head_does_not_know_is_judged_by_its_other_parts() -> None:
    held = _filled(house())
    held.use_head(train([entry for entry in house() if entry.key != "music"]))
    found = held.rank(held.query("play the next song of that album")).scored
    assert found[0].key == "music" and "head" not in found[0].raw
    assert "head" in found[1].raw and mix.HEAD in found[0].parts


def test_a_request_without_words_or_of_something_else_is_no_match() -> None:
    held = _filled(house())
    for text in ("", "???", "quantum chromodynamics of hadrons"):
        found = _answer(held, text)
        assert found.no_match and not found.matches and found.reason
    assert _answer(Ranker(), "anything").no_match


def test_what_would_hardly_be_right_is_not_answered() -> None:
    ranking = _filled(house()).rank(_filled(house()).query("turn the kitchen lamp off"))
    strict = replace(DEFAULT, nothing_below=1.0)
    found = answer(ranking, strict)
    assert found.no_match and "of the time" in found.reason and found.runners_up


def test_a_sure_answer_is_one_and_an_unsure_one_a_shortlist_with_reasons_why_not() -> None:
    held = _filled(house())
    sure = _answer(held, "turn the kitchen lamp off")
    assert [match.key for match in sure.matches] == ["lights"] and not sure.is_shortlist
    unsure = _answer(held, "turn the kitchen lamp off", k=3, answer_from=1.0)
    assert unsure.is_shortlist and len(unsure.matches) == 3 and "%" in unsure.reason
    for runner in (*sure.runners_up, *unsure.runners_up):
        assert runner.reasons[0].part == "why not" and "behind it" in runner.reasons[0].text
    keys = [match.key for match in (*unsure.matches, *unsure.runners_up)]
    assert len(set(keys)) == len(keys)


def test_reasons_add_up_to_the_score_and_name_the_nearest_example() -> None:
    held = _filled(house())
    held.use_head(train(held.entries()))
    found = _answer(held, "please dim the bedroom now").matches[0]
    assert sum(reason.value for reason in found.reasons) == pytest.approx(found.score, abs=1e-4)
    said = {reason.part: reason.text for reason in found.reasons}
    assert set(said) == {"lexical", "dense", "example", "head"}
    assert "'dim the bedroom'" in said["example"] and "bedroom" in said["lexical"]


def test_twins_are_answered_together_and_do_not_make_each_other_unsure() -> None:
    entries = house()
    said_otherwise = Entry("lamps", "lamps", "Dims lamps; switches them on and off", {}, ())
    held = _filled([*entries, said_otherwise])
    found = _answer(held, "turn the kitchen lamp off")
    assert [match.key for match in found.matches] == ["lights", "lamps"] and not found.is_shortlist
    assert found.matches[0].twin == found.matches[1].twin
    assert {match.twin for match in found.runners_up}.isdisjoint({found.matches[0].twin})
    alone = signals_of(_filled(entries).rank(held.query("turn the kitchen lamp off")))
    beside = signals_of(held.rank(held.query("turn the kitchen lamp off")))
    assert beside[0] > 0.5 * alone[0]  # the margin is to the best that is no twin


def test_one_that_is_there_alone_is_trusted_by_how_much_of_the_request_it_has() -> None:
    held = _filled([Entry("lungs", "mask-lungs", "mask the lungs in a CT scan")])

    def sure(text: str) -> float:
        return DEFAULT.confidence(signals_of(held.rank(held.query(text))))

    assert sure("lungs") > sure("find the lungs") > 0.5 > sure("find me a scan shop")
    assert _answer(held, "order a pizza").no_match


def test_confidences_are_shares_of_one() -> None:
    found = _answer(_filled(house()), "it is too much in here", k=6, answer_from=1.0)
    shares = [match.confidence for match in found.matches]
    assert all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-6


def test_vectors_of_a_model_are_scored_and_those_of_another_refused() -> None:
    model = HashedEmbedder(128)  # stands for a model: it has a name, dims and vectors
    held = _filled(house(), model=model)
    by_text = held.rank(held.query("play an album"))
    assert by_text.scored[0].key == "music" and by_text.model == model.name
    assert {mix.MODEL, mix.MODEL_NEAR, mix.MODEL_MEAN} <= set(by_text.scored[0].parts)
    vector = model.embed(["play an album"])[0]
    alone = held.rank(held.query(vector=vector, embedder=model.name))
    assert alone.scored[0].key == "music" and mix.LEXICAL not in alone.scored[0].parts
    with pytest.raises(BadRequest, match="cannot be compared"):
        held.query(vector=vector, embedder="another/1")
    with pytest.raises(BadRequest, match="no model"):
        _filled(house()).query(vector=vector, embedder=model.name)
    wrong: F32 = np.zeros((1, 64), np.float32)
    with pytest.raises(BadRequest):
        held.put(Entry("x", "x", "x", {}, (), Vectors(wrong[0], wrong[0], wrong[:0])))


def test_words_of_parameters_are_found() -> None:
    entries = [
        Entry("a", "a", "looks something up", {"isbn": "number of a book"}),
        Entry("b", "b", "looks something up", {"plate": "number of a car"}),
    ]
    assert _scores(_filled(entries), "which book has this number")[0][0] == "a"
