"""`SocketTransport`: the calls of the contract over the node's Unix socket, or a handed descriptor.

One connection carries all calls. It needs no thread, no gRPC and, with a descriptor, neither
`socket` nor `connect` nor a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat

import grpc

from sira.client.address import FD, FD_VARIABLE, UNIX
from sira.client.lineage import check_fork, forks
from sira.client.local.bells import spin_us_max
from sira.client.local.lent import LentWay, new_bell
from sira.client.local.links import LinkWay, direct_wanted
from sira.client.security import Settled
from sira.client.transport import Metadata, Stream, stream_window_bytes
from sira.kernel import lanes
from sira.kernel.errors import (
    BadRequest,
    ConnectionClosed,
    Internal,
    ProtocolError,
    SiraError,
    Timeout,
    Unreachable,
)
from sira.kernel.local import record
from sira.kernel.local.channel import Channel, Record
from sira.kernel.local.flow import Flow, FlowOver
from sira.kernel.rpc import DETAILS_KEY, from_status
from sira.v1 import socket_pb2

_STATUSES = {code.value[0]: code for code in grpc.StatusCode}
_HANDSHAKE_S = 3.0
_BUSY_S = 0.01  # the node's backlog is full: looked at again after so long
# The node's own TIMEOUT, which says more than ours, has so long to come.
_MARGIN_S = 0.02
_PLAIN = Settled()
_taken: set[int] = set()  # descriptors that this process was handed and has used


class SocketTransport:
    """One connection to a node of this host."""

    lane = lanes.NAMES[lanes.SOCKET]

    def __init__(self, address: str, security: Settled = _PLAIN) -> None:
        """Prepare; the first call connects.

        Args:
            address: `unix:/path/of/sira.sock`, or `fd:/N` of a connected descriptor, which is taken
                over.
            security: whose token is shown.
        Raises:
            BadRequest, BadSetting: what `security` names cannot be used.
        """
        self._address = address
        self._security = security
        self._proof = security.proof()
        shown = security.authorization()
        self._shown = shown[0][1] if shown else ""
        self._forks = forks()
        self._loop = asyncio.get_running_loop()
        self._window_bytes = stream_window_bytes()
        self.lent: LentWay | None = None
        self._bell = -1
        self._links = direct_wanted() and spin_us_max() >= 0
        self._channel: Channel | None = None
        self._connecting: asyncio.Task[Channel] | None = None
        self._hello: asyncio.Future[socket_pb2.SocketHello] = self._loop.create_future()
        self._hello.add_done_callback(_look)  # nobody may have waited for it
        self._node = socket_pb2.SocketHello()
        self._slots = asyncio.Semaphore(1)  # calls at once; how many, the node says
        self._calls: dict[int, _SocketCall] = {}
        self._last_call = 0
        self._ended: SiraError | None = None

    # ---- Transport -------------------------------------------------------------------------------

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        """Call one method."""
        try:
            async with asyncio.timeout(timeout_s + _MARGIN_S):
                await self._connected()
                async with self._slots:
                    return await self._unary(method, request, metadata, timeout_s)
        except TimeoutError as error:
            if isinstance(error, SiraError):
                raise
            raise Timeout(
                f"{method} was not answered in {timeout_s:.3f} s",
                details={"address": self._address},
            ) from None

    async def _unary(
        self, method: str, request: bytes, metadata: Metadata, timeout_s: float
    ) -> bytes:
        if len(request) > self._node.record_bytes_max:
            limit = self._node.record_bytes_max
            raise BadRequest(f"a request of {len(request)} bytes; the node takes {limit}")
        call = self._begin(method, metadata, timeout_s)
        channel = self._open_channel()
        channel.send(record.MESSAGE, call.flow.number, request)
        channel.send(record.HALF_CLOSE, call.flow.number)
        try:
            reply = await call.read()
            if reply is None:
                raise Internal(f"{method} ended without an answer")
            if await call.read() is not None:
                raise Internal(f"{method} answered more than once")
        finally:
            call.cancel()
        return reply

    def stream(self, method: str, *, metadata: Metadata) -> Stream:
        """Open one stream."""
        try:
            return self._begin(method, metadata, None)
        except SiraError as error:
            return _Refused(error)

    @property
    def over(self) -> SiraError | None:
        """Why the connection is over; None: it is not."""
        return self._ended

    def renewed(self) -> bool:
        """Return whether the token's file says something else than when this was made."""
        return self._security.shows_another(self._proof)

    async def close(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._channel is not None:
            self._channel.close()
        self._lost(Unreachable("this connection was closed", retryable=False))

    # ---- connecting ------------------------------------------------------------------------------

    async def _connected(self) -> Channel:
        """Return the channel once the node has said hello.

        Raises:
            Unreachable: nobody listens, or the connection is over. SiraError: the node refused it.
        """
        check_fork(self._forks)
        if self._channel is not None and self._hello.done():
            return self._open_channel()
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect(), name="sira-socket-connect")
            self._connecting.add_done_callback(_look)
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Channel:
        if self._address.startswith(FD):
            sock = _handed_over(self._address.removeprefix(FD))
        else:
            sock = await self._dialled()
        self._bell = new_bell()
        channel = self._channel = Channel(sock, self._loop, taken=self._take, lost=self._lost)
        hello = socket_pb2.SocketHello(
            version=record.VERSION,
            authorization=self._shown,
            window_bytes=self._window_bytes,
            record_bytes_max=record.BODY_BYTES_MAX,
            lends=self._bell >= 0,
            links=self._links and self._bell >= 0,
        )
        channel.send(record.HELLO, 0, hello.SerializeToString())
        channel.begin()
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                self._node = await self._hello
        except TimeoutError:
            raise self._unreachable("says nothing") from None
        self._slots = asyncio.Semaphore(max(1, self._node.calls_max))
        return channel

    async def _dialled(self) -> socket.socket:
        path = self._address.removeprefix(UNIX)
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                sock.connect(path)
            except BlockingIOError:  # its backlog is full
                sock.close()
                await asyncio.sleep(_BUSY_S)
            except OSError as error:
                sock.close()
                if "too long" in str(error):
                    raise BadRequest(f"{self._address} is longer than a socket's path") from None
                raise self._unreachable(_why(error)) from None
            else:
                return sock

    def _unreachable(self, why: str) -> Unreachable:
        return Unreachable(f"{self._address} {why}", details={"address": self._address})

    def _open_channel(self) -> Channel:
        """Return the channel. Raises Unreachable, SiraError: it is over."""
        if self._ended is not None:
            raise self._ended
        if self._channel is None:
            raise self._unreachable("is not connected")
        return self._channel

    # ---- calls -----------------------------------------------------------------------------------

    def _begin(self, method: str, metadata: Metadata, timeout_s: float | None) -> _SocketCall:
        channel = self._open_channel()
        if self._last_call == record.CALLS_LAST:
            error = Unreachable("this connection has no numbers left for calls")
            channel.close(error)
            raise error
        self._last_call += 1
        flow = Flow(
            channel,
            self._loop,
            self._last_call,
            out_bytes=self._node.window_bytes,
            in_bytes=self._window_bytes,
        )
        call = self._calls[flow.number] = _SocketCall(self, channel, flow)
        channel.send(record.CALL, flow.number, record.call(method, metadata, timeout_s))
        return call

    def forget(self, number: int) -> None:
        """Take note that a call is over."""
        self._calls.pop(number, None)

    def _take(self, records: list[Record]) -> None:
        """Take records of the node in. What it raises ends the connection."""
        calls = self._calls
        for kind, number, descriptors, body in records:
            if kind >= record.SEGMENT and self.lent is not None:
                self.lent.take(kind, descriptors, body)
                continue
            if descriptors:
                assert self._channel is not None, "it brought them"
                self._channel.refuse_descriptors(descriptors)
            call = calls.get(number)
            if kind == record.MESSAGE:
                if call is not None:
                    call.flow.arrived(body)
            elif kind == record.WINDOW:
                if call is not None:
                    call.flow.granted(record.read_grant(body))
            elif kind == record.STATUS:
                if call is not None:
                    call.ended(_error_of(body))
                elif number == 0:
                    raise _error_of(body) or ProtocolError("the node ended the connection")
            elif kind == record.HELLO:
                if self._hello.done():
                    raise ProtocolError("a second hello of the node")
                self._meet(record.read_hello(body))
            elif kind != record.HALF_CLOSE:
                raise ProtocolError(f"a record of kind {kind} from the node")

    def _meet(self, hello: socket_pb2.SocketHello) -> None:
        if hello.lends and self._bell >= 0:
            assert self._channel is not None, "it brought the hello"
            links = LinkWay(self._channel) if hello.links and self._links else None
            self.lent = LentWay(self._channel, self._loop, self._bell, links)
            self._bell = -1
        self._hello.set_result(hello)

    def _lost(self, error: SiraError | None) -> None:
        if self._ended is not None:
            return
        if self.lent is not None:
            self.lent.close()
        elif self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
        self._ended = error or self._unreachable("closed the connection")
        if not self._hello.done():
            self._hello.set_exception(self._ended)
        for call in list(self._calls.values()):
            call.ended(self._ended)


