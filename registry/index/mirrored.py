"""A Qdrant server that may be gone for a while: what it should hold is kept here, too.

Every point lies in memory as well. What changes is sent to the server in the background; while that
is behind or does not answer, searches are exact and local. After a failure all is sent anew, and
what the server has and should not is taken out: it is derived, so it is never trusted to be right.
One node writes a collection; two with the same name would take out each other's points.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sira.kernel.errors import SiraError
from sira.registry.index.exact import Blocks
from sira.registry.index.interface import Collection, Hit, Index, Point, Vector

if TYPE_CHECKING:
    from sira.registry.index.server import Server

_log = logging.getLogger("sira.registry")
_BATCH = 256
_WAIT_S_MIN, _WAIT_S_MAX = 0.5, 30.0
_NO_TAGS: Mapping[str, str] = {}


class Mirrored(Index):
    """An index on a server, and all of it here."""

    def __init__(
        self, collection: Collection, open_server: Callable[[], Awaitable[Server]]
    ) -> None:
        """Begin empty; `open_server` connects, and raises SiraError while that fails."""
        super().__init__(collection)
        self._open_server = open_server
        self._blocks = Blocks(collection)
        self._changed: dict[int, None] = {}  # ids that the server has otherwise, or not
        self._woken = asyncio.Event()
        self._server: Server | None = None  # that holds all but what has changed
        self.failures = 0
        self._task = asyncio.get_running_loop().create_task(self._mirror(), name="sira-qdrant")

    @property
    def is_served(self) -> bool:
        """Whether searches go to the server."""
        return self._server is not None and not self._changed

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put points in."""
        self.check(points)
        for each in points:
            self._blocks.put(each)
            self._changed[each.id] = None
        self._woken.set()

    async def delete(self, ids: Sequence[int]) -> None:
        """Take points out."""
        for each in ids:
            if self._blocks.remove(each):
                self._changed[each] = None
        self._woken.set()

    async def search(
        self, vector: Vector, k: int, *, where: Mapping[str, str] = _NO_TAGS
    ) -> list[Hit]:
        """Return the nearest points: of the server, where it holds what it should."""
        if self.is_served:
            assert self._server is not None, "served"
            with contextlib.suppress(SiraError):
                return await self._server.search(vector, k, where=where)
        return self._blocks.nearest(vector, k, where)

    async def count(self) -> int:
        """Return how many points there are."""
        return len(self._blocks)

    async def close(self) -> None:
        """Disconnect. What was not sent yet is made again at the next start."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _mirror(self) -> None:
        wait_s = _WAIT_S_MIN
        while True:
            server: Server | None = None
            try:
                server = await self._open_server()
                await self._send_all(server)
                wait_s = _WAIT_S_MIN
                while True:
                    self._woken.clear()
                    await self._send(server, list(self._changed))
                    await self._woken.wait()
            except SiraError as error:
                self.failures += 1
                _log.warning("%s; searches are local, again in %.1f s", error, wait_s)
            finally:
                self._server = None
                if server is not None:
                    await server.close()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _WAIT_S_MAX)

    async def _send_all(self, server: Server) -> None:
        """Make the server hold what is here and nothing else; then it serves."""
        mine = self._blocks.ids()
        strange = [each for each in await server.ids() if each not in self._blocks]
        for start in range(0, len(strange), _BATCH):
            await server.delete(strange[start : start + _BATCH])
        await self._send(server, mine)
        await server.serve()
        self._server = server

    async def _send(self, server: Server, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            points = [self._blocks.get(each) for each in batch]
            for each in batch:
                self._changed.pop(each, None)  # what changes while it is sent is sent again
            try:
                await server.upsert([each for each in points if each is not None])
                gone = [id_ for id_, each in zip(batch, points, strict=True) if each is None]
                await server.delete(gone)
            except SiraError:
                self._changed.update(dict.fromkeys(batch))
                raise
