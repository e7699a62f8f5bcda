"""Versions are ordered, and ranges hold what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.kernel.errors import BadRequest
from sira.registry.versions import Version, parse_range

# Section 11 of the specification, in its own order.
ORDERED = (
    "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
    "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.1.0", "1.10.0", "2.0.0",
)  # fmt: skip


def test_versions_are_ordered_as_the_specification_says() -> None:
    parsed = [Version.parse(text) for text in ORDERED]
    assert sorted(reversed(parsed)) == parsed
    assert Version.parse("1.0.0+a") == Version.parse("1.0.0+b")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("", ["0.0.1", "9.9.9"], ["1.0.0-rc.1"]),
        ("1.x", ["1.0.0", "1.9.9"], ["0.9.9", "2.0.0", "1.5.0-rc.1"]),
        ("2", ["2.0.0", "2.7.1"], ["1.9.9", "3.0.0"]),
        (">=1.2 <2", ["1.2.0", "1.99.0"], ["1.1.9", "2.0.0"]),
        (">1.2", ["1.3.0"], ["1.2.0", "1.2.9"]),
        ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
        ("<1.2", ["1.1.9"], ["1.2.0"]),
        ("^1.4", ["1.4.0", "1.9.0"], ["1.3.9", "2.0.0"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("~1.4.2", ["1.4.2", "1.4.9"], ["1.5.0", "1.4.1"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("=1.0.0-rc.1", ["1.0.0-rc.1"], ["1.0.0", "1.0.0-rc.2"]),
        (">=1.0.0-rc.1", ["1.0.0-rc.2", "1.0.0"], ["1.0.0-beta", "1.0.1-rc.1"]),
        ("1.0.0 || 3.x", ["1.0.0", "3.4.5"], ["1.0.1", "2.0.0"]),
        ("v1.2.3", ["1.2.3"], ["1.2.4"]),
    ],
)
def test_a_range_holds_what_it_says(text: str, inside: list[str], outside: list[str]) -> None:
    found = parse_range(text)
    assert [each for each in inside if Version.parse(each) not in found] == []
    assert [each for each in outside if Version.parse(each) in found] == []


@pytest.mark.parametrize(
    "text", ["1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3.4", "a.b.c", "1.2.3 ", "1" * 300]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Version.parse(text)


@pytest.mark.parametrize("text", [">=", "1.2.3.4", "latest", ">=1.2<2", "^^1", "1 - 2", "x" * 300])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_range(text)


_numbers = st.integers(0, 5)
_versions = st.builds(Version, _numbers, _numbers, _numbers)


@given(_versions, _versions)
def test_bounds_agree_with_the_order(one: Version, other: Version) -> None:
    text = "{}.{}.{}".format(*other.numbers)
    assert (one in parse_range(f">={text}")) == (one >= other)
    assert (one in parse_range(f"<{text}")) == (one < other)
    assert one in parse_range(f">{text} || <={text}")
