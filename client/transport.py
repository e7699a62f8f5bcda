"""What the SDK needs of a way to a node, and how gRPC gives it.

`Transport` is the seam: `GrpcTransport` here, and the in-process one of `sira.testing`. Frames are
opaque bytes on both sides of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import grpc
import grpc.aio

from sira.client.lineage import forks
from sira.client.security import Settled
from sira.kernel.errors import BadRequest, SiraError, Timeout, Unreachable
from sira.kernel.rpc import from_grpc

if TYPE_CHECKING:
    from sira.client.local.lent import LentWay

Metadata = Sequence[tuple[str, str]]

_PLAIN = Settled()
_SEND = "send_serialized_message"
_RECEIVE = "receive_serialized_message"

# A frame has at most 2 MiB; the rest is room for its framing.
_RECEIVE_BYTES_MAX = 4 << 20
_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", _RECEIVE_BYTES_MAX),
    ("grpc.max_send_message_length", _RECEIVE_BYTES_MAX),
    # A connection of its own each: two connections of one process are two clients.
    ("grpc.use_local_subchannel_pool", 1),
    # The window of a stream is ours to say (below); probing would let it grow.
    ("grpc.http2.bdp_probe", 0),
    # A chunk comes as one piece, instead of a hundred of 16 KiB, each with its buffer and header.
    ("grpc.http2.max_frame_size", 2 << 20),
    # We reconnect ourselves, with our own waits.
    ("grpc.enable_retries", 0),
    # A host that vanished without a word is noticed, also by who only listens.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
]

# What may be under way to us unread, and so what a small message waits behind when a large one is
# coming: measured on loopback, 256 KiB keeps the rate of 4 MiB at a third of its p99. One stream
# carries at most a window per round trip: on a long way ask for more.
_WINDOW_VARIABLE = "SIRA_STREAM_WINDOW_BYTES"
_WINDOW_BYTES = 256 << 10
_WINDOW_BYTES_MIN, _WINDOW_BYTES_MAX = 64 << 10, 64 << 20


def stream_window_bytes() -> int:
    """Return the receive window of a stream, in bytes. Raises BadRequest."""
    asked = os.environ.get(_WINDOW_VARIABLE, "")
    if not asked:
        return _WINDOW_BYTES
    if not asked.isascii() or not asked.isdigit():
        raise BadRequest(f"{_WINDOW_VARIABLE} = {asked[:40]!r} is no number of bytes")
    if not _WINDOW_BYTES_MIN <= int(asked) <= _WINDOW_BYTES_MAX:
        raise BadRequest(
            f"{_WINDOW_VARIABLE} = {asked[:40]}: at least {_WINDOW_BYTES_MIN}, "
            f"at most {_WINDOW_BYTES_MAX}"
        )
    return int(asked)


class Stream(Protocol):
    """One bidirectional stream of encoded Frames. One reader and one writer at a time."""

    async def read(self) -> bytes | None:
        """Return the next frame; None when the node ended the stream in order. Raises SiraError."""

    async def write(self, frame: bytes) -> None:
        """Hand one frame over; suspends while the way to the node is full. Raises SiraError."""

    async def done_writing(self) -> None:
        """Say that no more frames come."""

    def cancel(self) -> None:
        """Give the stream up at once."""


class Transport(Protocol):
    """The way to one node. `lane` is what Negotiate and receipts call it."""

    lane: str

    @property
    def lent(self) -> LentWay | None:
        """What is lent and borrowed on it, once it is connected; None: all is copied along."""

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        """Call /sira.v1.SERVICE/NAME with encoded messages. Raises SiraError."""

    def stream(self, method: str, *, metadata: Metadata) -> Stream:
        """Open a bidirectional stream; errors come from its reads and writes."""

    @property
    def over(self) -> SiraError | None:
        """Why it is over for good; None: it is not, or connects again by itself."""

    def renewed(self) -> bool:
        """Return whether a new way would show another token or certificate than this one does."""

    async def close(self) -> None:
        """Give back what the way holds."""


class GrpcTransport:
    """One HTTP/2 connection to a node."""

    lane = "grpc"
    lent = None
    over = None  # the channel dials again

    _forks_at_first_use: ClassVar[int | None] = None

    def __init__(self, address: str, security: Settled = _PLAIN) -> None:
        """Prepare a channel to `host:port`; it connects at its first call.

        Raises:
            BadRequest, BadSetting: what `security` names cannot be used.
            Unreachable: gRPC was used before this process was forked off. Its threads stayed with
                the parent, and a call here would wait for them for ever.
        """
        cls = type(self)
        if cls._forks_at_first_use is None:
            cls._forks_at_first_use = forks()
        elif cls._forks_at_first_use != forks():
            raise Unreachable(
                "gRPC was in use when this process was forked off, and does not work in it",
                retryable=False,
                help="fork before the first connection, or start the child by multiprocessing's "
                "'spawn' or 'forkserver'",
                details={"address": address},
            )
        self._address = address
        options = [*_CHANNEL_OPTIONS, ("grpc.http2.lookahead_bytes", stream_window_bytes())]
        self._security = security
        self._proof = security.proof()
        self._shown = security.authorization()
        self._channel = security.channel(address, options)
        self._calls: dict[str, Any] = {}

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        """Call one method."""
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self._channel.unary_unary(method)
        try:
            response: bytes = await call(
                request, metadata=[*metadata, *self._shown], timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None
        except asyncio.CancelledError:
            # gRPC says the same where the channel was closed under the call's hands.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Unreachable(
                "the connection was closed meanwhile", details={"address": self._address}
            ) from None
        return response

    def stream(self, method: str, *, metadata: Metadata) -> Stream:
        """Open one stream."""
        shown = [*metadata, *self._shown]
        return _GrpcStream(self, self._channel.stream_stream(method)(metadata=shown))

    def renewed(self) -> bool:
        """Return whether the files say something else than when this connection was made."""
        return self._security.shows_another(self._proof)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def _translate(self, error: grpc.aio.AioRpcError) -> SiraError:
        translated = from_grpc(error)
        explained = self._security.why_not(str(translated))
        if explained is not None and isinstance(translated, Unreachable):
            translated = Unreachable(explained[0], help=explained[1], details=translated.details)
        if isinstance(translated, Unreachable | Timeout):
            translated.details.setdefault("address", self._address)
        return translated


class _GrpcStream:
    """A `grpc.aio` call as a `Stream`."""

    __slots__ = ("_call", "_receive", "_send", "_transport")

    def __init__(self, transport: GrpcTransport, call: Any) -> None:
        self._transport = transport
        self._call = call
        self._receive: Any = None
        self._send: Any = None

    async def read(self) -> bytes | None:
        try:
            if self._receive is None:
                frame = await self._call.read()  # the first: waits for the call to have begun
                self._receive = getattr(getattr(self._call, "_cython_call", None), _RECEIVE, None)
            else:
                # One layer below `read`, whose five functions only prepare and check.
                frame = await self._receive()
                if frame is grpc.aio.EOF:
                    frame = await self._call.read()  # which knows how the call ended
        except grpc.aio.AioRpcError as error:
            raise self._transport._translate(error) from None
        return None if frame is grpc.aio.EOF else frame

    async def write(self, frame: bytes) -> None:
        try:
            if self._send is None:
                await self._call.wait_for_connection()
                # One layer below `write`, which would put "internal error" in the place of the
                # node's own status, and lose what it still had to say, when the node ends the call
                # while we write: the first frame meets the refusal of the stream itself.
                below = getattr(getattr(self._call, "_cython_call", None), _SEND, None)
                self._send = below or self._call.write
            await self._send(frame)
        except grpc.aio.AioRpcError as error:
            raise self._transport._translate(error) from None
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise Unreachable(f"the stream is closed: {error}") from None

    async def done_writing(self) -> None:
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            return  # it is over already, which is what was asked for

    def cancel(self) -> None:
        self._call.cancel()
