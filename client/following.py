"""Following the registry for the calls of one connection: what moves, and who is gone."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from sira.client.choosing import Peer
from sira.client.connection import TRANSIENT, Connection
from sira.client.deadline import Deadline
from sira.client.requests import Requests
from sira.client.resolutions import Resolutions
from sira.kernel.errors import PeerLost, SiraError
from sira.v1 import registry_pb2

_log = logging.getLogger("sira.client")

_LIST = "/sira.v1.Registry/List"
_WATCH = "/sira.v1.Registry/Watch"
# Who is waited for is asked about this often at most, however much the registry moves.
_LOOK_S = 0.1
# An answer may be on its way from an agent that has gone since.
_LAST_ANSWER_S = 0.25
_LOOK_TIMEOUT_S = 2.0
_LAGS_MS = 1_000


class Following:
    """Empties what is kept when something moves; has calls fail whose agents are gone."""

    def __init__(
        self,
        connection: Connection,
        requests: Requests,
        kept: Resolutions[Any],
        peers: Mapping[str, Peer],
        start: Callable[[Any, str], asyncio.Task[Any]],
    ) -> None:
        """Prepare.

        Args:
            kept: what is told of moves.
            peers: the agents that calls know.
            start: begins a task that ends with the connection.
        """
        self._connection, self._requests = connection, requests
        self._kept, self._peers, self._start = kept, peers, start
        self._rng = random.Random(connection.client_id)
        self._watching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False

    def begin(self) -> None:
        """Follow from now on, unless it does."""
        if self._watching is None or self._watching.done():
            self._watching = self._start(self._watch(), "sira-registry-watch")

    async def _watch(self) -> None:
        """Be told when something has moved, as long as the connection lives."""
        connection, loop = self._connection, self._connection.loop
        delays_s = connection.retry.delays_s(self._rng)
        while connection.ended is None:
            transport = await connection.up(Deadline(None, loop))
            stream = transport.stream(_WATCH, metadata=connection.metadata())
            lost: SiraError | None = None
            try:
                wanted = registry_pb2.RegistryWatchRequest(revisions_only=True)
                await stream.write(wanted.SerializeToString())
                await stream.done_writing()
                while (frame := await stream.read()) is not None:
                    delays_s = connection.retry.delays_s(self._rng)
                    told = registry_pb2.RegistryWatchResponse.FromString(frame)
                    if self._kept.told(told.revision, told.state_version):
                        self._moved()
            except SiraError as error:
                lost = error
            finally:
                self._kept.lost()
                stream.cancel()
            if lost is not None and lost.code not in TRANSIENT:
                # Each call asks the registry then; the next one tries to watch again.
                _log.warning("the registry cannot be watched: %s", lost)
                return
            connection.lost(transport, lost)
            await asyncio.sleep(next(delays_s))

    def _moved(self) -> None:
        """See to the agents that are waited for: one of them may be gone."""
        if not any(peer.own for peer in self._peers.values()):
            return
        if self._looking is None or self._looking.done():
            self._looking = self._start(self._look(), "sira-look-after")
        else:
            self._look_again = True

    async def _look(self) -> None:
        """Have the calls fail whose agents are gone."""
        while True:
            self._look_again = False
            waited = [peer for peer in self._peers.values() if peer.own]
            await asyncio.gather(*[self._look_at(peer) for peer in waited])
            if not self._look_again:
                return
            await asyncio.sleep(_LOOK_S)

    async def _look_at(self, peer: Peer) -> None:
        try:
            answer = await self._connection.unary(
                _LIST, registry_pb2.ListAgentsRequest(name=peer.name),
                registry_pb2.ListAgentsResponse, timeout_s=_LOOK_TIMEOUT_S,
            )  # fmt: skip
        except SiraError as error:
            _log.debug("%s could not be asked about: %s", peer.name, error)
            return
        now = next((each for each in answer.agents if each.registration.name == peer.name), None)
        why, is_gone = _fate(now, peer)
        if why:
            await asyncio.sleep(_LAST_ANSWER_S)
            lost = PeerLost(f"agent {peer.name}: {why}", details={"agent": peer.name})
            self._requests.abandon(f"agents.{peer.name}.", lost, repeatable_only=not is_gone)


def _fate(now: registry_pb2.Agent | None, peer: Peer) -> tuple[str, bool]:
    """Return what has become of an agent that is waited for ("": nothing), and whether for good.

    Of one that does not beat another may be asked, where that does no harm; one whose loop is
    behind is at work.
    """
    if now is None:
        return "it is not registered any more", True
    if now.generation != peer.generation:
        return "another instance has its name", True
    if now.state.status == registry_pb2.AGENT_STATUS_DOWN:
        return now.state.reason or "it is down", True
    if now.state.status == registry_pb2.AGENT_STATUS_SUSPECT and now.state.lag_ms < _LAGS_MS:
        return now.state.reason or "it is suspect", False
    return "", False
