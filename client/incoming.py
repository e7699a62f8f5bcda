"""What comes to a client: the Inbox, the Subscribe stream, and the credits that go back.

Refuses to know what a subscription does with its messages. Credits say what the application took;
they are returned late on purpose (at half a window, else within `CREDIT_DELAY_S`), so that a
request and its reply cost no message beyond their own.

A gRPC message costs more than all that is in it. So credits of a client that publishes, too, ride
beside its messages (an aside), and receipts come beside deliveries. The two streams have no common
order: credits are totals then, of which a late one changes nothing. What only rode is told again on
the Subscribe stream with whatever goes there next, at the latest when the node stops answering.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from sira import _native
from sira.client.deadline import Deadline
from sira.client.outgoing import Owner, fault_of
from sira.client.transport import Stream
from sira.kernel.errors import NodeDraining, SiraError, from_proto
from sira.v1 import bus_pb2

CREDIT_DELAY_S = 0.05
# Where credits can ride beside the client's own messages they wait for one, unless much has come:
# never longer than this, since a node that drains gives up after 1 s without any. Long enough for
# who echoes twice a second, also when 1,000 connections share a node: a credit by itself costs as
# much as half the echo, and the timers of many run out together when many fall silent together.
_RIDE_DELAY_S = 0.5
# A client that talks fast need not tell with every word.
_RIDE_EVERY_S = 0.25
_RIDE_BYTES_MAX = 1 << 20
# A narrower window is not filled by what may come while credits wait for a ride.
RIDE_WINDOW_BYTES_MIN = 8 * _RIDE_BYTES_MAX
# Of messages taken, credits wait for nothing: half of the narrowest window that they may ride in.
# Counted as they are taken, since those that came by reference were no bytes of a frame.
CREDIT_BYTES = RIDE_WINDOW_BYTES_MIN // 2
# A client of more subscriptions does not look through all of them before each message.
_RIDE_SUBSCRIPTIONS_MAX = 16
# A subscription whose messages nobody takes is looked at less and less often.
_CREDIT_DELAY_S_MAX = 1.0
# Frames are at most 2 MiB; control items are joined up to this.
_JOIN_BYTES_MAX = 256 << 10

# Subscriptions that an answer looks at, to see whether more answers follow at once.
_LOOKED_AT_MAX = 8

_OPEN = bus_pb2.Item.OPEN_FIELD_NUMBER
_OPENED = bus_pb2.Item.OPENED_FIELD_NUMBER
_CLOSE = bus_pb2.Item.CLOSE_FIELD_NUMBER
_ENDED = bus_pb2.Item.ENDED_FIELD_NUMBER
_ASIDE = bus_pb2.Item.ASIDE_FIELD_NUMBER
_CELL_OPEN = bus_pb2.Item.CELL_OPEN_FIELD_NUMBER
_CELL_END = bus_pb2.Item.CELL_END_FIELD_NUMBER


class Receiver(Protocol):
    """A subscription, as far as this file needs it."""

    number: int

    @property
    def mailbox(self) -> _native.Mailbox:
        """Return where messages are put."""

    def open_item(self) -> bus_pb2.Open:
        """Return what the node is asked for."""

    def opened(self, opened: bus_pb2.Opened) -> None:
        """Take note that the subscription is live."""

    def ended(self, error: SiraError | None) -> None:
        """Take note that nothing more comes."""

    def interrupted(self) -> None:
        """Take note that the connection was lost; `open_item` will be sent again."""


class Incoming:
    """The inbox of one connection and the stream under it. Belongs to the connection's loop."""

    def __init__(self, owner: Owner, *, message_bytes_max: int) -> None:
        self._owner = owner
        self._thread = threading.get_ident()
        self.inbox = _native.Inbox(message_bytes_max=message_bytes_max)
        self.receivers: dict[int, Receiver] = {}
        # Called after each frame: replies are handed out without another turn of the loop.
        self.after_frame: Callable[[], None] | None = None
        # Takes what is said of cells of links and is for nobody here.
        self.stray: Callable[[int, bytes], None] | None = None
        self._last_number = 0
        self._closing: set[int] = set()  # asked to end: never to be opened again
        self._control: deque[bytes] = deque()
        self._sleeping: asyncio.Future[None] | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.stream: Stream | None = None
        self.was_open = False  # a node has opened a subscription of this client
        self._credit_soon = False
        self._credit_timer: asyncio.TimerHandle | None = None
        self._credit_delay_s = CREDIT_DELAY_S
        # The node takes asides (feature `asides`): credits as totals, which ride when they can.
        self.linked = False
        self.answers: Callable[[bytes], None] | None = None  # takes what Publish would have brought
        self.answered: Callable[[], int] | None = None  # how many messages the node has answered
        self._totals: dict[int, int] = {}  # taken since the subscription was opened, of this stream
        self._rode: dict[int, None] = {}  # told beside a message only: told again by this stream
        self._rode_lately = False
        self._rode_at_s = -math.inf
        self._answered_before = 0
        self._bytes_since_credit = 0
        self._hasty: set[int] = set()  # subscriptions whose credits must not wait
        self.may_ride: Callable[[], bool] | None = None  # whether the client publishes, too

    # ---- subscriptions ---------------------------------------------------------------------------

    def add(self, receiver: Receiver) -> None:
        """Number `receiver` and ask the node for its messages, now or when there is a stream."""
        self._last_number += 1
        receiver.number = self._last_number
        self.receivers[receiver.number] = receiver
        self.inbox.attach(receiver.number, receiver.mailbox)
        asked = receiver.open_item()
        if asked.group or 0 < asked.window_bytes < RIDE_WINDOW_BYTES_MIN:
            self._hasty.add(receiver.number)
        if self.stream is not None:
            self._send_open(receiver)

    def remove(self, receiver: Receiver) -> None:
        """Ask the node to end the subscription; `receiver.ended` says when it has."""
        if self.stream is None:
            self._ended(receiver.number, None)
            return
        self.flush_credits()
        self._closing.add(receiver.number)
        body = bus_pb2.Close(subscription=receiver.number).SerializeToString()
        self._send(_native.control_frame(_CLOSE, body))

    def _send_open(self, receiver: Receiver) -> None:
        item = receiver.open_item()
        item.subscription = receiver.number
        self._send(_native.control_frame(_OPEN, item.SerializeToString()))

    def _ended(self, number: int, error: SiraError | None) -> None:
        receiver = self.receivers.pop(number, None)
        self._closing.discard(number)
        if receiver is not None:
            self._hasty.discard(number)
            self._rode.pop(number, None)
            self._totals.pop(number, None)
            self.inbox.detach(number)
            receiver.mailbox.unbind_all()
            receiver.ended(error)

    @property
    def all_taken(self) -> bool:
        """Whether the application has taken all that came; False where that is long to find out."""
        receivers = self.receivers
        return len(receivers) <= _LOOKED_AT_MAX and not any(
            [receiver.mailbox.depth for receiver in receivers.values()]
        )

    # ---- credits ---------------------------------------------------------------------------------

    def credit_due(self) -> None:
        """Half a window was taken: say so soon. From any thread."""
        if self._credit_soon:
            return
        self._credit_soon = True
        if threading.get_ident() == self._thread:
            self._owner.loop.call_soon(self.flush_credits)
        else:
            self._owner.loop.call_soon_threadsafe(self.flush_credits)

    def flush_credits(self) -> bool:
        """Tell the node what was taken since the last time; False: nothing was."""
        self._credit_soon = False
        self._bytes_since_credit = 0
        given_back = [
            (number, taken)
            for number, receiver in self.receivers.items()
            if (taken := receiver.mailbox.take_credit())
        ]
        if self.stream is None:
            return bool(given_back)
        if self.linked:
            # What only rode is told again: a message that it rode with may be stuck behind others.
            told, self._rode = self._rode, {}
            told.update(dict.fromkeys(self._add_up(given_back)))
            if told:
                self._send(self._totals_frame(told))
            return bool(told)
        if given_back:
            self._send(_native.credit_frame(given_back))
        return bool(given_back)

    def _add_up(self, given_back: list[tuple[int, int]]) -> Iterator[int]:
        for number, taken in given_back:
            self._totals[number] = self._totals.get(number, 0) + taken
            yield number

    def _totals_frame(self, numbers: Iterable[int]) -> bytes:
        totals = self._totals
        return _native.credit_frame(
            [(number, totals[number]) for number in numbers if number in self.receivers],
            totals=True,
        )

    def ride(self) -> bytes:
        """Return what was taken, to ride beside a message of the client; b"": nothing yet."""
        if not self.linked or self._credit_timer is None or self.stream is None or self._hasty:
            return b""
        now_s = self._owner.loop.time()
        if now_s < self._rode_at_s + _RIDE_EVERY_S or len(self.receivers) > _RIDE_SUBSCRIPTIONS_MAX:
            return b""
        given_back = [
            (number, taken)
            for number, receiver in self.receivers.items()
            if (taken := receiver.mailbox.take_credit())
        ]
        if not given_back:
            return b""
        numbers = list(self._add_up(given_back))
        self._rode.update(dict.fromkeys(numbers))
        self._rode_lately = True
        self._rode_at_s = now_s
        return _native.control_frame(_ASIDE, self._totals_frame(numbers))

    def _credit_tick(self) -> None:
        self._credit_timer = None
        answered = self.answered() if self.answered is not None else 0
        moved, self._answered_before = answered != self._answered_before, answered
        rode, self._rode_lately = self._rode_lately, False
        if rode and moved and self._bytes_since_credit < _RIDE_BYTES_MAX:
            # The node reads what they ride with; what was taken since has waited since then.
            self._credit_delay_s = self._delay_s()
            waited_s = self._owner.loop.time() - self._rode_at_s
            self._start_credit_timer(self._credit_delay_s - waited_s)
            return
        if self.flush_credits():
            self._credit_delay_s = self._delay_s()
        elif any(receiver.mailbox.depth for receiver in self.receivers.values()):
            self._credit_delay_s = min(self._credit_delay_s * 2, _CREDIT_DELAY_S_MAX)
        else:
            return  # all was taken and told; the next frame starts the timer again
        self._start_credit_timer(self._credit_delay_s)

    def _delay_s(self) -> float:
        """Return how long credits may wait.

        Short where the node chooses by them (groups), where a window is narrow, and when much came.
        """
        rides = (
            self.linked
            and self.may_ride is not None
            and self.may_ride()
            and not self._hasty
            and self._bytes_since_credit < _RIDE_BYTES_MAX
            and len(self.receivers) <= _RIDE_SUBSCRIPTIONS_MAX
        )
        return _RIDE_DELAY_S if rides else CREDIT_DELAY_S

    def _start_credit_timer(self, delay_s: float) -> None:
        self._credit_timer = self._owner.loop.call_later(max(0.0, delay_s), self._credit_tick)

    # ---- the stream ------------------------------------------------------------------------------

    def start(self, stream: Stream) -> None:
        """Drive `stream`, asking for every subscription there is."""
        assert self.stream is None, "one Subscribe stream at a time"
        self.stream = stream
        self._control.clear()
        self._totals.clear()
        self._rode.clear()
        self._rode_lately, self._rode_at_s = False, -math.inf
        for receiver in self.receivers.values():
            self._send_open(receiver)
        self._tasks = (
            self._owner.loop.create_task(
                self._run(self._write, stream), name="sira-subscribe-write"
            ),
            self._owner.loop.create_task(self._run(self._read, stream), name="sira-subscribe-read"),
        )

    def stop(self) -> None:
        """Give the stream up. Messages nobody took are dropped: the node counts them as lost."""
        stream, self.stream = self.stream, None
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        if stream is not None:
            stream.cancel()
        if self._credit_timer is not None:
            self._credit_timer.cancel()
            self._credit_timer = None
        self.inbox.reset()

    def interrupt(self) -> None:
        """Tell every subscription that the connection was lost; one that was to end has ended."""
        for number, receiver in list(self.receivers.items()):
            if number in self._closing:
                self._ended(number, None)
            else:
                receiver.interrupted()

    def end(self, error: SiraError | None) -> None:
        """End every subscription."""
        for number in list(self.receivers):
            self._ended(number, error)

    async def finish(self, deadline: Deadline) -> None:
        """Confirm what was taken, end the subscriptions, and end the stream in order."""
        for receiver in list(self.receivers.values()):
            self.remove(receiver)
        while self.stream is not None and (self._control or self._sleeping is None):
            if deadline.left_s() <= 0:
                return
            await asyncio.sleep(0.001)
        stream, self.stream = self.stream, None
        if stream is None:
            return
        await stream.done_writing()
        await asyncio.wait(self._tasks[1:], timeout=deadline.left_s())
        self._tasks[0].cancel()

    def _send(self, frame: bytes) -> None:
        self._control.append(frame)
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)

    async def _run(self, step: Callable[[Stream], Any], stream: Stream) -> None:
        error: SiraError | None = None
        try:
            await step(stream)
        except SiraError as caught:
            if step == self._write:
                return  # the reader hears the node's last words, and then why it ended
            error = caught
        except Exception as fault:  # ours: a client that hears nothing more would not be told
            error = fault_of(step, fault)
        if self.stream is stream:
            self._owner.stream_lost(stream, error)

    async def _write(self, stream: Stream) -> None:
        control = self._control
        while True:
            if control:
                frame = control.popleft()
                # Frames are repeated items: two joined are one.
                while control and len(frame) + len(control[0]) <= _JOIN_BYTES_MAX:
                    frame += control.popleft()
                await stream.write(frame)
                continue
            self._sleeping = self._owner.loop.create_future()
            try:
                await self._sleeping
            finally:
                self._sleeping = None

    async def _read(self, stream: Stream) -> None:
        feed = self.inbox.feed
        while (frame := await stream.read()) is not None:
            items = feed(frame)
            if self.after_frame is not None:
                self.after_frame()
            if items is not None:
                for kind, body in items:
                    self._take_control(kind, body)
            self._bytes_since_credit += len(frame)
            if self._credit_timer is None:
                self._credit_delay_s = self._delay_s()
                self._start_credit_timer(self._credit_delay_s)
            elif (
                self._credit_delay_s == _RIDE_DELAY_S
                and self._bytes_since_credit >= _RIDE_BYTES_MAX
            ):
                self._credit_timer.cancel()
                self._credit_delay_s = CREDIT_DELAY_S
                self._start_credit_timer(self._credit_delay_s)

    def _take_control(self, kind: int, body: bytes) -> None:
        if kind == _OPENED:
            opened = bus_pb2.Opened.FromString(body)
            self.was_open = True
            receiver = self.receivers.get(opened.subscription)
            if receiver is not None:
                receiver.opened(opened)
        elif kind == _ASIDE:
            if self.answers is not None:
                self.answers(body)
        elif kind == _ENDED:
            ended = bus_pb2.Ended.FromString(body)
            error = from_proto(ended.error) if ended.HasField("error") else None
            elsewhere = isinstance(error, NodeDraining)
            if not elsewhere and (error is None or not self._owner.is_renewed(error)):
                self._ended(ended.subscription, error)
            # A node that goes down, or takes this token no more, ends the stream next: the
            # subscription is opened elsewhere, or with the newer token.
        elif kind in (_CELL_OPEN, _CELL_END) and self.stray is not None:
            self.stray(kind, body)
        # Kinds of a later version are none of our business.
