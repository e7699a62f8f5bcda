"""Versions and ranges of them, as Semantic Versioning 2.0.0 orders them. Pure.

A range is alternatives by `||` of comparators that all hold: `>=1.2 <2`, `^1.4`, `~1.4.2`, `1.x`,
`2`, `=1.0.0-rc.1`. As with npm, a pre-release is in a range only where a comparator of it names a
pre-release of the same three numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, total_ordering

from sira.kernel.errors import BadRequest

_NUMBER = r"(?:0|[1-9]\d{0,17})"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?"
)
_PART = rf"(?:{_NUMBER}|[xX*])"
_COMPARATOR = re.compile(
    rf"(\^|~|>=|<=|>|<|=)?\s*v?({_PART})(?:\.({_PART}))?(?:\.({_PART}))?"
    rf"(?:-({_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?"
)
_CHARS_MAX = 256
_CACHED = 1_024  # versions read: thousands of agents have the same few


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """One version. `pre`: identifiers of a pre-release, which comes before the release."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `1.2.3`, `1.2.3-rc.1`, `1.2.3+build` (the build is left out: it has no order).

        Raises:
            BadRequest: not of that form.
        """
        return _parsed(text)

    @classmethod
    def _read(cls, text: str) -> Version:
        found = _VERSION.fullmatch(text) if len(text) <= _CHARS_MAX else None
        if found is None:
            raise BadRequest(
                f"{text[:80]!r} is no version", help="three numbers: 1.4.0, or 1.4.0-rc.1",
                details={"field": "version"},
            )  # fmt: skip
        major, minor, patch, pre = found.groups()
        identifiers = tuple(pre.split(".")) if pre else ()
        if any(each.isdigit() and len(each) > 1 and each[0] == "0" for each in identifiers):
            raise BadRequest(f"{text!r}: no leading zeros", details={"field": "version"})
        return cls(int(major), int(minor), int(patch), identifiers)

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The three numbers."""
        return self.major, self.minor, self.patch

    def __lt__(self, other: Version) -> bool:
        """Order as section 11 of the specification says."""
        return (self.numbers, self._rank()) < (other.numbers, other._rank())

    def _rank(self) -> tuple[tuple[int, int, str], ...]:
        if not self.pre:
            return ((2, 0, ""),)  # after all its pre-releases
        return tuple((0, int(x), "") if x.isdigit() else (1, 0, x) for x in self.pre)


@lru_cache(_CACHED)
def _parsed(text: str) -> Version:
    return Version._read(text)


@dataclass(frozen=True, slots=True)
class _Bound:
    relation: str  # >= | > | <= | < | =
    version: Version

    def holds(self, version: Version) -> bool:
        """Whether a version is on the right side."""
        bound = self.version
        match self.relation:
            case ">=":
                return version >= bound
            case ">":
                return version > bound
            case "<=":
                return version <= bound
            case "<":
                return version < bound
        return version == bound


@dataclass(frozen=True, slots=True)
class Range:
    """Alternatives of bounds that all hold; no bounds: every release."""

    alternatives: tuple[tuple[_Bound, ...], ...]

    def __contains__(self, version: Version) -> bool:
        """Whether a version is in the range."""
        return any(self._fits(bounds, version) for bounds in self.alternatives)

    @staticmethod
    def _fits(bounds: tuple[_Bound, ...], version: Version) -> bool:
        if version.pre and not any(
            each.version.pre and each.version.numbers == version.numbers for each in bounds
        ):
            return False
        return all(each.holds(version) for each in bounds)


@lru_cache(maxsize=1024)
def parse_range(text: str) -> Range:
    """Read a range; "" is every release.

    Raises:
        BadRequest: not of the form above.
    """
    if len(text) > _CHARS_MAX:
        raise BadRequest(f"a range of versions has at most {_CHARS_MAX} characters")
    return Range(tuple(tuple(_bounds(each, text)) for each in text.split("||")))


def _bounds(alternative: str, text: str) -> list[_Bound]:
    bounds: list[_Bound] = []
    rest = alternative.strip()
    while rest:
        found = _COMPARATOR.match(rest)
        if found is None or (found.end() < len(rest) and not rest[found.end()].isspace()):
            raise BadRequest(
                f"{text!r} is no range of versions", help='as ">=1.2 <2", "^1.4" or "1.x"',
                details={"field": "version"},
            )  # fmt: skip
        bounds += _comparator(*found.groups())
        rest = rest[found.end() :].lstrip()
    return bounds


def _comparator(
    relation: str | None, major: str, minor: str | None, patch: str | None, pre: str | None
) -> list[_Bound]:
    """Return what one comparator says as bounds."""
    parts = [None if each is None or each in "xX*" else int(each) for each in (major, minor, patch)]
    if parts[0] is None:
        return []
    given = 1 if parts[1] is None else 2 if parts[2] is None else 3
    numbers = [each or 0 for each in parts[:given]] + [0] * (3 - given)
    low = _version(numbers, tuple(pre.split(".")) if pre and given == 3 else ())
    if relation == "^":
        kept = next((i for i in range(given) if numbers[i]), given - 1)
        return [_Bound(">=", low), _Bound("<", _next(numbers, kept))]
    if relation == "~":
        return [_Bound(">=", low), _Bound("<", _next(numbers, min(given - 1, 1)))]
    if given == 3:
        return [_Bound(relation or "=", low)]
    after = _next(numbers, given - 1)
    match relation:
        case ">=":
            return [_Bound(">=", low)]
        case ">":
            return [_Bound(">=", after)]
        case "<=":
            return [_Bound("<", after)]
        case "<":
            return [_Bound("<", low)]
    return [_Bound(">=", low), _Bound("<", after)]


def _next(numbers: list[int], index: int) -> Version:
    raised = numbers[: index + 1] + [0] * (2 - index)
    raised[index] += 1
    return _version(raised)


def _version(numbers: list[int], pre: tuple[str, ...] = ()) -> Version:
    major, minor, patch = numbers
    return Version(major, minor, patch, pre)
