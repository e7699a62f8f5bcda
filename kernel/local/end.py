"""One connection's part in what goes past the node: its asks, its routes, its links.

Belongs to the node's loop. Streams of the connection know it as their `Past` (kernel/direct.py).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel.authorize import Deny
from sira.kernel.direct import LATER_MS, SLOTS, Cell, Refusal, Way
from sira.kernel.errors import ProtocolError
from sira.kernel.lent import Party, Segment, may_read
from sira.kernel.local import record
from sira.kernel.local.links import is_full
from sira.kernel.topics import REPLY_PREFIX, first_token
from sira.v1 import bus_pb2, socket_pb2

if TYPE_CHECKING:
    from sira.kernel.bus import Bus
    from sira.kernel.local.channel import Channel
    from sira.kernel.local.direct import Direct
    from sira.kernel.local.lending import Lending
    from sira.kernel.local.links import Link
    from sira.kernel.streams import PublishStream, SubscribeStream
    from sira.kernel.subscriptions import Subscription

PAGE_WORDS = 4_096
# Of one connection. An SDK has routes for 4,096 topics and asks for each once at a time.
ASKS_MAX, ROUTES_MAX = 4_096, 4_096
_WAIT_NS = 10_000_000  # so long is waited for targets that hold something


@dataclass(slots=True, eq=False)
class Ask:
    """One ask that has no answer yet."""

    end: End
    stream: PublishStream
    bus: Bus
    number: int
    topic: str
    until_ns: int
    looks: int = 0  # at targets that held something


@dataclass(slots=True, eq=False)
class Grant:
    """One route that was granted: a cell for each target."""

    stream: PublishStream
    bus: Bus
    number: int
    topic: str
    cells: list[tuple[Link, Cell]]
    value: int = 0  # of the topic's word when it was granted


class End:
    """One connection, at either end of links."""

    def __init__(self, direct: Direct, channel: Channel, lending: Lending) -> None:
        """Begin with none."""
        self.channel = channel
        self._direct, self._lending = direct, lending
        self.links: dict[int, Link] = {}
        self.writes: dict[End, Link] = {}  # those with cells to give out, by who reads
        self.asks: dict[int, Ask] = {}
        self.grants: dict[int, Grant] = {}
        self.by_topic: dict[str, Grant] = {}
        self.busy: dict[str, int] = {}  # refusals of a topic's asks, one after the other
        self._refused: dict[str, str] = {}  # why, by topic, since there was a route
        self._last_ask = 0
        self._bus: Bus | None = None  # whose words it was passed
        self._broke_s: dict[End, float] = {}

    # ---- for its streams -------------------------------------------------------------------------

    def asked(self, stream: PublishStream, ask: int, topic: str) -> None:
        """Take an ask for a route; called by the data plane.

        Raises:
            ProtocolError: its number is not above all before, or too many have no answer yet.
            BadTopic: the topic is none.
        """
        if ask <= self._last_ask:
            raise ProtocolError(f"ask {ask} after ask {self._last_ask}")
        if len(self.asks) >= ASKS_MAX:
            raise ProtocolError(f"{ASKS_MAX} asks have no answer yet")
        _native.check_topic(topic)
        self._last_ask = ask
        made = Ask(self, stream, stream.bus, ask, topic, stream.bus.now_ns() + _WAIT_NS)
        self.asks[ask] = made
        self._direct.ask(made)

    def way(self, stream: PublishStream, topic: str) -> Way | None:
        """Say which way a stream's messages on a topic go; None: it has not asked for another."""
        grant, hub = self.by_topic.get(topic), stream.bus.hub
        if grant is not None and grant.stream is stream:
            if hub.word(hub.word_of(topic)) != grant.value:
                return Way(False, "who listens, or may, has changed: its next messages ask anew")
            links = ", ".join(sorted({str(link.number) for link, _ in grant.cells}))
            found = Way(True, f"past the node while all keep up, by link {links}")
        elif any(ask.stream is stream and ask.topic == topic for ask in self.asks.values()):
            found = Way(False, "it asks to go past the node at this moment")
        elif topic in self._refused:
            found = Way(False, self._refused[topic])
        else:
            return None
        limit = self._lending.limit_reached
        return (
            found._replace(why=f"{found.why}; no memory more is taken: {limit}") if limit else found
        )

    def publisher_over(self, stream: PublishStream) -> None:
        """Let routes of a stream go: nobody may post by them any more."""
        for number in [n for n, ask in self.asks.items() if ask.stream is stream]:
            del self.asks[number]
        for grant in [each for each in self.grants.values() if each.stream is stream]:
            grant.bus.hub.touch(grant.topic)  # its client may live, and must not post any more
            self.leave(grant, at_once=False)

    def subscription_over(self, subscription: Subscription, reason: str) -> None:
        """Take note that a subscription takes nothing more."""
        assert subscription.direct is not None, "it had cells"
        self._end_cells(list(subscription.direct.cells), reason)

    def reader_over(self, stream: SubscribeStream) -> None:
        """Take note that whatever was shown because of a stream may still be read."""
        for link in self.links.values():
            if link.reader is self:
                link.stop(link.shown_to(stream))

    def recheck_posts(self, stream: PublishStream) -> Iterator[None]:
        """Ask the rules of now about all that a stream may post; yields after each question.

        Its client asks anew, as the words have moved; but one that does not look must not be heard
        any more.
        """
        access, who = stream.bus.access, stream.credential
        posts = [
            cell
            for link in self.links.values()
            for cell in link.cells.values()
            if cell.publisher is stream
        ]
        for cell in posts:
            name = cell.topic.name
            private = first_token(name) == REPLY_PREFIX
            if not private and isinstance(access.decide(who, "publish", name), Deny):
                self._end_cells([cell], "REVOKED")
            yield

    def recheck_reads(self, stream: SubscribeStream) -> Iterator[None]:
        """Ask the rules of now about all that a stream gets; yields after each question."""
        access, who = stream.bus.access, stream.credential
        for link in [each for each in self.links.values() if each.reader is self]:
            for cell in list(link.cells.values()):
                if cell.subscription.stream is stream:
                    if not may_read(access, who, cell.topic.name):
                        self._end_cells([cell], "REVOKED")
                    yield
            for segment in link.shown_to(stream):
                if not may_read(access, who, segment.audience):
                    link.stop([segment])
                yield

    @staticmethod
    def _end_cells(cells: list[Cell], reason: str) -> None:
        by_link: dict[Link, list[Cell]] = {}
        for cell in cells:
            by_link.setdefault(cell.link, []).append(cell)
        for link, ended in by_link.items():
            link.end(ended, reason)

    # ---- for the node ----------------------------------------------------------------------------

    @property
    def party(self) -> Party:
        """Whose it is, for people."""
        return self._lending.party

    @property
    def is_open(self) -> bool:
        """Whether it can be told of anything."""
        return not self.channel.closed

    def broke_s(self, reader: End) -> float:
        """Return when the link to a reader broke last, s of the loop's clock."""
        return self._broke_s.get(reader, -math.inf)

    def knows(self, bus: Bus) -> bool:
        """Pass the words of a tenant on, once; False: not now, or it has those of another one."""
        if self._bus is None and not is_full(self.channel):
            try:
                page = bus.hub.open_page()
                try:
                    self.channel.send_descriptors(record.PAGE, 0, record.page(PAGE_WORDS), (page,))
                finally:
                    os.close(page)
            except OSError:  # this process is at its limit of open files, or of those under way
                return False
            self._bus = bus
        return self._bus is bus

    def segments(self, topic: str, tenant: str) -> list[Segment]:
        """Return its memory for messages on a topic."""
        return self._lending.written_for(topic, tenant)

    def grant(self, grant: Grant, segments: list[int]) -> None:
        """Tell it of a route when its targets are sure to hear of their cells.

        Not before: what it posts into a cell that nobody opens is lost, and the node may die at any
        moment. Requires: the targets were told, in the same turn.
        """
        word = grant.bus.hub.word_of(grant.topic)
        grant.value = grant.bus.hub.word(word)
        self._refused.pop(grant.topic, None)
        route = socket_pb2.SocketRoute(
            ask=grant.number,
            word=word,
            value=grant.value,
            segments=segments,
            matched=len(grant.cells),
        )
        # Of what it lends, each that reads may keep a share, and one is left to write into.
        held_bytes_max = self._lending.bytes_max // (len(grant.cells) + 1)
        for link, cell in grant.cells:
            subscription = cell.subscription
            route.targets.add(
                link=link.number,
                cell=cell.number,
                window=min(subscription.window_messages, SLOTS),
                window_bytes=subscription.window_bytes,
                held_bytes_max=held_bytes_max,
                waits=subscription.overflow == bus_pb2.OVERFLOW_BLOCK,
            )
        hearing = {cell.subscription.stream: link.reader.channel for link, cell in grant.cells}
        deaf = len(hearing)

        def heard() -> None:
            nonlocal deaf
            deaf -= 1
            if not deaf and self.grants.get(grant.number) is grant:
                self.channel.send(record.ROUTE, 0, route.SerializeToString())

        for stream, channel in hearing.items():
            stream.when_left(partial(channel.when_sent, heard))

    def refuse(self, ask: Ask, refused: Refusal) -> None:
        """Tell it that a route is not to be had, and when to ask again."""
        hub = ask.bus.hub
        if len(self._refused) >= ROUTES_MAX:
            self._refused.clear()
        self._refused[ask.topic] = refused.why
        route = socket_pb2.SocketRoute(
            ask=ask.number, refused=refused.why, again_ms=refused.again_ms
        )
        if self.knows(ask.bus):
            route.word = hub.word_of(ask.topic)
            route.value = hub.word(route.word)
        else:
            route.again_ms = refused.again_ms or LATER_MS
        self.channel.send(record.ROUTE, 0, route.SerializeToString())

    # ---- what it says ----------------------------------------------------------------------------

    def take(self, kind: int, body: bytes) -> None:
        """Take a record in. Raises ProtocolError: it is out of turn."""
        if kind == record.ROUTE_LEFT:
            for number in record.read_asks(body):
                if number > self._last_ask:
                    raise ProtocolError(f"ask {number} is left, which never was")
                self.asks.pop(number, None)
                self.leave(self.grants.get(number))  # None: it was over before
        elif kind == record.LINK_OVER:
            for number in record.read_links(body):
                self._link_over(number)
        else:
            raise ProtocolError(f"a record of kind {kind}, which nothing here takes")

    def leave(self, grant: Grant | None, *, at_once: bool = True) -> None:
        """Take note that nothing more is posted by a route. See `Cell.leave`."""
        if grant is None:
            return
        for link, cell in grant.cells:
            cell.leave(at_once=at_once)
            link.stir()
        del self.grants[grant.number]
        if self.by_topic.get(grant.topic) is grant:
            del self.by_topic[grant.topic]
        self._direct.totals.left += 1

    def _link_over(self, number: int) -> None:
        link = self.links.get(number)
        if link is None:
            if not self._direct.was_linked(number):
                raise ProtocolError(f"link {number} is over, which is none of this connection's")
            return  # told at the same time from both sides
        link.writer.note_broken(link.reader, self._direct.now_s())
        if link.reader is self:
            link.end_reader("PEER_LOST")
        if link.writer is self:
            link.end_writer()
        self._direct.settle(link)

    def note_broken(self, reader: End, now_s: float) -> None:
        """Take note that the link to a reader broke."""
        self._broke_s[reader] = now_s

    def over(self) -> None:
        """Take note that the connection is lost, and its streams are through."""
        self.asks.clear()
        for grant in list(self.grants.values()):
            grant.bus.hub.touch(grant.topic)
            self.leave(grant, at_once=False)
        for link in list(self.links.values()):
            if link.reader is self:
                link.end_reader("PEER_LOST")
            if link.writer is self:
                link.end_writer()
            link.writer.forget_reader(self)
            self._direct.settle(link)

    def forget_reader(self, reader: End) -> None:
        """Take note that a connection is no more."""
        self._broke_s.pop(reader, None)
