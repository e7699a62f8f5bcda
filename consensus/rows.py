"""Rows of named tables, with the revisions at which they were made and changed. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field

_OVERHEAD_BYTES = 300


@dataclass(frozen=True, slots=True)
class Row:
    """One row. Immutable: whoever has got it keeps what it was.

    Attributes:
        table, key: where it stands.
        value: bytes of whoever owns the table.
        created, changed: revisions of the state at which it was made and last changed.
    """

    table: str
    key: str
    value: bytes
    created: int
    changed: int


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a row.

    Attributes:
        table, key: which one.
        row: as it is now; None: it is no more.
        before: as it was; None: it was not there.
        reason: why, where its table says so: `expired`, `released`.
    """

    table: str
    key: str
    row: Row | None
    before: Row | None
    reason: str = ""

    @property
    def cost_bytes(self) -> int:
        """About how much memory keeping it takes, bytes."""
        return (
            _OVERHEAD_BYTES
            + len(self.key)
            + sum(len(each.value) for each in (self.row, self.before) if each is not None)
        )


@dataclass(slots=True)
class _Table:
    rows: dict[str, Row] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)  # sorted


class Rows:
    """All tables. Changes are gathered between `begin` and `end`, and have one revision."""

    def __init__(self) -> None:
        """Begin empty, at revision 0."""
        self.revision = 0
        self._tables: dict[str, _Table] = {}
        self._changes: list[Change] = []

    def __len__(self) -> int:
        """Return how many rows there are in all tables."""
        return sum(len(each.rows) for each in self._tables.values())

    def get(self, table: str, key: str) -> Row | None:
        """Return a row; None: it is not there."""
        found = self._tables.get(table)
        return found.rows.get(key) if found is not None else None

    def scan(
        self, table: str, prefix: str = "", *, after: str = "", count_max: int | None = None
    ) -> list[Row]:
        """Return rows whose keys begin with `prefix` and stand after `after`, in order of keys."""
        found = self._tables.get(table)
        if found is None:
            return []
        start = bisect_left(found.keys, prefix)
        if after:
            start = max(start, bisect_right(found.keys, after))
        end = bisect_left(found.keys, True, start, key=lambda key: not key.startswith(prefix))
        if count_max is not None:
            end = min(end, start + count_max)
        return [found.rows[key] for key in found.keys[start:end]]

    def tables(self) -> list[str]:
        """Return the names of tables that have rows, sorted."""
        return sorted(name for name, each in self._tables.items() if each.rows)

    def copy_of(self, table: str) -> list[Row]:
        """Return all rows of a table, in no order, as they are now: a shallow copy."""
        found = self._tables.get(table)
        return list(found.rows.values()) if found is not None else []

    # ---- changes ---------------------------------------------------------------------------------

    def put(self, table: str, key: str, value: bytes, *, reason: str = "") -> Row:
        """Write a row, at the next revision."""
        found = self._tables.setdefault(table, _Table())
        before = found.rows.get(key)
        revision = self.revision + 1
        row = Row(table, key, value, before.created if before else revision, revision)
        if before is None:
            insort(found.keys, key)
        found.rows[key] = row
        self._changes.append(Change(table, key, row, before, reason))
        return row

    def delete(self, table: str, key: str, *, reason: str = "") -> bool:
        """Take a row away, at the next revision; False: there was none."""
        found = self._tables.get(table)
        before = found.rows.pop(key, None) if found is not None else None
        if found is None or before is None:
            return False
        del found.keys[bisect_left(found.keys, key)]
        self._changes.append(Change(table, key, None, before, reason))
        return True

    def end(self) -> tuple[Change, ...]:
        """End a step: what it changed, if anything, has the next revision from now on."""
        if not self._changes:
            return ()
        changes, self._changes = tuple(self._changes), []
        self.revision += 1
        return changes

    def restore(self, rows: list[Row]) -> None:
        """Put rows of a snapshot back. Requires: none of them is there."""
        for row in rows:
            table = self._tables.setdefault(row.table, _Table())
            table.rows[row.key] = row
            table.keys.append(row.key)

    def restored(self, revision: int) -> None:
        """Finish restoring at the revision of the snapshot."""
        for each in self._tables.values():
            each.keys.sort()
        self.revision = revision
