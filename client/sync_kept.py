"""What the node keeps, without `await`: configuration and leases."""

from __future__ import annotations

import builtins
from typing import Any, Self

from sira.client.config import CALL_S, Config, ConfigValue
from sira.client.leases import TTL_S, Lease, Leases
from sira.client.runner import Runner


class SyncConfig:
    """Configuration that the node keeps: `bus.config`; see `Config`."""

    def __init__(self, runner: Runner, config: Config) -> None:
        self._runner, self._config = runner, config

    def get(self, key: str, *, timeout_s: float | None = CALL_S) -> Any:
        """Return the value of a key. Raises NotFound."""
        return self._runner.run(self._config.get(key, timeout_s=timeout_s))

    def set(
        self,
        key: str,
        value: Any,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = CALL_S,
    ) -> ConfigValue:
        """Give a key another value; see `Config.set`."""
        return self._runner.run(
            self._config.set(key, value, expected_version=expected_version, timeout_s=timeout_s)
        )

    def history(self, key: str, *, timeout_s: float | None = CALL_S) -> builtins.list[ConfigValue]:
        """Return the versions of a key that are kept, newest first. Raises NotFound."""
        return self._runner.run(self._config.history(key, timeout_s=timeout_s))

    def rollback(
        self,
        key: str,
        version: int,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = CALL_S,
    ) -> ConfigValue:
        """Give a key the value of an earlier version; see `Config.rollback`."""
        return self._runner.run(
            self._config.rollback(
                key, version, expected_version=expected_version, timeout_s=timeout_s
            )
        )

    def list(
        self, pattern: str = "", *, timeout_s: float | None = CALL_S
    ) -> builtins.list[ConfigValue]:
        """Return the keys of a pattern ("": all) that are set, by name."""
        return self._runner.run(self._config.list(pattern, timeout_s=timeout_s))


class SyncLease:
    """A lease that is held while inside, and renewed by itself; see `Lease`."""

    def __init__(self, runner: Runner, lease: Lease) -> None:
        self._runner, self._lease = runner, lease

    def __enter__(self) -> Self:
        """Acquire it."""
        self._runner.run(self._lease.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        """Give it back."""
        self._runner.run(self._lease.__aexit__(*error))

    @property
    def name(self) -> str:
        """Its name."""
        return self._lease.name

    @property
    def token(self) -> int:
        """Fencing token; see `Lease.token`. Raises Revoked."""
        return self._lease.token

    @property
    def left_s(self) -> float:
        """How long it is held for sure, s; 0: it is not."""
        return self._lease.left_s

    def check(self) -> None:
        """Raise unless it is held for sure. Raises Revoked."""
        self._lease.check()


class SyncLeases:
    """Leases by name: `bus.leases`; see `Leases`."""

    def __init__(self, runner: Runner, leases: Leases) -> None:
        self._runner, self._leases = runner, leases

    def acquire(
        self,
        name: str,
        *,
        shared: int = 1,
        ttl_s: float = TTL_S,
        wait_s: float = 0.0,
        holder: str = "",
    ) -> SyncLease:
        """Return a lease, held while inside; see `Leases.acquire`."""
        lease = self._leases.acquire(name, shared=shared, ttl_s=ttl_s, wait_s=wait_s, holder=holder)
        return SyncLease(self._runner, lease)
