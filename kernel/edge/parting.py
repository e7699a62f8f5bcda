"""The end of a node's connections: a peer has time to read what it was answered, and no other has.

gRPC's server says goodbye on every connection and then waits for all of them alike: for one that is
still being read, and for one on which nobody has ever said a word. It has no way to hurry it.
"""

from __future__ import annotations

import asyncio

from sira.kernel.edge.connections import shut
from sira.kernel.edge.open_sockets import copy_at, listed, peer_of
from sira.kernel.edge.strays import Strays

# A peer that is well leaves by itself within a round trip, and knows then what became of a call
# that it has just made.
_PATIENCE_S = 0.25
_SLICE = 100  # open files looked at in one turn of the loop: about half a millisecond
_REST = 4.0  # between two walks, in times of the last one


async def part(
    stopping: asyncio.Task[None], *, ports: frozenset[int], strays: Strays, farewell_s: float
) -> None:
    """Wait until the server has stopped, and shut the connections that it waits for in vain.

    Args:
        stopping: the server's `stop`, begun, so that no new connection comes. It ends with this.
        ports: that it has listened at; connections of Unix sockets are left alone.
        strays: knows what calls each connection has had.
        farewell_s: an answer that left so long ago has been read, or will not be.
    """
    loop = asyncio.get_running_loop()
    since_s, rest_s = loop.time() - farewell_s, _PATIENCE_S
    try:
        while not (await asyncio.wait([stopping], timeout=rest_s))[0]:
            walked_s = loop.time()
            await _shut_idle(ports, strays, since_s)
            rest_s = max(_PATIENCE_S, _REST * (loop.time() - walked_s))
        stopping.result()
    finally:
        stopping.cancel()


async def _shut_idle(ports: frozenset[int], strays: Strays, since_s: float) -> None:
    """Shut every connection on which no call is under way, nor was since then (loop's clock)."""
    for count, descriptor in enumerate(listed(), 1):
        connection = copy_at(descriptor, ports)
        if connection is not None:
            peer = peer_of(connection)
            if peer is None or strays.is_owed(peer, since_s):
                connection.close()
            else:
                shut(connection)
        if count % _SLICE == 0:
            await asyncio.sleep(0)
