"""What subscribers of a walk are sent, checked as it comes: whole, right, in order, and once."""

from __future__ import annotations

from dataclasses import dataclass, field

from sira import _native
from sira.v1 import bus_pb2, message_pb2

from .hub_harness import payload_of


@dataclass
class Sent:
    """One message as its publisher made it, and what became of it."""

    publisher: int
    sequence: int  # of all that publisher's messages
    made: message_pb2.Message
    quiet: bool
    answers: list[str] = field(default_factory=list)  # codes of receipts; "" is accepted
    delivered: int = 0


class Reader:
    """One Subscribe stream's reader, by the rules of bus.proto."""

    def __init__(
        self, sent: dict[bytes, Sent], unordered: set[int], spans: dict[int, _native.ShmSpan]
    ) -> None:
        """Read what the node lends through `spans`, by lease.

        `unordered`: subscriptions of groups, which may inherit what is older than their own.
        """
        self._sent, self._unordered, self._spans = sent, unordered, spans
        self.read_leases: set[int] = set()
        self._open: dict[tuple[int, bytes], bytearray] = {}
        self._untagged: dict[bytes, int] = {}
        self._seen: set[tuple[int, bytes]] = set()
        self._last: dict[tuple[int, int, str, int], int] = {}
        self.whole = 0
        # routes past the node: (subscription, publisher, topic) to the publisher's last message
        # before; nothing up to that may come any more
        self.begun: dict[tuple[int, int, str], int] = {}

    def read(self, frame: bytes) -> None:
        for item in bus_pb2.Frame.FromString(frame).items:
            kind = item.WhichOneof("kind")
            if kind in ("message", "head"):
                self._message(item.subscriptions[0], getattr(item, kind), large=kind == "head")
            elif kind == "chunk":
                self._chunk(item)
            elif kind == "abort":
                self._end(item.subscriptions[0], item.abort.message_id)

    def _message(self, number: int, got: message_pb2.Message, *, large: bool) -> None:
        sent = self._sent[got.id]
        assert (number, got.id) not in self._seen, "delivered twice"
        self._seen.add((number, got.id))
        made = sent.made
        self._check_routes(number, sent)
        assert (got.topic, got.priority, got.tenant) == (made.topic, made.priority, "default")
        assert [t.data for t in got.tensors] == [t.data for t in made.tensors]
        if number not in self._unordered:
            key = (number, sent.publisher, made.topic, made.priority)
            assert self._last.get(key, -1) < sent.sequence, "out of order"
            self._last[key] = sent.sequence
        if large and sum(t.data_bytes for t in got.tensors):
            self._open[number, got.id] = bytearray()
            self._untagged.setdefault(got.id, number)
        else:
            self._whole(sent)

    def _chunk(self, item: bus_pb2.Item) -> None:
        chunk = item.chunk
        number = item.subscriptions[0] if item.subscriptions else self._untagged[chunk.message_id]
        data = self._open[number, chunk.message_id]
        sent = self._sent[chunk.message_id]
        self._check_routes(number, sent)
        sizes = [t.data_bytes for t in sent.made.tensors]
        assert len(data) == sum(sizes[: chunk.tensor]) + chunk.offset
        bytes_ = chunk.data
        if chunk.HasField("lent"):
            self.read_leases.add(chunk.lent.lease)
            bytes_ = bytes(self._spans[chunk.lent.lease])
            assert len(bytes_) == chunk.lent.bytes
        assert bytes_ == payload_of(chunk.tensor, chunk.offset, len(bytes_))
        data += bytes_
        if len(data) == sum(sizes):
            self._end(number, chunk.message_id)
            self._whole(sent)

    def _check_routes(self, number: int, sent: Sent) -> None:
        begun = self.begun.get((number, sent.publisher, sent.made.topic), -1)
        assert begun < sent.sequence, "came by the node behind the beginning of a route"

    def _end(self, number: int, message_id: bytes) -> None:
        self._open.pop((number, message_id), None)
        if self._untagged.get(message_id) == number:
            del self._untagged[message_id]

    def _whole(self, sent: Sent) -> None:
        sent.delivered += 1
        self.whole += 1
