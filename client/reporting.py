"""Tells the registry how calls have ended. Belongs to the loop of its connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from sira.client.connection import Connection
from sira.client.outcomes import Tallies
from sira.kernel.errors import SiraError
from sira.v1 import registry_pb2

_log = logging.getLogger("sira.client")

_REPORT = "/sira.v1.Registry/Report"
EVERY_S = 5.0
SOON_S = 0.2  # after a failure: more may come
_CALL_S = 2.0
_FINISH_S = 0.5


class Reporting:
    """Sends what `tallies` has, every few seconds and soon after a failure."""

    def __init__(
        self,
        connection: Connection,
        tallies: Tallies,
        start: Callable[[Any, str], asyncio.Task[Any]],
    ) -> None:
        """Prepare. `start`: begins a task that ends with the connection."""
        self._connection, self._tallies, self._start = connection, tallies, start
        self._task: asyncio.Task[None] | None = None
        self._failed = asyncio.Event()
        self._is_told = True

    def begin(self) -> None:
        """Report from now on, unless it does."""
        if self._is_told and (self._task is None or self._task.done()):
            self._task = self._start(self._run(), "sira-outcomes")

    def soon(self) -> None:
        """Take note that something has failed. In any thread."""
        if not self._failed.is_set():
            self._connection.loop.call_soon_threadsafe(self._failed.set)

    async def finish(self) -> None:
        """Say of failures that were not told yet, before the connection closes; briefly."""
        if self._failed.is_set() and self._is_told and self._connection.ended is None:
            for request in self._tallies.take():
                await self._send(request, timeout_s=_FINISH_S)

    async def _run(self) -> None:
        while self._connection.ended is None and self._is_told:
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._failed.wait()
                await asyncio.sleep(SOON_S)
            except TimeoutError:
                pass
            self._failed.clear()
            for request in self._tallies.take():
                await self._send(request)

    async def _send(
        self, request: registry_pb2.ReportRequest, *, timeout_s: float = _CALL_S
    ) -> None:
        """Send one message; what is lost on the way is lost: the next ones say the same."""
        try:
            await self._connection.unary(
                _REPORT, request, registry_pb2.ReportResponse, timeout_s=timeout_s, repeatable=False
            )
        except SiraError as error:
            _log.debug("how calls ended could not be told: %s", error)
            # An older node does not know of it, or the rules do not let us: it is not asked again.
            self._is_told = error.code not in ("UNSUPPORTED", "DENIED")
