"""Routes past the node: who asked, what was granted, which links there are. On the node's loop.

What may go direct is decided in kernel/direct.py; a link is kernel/local/links.py.

A grant is made within one turn of the loop, so nothing moves in between: the word of the topic is
read, the targets are found to hold nothing, each is told of its cell behind all that it was sent,
and then the publisher is told. From there the publisher compares the word before each message.
"""

from __future__ import annotations

import asyncio
import resource
from collections import deque
from collections.abc import Generator, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel.direct import (
    BUSY_MS,
    LATER_MS,
    Cell,
    Limits,
    Numbers,
    Refusal,
    Tally,
    Topic,
    busy_again_ms,
    one_of,
    refusal,
    target_of,
)
from sira.kernel.errors import Denied, NoMatch, SiraError
from sira.kernel.lent import Lent
from sira.kernel.local.end import ROUTES_MAX, Ask, End, Grant
from sira.kernel.local.lending import can_lend
from sira.kernel.local.links import Link, is_full
from sira.kernel.settings import Settings
from sira.kernel.subscriptions import Subscription

if TYPE_CHECKING:
    from sira.kernel.bus import Bus

_LOOK_S = 1.0  # counts in links are taken in so often, and before they are asked for
_SELDOM = 5  # of so many looks in time, one asks also those that rest whether they have moved
_LINKS_A_STEP, _RESTING_A_STEP = 8, 64
_WAIT_S = 0.001  # targets that hold something are looked at again so often
_TURN_NS = 1_000_000  # then others have the loop
_BROKEN_S = 10.0  # so long a pair whose link broke is not linked again
_VIEWED_MAX = 256  # links that are over, and only there to tell who has what; each is a descriptor


