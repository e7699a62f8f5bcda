"""One connection on the node's side: its hello, its calls, its limits."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sira.kernel.access import Access
from sira.kernel.edge.door import Door
from sira.kernel.errors import ProtocolError, QuotaExceeded, SiraError, Timeout
from sira.kernel.guard import AUTHORIZATION_KEY
from sira.kernel.lent import Lender, Lent, Party, Reader
from sira.kernel.local import record
from sira.kernel.local.channel import Channel, Record
from sira.kernel.local.direct import Direct
from sira.kernel.local.end import End
from sira.kernel.local.flow import Flow
from sira.kernel.local.lending import Borrowing, Lending
from sira.kernel.local.peer import Peer, pidfd_of
from sira.kernel.local.served import ServedCall, too_long
from sira.kernel.settings import Settings
from sira.kernel.trust.credential import Credential
from sira.v1 import socket_pb2

# Answers that the caller does not read: past so much, it is not read either. More than two streams
# may have on their way at once.
_UNREAD_BYTES_MAX = 16 << 20


@dataclass(slots=True)
class _Details:
    """What the door asks of `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class Session:
    """A connection. Belongs to the node's loop."""

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        *,
        door: Door,
        settings: Settings,
        lent: Lent,
        direct: Direct,
        over: Callable[[Session, SiraError | None], None],
    ) -> None:
        """Take a connected socket over, say hello and listen.

        Args:
            peer: who is at the other end.
            lent: all that is lent on the node.
            direct: all that goes past it.
            over: told at the end, and why where the connection broke a rule.
        """
        self.peer = peer
        self.loop = asyncio.get_running_loop()
        self._door, self._settings, self._over = door, settings, over
        self._lent = lent
        self._party = Party(str(peer))
        self.lending: Lending | None = None  # both, once both hellos say that they lend
        self.borrowing: Borrowing | None = None
        self._past = direct
        self.direct: End | None = None  # once both say that they take links, too
        self._calls: dict[int, ServedCall] = {}
        self._last_call = 0
        self._hello: socket_pb2.SocketHello | None = None
        self._shown: tuple[tuple[str, str], ...] = ()
        self._pidfd = pidfd_of(sock, peer) if peer.handed is None else None
        self._handshake = self.loop.call_later(settings.handshake_s, self._is_silent)
        # So few calls cannot hold too much, whatever they send.
        self._calls_free = settings.socket_held_bytes_max // (
            settings.stream_window_bytes + record.BODY_BYTES_MAX
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_lost = False
        self.channel = Channel(sock, self.loop, taken=self._take, lost=self._lost)
        hello = socket_pb2.SocketHello(
            version=record.VERSION,
            window_bytes=settings.stream_window_bytes,
            record_bytes_max=record.BODY_BYTES_MAX,
            calls_max=settings.streams_per_connection_max,
            lends=lent.limits.segments_max > 0,
            links=lent.limits.segments_max > 0 and direct.limits.links_max > 0,
        )
        self._lends, self._links = hello.lends, hello.links
        self.channel.send(record.HELLO, 0, hello.SerializeToString())
        if self._pidfd is not None:
            self.loop.add_reader(self._pidfd, self._peer_died)
        self.channel.begin()

    def __len__(self) -> int:
        """Return how many calls are under way."""
        return len(self._calls)

    async def close(self) -> None:
        """Cancel what is under way and close."""
        self.channel.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ---- for its calls ---------------------------------------------------------------------------

    def check_size(self, body: bytes) -> None:
        """Refuse an answer that the other side would not take. Raises MessageTooLarge."""
        assert self._hello is not None, "a call is after it"
        if len(body) > self._hello.record_bytes_max:
            raise too_long(len(body), self._hello.record_bytes_max)

    def introduce(self, tenant: str, client: str) -> None:
        """Take note of who uses the connection, for people who ask."""
        self._party.tenant, self._party.client = tenant, client

    def lender(self, tenant: str) -> Lender | None:
        """Return what finds the bytes that chunks of a stream name; None: they may name none."""
        return None if self.lending is None else partial(self.lending.span, tenant)

    def reader(self, who: Credential, access: Access) -> Reader | None:
        """Return what lends bytes to a Subscribe stream of `who`; None: the client takes none."""
        if self.borrowing is None:
            return None
        return Reader(self._lent, self.borrowing, who, access)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Wait for a task at the end."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def forget(self, call: ServedCall) -> None:
        """Take note that a call is over."""
        self._calls.pop(call.flow.number, None)

    # ---- in --------------------------------------------------------------------------------------

    def _take(self, records: list[Record]) -> None:
        """Take records in. What it raises ends the connection."""
        calls = self._calls
        for kind, number, descriptors, body in records:
            if descriptors and (kind != record.SEGMENT or self.lending is None):
                self.channel.refuse_descriptors(descriptors)
            call = calls.get(number)
            if kind == record.MESSAGE:
                if call is not None:
                    call.flow.arrived(body)
                    if len(calls) > self._calls_free and call.flow.unread_bytes:
                        self._check_held(call)
                    continue
            elif kind == record.WINDOW:
                if call is not None:
                    call.flow.granted(record.read_grant(body))
                    continue
            elif kind == record.CALL:
                self._begin(number, body)
                continue
            elif kind == record.HALF_CLOSE:
                if call is not None:
                    call.flow.finish()
                    continue
            elif kind == record.CANCEL:
                if call is not None:
                    call.cancel()
                    continue
            elif kind == record.HELLO:
                self._meet(body)
                continue
            elif kind >= record.SEGMENT:
                self._take_lent(kind, descriptors, body)
                continue
            elif number == 0:  # a status of no call: why the client ends the connection
                self.channel.close()
                return
            if not 0 < number <= self._last_call or kind == record.STATUS:
                raise ProtocolError(f"a record of kind {kind} for call {number}, which is none")
        if self.channel.queued_bytes > _UNREAD_BYTES_MAX:
            self._rest()

    def _meet(self, body: bytes) -> None:
        if self._hello is not None:
            raise ProtocolError("a second hello")
        hello = record.read_hello(body)
        if len(hello.authorization) > self._settings.metadata_bytes_max:
            raise ProtocolError("a hello with a token longer than metadata_bytes_max")
        self._hello = hello
        self._handshake.cancel()
        if hello.authorization:
            self._shown = ((AUTHORIZATION_KEY, hello.authorization),)
        if hello.lends and self._lends:
            self.lending = Lending(self._lent, self.channel, self.loop, self._party)
            self.borrowing = Borrowing(self._lent, self.channel, self._party)
            if hello.links and self._links:
                self.direct = End(self._past, self.channel, self.lending)

    def _take_lent(self, kind: int, descriptors: int, body: bytes) -> None:
        """Take a record of shared memory in. Raises SiraError: it ends the connection."""
        if self.lending is None or self.borrowing is None or kind == record.STOP:
            raise ProtocolError(f"a record of kind {kind}, which nothing here takes")
        if kind > record.STOP:
            if self.direct is None:
                raise ProtocolError(f"a record of kind {kind}, which nothing here takes")
            self.direct.take(kind, body)
        elif kind == record.SEGMENT:
            found = self._take_descriptor(descriptors)
            try:
                told = record.read_segment(body, descriptors)
            except ProtocolError:
                if found is not None:
                    os.close(found)
                raise
            self.lending.bring(
                own=told.segment, bytes_=told.bytes, audience=told.audience, fd=found
            )
        elif kind == record.GONE:
            self.lending.retire(record.read_segments(body))
        else:
            self.borrowing.returned(record.read_leases(body))

    def _take_descriptor(self, count: int) -> int | None:
        """Return the one beside a segment; None: it was lost, as this process is at its limit."""
        if count > 1:
            self.channel.refuse_descriptors(count)
        try:
            found = self.channel.take_descriptors(count)
        except QuotaExceeded:
            return None
        return found[0] if found else None

    def _begin(self, number: int, body: bytes) -> None:
        hello, settings = self._hello, self._settings
        if hello is None:
            raise ProtocolError("a call before the hello")
        if number <= self._last_call:
            raise ProtocolError(f"call {number} after call {self._last_call}")
        self._last_call = number
        asked = record.read_call(body, metadata_bytes_max=settings.metadata_bytes_max)
        metadata = tuple((each.key, each.value) for each in asked.metadata)
        handler = self._door.service(_Details(asked.method))
        flow = Flow(
            self.channel,
            self.loop,
            number,
            out_bytes=hello.window_bytes,
            in_bytes=settings.stream_window_bytes,
        )
        call = self._calls[number] = ServedCall(
            self,
            flow,
            handler,
            self._shown + metadata,
            asked.timeout_us / 1e6 if asked.timeout_us else None,
        )
        limit = settings.streams_per_connection_max
        if len(self._calls) > limit:
            call.fail(
                QuotaExceeded(
                    f"streams_per_connection_max = {limit} is reached",
                    details={"setting": "streams_per_connection_max", "limit": str(limit)},
                )
            )

    def _check_held(self, call: ServedCall) -> None:
        """End the call that brings too much that its handler has not taken."""
        limit = self._settings.socket_held_bytes_max
        held = sum(each.flow.unread_bytes for each in self._calls.values())
        if held > limit:
            call.fail(
                QuotaExceeded(
                    f"socket_held_bytes_max = {limit}: this connection's calls hold {held} bytes",
                    details={"setting": "socket_held_bytes_max", "limit_bytes": str(limit)},
                )
            )

    def _rest(self) -> None:
        """Read no more until the caller has read."""
        self.channel.pause()

        async def resume() -> None:
            await self.channel.drained()
            self.channel.resume()

        self.keep(self.loop.create_task(resume(), name="sira-socket-rest"))

    # ---- the end ---------------------------------------------------------------------------------

    def _is_silent(self) -> None:
        self.channel.close(Timeout(f"no hello came in {self._settings.handshake_s:g} s"))

    def _peer_died(self) -> None:
        self._forget_pidfd()
        self.channel.read_out()

    def _forget_pidfd(self) -> None:
        if self._pidfd is not None:
            self.loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _lost(self, error: SiraError | None) -> None:
        self._handshake.cancel()
        self._forget_pidfd()
        for call in list(self._calls.values()):
            call.cancel()
        self.is_lost = True
        self._end_of_lending()
        self._over(self, error)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._end_of_lending()

    def _end_of_lending(self) -> None:
        """Let all memory go, once the connection is lost and its streams are through.

        Not before: what they had read still names segments, and who was shown memory by a stream
        must not be thought to have given it back before its publisher was told to stop.
        """
        if self.is_lost and not self._tasks and self.lending is not None:
            assert self.borrowing is not None, "both or none"
            if self.direct is not None:  # before its memory goes: what it posted is still read
                self.direct.over()
                self.direct = None
            self.borrowing.end()
            self.lending.end()
            self.lending = self.borrowing = None
