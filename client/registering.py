"""Registrations of this process at one node: made, kept alive by beats, made again, withdrawn.

All agents of a process share one stream of beats. It has a connection and a thread of its own, so
that a beat leaves also while a handler blocks its loop, and tells how far that loop is behind.
"""

from __future__ import annotations

import asyncio
import logging
import random
import zlib
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from sira.client.connection import TRANSIENT, Connection
from sira.client.deadline import Deadline
from sira.client.lag import LagProbe
from sira.client.transport import Stream
from sira.kernel.errors import Conflict, SiraError, from_proto
from sira.v1 import registry_pb2

_log = logging.getLogger("sira.agent")

_REGISTER = "/sira.v1.Registry/Register"
_DEREGISTER = "/sira.v1.Registry/Deregister"
_HEARTBEAT = "/sira.v1.Registry/Heartbeat"
# One message holds no node's loop for long: some 10 KiB of beats, a fair part of a record's 60 KiB.
BEATS_MAX = 256
_SLOTS = 16
_REGISTRATIONS_MAX = 128
_BYTES_MAX = 512 << 10
_BEAT_S = 5.0  # until the node has said how often
# A loop that has not answered for so long is told of at once.
_LAG_LOOK_S = 1.25
_CALL_S = 5.0
# Those whom a lost node leaves come back over so long, not all in one moment.
_AGAIN_S = 0.5
# Whether those listen again whose handlers have lost the node, too.
_LISTENS_LOOK_S = 0.05


class Load:
    """What an agent has in hand, as its beats tell it. Read from the thread of the beats."""

    __slots__ = ("busy", "depths")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.busy = 0  # requests that a handler has
        self.depths: list[Callable[[], int]] = []  # each gives those that wait for one

    @property
    def waiting(self) -> int:
        """Requests that were sent to it, and that no handler has yet."""
        return sum(depth() for depth in self.depths)


class Entry:
    """An agent that is registered, or is to be.

    Attributes:
        place: when it beats among many.
        registration: what it says of itself.
        load: what it has in hand.
        probe: of the loop that its handlers run on.
        listens: says whether requests reach it; its handlers have a connection of their own.
        generation: as the node counts; 0: it is not registered at this moment.
        draining: it takes nothing new.
    """

    __slots__ = (
        "draining",
        "generation",
        "listens",
        "load",
        "place",
        "probe",
        "registration",
        "wanted",
    )

    def __init__(
        self,
        registration: registry_pb2.Registration,
        load: Load,
        probe: LagProbe | None,
        listens: Callable[[], bool],
    ) -> None:
        """Prepare."""
        self.registration, self.load, self.probe = registration, load, probe
        self.listens = listens
        self.place = zlib.crc32(registration.name.encode())
        self.generation = 0
        self.draining = False
        self.wanted = False  # it was registered once, and is to stay so

    @property
    def name(self) -> str:
        """Who."""
        return self.registration.name

    def beat(self) -> registry_pb2.Beat:
        """Return what the node is told."""
        return registry_pb2.Beat(
            name=self.registration.name,
            generation=self.generation,
            in_flight=self.load.busy,
            waiting=self.load.waiting,
            lag_ms=0 if self.probe is None else self.probe.lag_ms,
            draining=self.draining,
        )


