"""Configuration that the node keeps: `bus.config`."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sira.client.connection import Connection
from sira.kernel.errors import BadRequest
from sira.v1 import cluster_pb2

CALL_S = 5.0
_REQUEST_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class ConfigValue:
    """One version of a key.

    Attributes:
        key: its name.
        value: what JSON can say.
        version: of this key, from 1 on; 0: a setting of the node, which has no versions.
        principal: who made it.
        time_ns: when, wall clock, ns since 1970.
        rolled_back_to: the version whose value it has; 0: its own.
    """

    key: str
    value: Any
    version: int
    principal: str
    time_ns: int
    rolled_back_to: int = 0

    @classmethod
    def from_proto(cls, value: cluster_pb2.ConfigValue) -> ConfigValue:
        """Read what the node said."""
        return cls(
            key=value.key,
            value=json.loads(value.value),
            version=value.version,
            principal=value.principal,
            time_ns=value.time_ns,
            rolled_back_to=value.rolled_back_to,
        )


class Config:
    """Values under `app.`, with versions; the settings of the node by name, to read."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        """Hold `connection`, which gives the connection or raises that there is none."""
        self._connection = connection

    async def get(self, key: str, *, timeout_s: float | None = CALL_S) -> Any:
        """Return the value of a key. Raises NotFound: it was never set."""
        answer = await self._connection().unary(
            "/sira.v1.Cluster/GetConfig",
            cluster_pb2.GetConfigRequest(key=key),
            cluster_pb2.ConfigValue,
            timeout_s=timeout_s,
        )
        return ConfigValue.from_proto(answer).value

    async def set(
        self,
        key: str,
        value: Any,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = CALL_S,
    ) -> ConfigValue:
        """Give a key another value, and return the version that it made.

        Args:
            key: under `app.`, tokens joined by dots.
            value: what JSON can say, at most 64 KiB.
            expected_version: of the value that it replaces; 0: there must be none.
        Raises:
            Conflict: another version holds. BadRequest, BadTopic, Denied
        """
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise BadRequest(f"{key} cannot have a value that JSON cannot say: {error}") from None
        request = cluster_pb2.SetConfigRequest(
            key=key, value=text.encode(), request_id=request_id()
        )
        if expected_version is not None:
            request.expected_version = expected_version
        answer = await self._connection().unary(
            "/sira.v1.Cluster/SetConfig", request, cluster_pb2.ConfigValue, timeout_s=timeout_s
        )
        return ConfigValue.from_proto(answer)

    async def history(
        self, key: str, *, timeout_s: float | None = CALL_S
    ) -> builtins.list[ConfigValue]:
        """Return the versions of a key that are kept, newest first. Raises NotFound."""
        answer = await self._connection().unary(
            "/sira.v1.Cluster/ConfigHistory",
            cluster_pb2.ConfigHistoryRequest(key=key),
            cluster_pb2.ConfigHistoryResponse,
            timeout_s=timeout_s,
        )
        return [ConfigValue.from_proto(each) for each in answer.versions]

    async def rollback(
        self,
        key: str,
        version: int,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = CALL_S,
    ) -> ConfigValue:
        """Give a key the value of an earlier version, as a new one, and return that.

        Raises:
            NotFound: the version is not kept. Conflict: another one holds than was expected.
        """
        request = cluster_pb2.RollbackConfigRequest(
            key=key, version=version, request_id=request_id()
        )
        if expected_version is not None:
            request.expected_version = expected_version
        answer = await self._connection().unary(
            "/sira.v1.Cluster/RollbackConfig", request, cluster_pb2.ConfigValue, timeout_s=timeout_s
        )
        return ConfigValue.from_proto(answer)

    async def list(
        self, pattern: str = "", *, timeout_s: float | None = CALL_S
    ) -> builtins.list[ConfigValue]:
        """Return the keys of a pattern ("": all) that are set, by name, with what holds."""
        request = cluster_pb2.ListConfigRequest(pattern=pattern)
        values: builtins.list[ConfigValue] = []
        while True:
            page = await self._connection().unary(
                "/sira.v1.Cluster/ListConfig",
                request,
                cluster_pb2.ListConfigResponse,
                timeout_s=timeout_s,
            )
            values.extend(ConfigValue.from_proto(each) for each in page.values)
            if not page.next:
                return values
            request.after = page.next


def request_id() -> str:
    """Return a name for a request: sent again after a lost connection, it is applied once."""
    return os.urandom(_REQUEST_ID_BYTES).hex()
