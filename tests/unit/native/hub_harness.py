"""A node's data plane without a node: streams of one Hub, frames made by plain protobuf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sira.kernel.binding  # noqa: F401  (errors of the C core get their classes)
from sira import _native
from sira.v1 import bus_pb2, error_pb2, message_pb2, tensor_pb2

SECOND_NS = 1_000_000_000
STAMP = message_pb2.Message(principal="sira://c/default/user/anonymous", tenant="default")


def encode_error(error: BaseException) -> bytes:
    return error_pb2.Error(
        code=getattr(error, "code", "INTERNAL"),
        message=str(error),
        details=getattr(error, "details", {}),
        retryable=getattr(error, "retryable", False),
        retry_after_ms=getattr(error, "retry_after_ms", 0),
    ).SerializeToString()


def message(topic: str, payload: bytes = b"x", **fields: Any) -> message_pb2.Message:
    body = [tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_BYTES, shape=[len(payload)], data=payload)]
    return message_pb2.Message(id=_native.new_id(), topic=topic, tensors=body, **fields)


def item(made: message_pb2.Message, **fields: Any) -> bus_pb2.Item:
    return bus_pb2.Item(message=made, **fields)


def frame(*items: bus_pb2.Item) -> bytes:
    encoded: bytes = bus_pb2.Frame(items=items).SerializeToString()
    return encoded


def head(topic: str, sizes: list[int], **fields: Any) -> message_pb2.Message:
    body = [
        tensor_pb2.Tensor(name=f"t{i}", dtype=tensor_pb2.DTYPE_U8, shape=[size], data_bytes=size)
        for i, size in enumerate(sizes)
    ]
    return message_pb2.Message(id=_native.new_id(), topic=topic, tensors=body, **fields)


def chunks(made: message_pb2.Message, chunk_bytes: int, only: int | None = None) -> Iterator[bytes]:
    """Frames of one chunk each, of all tensors or one; the bytes tell their tensor and place."""
    for index, tensor in enumerate(made.tensors):
        if only not in (None, index):
            continue
        for start in range(0, tensor.data_bytes, chunk_bytes):
            size = min(chunk_bytes, tensor.data_bytes - start)
            yield frame(
                bus_pb2.Item(
                    chunk=bus_pb2.Chunk(
                        message_id=made.id,
                        tensor=index,
                        offset=start,
                        data=payload_of(index, start, size),
                    )
                )
            )


_RAMP = bytes(range(256))


def payload_of(tensor: int, start: int, size: int) -> bytes:
    first = (tensor * 31 + start) & 0xFF
    return (_RAMP * (size // 256 + 2))[first : first + size]


class Bench:
    """One Hub, a resolver that matches by pattern, and the streams opened on it."""

    def __init__(self, **limits: Any) -> None:
        self.hub = _native.Hub(encode_error=encode_error, **limits)
        self.now_ns = SECOND_NS
        self.subs: list[_native.Sub] = []
        self.resolves = 0
        self.refuse: Callable[[str], Exception | None] = lambda topic: None
        self.admit: Callable[[int, int], None] | None = None
        self.buckets: tuple[_native.Bucket, ...] = ()

    def resolve(self, topic: str) -> _native.Route:
        self.resolves += 1
        refusal = self.refuse(topic)
        if refusal is not None:
            raise refusal
        hub_topic = self.hub.topic(topic) or self.hub.declare(topic)
        targets: list[Any] = []
        for sub in self.subs:
            if sub.closed or not _native.topic_match(sub.pattern, topic):
                continue
            target = sub.group or sub
            if target not in targets:
                targets.append(target)
        return _native.Route(hub_topic, targets, admit=self.admit, buckets=self.buckets)

    def publisher(self, **options: Any) -> Publisher:
        return Publisher(self, **options)

    def subscriber(self, **options: Any) -> Subscriber:
        return Subscriber(self, **options)

    def tick(self, later_s: float = 0.0) -> list[tuple[str, Any]]:
        self.now_ns += int(later_s * SECOND_NS)
        return self.hub.tick(self.now_ns)

    def row(self, topic: str) -> dict[str, Any]:
        (row,) = [row for row in rows(self.hub) if row["topic"] == topic]
        return row

    def assert_balanced(self) -> None:
        for row in rows(self.hub):
            settled = sum(
                row[k] for k in ("delivered", "pending", "retained", "superseded", "expired")
            )
            assert row["owed"] == settled + sum(row["dropped"].values()), row
        stats = self.hub.stats
        if not stats["messages_held"] and not stats["transfers"]:
            assert [bucket.held_bytes for bucket in self.buckets] == [0] * len(self.buckets)


def rows(hub: _native.Hub) -> list[dict[str, Any]]:
    """All rows of the ledger."""
    walk, found = hub.walk(), []
    while not walk.done:
        found += walk.rows(7)
    return found


class Publisher:
    def __init__(
        self, bench: Bench, *, on_wake: Callable[[], None] | None = None, **options: Any
    ) -> None:
        self.bench = bench
        self.wakes = 0
        self.on_wake = on_wake
        self.stream = _native.Ingress(
            bench.hub,
            client=1,
            stamp=STAMP.SerializeToString(),
            resolve=bench.resolve,
            wake=self._wake,
            **options,
        )

    def _wake(self) -> None:
        self.wakes += 1
        if self.on_wake:
            self.on_wake()

    def send(self, *items: bus_pb2.Item) -> None:
        self.stream.feed(frame(*items), self.bench.now_ns)

    def publish(self, topic: str, payload: bytes = b"x", **fields: Any) -> message_pb2.Message:
        made = message(topic, payload, **fields)
        self.send(item(made))
        return made

    def answers(self) -> list[bus_pb2.Item]:
        items: list[bus_pb2.Item] = []
        while (got := self.stream.next_frame(self.bench.now_ns)) is not None:
            items.extend(bus_pb2.Frame.FromString(got).items)
        return items

    def receipts(self) -> list[bus_pb2.Receipt]:
        return [i.receipt for i in self.answers() if i.HasField("receipt")]

    def close(self) -> None:
        self.stream.close(self.bench.now_ns)


class Subscriber:
    def __init__(self, bench: Bench, *, on_wake: Callable[[], None] | None = None) -> None:
        self.bench = bench
        self.wakes = 0
        self.on_wake = on_wake
        self.next_id = 1
        self.mine: list[_native.Sub] = []
        self.stream = _native.Egress(bench.hub, client=2, wake=self._wake)

    def _wake(self) -> None:
        self.wakes += 1
        if self.on_wake:
            self.on_wake()

    def open(self, pattern: str, **options: Any) -> _native.Sub:
        sub = self.stream.open(self.next_id, pattern=pattern, **options)
        self.next_id += 1
        self.bench.subs.append(sub)
        self.bench.hub.touch()
        return sub

    def frames(self) -> Iterator[bytes]:
        while (got := self.stream.next_frame(self.bench.now_ns)) is not None:
            yield got

    def items(self) -> list[bus_pb2.Item]:
        return [i for got in self.frames() for i in bus_pb2.Frame.FromString(got).items]

    def messages(self) -> list[message_pb2.Message]:
        return [i.message for i in self.items() if i.HasField("message")]

    def payloads(self) -> list[bytes]:
        return [m.tensors[0].data for m in self.messages()]

    def take(self, sub: _native.Sub, count: int) -> None:
        credit = bus_pb2.Credit(subscription=sub.subscription, taken=count)
        self.stream.feed(frame(bus_pb2.Item(credit=credit)), self.bench.now_ns)

    def close_sub(self, sub: _native.Sub) -> None:
        self.stream.close_sub(sub, self.bench.now_ns)
        self.bench.hub.touch()

    def close(self) -> None:
        self.stream.close(self.bench.now_ns)
        self.bench.hub.touch()
