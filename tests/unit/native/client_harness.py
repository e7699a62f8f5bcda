"""A client's data plane without a connection: frames made and read by plain protobuf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import sira.kernel.binding  # noqa: F401  (errors of the C core get their classes)
from sira import _native
from sira.kernel.errors import SiraError
from sira.v1 import bus_pb2, error_pb2, message_pb2, tensor_pb2

MIB = 1 << 20
LATER_NS = 1 << 50  # long after any small message: chunks are not shortened
SUBSCRIPTION = 7


def frame(*items: bus_pb2.Item) -> bytes:
    encoded: bytes = bus_pb2.Frame(items=items).SerializeToString()
    return encoded


def items_of(frames: Iterable[bytes]) -> list[bus_pb2.Item]:
    return [item for encoded in frames for item in bus_pb2.Frame.FromString(encoded).items]


def taken(outbox: _native.Outbox, now_ns: int = LATER_NS) -> list[bytes]:
    """Every frame that the outbox gives now."""
    frames = []
    while (encoded := outbox.take(now_ns)) is not None:
        frames.append(encoded)
    return frames


def down(encoded: bytes, *subscriptions: int) -> bytes:
    """A frame of a publisher as the node would pass it on to these subscriptions."""
    made = bus_pb2.Frame.FromString(encoded)
    for item in made.items:
        item.ClearField("quiet")
        item.ClearField("wait_ms")
        item.ClearField("grade")
        if item.WhichOneof("kind") in ("message", "head"):
            item.subscriptions.extend(subscriptions or (SUBSCRIPTION,))
    return bytes(made.SerializeToString())


def receipt(message_id: bytes, refused: str = "") -> bus_pb2.Item:
    made = bus_pb2.Receipt(id=message_id, matched=1, grade=bus_pb2.GRADE_ACCEPTED)
    if refused:
        made.error.CopyFrom(error_pb2.Error(code=refused))
    return bus_pb2.Item(receipt=made)


def credit(message_id: bytes, count: int) -> bytes:
    return frame(bus_pb2.Item(credit=bus_pb2.Credit(message_id=message_id, bytes=count)))


def text_of(encoded: bytes) -> list[str]:
    """The text bodies in a frame, in order."""
    return [item.message.tensors[0].data.decode() for item in items_of([encoded])]


def message(text: str, **fields: Any) -> message_pb2.Message:
    body = tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_UTF8, shape=[len(text)], data=text.encode())
    fields.setdefault("topic", "lab.x")
    return message_pb2.Message(id=_native.new_id(), tensors=[body], **fields)


def head(*sizes: int, **fields: Any) -> message_pb2.Message:
    body = [
        tensor_pb2.Tensor(name=f"t{i}", dtype=tensor_pb2.DTYPE_U8, shape=[size], data_bytes=size)
        for i, size in enumerate(sizes)
    ]
    fields.setdefault("topic", "lab.x")
    return message_pb2.Message(id=_native.new_id(), tensors=body, **fields)


def inline_item(made: message_pb2.Message, *subscriptions: int) -> bus_pb2.Item:
    return bus_pb2.Item(message=made, subscriptions=subscriptions or (SUBSCRIPTION,))


def head_item(made: message_pb2.Message, *subscriptions: int) -> bus_pb2.Item:
    return bus_pb2.Item(head=made, subscriptions=subscriptions or (SUBSCRIPTION,))


def chunk_item(
    made: message_pb2.Message, tensor: int, offset: int, data: bytes, *subscriptions: int
) -> bus_pb2.Item:
    chunk = bus_pb2.Chunk(message_id=made.id, tensor=tensor, offset=offset, data=data)
    return bus_pb2.Item(chunk=chunk, subscriptions=subscriptions)


def abort_item(made: message_pb2.Message) -> bus_pb2.Item:
    return bus_pb2.Item(abort=bus_pb2.Abort(message_id=made.id))


class Box(_native.Mailbox):
    """A mailbox that counts its callbacks."""

    def __init__(
        self, *, credit_every: int = 0, credit_bytes: int = 0, context: Any = None
    ) -> None:
        self.wakes = 0
        self.credits_due = 0
        self.configure(
            message_type=_native.Message,
            context=context,
            credit_every=credit_every,
            wake=self._wake,
            on_credit=self._on_credit,
            credit_bytes=credit_bytes,
        )

    def _wake(self) -> None:
        self.wakes += 1

    def _on_credit(self) -> None:
        self.credits_due += 1

    async def _wait(self) -> _native.Message:
        raise LookupError("would wait")

    def texts(self) -> list[str]:
        """Take everything that is here."""
        found = []
        while (got := self.pop()) is not None:
            found.append(got.text if len(got) == 0 else ",".join(got))
        return found


def attached(**options: Any) -> tuple[_native.Inbox, Box]:
    inbox, box = _native.Inbox(**options), Box()
    inbox.attach(SUBSCRIPTION, box)
    return inbox, box


def _sanitized() -> bool:
    with open("/proc/self/maps", encoding="ascii") as maps:
        return "libasan" in maps.read()


SANITIZED = _sanitized()  # ASan keeps freed memory back, to catch its late use


def resident_bytes() -> int:
    """Memory of this process that has pages; 0 under ASan, where it says nothing about leaks."""
    if SANITIZED:
        return 0
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096


def drain(box: Box) -> list[_native.Message]:
    found = []
    while (got := box.pop()) is not None:
        found.append(got)
    return found


def code_of(call: Any, *args: Any) -> str:
    with pytest.raises(SiraError) as caught:
        call(*args)
    return str(caught.value.code)


def chunks_of(frames: list[bytes]) -> list[bus_pb2.Chunk]:
    return [item.chunk for item in items_of(frames) if item.HasField("chunk")]


def large(fill: int = 0, count: int = MIB) -> dict[str, Any]:
    return {"x": np.full(count, fill, np.uint8)}
