"""A walk over the ledger's rows: in slices, while rows come, fold and go."""

from __future__ import annotations

import random

import pytest

from .hub_harness import Bench


def test_a_row_that_stays_is_met_once_whatever_comes_and_goes_between_slices() -> None:
    for seed in range(200):
        rng, bench = random.Random(seed), Bench()
        names = [f"t{number}" for number in range(rng.randrange(60))]
        for name in names:
            bench.hub.declare(name, group=rng.choice(("a.>", "b.>"))).count_refused("NO_MATCH")
        walk, met, gone, fresh = bench.hub.walk(), [], set(), 0
        classes: dict[str, int] = {}
        while not walk.done:
            for row in walk.rows(rng.randrange(1, 9)):
                if row["class_row"]:
                    classes[row["topic"]] = row["refused"].get("NO_MATCH", 0)
                else:
                    met.append(row["topic"])
            for _ in range(rng.randrange(4)):
                if names and rng.random() < 0.6:
                    name = names.pop(rng.randrange(len(names)))
                    gone.add(name)
                    bench.hub.drop(name)  # its row is freed now: nothing else holds it
                else:
                    fresh += 1
                    bench.hub.declare(f"n{fresh}", group="a.>").count_refused("NO_MATCH")
            if rng.random() < 0.3:
                walk = bench.hub.walk(walk.position) if walk.position else walk
        kept = [name for name in met if name.startswith("t")]
        assert len(kept) == len(set(kept)), seed
        assert set(names) <= set(kept), seed
        missed = gone - set(kept)  # they folded before they were met: their class has them
        assert sum(classes.values()) >= len(missed), seed


def test_a_slice_looks_at_a_bounded_number_of_rows_whatever_it_finds() -> None:
    bench = Bench()
    for number in range(1_000):
        bench.hub.declare(f"t{number}").count_refused("NO_MATCH")
    walk, slices = bench.hub.walk(), []
    while not walk.done:
        slices.append(len(walk.rows(2, "t3")))
    assert sum(slices) == 1
    assert len(slices) >= 1_000 // (2 * 32)


def test_names_and_histograms_are_of_topics_and_of_classes() -> None:
    bench = Bench()
    for name in ("x", "y"):
        bench.hub.declare(name, group=f"{name}.>")
    assert bench.hub.walk().topics(10) == ["y", "x"]
    assert [row[0] for row in bench.hub.walk(1).histograms(10)] == ["y.>", "x.>"]


def test_a_walk_outlives_the_topics_and_the_hub_itself() -> None:
    bench = Bench()
    bench.hub.declare("x", group="x.>").count_refused("NO_MATCH")
    walk = bench.hub.walk()
    bench.hub.close()
    del bench
    assert [row["topic"] for row in walk.rows(10)] == ["x.>"]
    assert walk.done and walk.position == 0


@pytest.mark.parametrize("count", [0, 1 << 30])
def test_a_slice_of_no_rows_or_too_many_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="slice"):
        Bench().hub.walk().rows(count)
