"""How calls are shared between versions of one capability: a key of the configuration. Pure.

`registry.weights.CAPABILITY` = `{"^1": 90, "^2": 10}`: ranges of versions, each with its weight. A
version counts to the first range that it is in; one that is in none gets nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

from sira.kernel.errors import BadRequest, SiraError
from sira.registry.discovery import Filter, Found, Place, Weighed
from sira.registry.rank.answer import Match, Reason
from sira.registry.records import CAPABILITY
from sira.registry.versions import Range, Version, parse_range

PREFIX = "registry.weights."
RANGES_MAX = 16
WEIGHT_MAX = 1e6


@dataclass(frozen=True, slots=True)
class Weights:
    """Ranges in their order, as they were written, with what they get."""

    parts: tuple[tuple[str, Range, float], ...]

    def of(self, version: Version | None) -> Weighed:
        """Return what a version gets: its range, and the weight of that."""
        for text, range_, weight in self.parts:
            if version is not None and version in range_:
                return Weighed(text, weight)
        return Weighed("", 0.0)


def parse(key: str, value: object) -> Weights | None:
    """Read the value of a key; None: `{}` or null, no weights hold any more.

    Raises:
        BadRequest: it says what cannot be; the message names what.
    """
    capability = key.removeprefix(PREFIX)
    if not CAPABILITY.fullmatch(capability):
        raise _bad(key, f"{capability[:80]!r} is no name of a capability")
    if value is None or value == {}:
        return None
    if not isinstance(value, Mapping):
        raise _bad(key, "it is no object of ranges and weights")
    if len(value) > RANGES_MAX:
        raise _bad(key, f"it has {len(value)} ranges, at most {RANGES_MAX}")
    parts = []
    for text, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise _bad(key, f"the weight of {text[:40]!r} is no number")
        if not math.isfinite(weight) or not 0 <= weight <= WEIGHT_MAX:
            raise _bad(key, f"the weight of {text[:40]!r} is not within 0 to {WEIGHT_MAX:g}")
        if not text.strip():
            raise _bad(key, 'a range is empty; "*" is every release')
        try:
            parts.append((text, parse_range(text), float(weight)))
        except SiraError as error:
            raise _bad(key, str(error)) from None
    if not any(weight for _, _, weight in parts):
        raise _bad(key, "all weights are 0; {} takes them away")
    return Weights(tuple(parts))


def read(key: str, value: bytes) -> Weights | None:
    """Read a row that was written before; one that cannot be read weighs nothing."""
    try:
        return parse(key, json.loads(value))
    except (BadRequest, ValueError):
        return None


def weighed(
    found: Found,
    weights: Mapping[str, Weights],
    named: Callable[[str], Iterable[Place]],
    wanted: Filter,
) -> Found:
    """Return what was found, where the best one's capability has weights: with all versions of it.

    They are one capability then, whatever their texts say: all are matches, twins of the best, and
    each says what it gets. Versions take turns, so that none is cut off by `k`.

    Args:
        named: returns the capabilities of a name, of the kind that was asked for.
    """
    matches = found.answer.matches
    if not matches:
        return found
    best = matches[0]
    name = found.places[best.key].capability.name
    of = weights.get(name)
    if of is None:
        return found
    known = {each.key: each for each in matches}
    shares, by_key, by_range = dict[str, Weighed](), dict(found.places), dict[str, list[Match]]()
    for place in named(name):
        if not wanted.shows(place) or wanted.denies(place):
            continue
        share = shares[place.key] = of.of(place.entry.version)
        by_key[place.key] = place
        reason = Reason("weight", 0.0, _said(share, of))
        match = known.pop(place.key, None)
        if match is None:
            made = Match(place.key, best.score, best.confidence, (reason,), best.twin)
        else:
            made = replace(match, twin=best.twin, reasons=(*match.reasons, reason))
        by_range.setdefault(share.range, []).append(made)
    turns = [each for turn in zip_longest(*by_range.values()) for each in turn if each is not None]
    runners = tuple(each for each in found.answer.runners_up if each.key not in shares)
    answer = replace(found.answer, matches=(*turns, *known.values()), runners_up=runners)
    return replace(found, answer=answer, places=by_key, weighed=shares)


def _said(share: Weighed, of: Weights) -> str:
    if not share.range:
        return "its version is in no range that has a weight: it gets nothing beside them"
    total = sum(weight for _, _, weight in of.parts)
    return f"its version is in {share.range!r}: {share.weight:g} of {total:g} calls"


def _bad(key: str, why: str) -> BadRequest:
    return BadRequest(
        f"{key[:120]}: {why}", help='as {"^1": 90, "^2": 10}', details={"field": "value"}
    )
