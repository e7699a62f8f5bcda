"""The two streams of a client, without the sockets: what goes in and out of the data plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from sira import _native
from sira.kernel import lanes, listening
from sira.kernel.errors import (
    FrameCorrupt,
    NodeDraining,
    OutcomeUnknown,
    PeerLost,
    ProtocolError,
    SiraError,
    Unsupported,
)
from sira.kernel.opening import check_contract
from sira.kernel.subscriptions import Subscription
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2

if TYPE_CHECKING:
    from sira.kernel.bus import Bus
    from sira.kernel.clients import Client
    from sira.kernel.direct import Past
    from sira.kernel.lent import Reader

M = TypeVar("M", bus_pb2.Open, bus_pb2.Close, bus_pb2.Ack)
_CLOSED_A_SLICE = 100  # 10 µs each
# field numbers of the oneof in Item
ACK, OPEN, CLOSE, ENDED, ASIDE = 6, 8, 10, 11, 16
# Beside a larger frame nothing is put: it would have to be copied.
_BESIDE_BYTES_MAX = 128 << 10


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
        link: str = "",
        waits: bool = False,
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
            link: the Subscribe stream of this client with the same link gets the asides; "": none.
            waits: what a limit refuses for the moment waits here, in order.
        """
        self.client, self.credential = client, who
        self.on_lost: Callable[[SiraError], None] | None = None  # the edge ends the call
        self.bus = bus
        self._unknown_left = unknown
        self._unknown_topics: dict[str, None] = {}
        self._link = link
        self._own_wake = wake
        self.carrier: SubscribeStream | None = None  # the stream that takes the answers down
        self.all_carried = True  # it has written all there was
        self.ending = False  # the edge waits until all is carried
        self.ingress = _native.Ingress(
            bus.hub,
            client=client.number,
            stamp=client.stamp,
            resolve=self._resolve,
            wake=self._wake,
            window_messages=bus.settings.publish_held_messages_max,
            window_bytes=bus.settings.publish_held_bytes_max,
            history=client.history,
            resume=resume,
            waits=waits,
        )
        if link:
            self.ingress.aside = self._aside
        self.direct: Past | None = None  # where the client takes part in what goes past the node

    def go_direct(self, past: Past | None) -> None:
        """Let the client ask for routes past the node, where its connection takes links."""
        if past is not None:
            self.direct = past
            self.ingress.asked = lambda ask, topic: past.asked(self, ask, topic)

    @property
    def unknown(self) -> bool:
        """Whether messages come of which nobody can tell whether they were taken before."""
        return self._unknown_left > 0

    def lend(self) -> None:
        """Let the answers ride on the Subscribe stream of the same link, from the first one on.

        Receipts come in order, and order holds within a stream only: all leave by that one, or,
        where it is not there yet, none ever will.
        """
        carrier = self._linked()
        if carrier is not None and carrier.rider is None:
            carrier.rider, self.carrier = self, carrier

    def carried(self) -> None:
        """Take note that the carrier has written all there was."""
        self.all_carried = True
        if self.ending:
            self._own_wake()

    def end_soon(self) -> None:
        """Take note that the stream ends when all is carried."""
        self.ending = True

    def part(self) -> None:
        """Take note that carrier and rider go their own ways."""
        carrier, self.carrier = self.carrier, None
        if carrier is not None:
            carrier.rider = None
            self.all_carried = True
            self._own_wake()
            carrier.wake()

    def _wake(self) -> None:
        if self.carrier is None:
            self._own_wake()
        else:
            self.all_carried = False
            self.carrier.wake()

    def _linked(self) -> SubscribeStream | None:
        return next(
            (s for s in self.client.subscribes if s.link == self._link != "" and not s.closing),
            None,
        )

    def _aside(self, frame: bytes, now_ns: int) -> None:
        """Take what rides up: totals of credits, which may come twice and in any order."""
        stream = self.carrier or self._linked()
        if stream is not None:  # else it has ended, and so have its subscriptions
            stream.feed_aside(frame, now_ns)

    def close(self, now_ns: int) -> None:
        """End it; what is unfinished counts as `PEER_LOST`. May be called twice."""
        if self in self.client.publishes:
            self.client.published_before += self.ingress.published
            del self.client.publishes[self]
            if self.direct is not None:
                self.direct.publisher_over(self)
        self.ingress.close(now_ns)
        self.part()
        self.bus.left(self.client, now_ns)

    def supersede(self, now_ns: int) -> None:
        """End it because the client has come back on another one."""
        self._lose(PeerLost("the client came back on another stream"), now_ns)

    def carrier_broke(self, now_ns: int) -> None:
        """End it because the stream that took its answers down broke off.

        Some may be lost on the way, and receipts after a gap would be taken for the wrong messages:
        the client comes back and asks again (`sira-resume`).
        """
        self._lose(PeerLost("the Subscribe stream that brought the answers broke off"), now_ns)

    def _lose(self, error: SiraError, now_ns: int) -> None:
        self.close(now_ns)  # first: nothing leaves by its own way any more
        if self.on_lost is not None:
            self.on_lost(error)

    def _resolve(self, topic: str) -> _native.Route:
        """Return where messages of a topic go; called by the data plane, remembered until touched.

        Raises:
            SiraError: the refusal.
        """
        admit = self._admit_unknown if self._unknown_left else None
        if admit is not None:
            self._unknown_topics[topic] = None
        return self.bus.routes.resolve(self.client, self.credential, topic, admit)

    def _admit_unknown(self, messages: int, bytes_: int) -> None:
        """Refuse a message that may have been taken by a node that nobody can ask any more."""
        del bytes_
        if self._unknown_left <= 0:
            return
        self._unknown_left -= messages
        if self._unknown_left <= 0:  # from now on routes need no such question
            for topic in self._unknown_topics:
                self.bus.hub.touch(topic)
            self._unknown_topics.clear()
        raise OutcomeUnknown(
            "sent before, on a stream that was lost, and this node has no receipts of it"
        )