def link_limits_of(settings: Settings) -> Limits:
    """Return how many links there may be on a node."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    every = settings.links_max if can_lend() else 0
    return Limits(
        links_max=min(every, files // 8) if files != resource.RLIM_INFINITY else every,
        per_connection_max=settings.links_per_connection_max,
    )


class Direct:
    """All links and routes of a node."""

    def __init__(self, limits: Limits, lent: Lent, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with none."""
        self.limits, self.lent = limits, lent
        self.links: dict[int, Link] = {}
        self.viewed: dict[int, Link] = {}  # that are over, while their readers keep what they took
        self.totals = Numbers()
        self._loop = loop
        self._last_link = 0
        self._asked: deque[Ask] = deque()
        self._waiting: list[Ask] = []  # for targets that hold something
        self._turn: asyncio.Handle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._stirring: dict[int, Link] = {}  # links in which something was new lately
        self._looks = 0  # in time

    @property
    def routes(self) -> int:
        """How many routes there are."""
        ends = {link.writer: None for link in self.links.values()}
        return sum(len(end.grants) for end in ends)

    def numbers(self) -> Numbers:
        """Return what there is now, and what was asked for."""
        self.totals.links, self.totals.routes = len(self.links), self.routes
        return self.totals

    # ---- asks ------------------------------------------------------------------------------------

    def ask(self, ask: Ask) -> None:
        """Answer soon: not within the data plane, that calls this."""
        self._asked.append(ask)
        if self._turn is None:
            self._turn = self._loop.call_soon(self._answer_some)

    def _answer_some(self) -> None:
        """Answer what was asked, for as long as a turn may last."""
        self._turn = None
        began_ns = now_ns = _native.now_ns()
        while self._asked and now_ns - began_ns < _TURN_NS:
            ask = self._asked.popleft()
            if ask.end.asks.get(ask.number) is ask:  # else it was taken back
                self._answer(ask, now_ns)
            now_ns = _native.now_ns()
        if self._asked:
            self._turn = self._loop.call_soon(self._answer_some)
        if self._waiting and self._again is None:
            self._again = self._loop.call_later(_WAIT_S, self._look_again)

    def _look_again(self) -> None:
        """Answer those that wait at their 1st, 2nd, 4th, 8th look, and when their time is up."""
        self._again = None
        waiting, self._waiting, now_ns = self._waiting, [], _native.now_ns()
        for ask in waiting:
            ask.looks += 1
            is_due = ask.looks.bit_count() == 1 or now_ns >= ask.until_ns
            (self._asked if is_due else self._waiting).append(ask)
        if self._turn is None:
            self._answer_some()

    def _answer(self, ask: Ask, now_ns: int) -> None:
        try:
            refused = self._grant(ask)
        except SiraError as error:
            moves = isinstance(error, (Denied, NoMatch))
            refused = Refusal(str(error), 0 if moves else LATER_MS)
        busy = ask.end.busy
        if refused is None:
            busy.pop(ask.topic, None)
            return
        if refused.again_ms == BUSY_MS:
            if now_ns < ask.until_ns:
                self._waiting.append(ask)
                return
            if len(busy) >= ROUTES_MAX:
                busy.clear()
            times = busy[ask.topic] = busy.get(ask.topic, -1) + 1
            refused = refused._replace(again_ms=busy_again_ms(times))
        del ask.end.asks[ask.number]
        self.totals.refused += 1
        ask.end.refuse(ask, refused)

    def _grant(self, ask: Ask) -> Refusal | None:
        """Grant a route, or say why not.

        Raises:
            SiraError: the publisher's messages on that topic are refused.
        """
        bus, stream, end = ask.bus, ask.stream, ask.end
        plan = bus.routes.plan(stream.client, stream.credential, ask.topic)
        refused = refusal(
            Topic(
                ask.topic,
                retained=plan.topic.retain,
                contracted=plan.topic.contract is not None,
                owned=plan.topic.owner != 0,
            ),
            [target_of(each) for each in plan.listeners],
            limited=bool(plan.buckets),
            obliged=plan.obliged,
            draining=bus.draining,
        )
        if refused is None and stream.unknown:
            refused = Refusal("messages may have been taken before: the node tells which", LATER_MS)
        if refused is not None:
            return refused
        end.leave(end.by_topic.get(ask.topic))
        if len(end.grants) >= ROUTES_MAX:
            return Refusal(f"this connection has {ROUTES_MAX} routes", LATER_MS)
        targets = [one_of(each) for each in plan.listeners]
        if stream.ingress.waits(ask.topic):
            return Refusal("messages of this publisher wait on the topic", BUSY_MS)
        if not all(each.sub.idle for each in targets):
            return Refusal("a subscriber has not got all that was sent before", BUSY_MS)
        links = []
        for each in targets:
            found = self._link(ask, each)
            if isinstance(found, Refusal):
                return found
            links.append(found)
        segments = end.segments(ask.topic, bus.tenant)
        for link, each in zip(links, targets, strict=True):
            if not all([link.show(segment, each.stream) for segment in segments]):
                return Refusal("a subscriber takes no descriptors now", BUSY_MS)
        if not end.knows(bus):
            return Refusal("this connection takes no descriptors now", BUSY_MS)
        grant = Grant(stream, bus, ask.number, ask.topic, [])
        for link, each in zip(links, targets, strict=True):
            tally = each.direct = each.direct or Tally()
            cell = Cell(
                link.used, link, plan.topic, stream, each, tally,
                first=not grant.cells, ledger=bus.hub, now_ns=bus.now_ns,
            )  # fmt: skip
            link.used += 1
            link.open(cell, stream.client.stamp)
            grant.cells.append((link, cell))
        del end.asks[ask.number]
        end.grants[ask.number] = end.by_topic[ask.topic] = grant
        self.totals.granted += 1
        end.grant(grant, [segment.own for segment in segments])
        return None

    def _link(self, ask: Ask, target: Subscription) -> Link | Refusal:
        """Return the link of a pair with a fresh cell, made if there is none."""
        bus, writer, topic, reader = ask.bus, ask.end, ask.topic, target.stream.direct
        assert isinstance(reader, End), "it was found to be linked"
        cells = target.direct.cells if target.direct is not None else ()
        for cell in [each for each in cells if each.topic.name == topic]:
            if cell.link.writer is writer:
                cell.link.look()
                if cell.seen.pending and not cell.reason:
                    return Refusal("what went past the node before is not taken", BUSY_MS)
        link = writer.writes.get(reader)
        if link is not None and not link.is_used_up:
            return link
        if writer.broke_s(reader) > self._loop.time() - _BROKEN_S:
            return Refusal("the link of this pair broke a moment ago", LATER_MS)
        refused = self.limits.refusal(len(writer.links), len(reader.links), len(self.links))
        if refused is not None:
            self._make_room(writer, reader)
            return refused
        if is_full(writer.channel) or is_full(reader.channel):
            return Refusal("a connection takes no descriptors now", BUSY_MS)
        self._last_link += 1
        try:
            link = Link(self._last_link, bus, writer, reader, self.lent, self._stirring)
        except OSError:
            return Refusal("the node is at its limit of open files, or of memory", LATER_MS)
        self.links[link.number] = writer.links[link.number] = reader.links[link.number] = link
        writer.writes[reader] = link
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_S, self._look_in_time)
        return link

    def _make_room(self, *ends: End) -> None:
        """Give up the oldest link that is not used, of those that have too many."""
        for link in list(chain(*(end.links.values() for end in ends), self.links.values())):
            if not link.cells:
                self.give_up(link)
                return

    # ---- counts ----------------------------------------------------------------------------------

    def look(self, bus: Bus | None = None, *, in_time: bool = False) -> Generator[None, None, None]:
        """Take in what is counted in the links of a tenant (None: all); yields after a few.

        Args:
            in_time: nobody has asked: links in which nothing was new lately are left out.
        """
        if in_time:
            yield from self._wake()
        among = self._stirring if in_time else self.links
        links = [each for each in among.values() if bus is None or each.bus is bus]
        for index, link in enumerate(links, 1):
            if link.number not in self.links:
                self._stirring.pop(link.number, None)
                continue
            link.look()
            self.settle(link)
            if link.is_used_up and not link.cells and not link.is_over:
                self.give_up(link)
            if index % _LINKS_A_STEP == 0:
                yield
        for index, link in enumerate(list(self.viewed.values()), 1):
            if not link.is_viewed:
                self.viewed.pop(link.number, None)
                link.drop()
            if index % _LINKS_A_STEP == 0:
                yield

    def _wake(self) -> Generator[None, None, None]:
        """Have those that rest looked at again, if they have moved; yields after some."""
        self._looks += 1
        if self._looks % _SELDOM:
            return
        for index, link in enumerate(list(self.links.values()), 1):
            link.wake()
            if index % _RESTING_A_STEP == 0:
                yield

    def _look_in_time(self) -> None:
        self._looking = self._loop.call_soon(self._step, self.look(in_time=True))  # type: ignore[assignment]

    def _step(self, work: Iterator[None]) -> None:
        if next(work, self) is None:
            self._looking = self._loop.call_soon(self._step, work)  # type: ignore[assignment]
        elif self.links or self.viewed:
            self._looking = self._loop.call_later(_LOOK_S, self._look_in_time)
        else:
            self._looking = None

    # ---- ends ------------------------------------------------------------------------------------

    def give_up(self, link: Link) -> None:
        """End a link that nothing goes by, while both live: the pair may have another one."""
        link.end_reader("PEER_LOST")
        link.end_writer()
        self.forget(link)

    def settle(self, link: Link) -> None:
        """Let nothing new go by a link that is over, and forget it when it is empty."""
        if not link.is_over:
            return
        if link.writer.writes.get(link.reader) is link:
            del link.writer.writes[link.reader]
        if not link.cells:
            self.forget(link)

    def was_linked(self, number: int) -> bool:
        """Whether a link of this number was there, and is no more."""
        return number <= self._last_link and number not in self.links

    def now_s(self) -> float:
        """Return the time by the loop's clock, s."""
        return self._loop.time()

    def forget(self, link: Link) -> None:
        """Let a link go."""
        link.close()
        self.links.pop(link.number, None)
        for end in (link.writer, link.reader):
            end.links.pop(link.number, None)
        if link.writer.writes.get(link.reader) is link:
            del link.writer.writes[link.reader]
        if not link.is_viewed:
            link.drop()
            return
        self.viewed[link.number] = link
        if len(self.viewed) > _VIEWED_MAX:
            self.viewed.pop(next(iter(self.viewed))).drop()
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_S, self._look_in_time)

    def close(self) -> None:
        """The node ends."""
        for link in list(self.links.values()):
            self.forget(link)
        for link in self.viewed.values():
            link.drop()
        self.viewed.clear()
        for handle in (self._turn, self._again, self._looking):
            if handle is not None:
                handle.cancel()
