"""The one state machine: `apply(entry)` changes tables, by nothing but what the entry says. Pure.

Equal entries in equal order make equal states, on every node and after every restart: no clock, no
chance, no dependence on settings. Snapshots are in snapshot.py, order and disk in the drivers.
"""

from __future__ import annotations

from dataclasses import dataclass

from sira.consensus import config, leases
from sira.consensus.answers import Answers
from sira.consensus.config import Config
from sira.consensus.leases import Leases
from sira.consensus.rows import Change, Rows
from sira.kernel.errors import BadRequest, Conflict, MessageTooLarge, SiraError, UpgradeRequired
from sira.v1 import tables_pb2

ENTRY_VERSION = 1
BUILT_IN = frozenset({leases.TABLE, config.TABLE, config.HISTORY})
# Part of what an entry means, like those of leases.
VALUE_BYTES_MAX = 64 << 10
KEY_BYTES_MAX = 1 << 10
TABLE_BYTES_MAX = 64
OPERATIONS_MAX = 1_024
TRANSACTION_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Applied:
    """What an entry did: the result for who proposed it, the changes for who watches."""

    result: tables_pb2.TableResult
    changes: tuple[Change, ...] = ()


class State:
    """All tables at one index of the journal."""

    def __init__(self) -> None:
        """Begin before the first entry."""
        self.index = 0  # of the last entry applied
        self.now_ms = 0  # committed time
        self.rows = Rows()
        self.leases = Leases(self.rows)
        self.config = Config(self.rows)
        self.answers = Answers()

    @property
    def revision(self) -> int:
        """Revision of the last change."""
        return self.rows.revision

    def due_ms(self) -> int | None:
        """Return the committed time at which something ends by itself; None: nothing does."""
        return self.leases.due_ms()

    def apply(self, entry: tables_pb2.TableEntry) -> Applied:
        """Apply the entry of the next index.

        Raises:
            UpgradeRequired: it is of a kind or version that this code does not know; nothing was
                changed.
        """
        kind = understood(entry)
        self.index += 1
        self.now_ms += entry.elapsed_ms
        self.leases.pass_time(self.now_ms)
        result = tables_pb2.TableResult()
        command = entry.command if entry.WhichOneof("kind") == "command" else None
        if command is not None:
            if command.HasField("request"):
                known = self.answers.get(command.request)
                if known is not None:
                    return Applied(known, self.rows.end())
            try:
                self._run(kind, command, result)
            except SiraError as error:
                result.error.CopyFrom(error.to_proto())
        changes = self.rows.end()
        result.index, result.revision = self.index, self.revision
        if command is not None and command.HasField("request"):
            self.answers.keep(command.request.client, command.request.sequence, result)
        return Applied(result, changes)

    def _run(
        self, kind: str, command: tables_pb2.TableCommand, result: tables_pb2.TableResult
    ) -> None:
        """Carry out a command. What it raises, it raises before its first change."""
        match kind:
            case "transaction":
                self._transact(command.transaction, result)
            case "lease_acquire":
                claim = self.leases.acquire(command.lease_acquire, self.now_ms)
                result.lease.CopyFrom(claim)
            case "lease_renew":
                result.lease.CopyFrom(self.leases.renew(command.lease_renew, self.now_ms))
            case "lease_release":
                result.lease.CopyFrom(self.leases.release(command.lease_release, self.now_ms))
            case "config_set":
                result.config.CopyFrom(self.config.set(command.config_set))
            case "config_rollback":
                result.config.CopyFrom(self.config.rollback(command.config_rollback))
            case _:
                raise AssertionError(kind)  # `understood` knows a kind that this does not

    def _transact(self, asked: tables_pb2.TableTransaction, result: tables_pb2.TableResult) -> None:
        """Compare, then change all of it or nothing.

        Raises:
            BadRequest, MessageTooLarge: not a transaction that may be.
            Conflict: a compare does not hold; `result.conflicts` says what does.
        """
        check_transaction(asked)
        for each in asked.compares:
            row = self.rows.get(each.table, each.key)
            revision = row.changed if row is not None else 0
            if revision != each.revision:
                result.conflicts.add(table=each.table, key=each.key, revision=revision)
        if result.conflicts:
            first = result.conflicts[0]
            raise Conflict(
                f"{first.table} {first.key[:80]!r} is at revision {first.revision}, and "
                f"{len(result.conflicts)} compares of {len(asked.compares)} do not hold",
                details={
                    "table": first.table,
                    "key": first.key[:200],
                    "revision": str(first.revision),
                },
                help="read the rows again, and decide anew",
            )
        for put in asked.puts:
            self.rows.put(put.table, put.key, put.value)
        for delete in asked.deletes:
            self.rows.delete(delete.table, delete.key)