class _SocketCall:
    """One call, as a `Stream`."""

    __slots__ = ("_channel", "_error", "_transport", "flow", "over")

    def __init__(self, transport: SocketTransport, channel: Channel, flow: Flow) -> None:
        self._transport, self._channel, self.flow = transport, channel, flow
        self._error: SiraError | None = None
        self.over = False

    async def read(self) -> bytes | None:
        body = await self.flow.read()
        if body is None and self._error is not None:
            raise self._error
        return body

    async def write(self, frame: bytes) -> None:
        try:
            await self.flow.write(frame)
        except FlowOver:
            raise Unreachable("the stream is closed") from None

    async def done_writing(self) -> None:
        self.flow.half_close()

    def cancel(self) -> None:
        if not self.over:
            self._channel.send(record.CANCEL, self.flow.number)
            self.ended(None)

    def ended(self, error: SiraError | None) -> None:
        """Take note that the call is over; what came before that can still be read."""
        if self.over:
            return
        self.over, self._error = True, error
        self._transport.forget(self.flow.number)
        self.flow.end()


class _Refused:
    """A stream that could not be opened: it says why."""

    def __init__(self, error: SiraError) -> None:
        self._error = error

    async def read(self) -> bytes | None:
        raise self._error

    async def write(self, frame: bytes) -> None:
        del frame
        raise self._error

    async def done_writing(self) -> None:
        return

    def cancel(self) -> None:
        return


