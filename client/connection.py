"""One client and the node it is connected to: finding it, losing it, coming back.

Owns the transport, the two streams and the epoch of the node that the unanswered messages were sent
to. Refuses to know what is published or who listens.

A client has a random id of its own, which all its calls carry: the node ties its streams together
by it, and finds in it the messages that a lost stream had brought (`sira-resume`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message as ProtoMessage

import sira.kernel.binding  # noqa: F401  ties the C core to its errors and dtypes
from sira import __version__, _native
from sira.client.deadline import Deadline
from sira.client.incoming import RIDE_WINDOW_BYTES_MIN, Incoming
from sira.client.lineage import check_fork, forks
from sira.client.outgoing import Answer, Outgoing, Ticket
from sira.client.retry import Retry
from sira.client.transport import GrpcTransport, Stream, Transport
from sira.kernel.errors import (
    Denied,
    NodeDraining,
    OutcomeUnknown,
    QuotaExceeded,
    RateLimited,
    Revoked,
    SiraError,
    Timeout,
    Unauthenticated,
    Unreachable,
)
from sira.v1 import kernel_pb2

_log = logging.getLogger("sira.client")
_Response = TypeVar("_Response", bound=ProtoMessage)

PROTOCOL = 1
# One try of one address; a host that swallows packets must not use up the caller's whole time.
_DIAL_S = 3.0
_CLOSE_S = 2.0
# How long the second stream has to end after the first, at a node that goes down in order.
_LAST_WORDS_S = 0.5
# A connection that lasted so long was a good one: its loss is followed by a try at once.
_STEADY_S = 1.0
_MESSAGE_BYTES_MAX = 16 << 30
_PUBLISH_BLOCK_MS = 5_000
_TIMER_S = 0.001  # a timer may ring a little before its time
# These mean that the connection is gone, not that what was sent is wrong.
TRANSIENT = frozenset(
    {"UNREACHABLE", "NODE_DRAINING", "CANCELLED", "TIMEOUT", "INTERNAL", "PEER_LOST"}
)


def _is_of_proof(error: SiraError) -> bool:
    """Whether what was shown proves nothing any more; a right withdrawn by a rule is no such."""
    if isinstance(error, Revoked):
        return error.details.get("reason") == "revoked"
    return isinstance(error, Unauthenticated)


def _is_of_right(error: SiraError) -> bool:
    """Whether a rule refuses a stream: who is connected stays so, and may do other things."""
    return isinstance(error, Denied | Revoked) and not _is_of_proof(error)


def _nobody(node: str) -> SiraError:
    return Unauthenticated(
        f"{node} takes nobody who shows nothing",
        help="show a token: --token-file FILE or SIRA_TOKEN (token= in Python), or a certificate",
        details={"address": node},
    )


class Connection:
    """A client of one of several nodes. Belongs to the event loop it was opened on."""

    def __init__(
        self,
        nodes: list[str],
        *,
        name: str,
        retry: Retry,
        dial: Callable[[str], Transport] = GrpcTransport,
        are_ways: bool = False,
    ) -> None:
        """Prepare; `open` connects.

        Args:
            nodes: the address of each, tried in order; after a loss the last one first.
            name: `source` of what is published; for people, not for rights.
            dial: makes the transport to one address.
            are_ways: the addresses are ways to one node, the best first: always tried so.
        """
        self.loop = asyncio.get_running_loop()
        self.retry = retry
        self.client_id = secrets.token_hex(16)
        self.node = kernel_pb2.NegotiateResponse()
        self.outgoing = Outgoing(self, source=name)
        self.incoming = Incoming(self, message_bytes_max=_MESSAGE_BYTES_MAX)
        self.outgoing.riding = self.incoming.ride
        self.incoming.answers = self.outgoing.take_answers
        self.incoming.answered = lambda: self.outgoing.answered
        self.incoming.may_ride = lambda: self.outgoing.stream is not None
        # Called with the refusal of a Publish stream: what was on it, nobody got.
        self.on_refused: list[Callable[[SiraError], None]] = []
        self.on_lost: list[Callable[[], None]] = []  # called at each loss, and at the end
        # Started as tasks whenever a node is connected.
        self.on_back: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._nodes = nodes
        self._ways = tuple(nodes) if are_ways else ()
        self._dial = dial
        self._forks = forks()
        self.rng = random.Random(self.client_id)
        self._transport: Transport | None = None
        self._is_up = asyncio.Event()
        self._last_error: SiraError = Unreachable("not connected yet")
        self.ended: SiraError | None = None  # closed, or refused for good: why
        self._reconnecting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._publish_wanted = False
        # A limit lets no stream be opened before.
        self._publish_at_s = self._subscribe_at_s = 0.0
        self._link = ""  # the two streams of one connection know each other by it; "": they do not
        self._up_since_s = 0.0
        self._publish_error: SiraError | None = None  # how the Publish stream ended
        self._heard_out = False  # the Subscribe stream ended in order
        self._last_words: asyncio.TimerHandle | None = None  # one stream ended, the other has time
        self._delays_s = retry.delays_s(self.rng)
        self._repeats = 0  # first messages of the next Publish stream that were sent before
        self._epoch_sent_to = b""  # of the node that got them
        self._epoch_before = b""  # and of the one before it, to which its repeats were sent first
        self._answered_before = 0  # when the Publish stream began

    # ---- connecting ------------------------------------------------------------------------------

    async def open(self, timeout_s: float | None) -> None:
        """Connect to the first node that answers.

        Raises:
            Unreachable: none did within `timeout_s`.
            SiraError: one did, and refused this client.
        """
        deadline = Deadline(timeout_s, self.loop)
        delays_s = self.retry.delays_s(self.rng)
        while not await self._try_nodes(deadline):
            if self.ended is not None:
                raise self.ended
            delay_s = self._delay_s(delays_s)
            if not self.retry.connects or deadline.left_s() <= delay_s:
                raise self._unreachable()
            await asyncio.sleep(delay_s)

    async def _try_nodes(self, deadline: Deadline) -> bool:
        for node in self._ways or tuple(self._nodes):
            transport = self._dial(node)
            request = kernel_pb2.NegotiateRequest(
                client=f"sira-python/{__version__}",
                protocol_min=PROTOCOL,
                protocol_max=PROTOCOL,
                lanes=[transport.lane],
            )
            try:
                answer = await transport.unary(
                    "/sira.v1.Kernel/Negotiate",
                    request.SerializeToString(),
                    metadata=self.metadata(),
                    timeout_s=min(_DIAL_S, max(0.05, deadline.left_s())),
                )
            except SiraError as error:
                self._last_error = error
                await transport.close()
                if not self._passes(error):
                    self.ended = error
                    return False
                continue
            except BaseException:
                await transport.close()
                raise
            said = kernel_pb2.NegotiateResponse.FromString(answer)
            if not said.principal:  # no call would be answered: say so now, and not one by one
                await transport.close()
                self._last_error = self.ended = _nobody(node)
                return False
            # The next loss begins with the node that answered last.
            self._nodes.remove(node)
            self._nodes.insert(0, node)
            self._connected(transport, said)
            return True
        return False

    def _connected(self, transport: Transport, node: kernel_pb2.NegotiateResponse) -> None:
        if self.ended is not None:  # closed while it connected
            self._drop(transport)
            return
        self._transport, self.node = transport, node
        asides = (
            any(feature.name == "asides" for feature in node.features)
            and node.limits.get("window_bytes", RIDE_WINDOW_BYTES_MIN) >= RIDE_WINDOW_BYTES_MIN
        )
        self._link = secrets.token_hex(8) if asides else ""
        self.incoming.linked = asides
        self._up_since_s = self.loop.time()
        self._is_up.set()
        if self.incoming.receivers:
            self.want_subscribe()
        if self._publish_wanted:
            self.want_publish()
        for call in self.on_back:
            self._start_task(call(), "sira-on-back")

    def _passes(self, error: SiraError) -> bool:
        """Whether a try that failed with `error` may succeed later."""
        return error.code in TRANSIENT or self.retry.limit_delay_s(error, self.rng) is not None

    def _delay_s(self, delays_s: Iterator[float]) -> float:
        """Return how long to wait before the next try: longer where a limit says so."""
        return max(next(delays_s), self.retry.limit_delay_s(self._last_error, self.rng) or 0.0)

    def _unreachable(self) -> SiraError:
        if isinstance(self._last_error, Unreachable):
            return self._last_error
        nodes = ", ".join(self._nodes)
        return Unreachable(f"no node at {nodes}: {self._last_error}", details={"nodes": nodes})

    def metadata(self) -> list[tuple[str, str]]:
        """Return what every call carries."""
        return [("sira-client", self.client_id)]

    def _stream_metadata(self) -> list[tuple[str, str]]:
        return [*self.metadata(), ("sira-link", self._link)] if self._link else self.metadata()

    @property
    def address(self) -> str:
        """Where the node is, or was last: `host:port`, `unix:/path` or `fd:/N`."""
        return self._nodes[0]

    @property
    def is_up(self) -> bool:
        """Whether a node is connected at this moment."""
        return self._is_up.is_set()

    @property
    def publish_block_s(self) -> float:
        """How long the node lets a publish wait for room where the publish does not say, in s."""
        return self.node.limits.get("publish_block_ms", _PUBLISH_BLOCK_MS) / 1e3

    @property
    def last_error(self) -> SiraError:
        """Why there was no connection, when there was none last."""
        return self._last_error

    def check(self) -> None:
        """Refuse use after the end and in a forked child.

        Raises:
            Unreachable: closed, or made by the parent process.
            SiraError: the node refused this client for good.
        """
        check_fork(self._forks)
        if self.ended is not None:
            raise self.ended

    async def up(self, deadline: Deadline) -> Transport:
        """Return the way to the node, waiting for it to come back if need be.

        Raises:
            Unreachable: it did not within the deadline.
        """
        while True:
            self.check()
            if self._transport is not None:
                return self._transport
            try:
                async with asyncio.timeout(deadline.timer_s()):
                    await self._is_up.wait()
            except TimeoutError:
                raise self._unreachable() from None

    # ---- streams ---------------------------------------------------------------------------------

    def want_publish(self) -> None:
        """Open the Publish stream when there is none, now or when connected again."""
        self._publish_wanted = True
        if self._transport is None or self.outgoing.stream is not None:
            return
        if self.loop.time() < self._publish_at_s:
            return
        metadata = self._stream_metadata()
        if self.retry.limited:
            metadata = [*metadata, ("sira-limits", "wait")]
        if self._repeats:  # callers may have given some of them up since
            self._repeats = min(self._repeats, self.outgoing.rewind())
        if self._repeats:
            metadata.append(("sira-resume", f"{self._epoch_sent_to.hex()}:{self._repeats}"))
        self._epoch_before, self._epoch_sent_to = self._epoch_sent_to, self.node.epoch
        self._answered_before = self.outgoing.answered
        self.outgoing.start(self._transport.stream("/sira.v1.Bus/Publish", metadata=metadata))

    def want_subscribe(self) -> None:
        """Open the Subscribe stream when there is none, now or when connected again."""
        if self._transport is None or self.incoming.stream is not None:
            return
        if self.loop.time() < self._subscribe_at_s:
            return
        stream = self._transport.stream("/sira.v1.Bus/Subscribe", metadata=self._stream_metadata())
        self.incoming.start(stream)

    def is_renewed(self, error: SiraError) -> bool:
        """Whether `error` refuses what was shown, and there is something newer to show."""
        return (
            _is_of_proof(error)
            and self.retry.connects
            and self._transport is not None
            and self._transport.renewed()
        )

    def stream_lost(self, stream: Stream, error: SiraError | None) -> None:
        """Begin to come back: one of the two streams has ended, which nobody here asked for.

        A node that goes down in order ends each stream after its last word. So the other one is
        heard to its end too: what it did not answer then, it has not taken.
        """
        if self._transport is None or self.ended is not None:
            return
        error = error or NodeDraining("the node ended the stream")
        wait_s = self.retry.limit_delay_s(error, self.rng)
        if wait_s is not None:
            self._open_later(stream, error, wait_s)
            return
        if _is_of_right(error):
            self._stream_denied(stream, error)
            return
        if stream is self.outgoing.stream:
            self._publish_error = error
        elif isinstance(error, NodeDraining):
            self._heard_out = True
        others = {self.outgoing.stream, self.incoming.stream} - {stream, None}
        if isinstance(error, NodeDraining) and others and self._last_words is None:
            self._last_words = self.loop.call_later(_LAST_WORDS_S, self._lost, error)
        else:
            self._lost(error)

    def _stream_denied(self, stream: Stream, error: SiraError) -> None:
        """Tell all who use a stream that it may not be: trying again says the same.

        The next message, or subscription, asks anew: rules change.
        """
        _log.warning("%s: %s", self._nodes[0], error)
        if stream is self.outgoing.stream:
            self._publish_wanted = False
            self._repeats = 0
            self.outgoing.stop()
            for call in self.on_refused:
                call(error)
            self.outgoing.give_up(error)
        else:
            self.incoming.stop()
            self.incoming.end(error)
            for lost in self.on_lost:  # what was asked is answered there
                lost()

    def _open_later(self, stream: Stream, error: SiraError, wait_s: float) -> None:
        """Open a stream again that a limit refused at its beginning: it has taken nothing."""
        at_s = self.loop.time() + wait_s
        if stream is self.outgoing.stream:
            self._publish_at_s = at_s
            self.outgoing.stop()
            self._requeue(NodeDraining(), heard_out=True)
            for call in self.on_refused:
                call(error)
        else:
            self._subscribe_at_s = at_s
            self.incoming.stop()
        self.loop.call_at(at_s + _TIMER_S, self._open_wanted)

    def _open_wanted(self) -> None:
        if self._publish_wanted:
            self.want_publish()
        if self.incoming.receivers:
            self.want_subscribe()

    def lost(self, transport: Transport, error: SiraError | None) -> None:
        """Begin to come back: a stream of one's own, on the way that `up` gave, was lost."""
        if transport is self._transport:
            self._lost(error or NodeDraining("the node ended the stream"))

    def _lost(self, error: SiraError) -> None:
        if self._transport is None or self.ended is not None:
            return
        self._last_error = error
        _log.warning("connection to %s lost: %s", self._nodes[0], error)
        renewed = self.is_renewed(error)
        if self._last_words is not None:
            self._last_words.cancel()
            self._last_words = None
        publish_error, self._publish_error = self._publish_error, None
        # Receipts may have come down Subscribe: all of them, if that was heard to its end, too.
        heard_out = self._heard_out or not self._link or self.incoming.stream is None
        self._heard_out = False
        transport, self._transport = self._transport, None
        self._is_up.clear()
        self.outgoing.stop()
        self.incoming.stop()
        self._drop(transport)
        if isinstance(error, Unauthenticated) and not renewed:
            self._end(error)  # whoever tries again with the same hears the same
            return
        # One whose proof has run out is lost like one whose wire is cut: what it had taken stands.
        again = renewed and publish_error is not None and _is_of_proof(publish_error)
        self._requeue(None if again else publish_error, heard_out)
        self.incoming.interrupt()
        for call in self.on_lost:
            call()
        if isinstance(error, NodeDraining):
            self._nodes.append(self._nodes.pop(0))  # it goes down: the others first
        if self.retry.connects:
            self._reconnecting = self.loop.create_task(self._come_back(), name="sira-reconnect")
        else:
            self._end(self._unreachable())

    def _requeue(self, publish_error: SiraError | None, heard_out: bool) -> None:
        """See to what is unanswered, after the Publish stream ended with `publish_error`."""
        answered = self.outgoing.answered - self._answered_before
        in_doubt, self._repeats = max(0, self._repeats - answered), 0
        if publish_error is not None and not self._passes(publish_error):
            # The node cannot read what we send: sending it again would end the next stream too.
            self.outgoing.give_up(publish_error)
        elif isinstance(publish_error, NodeDraining) and heard_out:
            # It took none of these: they are sent again as if for the first time, but for those
            # that an earlier node, which was lost, may have taken.
            self._repeats = min(self.outgoing.rewind(), in_doubt)
            if self._repeats:
                self._epoch_sent_to = self._epoch_before
        elif self.retry.publishes:
            self._repeats = self.outgoing.rewind()
        else:
            self.outgoing.give_up(
                OutcomeUnknown("the connection was lost before the node had answered")
            )

    async def _come_back(self) -> None:
        if self.loop.time() - self._up_since_s >= _STEADY_S:
            self._delays_s = self.retry.delays_s(self.rng)
        else:  # a node that takes us and drops us at once: not so fast
            await asyncio.sleep(self._delay_s(self._delays_s))
        while not await self._try_nodes(Deadline(_DIAL_S * len(self._nodes), self.loop)):
            if self.ended is not None:
                self._end(self.ended)
                return
            await asyncio.sleep(self._delay_s(self._delays_s))
        _log.info("connected to %s again", self._nodes[0])

    # ---- the end ---------------------------------------------------------------------------------

    def _end(self, error: SiraError) -> None:
        self.ended = error
        self._is_up.set()  # whoever waits finds `ended`
        self.outgoing.stop()
        self.incoming.stop()
        self.outgoing.give_up(error)
        self.incoming.end(error)
        for call in self.on_lost:
            call()

    def _drop(self, transport: Transport) -> None:
        self._start_task(transport.close(), "sira-close")

    def _start_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Send what is queued, confirm what was taken, and leave. A second call does nothing."""
        if self.ended is not None and self._transport is None:
            return
        check_fork(self._forks)
        deadline = Deadline(_CLOSE_S, self.loop)
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._transport is not None:
            await self.outgoing.finish(deadline)
            await self.incoming.finish(deadline)
        transport, self._transport = self._transport, None
        closed = Unreachable("this connection was closed", retryable=False, help="connect again")
        self.ended = closed
        self._is_up.set()
        self.outgoing.stop()
        self.incoming.stop()
        self.outgoing.give_up(closed)
        self.incoming.end(None)
        for call in self.on_lost:
            call()
        if transport is not None:
            await transport.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)

    # ---- calls and messages ----------------------------------------------------------------------

    async def unary(
        self,
        method: str,
        request: ProtoMessage,
        response_type: type[_Response],
        *,
        timeout_s: float | None,
        repeatable: bool = True,
    ) -> _Response:
        """Call a method of the node, again while it cannot be reached and `repeatable`.

        Raises:
            Timeout, Unreachable, SiraError
        """
        deadline = Deadline(timeout_s, self.loop)
        delays_s = self.retry.delays_s(self.rng)
        while True:
            transport = await self.up(deadline)
            try:
                answer = await transport.unary(
                    method,
                    request.SerializeToString(),
                    metadata=self.metadata(),
                    timeout_s=max(0.001, min(deadline.left_s(), 1e6)),
                )
                return response_type.FromString(answer)
            except Timeout as error:
                error.details.setdefault("method", method)
                raise
            except (Unauthenticated, Revoked) as error:
                # Nothing was done: again, if there is something new to show.
                if not (self.retry.connects and _is_of_proof(error) and transport.renewed()):
                    raise
                if transport is self._transport:
                    self._lost(error)
            except (RateLimited, QuotaExceeded) as error:  # nothing was done
                wait_s = self.retry.limit_delay_s(error, self.rng)
                if wait_s is None or deadline.left_s() <= wait_s:
                    raise
                await asyncio.sleep(wait_s)
            except (Unreachable, NodeDraining):
                delay_s = next(delays_s)
                if not (repeatable and self.retry.connects and deadline.left_s() > delay_s):
                    raise
                await asyncio.sleep(delay_s)

    def push(
        self, topic: str, body: _native.Body, options: _native.Options | None, ticket: Ticket | None
    ) -> bytes:
        """Queue one message; returns its id. Raises for a topic or body that cannot be sent."""
        return self.outgoing.outbox.push(topic, body, options, ticket)

    async def publish(
        self, topic: str, body: _native.Body, options: _native.Options | None, deadline: Deadline
    ) -> _native.Receipt:
        """Publish one message and wait for its receipt.

        Raises:
            Timeout, Unreachable: no answer before the deadline; the details say the outcome.
            SiraError: refused by the node; nobody got it.
        """
        outgoing, answer = self.outgoing, Answer(self.loop)
        message_id = await outgoing.push(topic, body, options, answer, deadline)
        timer = None
        if deadline.timeout_s is not None:
            timer = self.loop.call_at(
                deadline.at_s, self._expire, answer, deadline, topic, message_id
            )
        try:
            return await answer.future
        except asyncio.CancelledError:
            outgoing.outbox.cancel(answer)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, answer: Answer, deadline: Deadline, topic: str, message_id: bytes) -> None:
        if answer.future.done():
            return
        self.outgoing.outbox.cancel(answer)
        answer(self.late(deadline, f"publish to {topic}", id=message_id.hex(), outcome="unknown"))

    def late(self, deadline: Deadline, what: str, **details: str) -> SiraError:
        """Return the error of a caller whose time is up: who did not answer."""
        if self.is_up:
            return deadline.error(what, **details)
        error = self._unreachable()
        return Unreachable(
            f"{what}: not connected for {deadline.timeout_s:g} s: {error}",
            details={**error.details, **details},
        )
