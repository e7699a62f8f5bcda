"""`Bus.Request`: one message out, its first final reply back, in one unary call."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel import errors, listening
from sira.kernel.bus import Bus
from sira.kernel.clients import Client, Hello
from sira.kernel.edge.ticker import Ticker
from sira.kernel.errors import (
    BadRequest,
    Internal,
    MessageTooLarge,
    NodeDraining,
    PeerLost,
    QuotaExceeded,
    SiraError,
    Timeout,
)
from sira.kernel.identity import Principal
from sira.kernel.topics import REPLY_PREFIX
from sira.v1 import bus_pb2, message_pb2

if TYPE_CHECKING:
    from sira.kernel.edge.door import Call

_REPLY_TOKEN_BYTES = 16  # random: only who was asked knows where to reply
_ON_THE_WAY = (message_pb2.REPLY_KIND_PARTIAL, message_pb2.REPLY_KIND_PROGRESS)
_MARGIN_S = 0.005  # our typed TIMEOUT should come before gRPC's bare one


@dataclass(slots=True, eq=False)
class _Asked:
    """One request under way."""

    number: int
    topic: str
    taken: int = 0
    reply: asyncio.Future[message_pb2.Message] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Requests:
    """Asks on behalf of unary callers: a client of the bus like any other."""

    def __init__(self, bus: Bus, ticker: Ticker) -> None:
        self._bus, self._ticker = bus, ticker
        self._wake = asyncio.Event()
        self._stream = bus.open_subscribe(bus.node, bus.self, wake=self._wake.set)
        self._asked: dict[int, _Asked] = {}
        self._last_number = 0
        self._reader: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many requests are under way."""
        return len(self._asked)

    async def request(self, call: Call, message: message_pb2.Message) -> message_pb2.Message:
        """Publish `message` with a private reply topic and return the first final reply.

        The call's deadline is the message's: whoever gets it knows how long an answer is wanted.

        Raises:
            NoMatch: nobody listens; told at once.
            Timeout: the deadline passed.
            MessageTooLarge: the reply does not fit into a unary call.
            SiraError: the publish was refused, or the reply is an error.
        """
        if self._bus.draining:
            raise NodeDraining(retry_after_ms=1_000)
        self._check(message)
        remaining_s = call.time_remaining_s()
        reply_topic = f"{REPLY_PREFIX}.{os.urandom(_REPLY_TOKEN_BYTES).hex()}"
        _fill(message, reply_topic, remaining_s)
        asked = self._listen(reply_topic)
        try:
            wait_s = None if remaining_s is None else max(0.0, remaining_s - _MARGIN_S)
            async with asyncio.timeout(wait_s):
                await self._publish(call, message)
                return await asked.reply
        except TimeoutError as error:
            if isinstance(error, SiraError):  # the answer itself: whoever was asked ran out of time
                raise
            raise Timeout(
                f"no final reply on {message.topic!r} in {remaining_s:.3f} s",
                details={"topic": message.topic},
            ) from None
        finally:
            self._forget(asked)

    def close(self) -> None:
        """End all requests under way."""
        if self._reader is not None:
            self._reader.cancel()
        self._fail_all(NodeDraining(retry_after_ms=1_000))
        self._stream.close(_native.now_ns(), reason=NodeDraining.code)

    def _fail_all(self, error: SiraError) -> None:
        for asked in list(self._asked.values()):
            if not asked.reply.done():
                asked.reply.set_exception(error)

    # ---- out -------------------------------------------------------------------------------------

    def _check(self, message: message_pb2.Message) -> None:
        if message.reply_to:
            raise BadRequest("Request makes its own reply topic", details={"field": "reply_to"})
        limit = self._bus.settings.requests_in_flight_max
        if len(self._asked) >= limit:
            raise QuotaExceeded(
                f"requests_in_flight_max = {limit} is reached",
                details={"setting": "requests_in_flight_max"},
            )

    async def _publish(self, call: Call, message: message_pb2.Message) -> None:
        """Publish as the caller; return when it is taken.

        Raises:
            SiraError: it was refused.
        """
        answered = asyncio.Event()
        stream = self._bus.open_publish(
            _passing(call.principal),
            call.credential,
            wake=answered.set,
            hello=Hello(),
            now_ns=_native.now_ns(),
        )
        try:
            frame = bus_pb2.Frame(items=[bus_pb2.Item(message=message)])
            stream.ingress.feed(frame.SerializeToString(), _native.now_ns())
            self._ticker.hurry()
            while True:
                answered.clear()
                data = stream.ingress.next_frame(_native.now_ns())
                if data is None:
                    await answered.wait()
                    continue
                for item in bus_pb2.Frame.FromString(data).items:
                    if item.receipt.HasField("error"):
                        raise errors.from_proto(item.receipt.error)
                    return
        finally:
            stream.close(_native.now_ns())

    # ---- back ------------------------------------------------------------------------------------

    def _listen(self, reply_topic: str) -> _Asked:
        """Open the private subscription of one request."""
        if self._reader is None:
            self._reader = asyncio.ensure_future(self._read())
        self._last_number = self._last_number % 0xFFFF_FFFF + 1
        opening = bus_pb2.Open(
            subscription=self._last_number, pattern=reply_topic, overflow=bus_pb2.OVERFLOW_BLOCK
        )
        listening.open_now(self._bus, self._stream, opening, _native.now_ns())
        asked = self._asked[self._last_number] = _Asked(self._last_number, reply_topic)
        return asked

    def _forget(self, asked: _Asked) -> None:
        """Confirm what was taken and close the private subscription."""
        del self._asked[asked.number]
        subscription = self._stream.subscriptions.get(asked.number)
        if subscription is None:
            return
        now_ns = _native.now_ns()
        if asked.taken:
            credit = bus_pb2.Credit(subscription=asked.number, taken=asked.taken)
            frame = bus_pb2.Frame(items=[bus_pb2.Item(credit=credit)])
            self._stream.feed(frame.SerializeToString(), now_ns)
        listening.close(self._bus, subscription, now_ns, reason="UNSUBSCRIBED")

    async def _read(self) -> None:
        """Hand replies to those who wait for them."""
        try:
            while True:
                self._wake.clear()
                data = self._stream.egress.next_frame(_native.now_ns())
                if data is None:
                    await self._wake.wait()
                    continue
                for item in bus_pb2.Frame.FromString(data).items:
                    for number in item.subscriptions:
                        asked = self._asked.get(number)
                        if asked is not None and not asked.reply.done():
                            self._take(asked, item)
                await asyncio.sleep(0)  # others want the loop as well
        except Exception as error:  # a fault of ours: those who wait are told, the next begins anew
            self._reader = None
            self._fail_all(Internal(f"{type(error).__name__} while replies were read"))

    def _take(self, asked: _Asked, item: bus_pb2.Item) -> None:
        if item.HasField("head"):
            limit = self._bus.settings.unary_bytes_max
            asked.reply.set_exception(_too_large(limit))
        elif item.HasField("message"):
            asked.taken += 1
            message = item.message
            if message.reply_kind == message_pb2.REPLY_KIND_ERROR:
                asked.reply.set_exception(errors.from_proto(message.error))
            elif message.reply_kind not in _ON_THE_WAY:
                limit = self._bus.settings.unary_bytes_max
                if message.ByteSize() > limit:
                    asked.reply.set_exception(_too_large(limit))
                else:
                    asked.reply.set_result(message)
        elif item.HasField("abort"):
            asked.reply.set_exception(PeerLost("the reply was not completed"))


def _too_large(limit: int) -> SiraError:
    return MessageTooLarge(
        f"the reply is larger than a unary call takes ({limit} bytes); use the streams",
        details={"setting": "unary_bytes_max", "limit_bytes": str(limit)},
    )


def _fill(message: message_pb2.Message, reply_topic: str, remaining_s: float | None) -> None:
    """Set the reply topic, and what a plain caller may leave out: id, correlation, deadline."""
    message.reply_to = reply_topic
    if not message.id:
        message.id = _native.new_id()
    if not message.correlation_id:
        message.correlation_id = message.id
    if remaining_s is not None:
        ttl_ns = max(1, round(remaining_s * 1e9))
        message.ttl_ns = min(message.ttl_ns, ttl_ns) if message.ttl_ns else ttl_ns


def _passing(principal: Principal) -> Client:
    """Return a client for the length of one call: nothing to lose, nothing to retry."""
    history = _native.History(messages_max=1)
    return Client(0, "", principal, "", _native.now_ns(), history)
