"""Which capabilities fit a request, found only as far as somebody looks. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

from sira.registry.discovery import Filter, Place

K = TypeVar("K")
_NOBODY: Mapping[str, None] = {}


class Shelf:
    """Capabilities of one kind of agents by key, by name, and by the labels of their agents."""

    def __init__(self) -> None:
        """Begin empty."""
        self.places: dict[str, Place] = {}
        self.with_examples = 0
        self._named: dict[str, dict[str, None]] = {}
        self._labelled: dict[tuple[str, str], dict[str, None]] = {}

    def put(self, place: Place) -> None:
        """Take one in. Requires: there is none of its key."""
        key = place.key
        self.places[key] = place
        self.with_examples += bool(place.capability.examples)
        self._named.setdefault(place.capability.name, {})[key] = None
        for label in place.entry.registration.labels.items():
            self._labelled.setdefault(label, {})[key] = None

    def remove(self, key: str) -> None:
        """Take one out. Requires: it is there."""
        place = self.places.pop(key)
        self.with_examples -= bool(place.capability.examples)
        _drop(self._named, place.capability.name, key)
        for label in place.entry.registration.labels.items():
            _drop(self._labelled, label, key)

    def named(self, name: str) -> Iterator[Place]:
        """Yield those of a name, in the order in which they came."""
        for key in list(self._named.get(name, ())):
            yield self.places[key]

    def labelled(self, label: tuple[str, str]) -> Mapping[str, None]:
        """Return keys of those whose agent has a label."""
        return self._labelled.get(label, _NOBODY)


class Fitting(Collection[str]):
    """Keys of what fits. Each is judged once, when it is asked for; `len` says how many at most."""

    def __init__(self, shelf: Shelf, wanted: Filter) -> None:
        """Judge by `wanted`."""
        self._shelf, self._wanted = shelf, wanted
        # Labels are what leaves few; the smallest group of them is where to look.
        groups: list[Collection[str]] = [shelf.labelled(each) for each in wanted.labels.items()]
        self._pool, *self._others = sorted(groups, key=len) or [shelf.places]
        self._known: dict[str, bool] = {}

    def __len__(self) -> int:
        """Return how many there are at most."""
        return len(self._pool)

    def __iter__(self) -> Iterator[str]:
        """Yield those that fit."""
        return (key for key in list(self._pool) if key in self)

    def __contains__(self, key: object) -> bool:
        """Whether one fits."""
        assert isinstance(key, str), key
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._judged(key)
        return known

    def _judged(self, key: str) -> bool:
        if key not in self._pool or any(key not in group for group in self._others):
            return False
        place = self._shelf.places[key]
        return self._wanted.denies(place) is None and self._wanted.shows(place)


def _drop(groups: dict[K, dict[str, None]], group: K, key: str) -> None:
    keys = groups[group]
    del keys[key]
    if not keys:
        del groups[group]
