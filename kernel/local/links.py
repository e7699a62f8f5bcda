"""Memory between two clients: a link as the node sees it, its cells, and what was shown for it.

The node makes the memory and passes both ends on; it reads the counts in it, and never writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel.direct import CELLS, HOLDS, SLOTS, TARGETS_MAX, Cell, Piece
from sira.kernel.lent import Segment
from sira.kernel.local import record
from sira.kernel.local.channel import Channel
from sira.v1 import bus_pb2

if TYPE_CHECKING:
    from sira.kernel.bus import Bus
    from sira.kernel.lent import Lent
    from sira.kernel.local.end import End
    from sira.kernel.streams import SubscribeStream

CELL_OPEN, CELL_END = 18, 19  # field numbers of the oneof in Item
# For a client that does not read; past it its route waits.
_WAITING_DESCRIPTORS_MAX = 16
_GENERATION_BYTES = 8
# Looks at which nothing was new, then a link rests: it is asked now and then whether it has moved,
# so that a thousand that say nothing cost the node little. Whoever asks for counts has all of them
# looked at.
_QUIET_LOOKS = 2


def is_full(channel: Channel) -> bool:
    """Whether a client has not taken the descriptors that it was passed before."""
    return channel.closed or channel.waiting_descriptors >= _WAITING_DESCRIPTORS_MAX


class Link:
    """One link. Lives until nobody can post into it, and nothing waits in it."""

    def __init__(
        self,
        number: int,
        bus: Bus,
        writer: End,
        reader: End,
        lent: Lent,
        stirring: dict[int, Link],
    ) -> None:
        """Make the memory and pass it to both, the reader first.

        Args:
            stirring: links to be looked at in time, by number; the others rest. It leaves by itself
                when nothing was new for a while.

        Raises:
            OSError: there is no descriptor left, or no memory. Nobody has the link then.
        """
        self.number, self.bus, self.since_ns = number, bus, bus.now_ns()
        self.writer, self.reader, self._lent = writer, reader, lent
        generation = int.from_bytes(os.urandom(_GENERATION_BYTES), "little")
        self._memory: _native.ShmLink | None = _native.ShmLink(
            generation, slots=SLOTS, holds=HOLDS, cells=CELLS
        )
        self.bytes = self._memory.bytes
        self.cells: dict[int, Cell] = {}  # that count
        self.used = 0  # cells that were given out
        self.writer_over = self.reader_over = False
        self._stirring, self._quiet = stirring, 0  # and looks at which nothing was new
        # What the reader was passed, by the writer's own numbers, and because of which stream.
        self.shown: dict[int, tuple[Segment, SubscribeStream]] = {}
        # Of these what is named no more, of a link that is over: its reader may look at it yet.
        self.left: dict[int, Segment] = {}
        self._pass_on(self._memory.fileno(), generation)
        self.stir()

    def _pass_on(self, memory: int, generation: int) -> None:
        bells, shape = list[int](), (SLOTS, HOLDS, CELLS)
        try:
            bells += (_native.shm_bell(), _native.shm_bell())
            for_writer, for_reader = bells
            self.reader.channel.send_descriptors(
                record.LINK,
                0,
                record.link(self.number, generation, shape, writes=False),
                (memory, for_writer, for_reader),
            )
            try:
                self.writer.channel.send_descriptors(
                    record.LINK,
                    0,
                    record.link(self.number, generation, shape, writes=True),
                    (memory, for_reader, for_writer),
                )
            except OSError:
                self._tell_over(self.reader)
                raise
        finally:
            for each in bells:
                os.close(each)

    @property
    def is_used_up(self) -> bool:
        """Whether it has no fresh cells left for one route more."""
        return self.used > CELLS - TARGETS_MAX

    @property
    def is_over(self) -> bool:
        """Whether an end has gone, or given it up: nothing new goes this way."""
        return self.writer_over or self.reader_over

    # ---- cells -----------------------------------------------------------------------------------

    def stir(self) -> None:
        """Have it looked at next time: something is to become of it."""
        self._quiet = 0
        self._stirring[self.number] = self

    def wake(self) -> None:
        """Have one that rests looked at next time, if something may have become of it."""
        if self.cells and self._memory is not None and self._memory.moved(self.used):
            self._stirring[self.number] = self

    def _note(self, *, is_new: bool) -> None:
        """Take note of a look: rest, if there was nothing new for a while."""
        if is_new:
            self.stir()
            return
        self._quiet += 1
        if self._quiet >= _QUIET_LOOKS:
            self._stirring.pop(self.number, None)

    def open(self, cell: Cell, stamp: bytes) -> None:
        """Bind a fresh cell to its subscription, behind all that its stream has had before."""
        self.stir()
        self.cells[cell.number] = cell
        cell.tally.cells[cell] = None
        opened = bus_pb2.CellOpen(
            subscription=cell.subscription.number,
            link=self.number,
            cell=cell.number,
            topic=cell.topic.name,
            stamp=stamp,
        )
        cell.subscription.stream.egress.control(CELL_OPEN, opened.SerializeToString())

    def look(self) -> None:
        """Take in what the memory says, and forget the cells that are over."""
        if not self.cells or self._memory is None:
            self._note(is_new=False)
            return
        news = self._memory.news(self.used)
        for number, (posted, taken, _, withdrawn) in news.items():
            cell = self.cells.get(number)
            if cell is not None:
                cell.look(posted, taken, withdrawn)
        ageing = [each for each in self.cells.values() if each.is_ageing]
        self._note(is_new=bool(news or ageing))
        for cell in ageing:
            if cell.grow_old():
                cell.end("REVOKED")
                self._tell_end(cell)
            if cell.is_over:
                self._forget(cell)

    def end(self, cells: Iterable[Cell], reason: str) -> None:
        """Have nothing more taken from some cells: what waits there is dropped.

        Counted first: from here on the reader throws away what it finds.
        """
        self.look()
        for cell in cells:
            if cell.number in self.cells and not cell.reason:
                cell.end(reason)
                self._tell_end(cell)
        self.stir()

    def _forget(self, cell: Cell) -> None:
        if not cell.reason:
            self._tell_end(cell)
        del self.cells[cell.number]
        cell.tally.cells.pop(cell, None)

    def _tell_end(self, cell: Cell) -> None:
        stream = cell.subscription.stream
        if not stream.closing and not self.reader_over:
            ended = bus_pb2.CellEnd(link=self.number, cell=cell.number)
            stream.egress.control(CELL_END, ended.SerializeToString())

    # ---- what the reader may look at -------------------------------------------------------------

    def show(self, segment: Segment, stream: SubscribeStream) -> bool:
        """Pass a segment of the writer's on to the reader, unless it has it; False: not now."""
        if segment.own in self.shown:
            return True
        channel = self.reader.channel
        if segment.stopped or is_full(channel):
            return False
        body = record.segment(segment.own, segment.bytes, segment.audience, self.number)
        try:
            channel.send_descriptors(record.SEGMENT, 0, body, (segment.fd,))
        except OSError:  # this process is at its limit of open files, or of those under way
            return False
        self.shown[segment.own] = segment, stream
        segment.readers[self] = None
        return True

    def forget(self, segment: Segment) -> None:
        """Take note that a segment is named no more: its writer has it back, whole.

        After the writer's death that is not so: what it posted is still to be read.
        """
        del self.shown[segment.own], segment.readers[self]
        if self.is_over:
            self.left[segment.own] = segment
        else:
            body = record.segments([segment.own], self.number)
            self.reader.channel.send(record.GONE, 0, body)

    def pieces(self) -> list[Piece]:
        """Return what its reader has of its writer's memory, and what waits there to be taken.

        Also of a writer that is dead. What lies in no memory that was shown is no honest one's.
        """
        if self._memory is None or not (self.shown or self.left):
            return []
        found = []
        for piece in map(Piece._make, self._memory.pieces()):
            segment = self.segment_of(piece.segment)
            if segment is not None and piece.offset + piece.bytes <= segment.bytes:
                found.append(piece)
        return found

    def segment_of(self, own: int) -> Segment | None:
        """Return what was shown, by its writer's number."""
        shown = self.shown.get(own)
        return self.left.get(own) if shown is None else shown[0]

    @property
    def is_viewed(self) -> bool:
        """Whether its reader lives, and has something of its writer's memory."""
        return self.reader.is_open and any(piece.taken for piece in self.pieces())

    def stop(self, segments: Iterable[Segment]) -> None:
        """Have the writer write nothing new into what its reader may not, or need not, look at.

        The reader keeps what it has mapped: nobody knows for how long it looks.
        """
        for segment in segments:
            self._lent.stop(segment)

    def shown_to(self, stream: SubscribeStream) -> list[Segment]:
        """Return what was passed on because of a stream."""
        return [segment for segment, because in self.shown.values() if because is stream]

    # ---- its end ---------------------------------------------------------------------------------

    def end_writer(self) -> None:
        """Take note that nobody posts any more; what is there is still taken, and counted."""
        if not self.writer_over:
            self._tell_over(self.reader)
        self.writer_over = True
        for cell in self.cells.values():
            cell.leave(at_once=False)
        self.look()
        self.stir()

    def end_reader(self, reason: str) -> None:
        """Take note that nobody takes any more."""
        self.stop([segment for segment, _ in self.shown.values()])  # before: views may live on
        self.end(list(self.cells.values()), reason)
        if not self.reader_over and not self.writer_over:
            self._tell_over(self.writer)
        self.reader_over = True

    def close(self) -> None:
        """Have nothing go by it: both know that it is over. May be called twice."""
        for segment, _ in self.shown.values():
            segment.readers.pop(self, None)
            self.left[segment.own] = segment
        self.shown.clear()
        for cell in list(self.cells.values()):
            cell.tally.cells.pop(cell, None)
        self.cells.clear()
        self._stirring.pop(self.number, None)

    def drop(self) -> None:
        """Let go of its memory: nobody is told of it any more. Requires: closed."""
        self.left.clear()
        self._memory = None

    def _tell_over(self, end: End) -> None:
        end.channel.send(record.LINK_OVER, 0, record.links([self.number]))
