"""Write the fuzzers' seeds: corpus/{frame,topic,contract}. Deterministic, under 200 KB in all.

Run from the repository's root, in its environment: python native/fuzz/make_corpus.py
Frames come from the generated protobuf classes, so that the seeds are what other parsers write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sira.v1 import bus_pb2, message_pb2, tensor_pb2

CORPUS: Final = Path(__file__).parent / "corpus"
ITEM_BYTES: Final = {  # wire size of one element, where it is a whole number of bytes
    **dict.fromkeys(("BOOL", "U8", "I8", "F8E4M3FN", "F8E5M2", "F8E4M3FNUZ", "F8E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
    "C128": 16,
}


def ident(number: int) -> bytes:
    """Return 16 bytes that stand for an id."""
    return bytes([number]) * 16


def tensor(name: str, dtype: str, shape: tuple[int, ...], *, head: bool) -> tensor_pb2.Tensor:
    """Return a tensor of a counting pattern; in a head only its length."""
    count = 1
    for size in shape:
        count *= size
    nbytes = (count + 1) // 2 if dtype in ("I4", "U4") else count * ITEM_BYTES[dtype]
    made = tensor_pb2.Tensor(name=name, dtype=f"DTYPE_{dtype}", shape=shape)
    if head:
        made.data_bytes = nbytes
    else:
        made.data = bytes(i % 251 for i in range(nbytes))
    return made


def message(topic: str = "cam.front", *, head: bool = False) -> message_pb2.Message:
    """Return a small message as a client sends it."""
    made = message_pb2.Message(
        id=ident(1), topic=topic, time_ns=1_700_000_000_000_000_000, source="agent-1"
    )
    made.tensors.append(tensor("x", "F32", (2, 3), head=head))
    return made


def full() -> message_pb2.Message:
    """Return a message with every field set."""
    made = message()
    made.priority, made.ttl_ns, made.reply_to = 7, 5_000_000_000, "_inbox.1"
    made.content_type, made.type, made.schema = "application/json", "scan", "urn:x"
    made.correlation_id, made.causation_id, made.intent_id, made.stream_id = map(
        ident, (2, 3, 4, 5)
    )
    made.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    made.headers["study"] = "7"
    made.headers["größe"] = "ä"
    made.dedupe_key, made.key, made.stream_seq, made.stream_end = "order-17", "patient-4", 3, True
    made.reply_kind = message_pb2.REPLY_KIND_ERROR
    made.error.code, made.error.message, made.error.retryable = "QUEUE_FULL", "full", True
    made.error.details["topic"] = "cam.front"
    made.expect.offset, made.expect.of_key = 9, True
    made.fence.lease, made.fence.token = "gpu-0", 12
    made.sealed.alg, made.sealed.key_id, made.sealed.nonce = "aes-256-gcm", "k1", bytes(12)
    made.principal, made.tenant, made.attempt, made.offset = "alice", "default", 2, 0
    return made


def items() -> Iterator[tuple[str, list[bus_pb2.Item]]]:
    """Yield (name of the seed, items of its frame)."""
    yield (
        "message",
        [bus_pb2.Item(message=message(), quiet=True, wait_ms=0, grade=bus_pb2.GRADE_ACCEPTED)],
    )
    yield "full", [bus_pb2.Item(message=full(), subscriptions=[1, 2, 300])]
    for body, dtype in ((b"bytes \x00\xff", "BYTES"), ("text é".encode(), "UTF8")):
        made = message_pb2.Message(id=ident(1), topic="lab.text")
        made.tensors.append(tensor_pb2.Tensor(dtype=f"DTYPE_{dtype}", data=body))
        yield dtype.lower(), [bus_pb2.Item(message=made)]
    for head in (False, True):
        made = message(head=head)
        for dtype in [*ITEM_BYTES, "I4", "U4"]:
            made.tensors.append(tensor(dtype.lower(), dtype, (3, 1), head=head))
        made.tensors.append(tensor("scalar", "F64", (), head=head))
        made.tensors.append(tensor("empty", "F64", (0, 5), head=head))
        made.tensors.append(tensor("deep", "U8", (1,) * 64, head=head))
        item = bus_pb2.Item(head=made) if head else bus_pb2.Item(message=made)
        yield "head" if head else "dtypes", [item]
    big = message_pb2.Message(id=ident(1), topic="cam.front")
    big.tensors.append(tensor("ten_gib", "U8", (10 << 30,), head=True))
    yield (
        "announced",
        [
            bus_pb2.Item(head=big),
            bus_pb2.Item(chunk=bus_pb2.Chunk(message_id=ident(1), data=b"0123456789")),
        ],
    )
    credit = (
        bus_pb2.Credit(subscription=1, taken=100),
        bus_pb2.Credit(message_id=ident(1), bytes=1 << 20),
    )
    yield (
        "control",
        [
            bus_pb2.Item(
                chunk=bus_pb2.Chunk(message_id=ident(1), tensor=2, offset=1 << 33, data=b"data")
            ),
            bus_pb2.Item(abort=bus_pb2.Abort(message_id=ident(1))),
            *(bus_pb2.Item(credit=one) for one in credit),
            bus_pb2.Item(
                ack=bus_pb2.Ack(subscription=1, message_id=ident(1), negative=True, delay_ms=5)
            ),
            bus_pb2.Item(
                open=bus_pb2.Open(subscription=1, pattern="cam.>", contract={"x": "f32[N]"})
            ),
            bus_pb2.Item(opened=bus_pb2.Opened(subscription=1)),
            bus_pb2.Item(close=bus_pb2.Close(subscription=1)),
            bus_pb2.Item(ended=bus_pb2.Ended(subscription=1)),
        ],
    )
    receipt = bus_pb2.Receipt(
        id=ident(1), matched=2, grade=bus_pb2.GRADE_DISK, offset=7, copies=1, bytes=24, nodes=1
    )
    receipt.lanes.extend([bus_pb2.LANE_GRPC, bus_pb2.LANE_SHM])
    refusal = bus_pb2.Receipt(id=ident(2), spooled=True)
    refusal.error.code = "DENIED"
    yield "receipts", [bus_pb2.Item(receipt=receipt), bus_pb2.Item(receipt=refusal)]
    yield (
        "batch",
        [bus_pb2.Item(message=message(f"lab.t{i}"), quiet=bool(i % 2)) for i in range(20)],
    )


PATTERNS: Final = (
    "cam.>",
    "*",
    ">",
    "a.*.c",
    "*.b",
    "_inbox.*",
    "sira.>",
    "cam.front",
    "größe.*",
    ".",
    "a..b",
    "a.>.b",
)
NAMES: Final = (
    "cam.front",
    "a",
    "a.b.c",
    "b.b",
    "_inbox.1",
    "sira.link",
    "größe.ä",
    ".".join("abcdefghijklmnop"),
)

CONTRACTS: Final = {
    "one": b"image=f32|bf16[B, H<=4096, 3]\n\nimage=bf16[1, N, 3]\n\n\x0d\x01\x05\x03",
    "tied": b"x=f32[N]\ny=f32[N]\n\nx=f32[3]\ny=f32[4]\n\n\x0b\x03\x0b\x03",
    "chain": b"x=f32[A, A, B]\ny=u8[B]\n\nx=f32[2, C, C]\ny=u8[D<=2]\n\n\x0b\x02\x02\x02\x02\x02",
    "open": b"x=f32[N<=4]\ny=f32[N]\n\nx=f32\ny=f32[*]\n\n",
    "body": b"=utf8|bytes\n\n=bytes[N<=5]\n\n\x16\x05",
    "bad": b"x=f32[\ny=q8[2]\nz=f32[N<4]\nx=f32[99999999999999999999]\n",
}


def write(folder: str, name: str, data: bytes) -> None:
    """Write one seed."""
    path = CORPUS / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def main() -> None:
    """Write every seed."""
    for name, made in items():
        frame = bus_pb2.Frame(items=made)
        write("frame", name, frame.SerializeToString(deterministic=True))
    write("frame", "bare_message", full().SerializeToString(deterministic=True))
    for i, pattern in enumerate(PATTERNS):
        write("topic", str(i), f"{pattern}\n{NAMES[i % len(NAMES)]}".encode())
    for name, data in CONTRACTS.items():
        write("contract", name, data)


if __name__ == "__main__":
    main()