class SubscribeStream:
    """One Subscribe stream: any number of subscriptions of one client."""

    def __init__(
        self,
        bus: Bus,
        client: Client,
        who: Credential,
        *,
        wake: Callable[[], None],
        link: str = "",
    ) -> None:
        """Join a client's subscriptions. `wake` is told when `next_frame` has something."""
        self.client, self.credential = client, who
        self.wake = wake
        self.link = link
        self.lane = lanes.GRPC  # the way its frames go
        self.reader: Reader | None = None  # lends it bytes, where its connection takes them
        self.direct: Past | None = None  # where its connection takes links
        self.rider: PublishStream | None = None  # its answers leave by this stream
        self.written_out = False  # it ends after all it had to say: the client hears it whole
        self._answers_turn = False
        self._behind: list[Callable[[], None]] = []
        self.leaving: list[Callable[[], None]] = []  # to be told by `left`
        self.subscriptions: dict[int, Subscription] = {}
        self.ending = False  # all that is open ends, and is told so: the stream goes after that
        self.closing = False
        self.opening: dict[int, bus_pb2.Open] = {}  # asked for, and checked in slices
        self.bus = bus
        self.egress = _native.Egress(bus.hub, client=client.number, wake=wake)

    def borrow(self, reader: Reader | None) -> None:
        """Lend bytes to this stream where `reader` says so, in place of copying them."""
        if reader is not None:
            self.reader, self.egress.lend = reader, reader.lend

    def next_frame(self, now_ns: int) -> bytes | None:
        """Return what leaves next: deliveries, and the answers of the rider beside them."""
        rider = self.rider
        if self._behind and not self._answers_turn:  # what they wait for is in this frame
            self.leaving += self._behind
            self._behind.clear()
        if rider is None or rider.all_carried:
            return self.egress.next_frame(now_ns)
        frame = None if self._answers_turn else self.egress.next_frame(now_ns)
        if frame is not None and len(frame) > _BESIDE_BYTES_MAX:
            self._answers_turn = True  # in turn with what is too large to ride beside
            return frame
        answers = rider.ingress.next_frame(now_ns)
        if answers is not None:
            aside = _native.control_frame(ASIDE, answers)
            frame = aside if frame is None else frame + aside
        elif self._answers_turn:
            frame = self.egress.next_frame(now_ns)
        self._answers_turn = False
        if frame is None:
            rider.carried()
        return frame

    def when_left(self, tell: Callable[[], None]) -> None:
        """Call `tell` when all control items of now were written; also when they never will be."""
        if self.closing:
            tell()
        else:
            self._behind.append(tell)

    def left(self) -> None:
        """Take note that what `next_frame` returned has been written."""
        leaving, self.leaving = self.leaving, []
        for tell in leaving:
            tell()

    def feed_aside(self, frame: bytes, now_ns: int) -> None:
        """Take credits that came up the Publish stream.

        Raises:
            FrameCorrupt: the frame cannot be split.
            ProtocolError: there is more in it, or credit for what was never sent.
        """
        if self.egress.feed(frame, now_ns):
            raise ProtocolError("an aside on a Publish stream has credits and nothing else")

    def feed(self, frame: bytes, now_ns: int) -> None:
        """Take a frame from the client, in one go. See `steps`."""
        for _ in self.steps(frame, now_ns):
            pass

    def steps(self, frame: bytes, now_ns: int) -> Iterator[None]:
        """Take a frame from the client, a step for each subscription opened or closed; and credits.

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
            yield

    def end(self, subscription: Subscription, error: SiraError, now_ns: int) -> None:
        """End one subscription and tell why."""
        listening.close(self.bus, subscription, now_ns, reason=error.code)
        self._tell_ended(subscription.number, error)

    def end_all(self, error: SiraError, now_ns: int) -> None:
        """End every subscription and tell why; very many in slices (`ending`)."""
        for number in list(self.opening):
            del self.opening[number]
            self._tell_ended(number, error)
        if self.reader is not None:
            self.reader.withdraw()
        if self.direct is not None:
            self.direct.reader_over(self)
        self.bus.slices.run(self._ending(error, now_ns))

    def _ending(self, error: SiraError, now_ns: int) -> Iterator[None]:
        self.ending = True
        left = list(self.subscriptions.values())[::-1]  # let go of one by one: freeing takes long
        while left and not self.closing:
            listening.end(self.bus, left.pop(), error, now_ns)
            if left and len(left) % _CLOSED_A_SLICE == 0:
                yield
                now_ns = self.bus.now_ns()
        self.ending = False
        if not self.closing:
            self.wake()

    def close(self, now_ns: int, *, reason: str = "PEER_LOST") -> None:
        """End the stream; what is unread is dropped with `reason`. May be called twice.

        Very many subscriptions go in slices; the client stays until the last one is gone.
        """
        self.opening.clear()
        if self.reader is not None:
            self.reader.end()
        if self.direct is not None:
            self.direct.reader_over(self)
        if not self.closing:  # whoever comes back has room for as many at once
            self.closing = True
            self.client.subscription_count -= len(self.subscriptions)
        if self.rider is not None and self.written_out:
            self.rider.part()
        elif self.rider is not None:
            self.rider.carrier_broke(now_ns)
        self.leaving += self._behind
        self._behind.clear()
        self.left()
        self.bus.slices.run(self._closing(now_ns, reason))

    def _closing(self, now_ns: int, reason: str) -> Iterator[None]:
        left = list(self.subscriptions.values())[::-1]
        while left:
            subscription = left.pop()
            if self.subscriptions.get(subscription.number) is subscription:
                listening.close(self.bus, subscription, now_ns, reason=reason)
            if left and len(left) % _CLOSED_A_SLICE == 0:
                yield
                now_ns = self.bus.now_ns()
        self.egress.close(now_ns, reason=reason)
        self.client.subscribes.pop(self, None)
        self.bus.left(self.client, now_ns)

    def _open(self, body: bytes, now_ns: int) -> None:
        self.bus.slices.run(self._making_live(_parse(bus_pb2.Open, body), now_ns))

    def _making_live(self, request: bus_pb2.Open, now_ns: int) -> Iterator[None]:
        """Check and open; where the check takes long, whoever closes it meanwhile has ended it."""
        number, waited = request.subscription, False
        steps = check_contract(self.bus, self, request)
        try:
            while True:
                if self.bus.draining:
                    raise NodeDraining()
                try:
                    next(steps)
                except StopIteration as checked:
                    if waited:  # else the number may be another one's, which is refused to this one
                        del self.opening[number]
                    listening.make_live(self.bus, self, request, checked.value, now_ns)
                    return
                if not waited:
                    self.opening[number], waited = request, True
                yield
                if self.opening.get(number) is not request:
                    return
                now_ns = self.bus.now_ns()
        except SiraError as error:
            if waited:
                self.opening.pop(number, None)
            self.bus.refused(self.client.principal, "subscribe", request.pattern, error)
            self._tell_ended(number, error)

    def _close(self, number: int, now_ns: int) -> None:
        if self.opening.pop(number, None) is not None:
            self._tell_ended(number, None)
            return
        subscription = self.subscriptions.get(number)
        if subscription is not None:  # else it ended by itself, and the client was told
            listening.close(self.bus, subscription, now_ns, reason="UNSUBSCRIBED")
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
