"""Where the registrations of this process live: one registrar for each node, in a thread beside.

An agent gives its registration to `enrol` and holds a `Membership`; everything else happens on the
loop of the thread. A connection that cannot be made twice (a descriptor that was handed over, a
node in this process) is used as it is: then beats leave from the handlers' own loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sira.client.address import FD
from sira.client.bus import Bus
from sira.client.connection import Connection
from sira.client.lineage import forks
from sira.client.registering import Entry, Load, Registrar
from sira.client.runner import Runner
from sira.v1 import registry_pb2

_T = TypeVar("_T")
_LEAVE_S = 2.0

_lock = threading.Lock()
_thread: Runner | None = None
_made_at_fork = -1


def _runner() -> Runner:
    """Return the thread of this process's beats, made at first use and anew in a forked child."""
    global _thread, _made_at_fork
    with _lock:
        if _thread is None or _made_at_fork != forks():
            _thread, _made_at_fork = Runner("sira-beats"), forks()
        return _thread


@dataclass(slots=True, eq=False)
class _Home:
    """A registrar and how many use it."""

    opening: asyncio.Task[Registrar]
    owns_connection: bool
    users: int = 0


class _Homes:
    """The registrars of one loop."""

    def __init__(self) -> None:
        self._homes: dict[Hashable, _Home] = {}

    async def enter(
        self, key: Hashable, connect: Callable[[], Coroutine[Any, Any, Registrar]], *, owns: bool
    ) -> Registrar:
        """Return the registrar of `key`, made by `connect`; `leave` is then due."""
        home = self._homes.get(key)
        if home is None:
            task = asyncio.get_running_loop().create_task(connect(), name="sira-registrar")
            home = self._homes[key] = _Home(task, owns)
        home.users += 1
        try:
            return await asyncio.shield(home.opening)
        except BaseException:
            await self.leave(key, home)
            raise

    async def leave(self, key: Hashable, home: _Home | None = None) -> None:
        """Give it back; who is last closes it."""
        home = home or self._homes[key]
        home.users -= 1
        failed = home.opening.done() and (
            home.opening.cancelled() or home.opening.exception() is not None
        )
        if (failed or not home.users) and self._homes.get(key) is home:
            del self._homes[key]
        if home.users or failed:
            return
        if not home.opening.done():
            home.opening.cancel()
            await asyncio.wait([home.opening])
        if home.opening.cancelled() or home.opening.exception() is not None:
            return
        registrar = home.opening.result()
        await registrar.close()
        if home.owns_connection:
            await registrar.connection.close()


_homes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Homes] = WeakKeyDictionary()


def _homes_here() -> _Homes:
    loop = asyncio.get_running_loop()
    with _lock:
        return _homes.setdefault(loop, _Homes())


async def _on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    """Run `work` on `loop`, and wait for it on this one."""
    if loop is asyncio.get_running_loop():
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


class Membership:
    """One agent's place in the registry."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        key: Hashable,
        registrar: Registrar,
        entry: Entry,
        told: registry_pb2.Registered,
    ) -> None:
        """Hold it; made by `enrol`."""
        self._loop, self._key = loop, key
        self._registrar, self._entry = registrar, entry
        self.told = told

    async def drain(self) -> None:
        """Say that the agent takes nothing new."""

        async def say() -> None:
            self._entry.draining = True
            async with asyncio.timeout(_LEAVE_S):
                await self._registrar.tell([self._entry])

        await _on(self._loop, say())

    async def abandon(self) -> None:
        """Beat for it no more, and leave the registration to its lease."""

        async def forget() -> None:
            self._registrar.forget(self._entry)
            await _homes_here().leave(self._key)

        await _on(self._loop, forget())

    async def leave(self) -> None:
        """Take the agent out of the registry. Raises SiraError: the node was not told."""

        async def take_out() -> None:
            try:
                await self._registrar.remove(self._entry, timeout_s=_LEAVE_S)
            finally:
                await _homes_here().leave(self._key)

        await _on(self._loop, take_out())


async def enrol(
    bus: Bus,
    registration: registry_pb2.Registration,
    load: Load,
    *,
    timeout_s: float,
    listens: Callable[[], bool],
) -> Membership:
    """Register an agent with the node of `bus`, and keep it registered.

    Args:
        registration: what it says of itself.
        load: what it has in hand; read from another thread.
        listens: whether requests reach it; asked in another thread.
    Raises:
        Conflict: another instance of the name lives, for all of `timeout_s`.
        SiraError: the node refused it, or knows no registry.
    """
    handlers_loop = asyncio.get_running_loop()
    connection = bus.connection
    beside = bus.beside()
    key: Hashable
    if beside is None or connection.address.startswith(FD):
        loop, key = handlers_loop, id(connection)

        async def connect() -> Registrar:
            return Registrar(connection)
    else:
        loop, key = _runner().loop, beside.key

        async def connect() -> Registrar:
            own = Connection(
                beside.nodes_from(connection.address), name=beside.name, retry=beside.retry,
                dial=beside.dial, are_ways=beside.are_ways,
            )  # fmt: skip
            await own.open(timeout_s)
            return Registrar(own)

    async def join() -> Membership:
        homes = _homes_here()
        registrar = await homes.enter(key, connect, owns=loop is not handlers_loop)
        try:
            entry = Entry(registration, load, registrar.probe_of(handlers_loop), listens)
            told = await registrar.add(entry, timeout_s=timeout_s)
        except BaseException:
            await homes.leave(key)
            raise
        return Membership(loop, key, registrar, entry, told)

    return await _on(loop, join())
