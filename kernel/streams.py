"""The two streams of a client, without the sockets: what goes in and out of the data plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from sira import _native
from sira.kernel.errors import (
    FrameCorrupt,
    NodeDraining,
    OutcomeUnknown,
    ProtocolError,
    SiraError,
    Unsupported,
)
from sira.kernel.subscriptions import Subscription
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2

if TYPE_CHECKING:
    from sira.kernel.bus import Bus
    from sira.kernel.clients import Client

M = TypeVar("M", bus_pb2.Open, bus_pb2.Close, bus_pb2.Ack)
ACK, OPEN, OPENED, CLOSE, ENDED = 6, 8, 9, 10, 11  # field numbers of the oneof in Item


class PublishStream:
    """One Publish stream. Feed frames to `ingress`, write out what `next_frame` gives."""

    def __init__(
        self,
        bus: Bus,
        client: Client,
        who: Credential,
        *,
        wake: Callable[[], None],
        resume: int,
        unknown: int,
    ) -> None:
        """Join a client's publishes.

        Args:
            bus: where it goes.
            client: who publishes.
            who: what it acts with.
            wake: told when `next_frame` has something.
            resume: messages at the start that may have been taken before; the client's receipts
                tell which.
            unknown: messages at the start of which nobody can tell; they are refused
                (`OUTCOME_UNKNOWN`), never taken twice.
        """
        self.client, self.credential = client, who
        self.on_superseded: Callable[[], None] | None = None  # the edge ends the call
        self._bus = bus
        self._unknown_left = unknown
        self._unknown_topics: dict[str, None] = {}
        self.ingress = _native.Ingress(
            bus.hub,
            client=client.number,
            stamp=client.stamp,
            resolve=self._resolve,
            wake=wake,
            window_messages=bus.settings.publish_held_messages_max,
            window_bytes=bus.settings.publish_held_bytes_max,
            history=client.history,
            resume=resume,
        )

    def close(self, now_ns: int) -> None:
        """End it; what is unfinished counts as `PEER_LOST`. May be called twice."""
        if self in self.client.publishes:
            self.client.published_before += self.ingress.published
            del self.client.publishes[self]
        self.ingress.close(now_ns)
        self._bus.left(self.client, now_ns)

    def supersede(self, now_ns: int) -> None:
        """End it because the client has come back on another one."""
        self.close(now_ns)
        if self.on_superseded is not None:
            self.on_superseded()

    def _resolve(self, topic: str) -> _native.Route:
        """Return where messages of a topic go; called by the data plane, remembered until touched.

        Raises:
            SiraError: the refusal.
        """
        admit = self._admit_unknown if self._unknown_left else None
        if admit is not None:
            self._unknown_topics[topic] = None
        return self._bus.resolve(self.client, self.credential, topic, admit)

    def _admit_unknown(self, messages: int, bytes_: int) -> None:
        """Refuse a message that may have been taken by a node that nobody can ask any more."""
        del bytes_
        if self._unknown_left <= 0:
            return
        self._unknown_left -= messages
        if self._unknown_left <= 0:  # from now on routes need no such question
            for topic in self._unknown_topics:
                self._bus.hub.touch(topic)
            self._unknown_topics.clear()
        raise OutcomeUnknown(
            "sent before, on a stream that was lost, and this node has no receipts of it"
        )


class SubscribeStream:
    """One Subscribe stream: any number of subscriptions of one client."""

    def __init__(
        self, bus: Bus, client: Client, who: Credential, *, wake: Callable[[], None]
    ) -> None:
        """Join a client's subscriptions. `wake` is told when `egress.next_frame` has something."""
        self.client, self.credential = client, who
        self.subscriptions: dict[int, Subscription] = {}
        self._bus = bus
        self.egress = _native.Egress(bus.hub, client=client.number, wake=wake)

    def feed(self, frame: bytes, now_ns: int) -> None:
        """Take a frame from the client: credits, subscriptions opened and closed.

        A subscription that is refused ends alone (`Ended` with the error).

        Raises:
            FrameCorrupt: the frame cannot be split.
            ProtocolError: an item that has no business on this stream, or credit for what was never
                sent.
        """
        for kind, body in self.egress.feed(frame, now_ns) or ():
            if kind == OPEN:
                self._open(body, now_ns)
            elif kind == CLOSE:
                self._close(_parse(bus_pb2.Close, body).subscription, now_ns)
            elif kind == ACK:
                self._refuse_ack(_parse(bus_pb2.Ack, body).subscription, now_ns)
            elif kind:
                raise ProtocolError(f"an item of kind {kind} has no business on a Subscribe stream")

    def end(self, subscription: Subscription, error: SiraError, now_ns: int) -> None:
        """End one subscription and tell why."""
        self._bus.close_subscription(subscription, now_ns, reason=error.code)
        self._tell_ended(subscription.number, error)

    def end_all(self, error: SiraError, now_ns: int) -> None:
        """End every subscription and tell why."""
        for subscription in list(self.subscriptions.values()):
            self.end(subscription, error, now_ns)

    def close(self, now_ns: int, *, reason: str = "PEER_LOST") -> None:
        """End the stream; what is unread is dropped with `reason`. May be called twice."""
        for subscription in list(self.subscriptions.values()):
            self._bus.close_subscription(subscription, now_ns, reason=reason)
        self.egress.close(now_ns, reason=reason)
        self.client.subscribes.pop(self, None)
        self._bus.left(self.client, now_ns)

    def _open(self, body: bytes, now_ns: int) -> None:
        request = _parse(bus_pb2.Open, body)
        try:
            if self._bus.draining:
                raise NodeDraining()
            self._bus.open_subscription(self, request, now_ns)
        except SiraError as error:
            self._bus.refused(self.client.principal, "subscribe", request.pattern, error)
            self._tell_ended(request.subscription, error)

    def _close(self, number: int, now_ns: int) -> None:
        subscription = self.subscriptions.get(number)
        if subscription is not None:  # else it ended by itself, and the client was told
            self._bus.close_subscription(subscription, now_ns, reason="UNSUBSCRIBED")
            self._tell_ended(number, None)

    def _refuse_ack(self, number: int, now_ns: int) -> None:
        subscription = self.subscriptions.get(number)
        if subscription is not None:
            error = Unsupported(
                "acks need a durable topic, and this node has none",
                details={"feature": "durable"},
            )
            self.end(subscription, error, now_ns)

    def _tell_ended(self, number: int, error: SiraError | None) -> None:
        ended = bus_pb2.Ended(subscription=number, error=error.to_proto() if error else None)
        self.egress.control(ENDED, ended.SerializeToString())


def _parse(kind: type[M], body: bytes) -> M:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise FrameCorrupt(f"{kind.__name__} cannot be read: {error}") from None
