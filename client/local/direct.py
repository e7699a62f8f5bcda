"""Messages past the node: the routes that a client was granted, and the links that it reads.

The node stays the truth. A message goes into a link only while the route that the node granted
holds and every subscription it reaches has room, now or in a moment; else it goes by the node as
any other. So nothing here is sent again, or has to be undone. The C core does what every message
passes (`Outbox.direct`, `Mailbox.pop`); here is what happens a few times in the life of a route.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sira import _native
from sira.client.deadline import Deadline
from sira.client.local.arenas import Arenas
from sira.client.local.bells import Bells
from sira.client.local.links import LinkWay
from sira.kernel.errors import LinkCorrupt
from sira.v1 import bus_pb2, socket_pb2

_log = logging.getLogger("sira.client")

# Who publishes where a route was asked for waits for the answer: it goes by the node after this.
_ASK_S = 0.05
# A subscription that takes what comes past the node makes room in less, also on a busy machine
# (native/route.h, for threads); at large messages it looks longer, and is waited for longer.
ROOM_S = 0.02
_TEND_S = 1.0
# A link whose writer has gone is kept as long as something is in it, and so long: the CellOpen of
# what is in it may still come.
_OVER_S = 5.0
_OVER_S_MAX = 60.0
# The same of a link whose node has gone: both ends go on by themselves, until a node is there.
_LOST_S = 60.0
_NO_LIMIT = (1 << 64) - 1
_PEER_LOST = 4  # reasons as `ShmLink.counts` orders them


class _End:
    """The end of a link that this client reads."""

    __slots__ = ("broken", "known", "number", "over_at_s", "reader", "token", "until_s", "way")

    def __init__(self, way: LinkWay, number: int, reader: _native.ShmReader, token: int) -> None:
        self.way, self.number, self.reader, self.token = way, number, reader, token
        self.known = True  # to the inbox, by its number
        self.broken = False
        self.over_at_s = self.until_s = math.inf


class Direct:
    """The direct path of one client, whatever it is connected to. Belongs to its loop.

    `rang` alone is called in any thread that waits at the bells.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outbox: _native.Outbox,
        inbox: _native.Inbox,
        arenas: Arenas,
    ) -> None:
        """Prepare; nothing goes past a node before `begin`."""
        self._loop, self._outbox, self._inbox, self._arenas = loop, outbox, inbox, arenas
        arenas.collect = self._collect
        self._way: LinkWay | None = None
        self._ends: dict[int, _End] = {}  # by token
        self.lines: dict[str, deque[asyncio.Future[None]]] = {}  # who waits, by topic
        self._sleepers: dict[int, list[asyncio.Future[None]]] = {}  # for room, by bell
        self._answer: asyncio.Future[None] | None = None  # somebody waits for the next answer
        self._timer: asyncio.TimerHandle | None = None
        self.bells: Bells | None = None  # made with the first link that is read
        # Hands out the replies that have come; who waits for one, by the id of the request.
        self.hand_out: Callable[[], None] = _nothing
        self.waiting: dict[bytes, Any] = {}

    # ---- connections -----------------------------------------------------------------------------

    def begin(self, way: LinkWay | None) -> None:
        """Go past the node at the other end of `way` from now on; None: it does not want that.

        Routes of the node before it are left.
        """
        self._outbox.links = False
        self._way = way
        if way is not None:
            way.owner = self
            self._outbox.links = True

    def lost(self) -> None:
        """Take note that the connection was lost. What was granted holds until there is another."""
        way, self._way = self._way, None
        if way is None:
            return
        way.over()
        now_s = self._loop.time()
        for end in self._ends.values():
            self._unlink(end)
            if end.over_at_s == math.inf:
                end.over_at_s, end.until_s = now_s + _LOST_S, now_s + 2 * _LOST_S
        self._answered()
        if self._ends:
            self._tend_later()

    def leave(self) -> None:
        """Send nothing past the node any more: the client is at its end."""
        self._outbox.links = False
        self._tell_asks()

    def end(self) -> None:
        """Give everything back."""
        self._arenas.collect = _nothing
        self.lost()
        self._outbox.links = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for end in list(self._ends.values()):
            self._forget(end)
        if self.bells is not None:
            self.bells.close()

    # ---- routes ----------------------------------------------------------------------------------

    def routed(self, route: socket_pb2.SocketRoute) -> None:
        """Take the answer to an ask (`LinkOwner`)."""
        way, outbox = self._way, self._outbox
        if way is None:
            return
        page = way.page
        if route.refused or page is None:
            _log.debug("ask %d goes by the node: %s", route.ask, route.refused)
            outbox.refuse(route.ask, page, route.word, route.value, route.again_ms)
        else:
            # What the node does with its own limit: our arenas may be smaller.
            held_bytes_max = self._arenas.bytes_max // (len(route.targets) + 1)
            targets = [
                (
                    way.writers.get(each.link),
                    each.cell,
                    each.window,
                    min(each.held_bytes_max, held_bytes_max),
                    each.waits,
                    each.window_bytes or _NO_LIMIT,
                )
                for each in route.targets
            ]
            known = [each for each in targets if each[0] is not None]
            if len(known) < len(targets) or not outbox.route(
                route.ask,
                page,
                route.word,
                route.value,
                known,  # type: ignore[arg-type]  # looked at in the line before
                list(route.segments),
                route.matched,
            ):
                way.give_back([route.ask])
        self._tell_asks()
        self._answered()
        self._tend_later()

    def _tell_asks(self) -> None:
        if self._way is not None:
            self._way.give_back(self._outbox.asked_ended())

    def _answered(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
        self._answer = None

    def waits(self, topic: str) -> bool:
        """Whether a message on `topic` is to wait for `answered`, behind those that do."""
        outbox = self._outbox
        return topic in self.lines or outbox.asking(topic) or outbox.blocked(topic) is not None

    async def answered(self, topic: str, deadline: Deadline) -> None:
        """Return when the node is not being asked for a route of `topic`, or takes too long.

        Or when a subscriber that had no room has some, or takes too long: then messages wait in the
        node, which knows what else to do. Not after the deadline, which the caller looks at.
        What is sent by the node meanwhile makes its answer void. Calls that wait for one topic go
        on one by one, in order; whoever comes meanwhile comes behind them. Each sends at once.
        """
        line = self.lines.setdefault(topic, deque())
        if not line:
            self._outbox.line(topic, True)
        turn: asyncio.Future[None] = self._loop.create_future()
        line.append(turn)
        try:
            if line[0] is not turn:
                await turn
            until_s = min(self._loop.time() + _ASK_S, deadline.at_s)
            while self._outbox.asking(topic):
                left_s = until_s - self._loop.time()
                if left_s <= 0:
                    return
                if self._answer is None:
                    self._answer = self._loop.create_future()
                await asyncio.wait([self._answer], timeout=left_s)
            most_s = max(ROOM_S, self._outbox.room_s(topic))
            until_s = min(self._loop.time() + most_s, deadline.at_s)
            while (writer := self._outbox.sleeps(topic)) is not None:
                if self._loop.time() >= until_s:
                    return
                await self._rung(writer, until_s)
        finally:
            line.remove(turn)
            if line:
                self._loop.call_soon(_go_on, line[0])
            else:
                del self.lines[topic]
                self._outbox.line(topic, False)

    async def _rung(self, writer: _native.ShmWriter, until_s: float) -> None:
        """Return when the bell of a link is rung, or at that time of the loop's."""
        bell, rung = writer.bell, self._loop.create_future()
        if bell not in self._sleepers:
            self._sleepers[bell] = []
            self._loop.add_reader(bell, self._wake_sleepers, bell)
        self._sleepers[bell].append(rung)
        timer = self._loop.call_at(until_s, _go_on, rung)
        try:
            await rung
        finally:
            timer.cancel()
            self._sleepers[bell].remove(rung)
            if not self._sleepers[bell]:
                del self._sleepers[bell]
                self._loop.remove_reader(bell)

    def _wake_sleepers(self, bell: int) -> None:
        with contextlib.suppress(BlockingIOError):  # a thread was quicker
            os.read(bell, 8)
        for each in self._sleepers[bell]:
            _go_on(each)

    # ---- links -----------------------------------------------------------------------------------

    def reads(self, number: int, reader: _native.ShmReader) -> None:
        """Take a new end that reads (`LinkOwner`). Raises OSError: no descriptors are to be had."""
        assert self._way is not None, "it brought the link"
        if self.bells is None:
            self.bells = Bells(self._loop, rang=self.rang, waiting=self.waiting)
        token = self.bells.add(reader)
        self._ends[token] = _End(self._way, number, reader, token)
        self._inbox.link(number, reader)
        self._tend_later()

    def rang(self, tokens: Sequence[int]) -> None:
        """Take what was posted into the links of `tokens`. In any thread."""
        for token in tokens:
            end = self._ends.get(token)
            if end is None:
                continue
            end.reader.distribute()
            if end.reader.broken and not end.broken:
                end.broken = True
                self._loop.call_soon_threadsafe(self._broke, end)
        self.hand_out()

    def _broke(self, end: _End) -> None:
        _log.warning("link %d is given up: %s", end.number, end.reader.broken)
        if end.over_at_s == math.inf:
            end.way.give_up([end.number])
        self._forget(end)

    def reader_over(self, number: int) -> None:
        """Take note that nobody writes there any more (`LinkOwner`)."""
        for end in self._ends.values():
            if end.number == number and end.way is self._way:
                now_s = self._loop.time()
                end.over_at_s, end.until_s = now_s + _OVER_S, now_s + _OVER_S_MAX
                end.reader.distribute(True)  # what its writer did not live to tell
        self.hand_out()
        self._tend_later()

    def _unlink(self, end: _End) -> None:
        if end.known:
            end.known = False
            self._inbox.unlink(end.number)

    def writer_over(self, number: int, writer: _native.ShmWriter) -> None:
        """Take note that nobody reads there any more (`LinkOwner`)."""
        del number
        with contextlib.suppress(LinkCorrupt):  # words of a reader that is gone
            writer.collect(True)
        writer.withdraw_all(_PEER_LOST)
        writer.end()

    def stray(self, kind: int, body: bytes) -> None:
        """Take a CellOpen or CellEnd for which the inbox had no subscription or no link."""
        if kind != bus_pb2.Item.CELL_OPEN_FIELD_NUMBER or self._way is None:
            return
        said = bus_pb2.CellOpen.FromString(body)
        reader = self._way.readers.get(said.link)
        if reader is not None:
            reader.discard(said.cell)

    def _forget(self, end: _End) -> None:
        self._ends.pop(end.token, None)
        if self.bells is not None:
            self.bells.remove(end.token)
        self._unlink(end)
        end.reader.unbind_all()

    # ---- now and then ----------------------------------------------------------------------------

    def _tend_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_TEND_S, self._tend)

    def _tend(self) -> None:
        self._timer = None
        way = self._way
        if way is not None:
            self._tell_asks()
            broken = self._outbox.broken_links()
            broken += [each for each in way.writers.values() if not _collected(each)]
            if broken:
                way.give_up([n for n, writer in way.writers.items() if writer in broken])
        now_s = self._loop.time()
        for end in list(self._ends.values()):
            if now_s >= end.until_s or (now_s >= end.over_at_s and not end.reader.depth):
                self._forget(end)
        # Who only reads from links that are in use sleeps: `reader_over` and `lost` begin anew.
        ends_over = any(end.over_at_s != math.inf for end in self._ends.values())
        if ends_over or (way is not None and way.writers):
            self._tend_later()

    def _collect(self) -> None:
        """Take back what readers look at no more: it is memory of ours again. In any thread."""
        way = self._way
        for writer in () if way is None else list(way.writers.values()):
            _collected(writer)  # one that lies is given up by `_tend`


def _nothing() -> None:
    """Hand nothing out."""


def _collected(writer: _native.ShmWriter) -> bool:
    """Take back what the reader looks at no more; False: what it says of it cannot be.

    Where nothing is out there is nothing to take back but room, which whoever posts next looks for.
    """
    try:
        if writer.holds:
            writer.collect()
    except LinkCorrupt:
        return False
    return True


def _go_on(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