class Registrar:
    """The registrations of one connection. Belongs to its loop."""

    def __init__(self, connection: Connection) -> None:
        """Begin with none."""
        self.connection = connection
        self._loop = connection.loop
        self._rng = random.Random()
        self._entries: dict[str, Entry] = {}
        self._beat_s = _BEAT_S
        self._stream: Stream | None = None
        self._writing = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None
        self._lost_names: set[str] = set()
        self._soon: list[tuple[Entry, asyncio.Future[registry_pb2.Registered]]] = []
        self._probes: WeakKeyDictionary[asyncio.AbstractEventLoop, LagProbe] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Return how many agents there are."""
        return len(self._entries)

    # ---- for agents ------------------------------------------------------------------------------

    def probe_of(self, loop: asyncio.AbstractEventLoop) -> LagProbe | None:
        """Return what measures a loop of handlers; None: it is this one, which cannot itself."""
        if loop is self._loop:
            return None
        probe = self._probes.get(loop)
        if probe is None:
            probe = self._probes[loop] = LagProbe(loop, recovered=self.recovered)
        return probe

    async def add(self, entry: Entry, *, timeout_s: float) -> registry_pb2.Registered:
        """Register an agent, and keep it registered until `remove`.

        Raises:
            Conflict: another instance of the name lives, for all of `timeout_s`.
            SiraError: the node refused it.
        """
        if entry.name in self._entries:
            raise Conflict(
                f"this process has an agent {entry.name} already", help="choose another name",
                details={"name": entry.name},
            )  # fmt: skip
        self._entries[entry.name] = entry
        deadline = Deadline(timeout_s, self._loop)
        delays_s = self.connection.retry.delays_s(self._rng)
        try:
            while True:
                try:
                    told = await self._register_soon(entry, deadline)
                    break
                except Conflict as error:
                    delay_s = next(delays_s)
                    if not error.retryable or deadline.left_s() <= delay_s:
                        raise
                    await asyncio.sleep(delay_s)
        except BaseException:
            self._entries.pop(entry.name, None)
            raise
        entry.wanted = True
        if self._keeping is None:
            self._keeping = self._loop.create_task(self._keep(), name="sira-beats")
            self._keeping.add_done_callback(_seen)
        return told

    async def remove(self, entry: Entry, *, timeout_s: float) -> None:
        """Take an agent out of the registry. Raises SiraError: the node was not told."""
        generation = entry.generation
        self.forget(entry)
        if not generation:
            return
        await self.connection.unary(
            _DEREGISTER,
            registry_pb2.DeregisterRequest(name=entry.name, generation=generation),
            registry_pb2.DeregisterResponse,
            timeout_s=timeout_s,
        )

    def forget(self, entry: Entry) -> None:
        """Beat for it no more."""
        entry.wanted, entry.generation = False, 0
        self._entries.pop(entry.name, None)

    async def tell(self, entries: Iterable[Entry]) -> None:
        """Send beats of these now, if there is a stream."""
        beats = [each.beat() for each in entries if each.generation]
        for begin in range(0, len(beats), BEATS_MAX):
            request = registry_pb2.HeartbeatRequest(beats=beats[begin : begin + BEATS_MAX])
            async with self._writing:
                if self._stream is not None:
                    await self._stream.write(request.SerializeToString())

    async def close(self) -> None:
        """End the beats: what is still registered is left to its lease."""
        keeping, self._keeping = self._keeping, None
        for task in (keeping, self._again):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    # ---- registering -----------------------------------------------------------------------------

    async def _register_soon(self, entry: Entry, deadline: Deadline) -> registry_pb2.Registered:
        """Register together with those that want it in the same turn of the loop."""
        future: asyncio.Future[registry_pb2.Registered] = self._loop.create_future()
        self._soon.append((entry, future))
        if len(self._soon) == 1:
            self._loop.call_soon(self._register_those)
        try:
            async with asyncio.timeout(deadline.timer_s()):
                return await future
        except TimeoutError as error:
            if isinstance(error, SiraError):
                raise
            raise self.connection.late(deadline, f"registering {entry.name}") from None

    def _register_those(self) -> None:
        those, self._soon = self._soon, []
        task = self._loop.create_task(self._register_each(those), name="sira-register")
        task.add_done_callback(_seen)

    async def _register_each(
        self, those: list[tuple[Entry, asyncio.Future[registry_pb2.Registered]]]
    ) -> None:
        futures = {entry.name: future for entry, future in those}
        try:
            async for entry, outcome in self._registered([entry for entry, _ in those]):
                future = futures.pop(entry.name)
                if future.done():
                    continue
                if isinstance(outcome, SiraError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        except SiraError as error:
            for future in futures.values():
                if not future.done():
                    future.set_exception(error)

    async def _registered(self, entries: list[Entry]) -> Any:
        """Yield each entry with what the node said of it. Raises what the node said to all."""
        while entries:
            count, size = 0, 0
            while count < min(len(entries), _REGISTRATIONS_MAX) and size < _BYTES_MAX:
                size += entries[count].registration.ByteSize()
                count += 1
            batch, entries = entries[:count], entries[count:]
            answer = await self.connection.unary(
                _REGISTER,
                registry_pb2.RegisterRequest(registrations=[each.registration for each in batch]),
                registry_pb2.RegisterResponse,
                timeout_s=_CALL_S,
            )
            for entry, told in zip(batch, answer.results, strict=True):
                if told.HasField("error"):
                    yield entry, from_proto(told.error)
                    continue
                entry.generation = told.generation
                if told.beat_ms:
                    self._beat_s = told.beat_ms / 1e3
                yield entry, told

    async def _register_again(self) -> None:
        """Register those that the node has lost; what another instance holds, again later."""
        while self._lost_names:
            await asyncio.sleep(self._rng.uniform(0, _AGAIN_S))
            names, self._lost_names = self._lost_names, set()
            lost, deaf = list[Entry](), set[str]()
            for each in self._entries.values():
                if each.wanted and each.name in names:
                    if each.listens():  # who finds it finds it listening
                        lost.append(each)
                    else:
                        deaf.add(each.name)
            self._lost_names |= deaf
            wait_s = _LISTENS_LOOK_S if deaf else 0.0
            try:
                async for entry, outcome in self._registered(lost):
                    if isinstance(outcome, SiraError):
                        _log.warning("agent %s is not registered: %s", entry.name, outcome)
                        if outcome.retryable:
                            self._lost_names.add(entry.name)
                            wait_s = self._beat_s
            except SiraError as error:
                if error.code not in TRANSIENT and not error.retryable:
                    _log.error("%d agents are not registered: %s", len(lost), error)
                    return
                self._lost_names |= {each.name for each in lost if not each.generation}
                wait_s = self._beat_s if self.connection.is_up else 0.0
                if self.connection.ended is not None:
                    return
            await asyncio.sleep(wait_s)

    def _lose(self, names: Iterable[str]) -> None:
        for name in names:
            entry = self._entries.get(name)
            if entry is not None and entry.wanted:
                entry.generation = 0
                self._lost_names.add(name)
        if self._lost_names and (self._again is None or self._again.done()):
            self._again = self._loop.create_task(self._register_again(), name="sira-register")
            self._again.add_done_callback(_seen)

    # ---- beating ---------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Beat, on one stream after the other."""
        connection = self.connection
        delays_s = connection.retry.delays_s(self._rng)
        is_first = True
        while connection.ended is None:
            transport = await connection.up(Deadline(None, self._loop))
            if not is_first:  # another node, or another life of it, or one that thinks us lost
                self._lose(list(self._entries))
            is_first = False
            stream = self._stream = transport.stream(_HEARTBEAT, metadata=connection.metadata())
            lost: SiraError | None = None
            reading = self._loop.create_task(self._read(stream), name="sira-beats-answers")
            beating = self._loop.create_task(self._beat(), name="sira-beats-send")
            try:
                await asyncio.wait({reading, beating}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._stream = None
                for task in (reading, beating):
                    task.cancel()
                await asyncio.wait({reading, beating})
                stream.cancel()
            for task in (reading, beating):
                error = None if task.cancelled() else task.exception()
                if isinstance(error, SiraError):
                    lost = lost or error
                elif error is not None:
                    raise error
            if lost is not None and lost.code not in TRANSIENT and not lost.retryable:
                _log.error("this process cannot beat, its agents will be taken for lost: %s", lost)
                return
            if lost is None or lost.code in TRANSIENT:
                connection.lost(transport, lost)
            await asyncio.sleep(next(delays_s))

    async def _read(self, stream: Stream) -> None:
        while (frame := await stream.read()) is not None:
            answer = registry_pb2.HeartbeatResponse.FromString(frame)
            self._lose(each.name for each in answer.lost)

    async def _beat(self) -> None:
        """Send the beats of all: few at once, many spread over the time between two of one."""
        slots = 0
        while True:
            before, slots = slots, 1 if len(self._entries) <= BEATS_MAX else _SLOTS
            if before != slots:  # who changes its place would be waited for too long
                await self.tell(self._entries.values())
            for slot in range(slots):
                self._ask_loops(slot, slots)
                await asyncio.sleep(self._beat_s / slots * self._rng.uniform(0.95, 1.0))
                await self.tell(self._of_slot(slot, slots))

    def _of_slot(self, slot: int, slots: int) -> list[Entry]:
        return [each for each in self._entries.values() if each.place % slots == slot]

    def _ask_loops(self, slot: int, slots: int) -> None:
        """Ask the loops of these whether they run, and look after those that do not."""
        for each in self._of_slot(slot, slots):
            if each.probe is not None:
                each.probe.ask()
        self._loop.call_later(_LAG_LOOK_S, self._look_at_loops)

    def _look_at_loops(self) -> None:
        late = [each for each in self._entries.values() if each.probe and each.probe.is_due]
        if late:
            self._tell_soon(late)

    def _tell_soon(self, entries: list[Entry]) -> None:
        task = self._loop.create_task(self.tell(entries), name="sira-beat-now")
        task.add_done_callback(_seen)

    def recovered(self) -> None:
        """Tell of all again: a loop that did not answer has. From any thread."""
        self._loop.call_soon_threadsafe(lambda: self._tell_soon(list(self._entries.values())))


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        level = logging.DEBUG if isinstance(error, SiraError) else logging.ERROR
        _log.log(level, "%s ended: %r", task.get_name(), error)
