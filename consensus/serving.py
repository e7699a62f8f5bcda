"""What the services of tables share: request ids, watches as streams, what a caller may see."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable

from sira import _native
from sira.consensus.rows import Change
from sira.consensus.tables import RequestId, Tables
from sira.kernel.authorize import Allow
from sira.kernel.edge.door import Call
from sira.kernel.errors import BadRequest, NodeDraining
from sira.kernel.topics import is_pattern
from sira.v1 import tables_pb2

_ROWS_A_PART = 200
_REQUEST_CHARS_MAX = 128


def check_taking(call: Call) -> None:
    """Refuse what is new on a node that goes down.

    Raises:
        NodeDraining: it does.
    """
    if call.world.bus.draining:
        raise NodeDraining(retry_after_ms=1_000)


def check_name(name: str) -> None:
    """Refuse what is no name: leases and keys of the configuration are named as topics are.

    Raises:
        BadTopic: it is not well formed.
    """
    _native.check_topic(name)


def request_of(call: Call, request_id: str, command: tables_pb2.TableCommand) -> None:
    """Name a command by what its caller chose: no other principal can mean the same.

    Raises:
        BadRequest: the id is too long.
    """
    if not request_id:
        return
    if len(request_id) > _REQUEST_CHARS_MAX:
        raise BadRequest(
            f"a request_id has at most {_REQUEST_CHARS_MAX} characters",
            details={"field": "request_id"},
        )
    who = hashlib.blake2b(str(call.principal).encode(), digest_size=16).hexdigest()
    what = hashlib.blake2b(f"{call.method.name} {request_id}".encode(), digest_size=8).digest()
    made = RequestId(who, int.from_bytes(what, "big"))
    command.request.client, command.request.sequence = made


def seen_by(call: Call, pattern: str) -> Callable[[str], bool]:
    """Return whether a name is one of a pattern ("": all) that the caller may inspect.

    Raises:
        BadTopic: the pattern is not well formed.
    """
    if pattern:
        _native.check_pattern(pattern)
    access, credential = call.world.bus.access, call.credential

    def seen(name: str) -> bool:
        if pattern and not (
            _native.topic_match(pattern, name) if is_pattern(pattern) else pattern == name
        ):
            return False
        return isinstance(access.decide(credential, "inspect", name), Allow)

    return seen


async def parts_of(
    tables: Tables, table: str, tenant: str, since: int | None
) -> AsyncIterator[tuple[int, bool, list[Change], bool]]:
    """Yield revision, whether it is a snapshot, some changes, and whether the revision goes on.

    A row of a snapshot comes as a change without a reason.
    """
    with tables.watch(table, f"{tenant}/", since=since) as watch:
        async for update in watch:
            snapshot = update.rows is not None
            changes = list(update.changes)
            if update.rows is not None:
                changes = [Change(row.table, row.key, row, None) for row in update.rows]
            for start in range(0, len(changes) or 1, _ROWS_A_PART):
                part = changes[start : start + _ROWS_A_PART]
                yield update.revision, snapshot, part, start + _ROWS_A_PART < len(changes)
