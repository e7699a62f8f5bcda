"""Ends connections that pass a limit: calls taken back (CVE-2023-44487), headers past all bounds,
bytes that are part of no call.

gRPC gives no handle to a connection, so it is found by its peer among the open files of this
process. It is held still first: a filter drops what arrives, so that its peer waits for an answer
of TCP; then it is shut down, and gRPC sees an end as if the peer had left. Closing at once would
help the attacker: what it has sent still waits its turn, and a new connection brings as much again.
`Allowances` decide and are pure; `Connections` holds the clock, the sockets and the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from sira.kernel.edge.allowances import Allowances
from sira.kernel.edge.open_sockets import (
    Peer,
    copy_at,
    listed,
    named,
    open_count,
    parse,
    peer_of,
    set_filter,
)
from sira.kernel.edge.strays import Strays

_SLICE = 100  # open files looked at in one turn of the loop: about half a millisecond
_REST = 4.0  # between two walks, in times of the last one: they take a fifth of a core at most
_REST_S = 0.01
_HELD_MAX = 256  # connections held still at once, a descriptor each; more are closed at once
_ENDED_MAX = 256  # connections that were ended last, by which one is not ended and told twice
_SO_COOKIE = 57  # what tells a socket from all others of this machine; not in Python
_TAKE_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET 0


def _hold_still(connection: socket.socket) -> bool:
    """Let nothing of the peer through any more, not even that it has got ours; False: cannot."""
    return set_filter(connection, _TAKE_NOTHING)


def _cookie(connection: socket.socket) -> bytes:
    """Return what no other socket has, those with the same peer included; b"": unknown."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    except OSError:
        return b""


def shut(connection: socket.socket) -> None:
    """End a connection for gRPC and for its peer, and close this copy of it."""
    with connection, contextlib.suppress(OSError):
        set_filter(connection, b"")  # or no end is agreed on
        connection.shutdown(socket.SHUT_RDWR)


class Connections:
    """The connections of one node. Belongs to its loop."""

    def __init__(
        self,
        *,
        resets_per_s_max: float,
        stray_bytes_per_s_max: float,
        call_bytes_max: int,
        hold_s: float,
        closed: Callable[[str, str, str | None], None],
    ) -> None:
        """Prepare; nothing is closed before `serve`.

        Args:
            resets_per_s_max: calls that one connection may take back in a second; 0: any.
            stray_bytes_per_s_max: bytes that may come on one connection in a second and are part of
                no call; 0: any.
            call_bytes_max: what one call may have under way and unread.
            hold_s: how long a connection that is past a limit is held still before it is closed.
            closed: told each connection that is ended so: gRPC's name of its peer, the setting that
                it passed, and the tenant that it had spoken for; None: for none.
        """
        self._resets = Allowances(per_s_max=resets_per_s_max)
        self.strays = Strays(
            per_s_max=stray_bytes_per_s_max,
            call_bytes_max=call_bytes_max,
            is_looked_at=bool(open_count()),
        )
        self._hold_s, self._closed = hold_s, closed
        self.ports: frozenset[int] = frozenset()  # of ours, as `serve` was told
        self._ports = self.ports  # those that are looked after now
        self._condemned: dict[str, tuple[str, str | None]] = {}  # peer: setting, tenant
        self._held: dict[str, tuple[socket.socket, asyncio.TimerHandle]] = {}
        self._closing: asyncio.Task[None] | None = None
        self.resets = 0
        self.closed_count = 0
        self._ended: deque[bytes] = deque(maxlen=_ENDED_MAX)

    def serve(self, *ports: int) -> None:
        """Look after connections to these ports of ours."""
        self.ports = self._ports = frozenset(ports) - {0}

    def taken_back(self, peer: str, tenant: str | None) -> None:
        """Note that `peer` took a call back before its answer; close it if it does so too often.

        Args:
            peer: gRPC's name of it.
            tenant: that the call was for; None: nobody was known to make it.
        """
        self.resets += 1
        if parse(peer) is not None and self._resets.note(peer, time.monotonic()):
            self.end(peer, "resets_per_connection_s_max", tenant)

    async def looked(
        self, received: Mapping[Peer, int | None], rest: Callable[[], Awaitable[None]]
    ) -> None:
        """Note what has come on each connection that stands; see `Strays.look`.

        `rest`, awaited often, lets others have the loop.
        """
        for peer in self.strays.look(received, time.monotonic()):
            if peer is None:
                await rest()
            else:
                self.end(named(peer), "stray_bytes_per_connection_s_max", None)

    def end(self, peer: str, setting: str, tenant: str | None) -> None:
        """End a connection that has passed the limit `setting`; the HTTP listener's never."""
        if peer in self._condemned or peer in self._held or not self._ports:
            return  # what it has sent before still comes
        if parse(peer) is None:
            return
        self._condemned[peer] = setting, tenant
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(
                self._close_condemned(), name="sira-close"
            )

    async def stop(self) -> None:
        """Close nothing more."""
        self._ports = frozenset()
        if self._closing is not None:
            self._closing.cancel()
            await asyncio.wait([self._closing])
        for peer, (_, timer) in list(self._held.items()):
            timer.cancel()
            self._release(peer)

    async def _close_condemned(self) -> None:
        try:
            while self._condemned:
                begun_s = time.monotonic()
                condemned, peers = dict(self._condemned), {}
                for peer in condemned:
                    if (parsed := parse(peer)) is not None:
                        peers[parsed] = peer
                await self._walk(peers)
                for peer in condemned:  # closed, or gone by itself
                    self._resets.forget(peer)
                    del self._condemned[peer]
                await asyncio.sleep(max(_REST_S, _REST * (time.monotonic() - begun_s)))
        finally:
            self._closing = None

    async def _walk(self, peers: dict[Peer, str]) -> None:
        loop = asyncio.get_running_loop()
        for count, descriptor in enumerate(listed(), 1):
            connection = copy_at(descriptor, self._ports)
            if connection is not None:
                peer = peers.pop(peer_of(connection) or ("", 0), None)
                # Of one that was shut gRPC may still read what had come, and close it later.
                if peer is None or (cookie := _cookie(connection)) in self._ended:
                    connection.close()
                else:
                    if cookie:
                        self._ended.append(cookie)
                    self.closed_count += 1
                    self._end(peer, connection)
                    # Not from here: what it raises would leave the others open.
                    loop.call_soon(self._closed, peer, *self._condemned[peer])
            if count % _SLICE == 0:
                await asyncio.sleep(0)

    def _end(self, peer: str, connection: socket.socket) -> None:
        if self._hold_s and len(self._held) < _HELD_MAX and _hold_still(connection):
            timer = asyncio.get_running_loop().call_later(self._hold_s, self._release, peer)
            self._held[peer] = connection, timer
        else:
            shut(connection)

    def _release(self, peer: str) -> None:
        connection, _ = self._held.pop(peer)
        shut(connection)
