"""`sira.v1.Cluster`, as far as it is there: configuration with history."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping

from sira.consensus import config
from sira.consensus.part import TablesPart
from sira.consensus.rows import Change
from sira.consensus.serving import check_name, check_taking, parts_of, request_of, seen_by
from sira.consensus.tables import raise_refusal
from sira.kernel.edge.door import Call
from sira.kernel.errors import BadRequest, MessageTooLarge, NotFound, Unsupported
from sira.kernel.methods import Method, TopicClass, method
from sira.kernel.parts import Host
from sira.kernel.settings import SCHEMA
from sira.v1 import cluster_pb2, tables_pb2

PREFIX = "app."
_PAGE_ROWS, _PAGE_BYTES = 500, 1 << 20
_TOLD_CHARS = 200
Check = Callable[[str, object], object]  # key, value; raises BadRequest


class ConfigPart:
    """Serves configuration from the tables. All keys belong to the caller's tenant."""

    def __init__(self, tables: TablesPart, checks: Mapping[str, Check] | None = None) -> None:
        """Serve from `tables`, which start before this.

        Args:
            checks: what further keys begin with -> refuses a value of such a key.
        """
        self._part, self._checks = tables, checks or {}
        self._host: Host | None = None

    def methods(self) -> Iterable[Method]:
        """Return the entries for the table."""
        of = cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].methods_by_name
        pb = cluster_pb2
        return [
            method(of["GetConfig"], self.get, effects="read",
                   summary="the value that holds for a key, or a setting of the node",
                   request=pb.GetConfigRequest, response=pb.ConfigValue),
            method(of["SetConfig"], self.set, effects="once", administrative=True,
                   summary="make a version; where asked, only if the last one is as expected",
                   request=pb.SetConfigRequest, response=pb.ConfigValue),
            method(of["ConfigHistory"], self.history, effects="read",
                   summary="the versions of a key that are kept, newest first",
                   request=pb.ConfigHistoryRequest, response=pb.ConfigHistoryResponse),
            method(of["RollbackConfig"], self.rollback, effects="once", administrative=True,
                   summary="make a version that has the value of an earlier one",
                   request=pb.RollbackConfigRequest, response=pb.ConfigValue),
            method(of["ListConfig"], self.list, effects="read",
                   summary="keys and the values that hold, by name",
                   request=pb.ListConfigRequest, response=pb.ListConfigResponse),
            method(of["Watch"], self.watch, effects="read",
                   summary="all keys, then every change",
                   request=pb.WatchClusterRequest, response=pb.WatchClusterResponse),
        ]  # fmt: skip

    def topic_classes(self) -> Iterable[TopicClass]:
        """Return none."""
        return ()

    async def start(self, host: Host) -> None:
        """Begin to say what changes."""
        self._host = host
        self._part.tables.listen(self._changed)

    def tick(self) -> None:
        """Nothing here depends on time."""

    async def stop(self) -> None:
        """Nothing is left to end."""

    # ---- methods ---------------------------------------------------------------------------------

    async def get(
        self, call: Call, request: cluster_pb2.GetConfigRequest
    ) -> cluster_pb2.ConfigValue:
        """Return what holds for a key.

        Raises:
            NotFound: it was never set, and is no setting of the node.
            Denied: the rules say no to `inspect` on it.
        """
        check_name(request.key)
        if request.key in SCHEMA:
            value = json.dumps(getattr(call.world.bus.settings, request.key)).encode()
            return cluster_pb2.ConfigValue(key=request.key, value=value)
        call.world.bus.may(call.credential, "inspect", request.key)
        await self._part.tables.settle()
        row = self._part.tables.get(config.TABLE, config.key_of(call.principal.tenant, request.key))
        if row is None:
            raise _not_set(request.key)
        return _value(row.value)

    async def set(
        self, call: Call, request: cluster_pb2.SetConfigRequest
    ) -> cluster_pb2.ConfigValue:
        """Make a version of a key.

        Raises:
            BadTopic, BadRequest, MessageTooLarge: no key, or no JSON.
            Denied: the rules say no to `configure` on it.
            Conflict: another version holds than was expected. QuotaExceeded: too many keys.
            Unsupported: a setting of the node; they are read at its start.
        """
        check = self._may_set(call, request.key)
        value = _checked_json(request.value)
        if check is not None:
            check(request.key, value)
        asked = tables_pb2.ConfigSet(
            tenant=call.principal.tenant,
            key=request.key,
            value=request.value,
            principal=str(call.principal),
            time_ns=time.time_ns(),
        )
        if request.HasField("expected_version"):
            asked.expected_version = request.expected_version
        return await self._made(call, request.request_id, tables_pb2.TableCommand(config_set=asked))

    async def rollback(
        self, call: Call, request: cluster_pb2.RollbackConfigRequest
    ) -> cluster_pb2.ConfigValue:
        """Make a version that has the value of an earlier one.

        Raises:
            NotFound: that version is not kept. Otherwise as `set`.
        """
        self._may_set(call, request.key)
        asked = tables_pb2.ConfigRollback(
            tenant=call.principal.tenant,
            key=request.key,
            version=request.version,
            principal=str(call.principal),
            time_ns=time.time_ns(),
        )
        if request.HasField("expected_version"):
            asked.expected_version = request.expected_version
        command = tables_pb2.TableCommand(config_rollback=asked)
        return await self._made(call, request.request_id, command)

    async def history(
        self, call: Call, request: cluster_pb2.ConfigHistoryRequest
    ) -> cluster_pb2.ConfigHistoryResponse:
        """Return the versions of a key, newest first, as many as one answer takes.

        Raises:
            NotFound: it was never set. Denied: the rules say no to `inspect` on it.
        """
        check_name(request.key)
        call.world.bus.may(call.credential, "inspect", request.key)
        await self._part.tables.settle()
        prefix = config.history_prefix(call.principal.tenant, request.key)
        rows = self._part.tables.scan(config.HISTORY, prefix)
        if not rows:
            raise _not_set(request.key)
        response, size = cluster_pb2.ConfigHistoryResponse(), 0
        for row in reversed(rows):
            size += len(row.value)
            if size > _PAGE_BYTES and response.versions:
                break
            response.versions.append(_value(row.value))
        return response

    async def list(
        self, call: Call, request: cluster_pb2.ListConfigRequest
    ) -> cluster_pb2.ListConfigResponse:
        """Return a page of keys with the values that hold, and where the next page begins.

        Raises:
            BadTopic: the pattern is not well formed.
        """
        seen, tenant = seen_by(call, request.pattern), call.principal.tenant
        await self._part.tables.settle()
        rows = self._part.tables.scan(
            config.TABLE,
            f"{tenant}/",
            after=config.key_of(tenant, request.after) if request.after else "",
            count_max=_PAGE_ROWS,
        )
        response, size = cluster_pb2.ListConfigResponse(), 0
        for row in rows:
            value = _value(row.value)
            size += len(row.value)
            if seen(value.key):
                response.values.append(value)
            if size > _PAGE_BYTES or (row is rows[-1] and len(rows) == _PAGE_ROWS):
                response.next = value.key
                break
        return response

    async def watch(self, call: Call, request: cluster_pb2.WatchClusterRequest) -> None:
        """Write all keys that the caller may see, then each change, until it leaves."""
        seen = seen_by(call, request.pattern)
        since = request.since if request.HasField("since") else None
        tenant = call.principal.tenant
        async for revision, snapshot, changes, more in parts_of(
            self._part.tables, config.TABLE, tenant, since
        ):
            answer = cluster_pb2.WatchClusterResponse(
                revision=revision, snapshot=snapshot, more=more
            )
            values = [_value(each.row.value) for each in changes if each.row is not None]
            answer.values.extend(each for each in values if seen(each.key))
            if answer.values or snapshot:
                await call.write(answer)

    # ---- inside ----------------------------------------------------------------------------------

    def _may_set(self, call: Call, key: str) -> Check | None:
        """Refuse a key that cannot be set; return what looks at its values."""
        check_name(key)
        check_taking(call)
        if key in SCHEMA:
            raise Unsupported(
                f"{key} is a setting of the node, and read at its start",
                details={"feature": "config.settings", "setting": key},
                help="write it into sira.toml and restart the node; keys under `app.` are yours",
            )
        check = next((self._checks[each] for each in self._checks if key.startswith(each)), None)
        if check is None and not key.startswith(PREFIX):
            raise BadRequest(
                f"{key[:80]!r} is no setting, and does not begin with `{PREFIX}`",
                details={"field": "key"},
            )
        call.world.bus.may(call.credential, "configure", key)
        return check

    async def _made(
        self, call: Call, request_id: str, command: tables_pb2.TableCommand
    ) -> cluster_pb2.ConfigValue:
        request_of(call, request_id, command)
        result = raise_refusal(await self._part.tables.propose(command))
        return _value(result.config.SerializeToString())

    def _changed(self, revision: int, changes: tuple[Change, ...]) -> None:
        """Say in its tenant's world that a key has another value."""
        del revision
        for change in changes:
            if change.table != config.TABLE or change.row is None:
                continue
            assert self._host is not None, "started"
            value = _value(change.row.value)
            bus = self._host.bus_if(change.key.partition("/")[0])
            if bus is not None:
                bus.events.emit(
                    "sira.config",
                    setting=value.key,
                    value=value.value.decode(errors="replace")[:_TOLD_CHARS],
                    principal=value.principal,
                )


def _value(row: bytes) -> cluster_pb2.ConfigValue:
    found = tables_pb2.ConfigVersion.FromString(row)
    return cluster_pb2.ConfigValue(
        key=found.key,
        value=found.value,
        version=found.version,
        principal=found.principal,
        time_ns=found.time_ns,
        rolled_back_to=found.rolled_back_to,
    )


def _not_set(key: str) -> NotFound:
    return NotFound(
        f"{key!r} was never set, and is no setting of the node",
        details={"key": key},
        help="`sira config list` has the keys that are set, `sira config show` the settings",
    )


def _checked_json(value: bytes) -> object:
    """Return what a JSON text says.

    Raises:
        BadRequest: it is none. MessageTooLarge: it is too long.
    """
    if len(value) > config.VALUE_BYTES_MAX:
        raise MessageTooLarge(
            f"a value of {len(value)} bytes, at most {config.VALUE_BYTES_MAX}",
            details={"limit_bytes": str(config.VALUE_BYTES_MAX)},
        )
    try:
        said: object = json.loads(value.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the value is no JSON: {error}", details={"field": "value"}) from None
    return said


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
