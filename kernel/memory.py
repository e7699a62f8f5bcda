"""Whose memory is shared on this node, and who looks at it: the rows of `Kernel.Memory`. Pure.

Segments are what clients lend (kernel/lent.py); links are what two of them share, past the node
(kernel/local/links.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel.direct import Piece
from sira.kernel.lent import Lent, Party, Segment
from sira.v1 import kernel_pb2

if TYPE_CHECKING:
    from sira.kernel.local.direct import Direct
    from sira.kernel.local.links import Link

ROWS_MAX = 1_000  # segments, and links, of one answer; also what a segment or link tells of others
_ROWS_A_PART = 100
_CHUNKS_A_ROW = 16  # that many take as long as a row
_Part = kernel_pb2.MemoryResponse


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks for.

    Attributes:
        tenant: whose memory it may see; "": of all.
        pattern: of topics; "": all.
    """

    tenant: str
    pattern: str = ""

    def sees(self, tenant: str) -> bool:
        """Whether it may see what is a tenant's."""
        return self.tenant in ("", tenant)

    def wants(self, topic: str) -> bool:
        """Whether it asks for a topic."""
        return not self.pattern or _native.topic_match(self.pattern, topic)


def parts(lent: Lent, direct: Direct, asked: Asked, now_ns: int) -> Iterator[_Part]:
    """Yield the answer in parts of about so many rows that one takes a millisecond or two.

    Others may have the loop between two: what goes meanwhile may be left out.
    """
    found: dict[Segment, _Held] = defaultdict(_Held)
    rows = 0
    for segment, holder, chunks in _holders(lent, direct, now_ns):
        found[segment].add(holder, chunks)
        rows += 1 + len(chunks) // _CHUNKS_A_ROW
        if rows >= _ROWS_A_PART:
            yield _Part()
            rows = 0
    count, part, rows = _Count(), _Part(), 0
    books = [*lent.looked_at, *lent.segments.values()]
    # What a link's reader still has of a publisher that is gone; the node has forgotten it.
    left = [each for each in found if each.gone and each not in lent.looked_at]
    for segment in (*left, *books):
        if asked.sees(segment.tenant or segment.owner.party.tenant) and asked.wants(
            segment.audience
        ):
            if count.add(segment.bytes):
                held = found.get(segment) or _Held()
                part.segments.append(_segment(segment, held, now_ns))
                rows += len(held.holders)
            rows += 1
        if rows >= _ROWS_A_PART:
            yield part
            part, rows = _Part(), 0
    count.told = 0
    for link in list(direct.links.values()):
        if asked.sees(link.bus.tenant):
            cells = [cell for cell in _cells(link) if asked.wants(cell.topic)]
            if (cells or not asked.pattern) and count.add(link.bytes):
                part.links.append(_link(link, cells, now_ns))
            rows += 1 + len(cells)
        if rows >= _ROWS_A_PART:
            yield part
            part, rows = _Part(), 0
    part.bytes, part.left_out = count.bytes, count.left_out
    yield part


def none(asked: Asked, now_ns: int) -> Iterator[_Part]:
    """Tell of nothing: no client shares memory here."""
    del asked, now_ns
    yield _Part()


@dataclass(slots=True)
class _Count:
    """What an answer tells of, and what it leaves out."""

    told: int = 0
    left_out: int = 0
    bytes: int = 0

    def add(self, bytes_: int) -> bool:
        """Count one; False: it is left out."""
        self.bytes += bytes_
        if self.told >= ROWS_MAX:
            self.left_out += 1
            return False
        self.told += 1
        return True


@dataclass(slots=True)
class _Held:
    """Who has what of a segment.

    Attributes:
        chunks: offsets of those that are with readers of links, or wait for them.
    """

    holders: list[kernel_pb2.MemoryHolder] = field(default_factory=list)
    chunks: set[int] = field(default_factory=set)

    def add(self, holder: kernel_pb2.MemoryHolder, chunks: Iterable[int]) -> None:
        """Take note of one who has it mapped."""
        if len(self.holders) < ROWS_MAX:
            self.holders.append(holder)
        self.chunks.update(chunks)


def _party(party: Party) -> kernel_pb2.MemoryParty:
    return kernel_pb2.MemoryParty(
        client=party.client, peer=party.peer, tenant=party.tenant, gone=party.gone
    )


def _holders(
    lent: Lent, direct: Direct, now_ns: int
) -> Iterator[tuple[Segment, kernel_pb2.MemoryHolder, set[int]]]:
    """Yield who has mapped which segment: what the node lent it, and what came by a link."""
    books = {each.number: each for each in (*lent.looked_at, *lent.segments.values())}
    for borrower in list(lent.borrowers):
        for number, hold in list(borrower.holds()):
            if number in books:
                holder = kernel_pb2.MemoryHolder(
                    party=_party(borrower.party),
                    leases=hold.leases,
                    bytes=hold.bytes,
                    held_ns=max(0, now_ns - hold.since_ns) if hold.leases else 0,
                    reads=hold.reads,
                )
                yield books[number], holder, set()
    for link in [*direct.links.values(), *direct.viewed.values()]:
        by_segment: dict[int, list[Piece]] = {own: [] for own in link.shown}
        for piece in link.pieces():
            by_segment.setdefault(piece.segment, []).append(piece)
        for own, pieces in by_segment.items():
            segment = link.segment_of(own)
            if segment is not None:
                yield segment, _by_link(link, pieces, now_ns), {each.offset for each in pieces}


def _by_link(link: Link, pieces: list[Piece], now_ns: int) -> kernel_pb2.MemoryHolder:
    taken = [each for each in pieces if each.taken]
    since_ns = min((each.since_ns for each in taken), default=now_ns)
    return kernel_pb2.MemoryHolder(
        party=_party(link.reader.party),
        leases=len(taken),
        bytes=sum(each.bytes for each in taken),
        held_ns=max(0, now_ns - since_ns),
        link=link.number,
        reads=not link.is_over,
        waiting=len(pieces) - len(taken),
    )


def _segment(segment: Segment, held: _Held, now_ns: int) -> kernel_pb2.MemorySegment:
    return kernel_pb2.MemorySegment(
        segment=segment.number,
        topic=segment.audience,
        bytes=segment.bytes,
        age_ns=max(0, now_ns - segment.since_ns),
        state="ended" if segment.gone else "stopped" if segment.stopped else "open",
        owner=_party(segment.owner.party),
        leases=segment.spans + len(held.chunks),
        holders=held.holders,
    )


def _link(link: Link, cells: list[kernel_pb2.MemoryCell], now_ns: int) -> kernel_pb2.MemoryLink:
    return kernel_pb2.MemoryLink(
        link=link.number,
        bytes=link.bytes,
        age_ns=max(0, now_ns - link.since_ns),
        state="ended" if link.is_over else "open",
        writer=_party(link.writer.party),
        reader=_party(link.reader.party),
        cells=cells,
    )


def _cells(link: Link) -> Iterator[kernel_pb2.MemoryCell]:
    for cell in link.cells.values():
        if not cell.reason:
            yield kernel_pb2.MemoryCell(
                topic=cell.topic.name,
                publisher=cell.publisher.client.id,
                subscriber=cell.subscription.client.id,
                pattern=cell.subscription.pattern,
                pending=cell.seen.pending,
                delivered=cell.seen.taken,
                open=not cell.leaves_ns,
            )