def _error_of(body: bytes) -> SiraError | None:
    """Return what a status says; None: all is in order. Raises ProtocolError."""
    if not body:
        return None
    status = record.read_status(body)
    if not status.code:
        return None
    code = _STATUSES.get(status.code, grpc.StatusCode.UNKNOWN)
    return from_status(code, status.message, [(DETAILS_KEY, body)])


def _handed_over(text: str) -> socket.socket:
    """Return the socket of a descriptor that somebody handed to this process; it is ours now.

    Raises:
        BadRequest: it is no connected Unix socket of streams.
        ConnectionClosed: it was taken before: it carries one connection, and its number may be
            another file's by now.
    """
    bad = f"{FD_VARIABLE}: descriptor {text[:20]!r} "
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest(bad + "is no number")
    number = int(text)
    if number in _taken:
        raise ConnectionClosed(
            f"the connection of {FD_VARIABLE} has been made, and cannot be made again"
        )
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise BadRequest(bad + "is no socket")
        sock = socket.socket(fileno=number)
        if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM:
            os.set_inheritable(number, False)
            _taken.add(number)
            return sock
        sock.detach()
        raise BadRequest(bad + "is no Unix socket of streams")
    raise BadRequest(bad + "is not open in this process")


def _why(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "is not there: no node has it open"
    if error.errno == errno.ECONNREFUSED:
        return "is left behind: no node listens"
    return f"cannot be reached: {error.strerror}"


def _look(done: asyncio.Future[socket_pb2.SocketHello] | asyncio.Task[Channel]) -> None:
    """Retrieve an exception that nobody may have waited for."""
    if not done.cancelled():
        done.exception()