def understood(entry: tables_pb2.TableEntry) -> str:
    """Return the kind of an entry: "tick", or that of its command.

    Raises:
        UpgradeRequired: it is none that this code knows.
    """
    kind: str | None = entry.WhichOneof("kind")
    if kind == "command":
        kind = entry.command.WhichOneof("kind")
    if entry.version != ENTRY_VERSION or kind is None:
        raise UpgradeRequired(
            f"an entry of version {entry.version}, kind {kind or 'unknown'}, was written by a "
            f"newer Sira; this one knows version {ENTRY_VERSION}",
            details={"version": str(entry.version), "known": str(ENTRY_VERSION)},
        )
    return kind


def check_transaction(asked: tables_pb2.TableTransaction) -> None:
    """Refuse what no state takes, whatever is in it.

    Raises:
        BadRequest: a name or key that cannot be, a row named twice, a table of our own.
        MessageTooLarge: past a limit.
    """
    count = len(asked.puts) + len(asked.deletes) + len(asked.compares)
    if count > OPERATIONS_MAX:
        raise _too_large("operations of a transaction", count, OPERATIONS_MAX)
    size = asked.ByteSize()
    if size > TRANSACTION_BYTES_MAX:
        raise _too_large("bytes of a transaction", size, TRANSACTION_BYTES_MAX)
    changed = set()
    for put in asked.puts:
        if len(put.value) > VALUE_BYTES_MAX:
            raise _too_large("bytes of a value", len(put.value), VALUE_BYTES_MAX)
        changed.add(_changed(put.table, put.key))
    for delete in asked.deletes:
        changed.add(_changed(delete.table, delete.key))
    if len(changed) < len(asked.puts) + len(asked.deletes):
        raise BadRequest("a transaction changes a row once", details={"field": "key"})
    for each in asked.compares:
        _check_names(each.table, each.key)


def _changed(table: str, key: str) -> tuple[str, str]:
    """Return what names a row that is to be changed.

    Raises:
        BadRequest, MessageTooLarge: names that cannot be, a table of our own.
    """
    _check_names(table, key)
    if table in BUILT_IN:
        raise BadRequest(f"{table} has commands of its own", details={"field": "table"})
    return table, key


def _check_names(table: str, key: str) -> None:
    if not table or not key:
        raise BadRequest("a table and a key have a name", details={"field": "key"})
    # A character is at most four bytes: most need no counting.
    if 4 * len(table) > TABLE_BYTES_MAX and len(table.encode()) > TABLE_BYTES_MAX:
        raise _too_large("bytes of a table's name", len(table.encode()), TABLE_BYTES_MAX)
    if 4 * len(key) > KEY_BYTES_MAX and len(key.encode()) > KEY_BYTES_MAX:
        raise _too_large("bytes of a key", len(key.encode()), KEY_BYTES_MAX)


def _too_large(what: str, value: int, limit: int) -> MessageTooLarge:
    return MessageTooLarge(f"{what}: {value}, at most {limit}", details={"limit": str(limit)})
