"""The interface: what registry, scheduler, leases and configuration see of the tables.

`OneNode` is behind it on a node of its own; one contract suite (tests/contract/tables) holds for
all that are. Reads are of what is applied on this node, at once and without waiting.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sira.consensus.rows import Change, Row
from sira.consensus.watches import Update, Watch
from sira.kernel import errors
from sira.v1 import tables_pb2

__all__ = ["Change", "Compare", "Delete", "Put", "RequestId", "Row", "Tables", "Update", "Watch"]


class RequestId(NamedTuple):
    """Names a command: two with the same name are one, applied once.

    Attributes:
        client: who asks; put the principal into it where strangers choose the rest. 256 bytes.
        sequence: which of its requests, in any order.
    """

    client: str
    sequence: int


class Compare(NamedTuple):
    """A row is at this revision (`Row.changed`); 0: it is not there."""

    table: str
    key: str
    revision: int


class Put(NamedTuple):
    """Write a row."""

    table: str
    key: str
    value: bytes


class Delete(NamedTuple):
    """Take a row away; one that is not there is no error."""

    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Transacted:
    """A transaction that was applied: its rows have this revision, if it changed any."""

    revision: int
    index: int


class Tables(ABC):
    """Named tables of rows: key -> bytes with revisions. Belongs to the loop it was started on."""

    @abstractmethod
    async def propose(
        self, command: tables_pb2.TableCommand, *, timeout_s: float | None = None
    ) -> tables_pb2.TableResult:
        """Put a command in order, wait until it is durable and applied, and return its result.

        `result.error` says what the state refused; `transact` raises it. Not to be changed.

        Raises:
            QueueFull: too many wait. StorageFull: no room on disk. Both: nothing was applied.
            JournalFailed, ConnectionClosed: no command is taken any more.
            Timeout: time was up before it was written; it will not be.
            OutcomeUnknown: time was up, or the node ended, while it was written: repeat it under
                the same request id.
        """

    @abstractmethod
    def get(self, table: str, key: str) -> Row | None:
        """Return a row; None: it is not there."""

    @abstractmethod
    def scan(
        self, table: str, prefix: str = "", *, after: str = "", count_max: int | None = None
    ) -> list[Row]:
        """Return rows whose keys begin with `prefix`, in order of keys.

        Very many hold the loop (about 0.1 µs a row): page by `after`, the last key of the page
        before, and `count_max`.
        """

    @abstractmethod
    def watch(self, table: str, prefix: str = "", *, since: int | None = None) -> Watch:
        """Return what changes under `prefix`; with nothing left out from revision `since` on.

        Where `since` is None, or its changes are not kept any more, the first update has all rows.
        """

    @abstractmethod
    def listen(self, call: Callable[[int, tuple[Change, ...]], None]) -> None:
        """Call `call(revision, changes)` at each step that changes something, before its answer.

        It is called on the loop and must be quick; what only waits for rows watches them.
        """

    @abstractmethod
    async def changed(self, table: str, key: str) -> None:
        """Wait until one row changes next. Look at it first: it has what is applied by now."""

    @abstractmethod
    async def settle(self) -> None:
        """Wait until reads show all that was answered before, by any node: then they are
        linearizable. A cluster of one returns at once.
        """

    @property
    @abstractmethod
    def revision(self) -> int:
        """Revision of the last change that was applied."""

    @property
    @abstractmethod
    def now_ms(self) -> int:
        """Committed time, as far as this node can tell; entries make it true."""

    @property
    @abstractmethod
    def failure(self) -> errors.SiraError | None:
        """Why no command is taken any more; None: they are."""

    async def transact(
        self,
        compares: Sequence[Compare | tuple[str, str, int]] = (),
        puts: Sequence[Put | tuple[str, str, bytes]] = (),
        deletes: Sequence[Delete | tuple[str, str]] = (),
        *,
        request_id: RequestId | tuple[str, int] | None = None,
        timeout_s: float | None = None,
    ) -> Transacted:
        """Where all compares hold, put and delete all, at one revision; else nothing.

        Args:
            compares: rows and the revisions that they must have; 0: must not be there.
            puts, deletes: no row twice.
            request_id: so that a repetition is applied once; None: it is applied again.
            timeout_s: how long to wait; None: as long as it takes.

        Raises:
            Conflict: a compare does not hold; `details` names the first.
            BadRequest, MessageTooLarge: not a transaction that may be.
            SiraError: see `propose`.
        """
        command = tables_pb2.TableCommand()
        command.transaction.SetInParent()
        for table, key, revision in compares:
            command.transaction.compares.add(table=table, key=key, revision=revision)
        for table, key, value in puts:
            command.transaction.puts.add(table=table, key=key, value=value)
        for table, key in deletes:
            command.transaction.deletes.add(table=table, key=key)
        if request_id is not None:
            command.request.client, command.request.sequence = request_id
        result = raise_refusal(await self.propose(command, timeout_s=timeout_s))
        return Transacted(result.revision, result.index)


def raise_refusal(result: tables_pb2.TableResult) -> tables_pb2.TableResult:
    """Return a result, or raise what the state refused the command with."""
    if result.HasField("error"):
        raise errors.from_proto(result.error)
    return result
