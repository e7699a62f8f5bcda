"""Configuration: keys with versions, who made them and when, and the way back. Pure.

The table `config` has the version that holds, `config.history` the last hundred of each key.
"""

from __future__ import annotations

from collections import Counter

from sira.consensus.rows import Rows
from sira.kernel.errors import Conflict, MessageTooLarge, NotFound, QuotaExceeded
from sira.v1 import tables_pb2

TABLE, HISTORY = "config", "config.history"
# Part of what an entry means, like those of leases.
VERSIONS_MAX = 100
KEYS_PER_TENANT_MAX = 10_000
VALUE_BYTES_MAX = 64 << 10

_Version = tables_pb2.ConfigVersion


def key_of(tenant: str, key: str) -> str:
    """Return the key of the row that holds. No tenant's name has a `/` in it."""
    return f"{tenant}/{key}"


def history_prefix(tenant: str, key: str) -> str:
    """Return what all versions of a key begin with. No key has a space in it."""
    return f"{tenant}/{key} "


def history_key_of(tenant: str, key: str, version: int) -> str:
    """Return the key of one version: in order of versions."""
    return history_prefix(tenant, key) + f"{version:020d}"


class Config:
    """The configuration of a state. Changes rows through `rows` alone."""

    def __init__(self, rows: Rows) -> None:
        """Begin with none."""
        self._rows = rows
        self._count: Counter[str] = Counter()  # keys, by tenant

    def set(self, asked: tables_pb2.ConfigSet) -> tables_pb2.ConfigVersion:
        """Make a version.

        Raises:
            Conflict: it is not the version that was expected.
            MessageTooLarge, QuotaExceeded: past a limit.
        """
        if len(asked.value) > VALUE_BYTES_MAX:
            raise MessageTooLarge(
                f"a value of {len(asked.value)} bytes, at most {VALUE_BYTES_MAX}",
                details={"limit_bytes": str(VALUE_BYTES_MAX)},
            )
        expected = asked.expected_version if asked.HasField("expected_version") else None
        made = _Version(
            key=asked.key, value=asked.value, principal=asked.principal, time_ns=asked.time_ns
        )
        return self._make(asked.tenant, made, expected)

    def rollback(self, asked: tables_pb2.ConfigRollback) -> tables_pb2.ConfigVersion:
        """Make a version of the value that an earlier one had.

        Raises:
            NotFound: there is no such version any more.
            Conflict: it is not the version that was expected.
        """
        row = self._rows.get(HISTORY, history_key_of(asked.tenant, asked.key, asked.version))
        if row is None:
            raise NotFound(
                f"{asked.key!r} has no version {asked.version}; {VERSIONS_MAX} are kept",
                details={"key": asked.key, "version": str(asked.version)},
                help="`sira config history KEY` lists the versions",
            )
        expected = asked.expected_version if asked.HasField("expected_version") else None
        made = _Version(
            key=asked.key,
            value=_Version.FromString(row.value).value,
            principal=asked.principal,
            time_ns=asked.time_ns,
            rolled_back_to=asked.version,
        )
        return self._make(asked.tenant, made, expected)

    def restored(self) -> None:
        """Make what is kept here from the rows of a snapshot."""
        self._count = Counter(row.key.partition("/")[0] for row in self._rows.copy_of(TABLE))

    def _make(
        self, tenant: str, made: tables_pb2.ConfigVersion, expected: int | None
    ) -> tables_pb2.ConfigVersion:
        at = key_of(tenant, made.key)
        row = self._rows.get(TABLE, at)
        version = _Version.FromString(row.value).version if row is not None else 0
        if expected is not None and expected != version:
            raise Conflict(
                f"{made.key!r} is at version {version}, not {expected}",
                details={"key": made.key, "version": str(version), "expected": str(expected)},
                help="read it again, and decide anew",
            )
        if row is None:
            if self._count[tenant] >= KEYS_PER_TENANT_MAX:
                raise QuotaExceeded(
                    f"a tenant has at most {KEYS_PER_TENANT_MAX} keys",
                    details={"limit": str(KEYS_PER_TENANT_MAX)},
                )
            self._count[tenant] += 1
        made.version = version + 1
        value = made.SerializeToString()
        self._rows.put(TABLE, at, value)
        self._rows.put(HISTORY, history_key_of(tenant, made.key, made.version), value)
        old = made.version - VERSIONS_MAX
        self._rows.delete(HISTORY, history_key_of(tenant, made.key, old))
        return made
