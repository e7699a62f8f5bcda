"""The two streams of a client: opened where they are wanted, lost with their node, opened again.

Owns them, and the epoch of the node that the unanswered messages were sent to. Refuses to know what
is published or who listens.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import sira.kernel.binding  # noqa: F401  ties the C core to its errors and dtypes
from sira.client.deadline import Deadline
from sira.client.incoming import RIDE_WINDOW_BYTES_MIN, Incoming
from sira.client.local.direct import Direct
from sira.client.local.lent import Lender
from sira.client.nodes import DIAL_S, Nodes, is_of_proof, is_of_right
from sira.client.outgoing import Outgoing
from sira.client.retry import Retry
from sira.client.transport import Stream, Transport
from sira.kernel.errors import (
    NodeDraining,
    OutcomeUnknown,
    QuotaExceeded,
    RateLimited,
    SiraError,
    Unauthenticated,
)
from sira.v1 import kernel_pb2

_log = logging.getLogger("sira.client")

# How long the second stream has to end after the first, at a node that goes down in order.
_LAST_WORDS_S = 0.5
# A connection that lasted so long was a good one: its loss is followed by a try at once.
_STEADY_S = 1.0
_MESSAGE_BYTES_MAX = 16 << 30
_TIMER_S = 0.001  # a timer may ring a little before its time


class Streams(Nodes):
    """A connection's streams. What is lost with them is said here, and nowhere else."""

    def __init__(
        self,
        nodes: list[str],
        *,
        name: str,
        retry: Retry,
        dial: Callable[[str], Transport],
        are_ways: bool,
    ) -> None:
        """Prepare; `open` connects."""
        super().__init__(nodes, retry=retry, dial=dial, are_ways=are_ways)
        self.outgoing = Outgoing(self, source=name)
        self.incoming = Incoming(self, message_bytes_max=_MESSAGE_BYTES_MAX)
        self.lender = Lender(self.loop, self.outgoing.outbox)
        self.direct = Direct(
            self.loop, self.outgoing.outbox, self.incoming.inbox, self.lender.arenas
        )
        self.incoming.stray = self.direct.stray
        self.outgoing.riding = self.incoming.ride
        self.incoming.answers = self.outgoing.take_answers
        self.incoming.answered = lambda: self.outgoing.answered
        self.incoming.may_ride = lambda: self.outgoing.stream is not None
        # Called with the refusal of a Publish stream: what was on it, nobody got.
        self.on_refused: list[Callable[[SiraError], None]] = []
        self.on_lost: list[Callable[[], None]] = []  # called at each loss, and at the end
        # Started as tasks whenever a node is connected.
        self.on_back: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._reconnecting: asyncio.Task[None] | None = None
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

    def _connected(self, transport: Transport, node: kernel_pb2.NegotiateResponse) -> None:
        if self.ended is not None:  # closed while it connected
            self._drop(transport)
            return
        self._transport, self.node = transport, node
        lent = transport.lent
        if lent is not None:
            self.lender.begin(lent, dict(node.limits))
        else:
            self.lender.end()
        self.incoming.inbox.maps = lent.maps if lent is not None else None
        self.direct.begin(lent.links if lent is not None else None)
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

    def _stream_metadata(self) -> list[tuple[str, str]]:
        return [*self.metadata(), ("sira-link", self._link)] if self._link else self.metadata()

    @property
    def has_streams(self) -> bool:
        """Whether one is open, which tells of a loss."""
        return self.outgoing.stream is not None or self.incoming.stream is not None

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
        self.outgoing.outbox.lends = self.lender.lends
        self.outgoing.start(self._transport.stream("/sira.v1.Bus/Publish", metadata=metadata))

    def want_subscribe(self) -> None:
        """Open the Subscribe stream when there is none, now or when connected again."""
        if self._transport is None or self.incoming.stream is not None:
            return
        if self.loop.time() < self._subscribe_at_s:
            return
        stream = self._transport.stream("/sira.v1.Bus/Subscribe", metadata=self._stream_metadata())
        self.incoming.start(stream)

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
        if is_of_right(error) or self._is_refused_now(stream, error):
            self._stream_refused(stream, error)
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

    def _is_refused_now(self, stream: Stream, error: SiraError) -> bool:
        """Whether a limit has no room for a stream at the moment, and nobody waits for it.

        Where an earlier stream was lost, what was on that is at stake: it comes back like others.
        """
        if not (isinstance(error, RateLimited | QuotaExceeded) and error.retry_after_ms):
            return False
        return not (self._repeats if stream is self.outgoing.stream else self.incoming.was_open)

    def _stream_refused(self, stream: Stream, error: SiraError) -> None:
        """Tell all who use a stream that it may not be, or not now, and that nobody waits for it.

        The next message, or subscription, asks anew: rules change, limits have room again.
        """
        _log.log(logging.WARNING if is_of_right(error) else logging.DEBUG, "%s: %s",
                 self._nodes[0], error)  # fmt: skip
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
        self.direct.lost()
        self.lender.lost()
        self.outgoing.stop()
        self.incoming.stop()
        self._drop(transport)
        if isinstance(error, Unauthenticated) and not renewed:
            self._end(error)  # whoever tries again with the same hears the same
            return
        # One whose proof has run out is lost like one whose wire is cut: what it had taken stands.
        again = renewed and publish_error is not None and is_of_proof(publish_error)
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
        while not await self._try_nodes(Deadline(DIAL_S * len(self._nodes), self.loop)):
            if self.ended is not None:
                self._end(self.ended)
                return
            await asyncio.sleep(self._delay_s(self._delays_s))
        _log.info("connected to %s again", self._nodes[0])

    def _end(self, error: SiraError) -> None:
        self.ended = error
        self._is_up.set()  # whoever waits finds `ended`
        self.direct.leave()
        self.lender.end()
        self.outgoing.stop()
        self.incoming.stop()
        self.outgoing.give_up(error)
        self.incoming.end(error)
        for call in self.on_lost:
            call()
        self.direct.end()
