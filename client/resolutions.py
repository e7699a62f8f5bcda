"""What was found out who does what, for as long as it holds. Pure.

A resolution holds until the registry's revision or state version moves. Those are told by a stream;
while that is not there nothing is kept. What was asked before a move and answered after it may be
of before: it is not kept either.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")
ENTRIES_MAX = 4_096


class Resolutions(Generic[V]):
    """Values by query, all of one state of the registry.

    Attributes:
        entries: to be read alone.
        epoch: how often it was emptied.
        is_live: moves are being told.
    """

    def __init__(self, *, entries_max: int = ENTRIES_MAX) -> None:
        """Begin empty, and not live."""
        self.entries: dict[Hashable, V] = {}
        self.epoch = 0
        self.is_live = False
        self._entries_max = entries_max
        self._at: tuple[int, int] | None = None

    def put(self, key: Hashable, value: V, *, epoch: int) -> bool:
        """Keep what was asked for in `epoch`; return whether it is kept."""
        if not self.is_live or epoch != self.epoch:
            return False
        self.entries.pop(key, None)
        if len(self.entries) >= self._entries_max:
            del self.entries[next(iter(self.entries))]  # the oldest
        self.entries[key] = value
        return True

    def drop(self, key: Hashable) -> None:
        """Forget one."""
        self.entries.pop(key, None)

    def told(self, revision: int, state_version: int) -> bool:
        """Take what the stream told; return whether that is news."""
        at = (revision, state_version)
        if self.is_live and self._at == at:
            return False
        self._at, self.is_live = at, True
        self._empty()
        return True

    def lost(self) -> None:
        """Take note that moves are told no more."""
        self.is_live, self._at = False, None
        self._empty()

    def _empty(self) -> None:
        self.epoch += 1
        self.entries.clear()
