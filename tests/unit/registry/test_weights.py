"""Weights between versions of a capability: what is refused, and who gets what."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sira.kernel.errors import BadRequest
from sira.registry.versions import Version
from sira.registry.weights import PREFIX, RANGES_MAX, parse, read

KEY = f"{PREFIX}blur-images"


@pytest.mark.parametrize(
    "value",
    [
        90, "90/10", [90, 10], True, {"^1": "many"}, {"^1": True}, {"^1": None}, {"^1": -1},
        {"^1": math.nan}, {"^1": math.inf}, {"^1": 1e9}, {"^1": 0, "^2": 0}, {"": 1}, {" ": 1},
        {"one": 1}, {"^1": 1, "2 to 3": 1}, {f"^{n}": 1 for n in range(RANGES_MAX + 1)},
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_name_and_weighs_nothing_where_it_is_kept(value: Any) -> None:
    with pytest.raises(BadRequest, match="blur-images"):
        parse(KEY, value)
    assert read(KEY, b"no json") is None


@pytest.mark.parametrize("capability", ["", "a b", "a.b", "a/b", "x" * 65])
def test_a_key_that_names_no_capability_is_refused(capability: str) -> None:
    with pytest.raises(BadRequest):
        parse(PREFIX + capability, {"^1": 1})


def test_no_weights_are_none() -> None:
    assert parse(KEY, {}) is None and parse(KEY, None) is None and read(KEY, b"null") is None


def test_a_version_counts_to_the_first_range_that_it_is_in() -> None:
    weights = parse(KEY, {"2.1.x": 5, "^2": 10, "^1": 85.5})
    assert weights is not None
    for version, range_, weight in (
        ("2.1.7", "2.1.x", 5), ("2.0.0", "^2", 10), ("1.9.0", "^1", 85.5), ("3.0.0", "", 0),
    ):  # fmt: skip
        found = weights.of(Version.parse(version))
        assert (found.range, found.weight) == (range_, weight)
    assert weights.of(None).weight == 0
