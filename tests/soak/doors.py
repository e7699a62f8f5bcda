"""Hostile frames at a node's two streams, by seed and by the clock; a calm client must not notice.

Frames are good ones, broken: bits flipped, cut, joined, lengths made huge, items repeated.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
import numpy as np

import sira
from sira import _native
from sira.testing import Node
from sira.v1 import bus_pb2, message_pb2, tensor_pb2

STREAM_S = 5.0  # a stream that the node neither answers nor ends in this time was hung up on by us


@dataclass
class Attack:
    """What was done and seen."""

    seconds: float
    seed: int
    frames: int = 0
    streams: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    answered: int = 0
    pings: int = 0
    problems: list[str] = field(default_factory=list)


def _message(rng: random.Random) -> message_pb2.Message:
    size = rng.choice([0, 1, 7, 64, 4_096])
    tensor = tensor_pb2.Tensor(
        name=rng.choice(["x", "", "ü", "a" * 300]),
        dtype=rng.randrange(26),
        shape=[rng.choice([0, 1, size, 2**63])] * rng.randrange(4),
        data=rng.randbytes(size),
    )
    return message_pb2.Message(
        id=rng.choice([_native.new_id(), b"", b"short"]),
        topic=rng.choice(["fuzz.a", "fuzz.b", "fuzz..c", ">", "sira.x", "_reply.x", "a" * 400]),
        priority=rng.randrange(12),
        ttl_ns=rng.choice([0, 1, 2**63, 2**64 - 1]),
        reply_to=rng.choice(["", "_reply.0", "\n"]),
        headers={"k" * rng.randrange(40): "v"} if rng.random() < 0.3 else {},
        tensors=[tensor] * rng.randrange(3),
        principal=rng.choice(["", "", "", "sira://c/default/node/root"]),
    )


def _item(rng: random.Random, ids: list[bytes]) -> bus_pb2.Item:
    kind = rng.randrange(9)
    known = rng.choice(ids) if ids and rng.random() < 0.7 else rng.randbytes(16)
    if kind <= 2:
        return bus_pb2.Item(message=_message(rng), quiet=rng.random() < 0.3)
    if kind == 3:
        made = _message(rng)
        for tensor in made.tensors:
            tensor.data_bytes = rng.choice([len(tensor.data), 10 << 30, 2**64 - 1])
            tensor.data = b""
        ids.append(made.id)
        return bus_pb2.Item(head=made)
    if kind == 4:
        chunk = bus_pb2.Chunk(
            message_id=known,
            tensor=rng.choice([0, 0, 1, 2**32 - 1]),
            offset=rng.choice([0, 0, 10, 2**64 - 1]),
            data=rng.randbytes(rng.choice([0, 10, 4_096])),
        )
        return bus_pb2.Item(chunk=chunk)
    if kind == 5:
        return bus_pb2.Item(abort=bus_pb2.Abort(message_id=known))
    if kind == 6:
        credit = bus_pb2.Credit(subscription=rng.randrange(4), taken=rng.choice([0, 1, 2**64 - 1]))
        return bus_pb2.Item(credit=credit)
    if kind == 7:
        opened = bus_pb2.Open(
            subscription=rng.randrange(4),
            pattern=rng.choice(["fuzz.>", "fuzz.*", "", "a..b", "sira.>", "_reply.*", ">.x"]),
            group=rng.choice(["", "g", "\0"]),
            overflow=rng.randrange(5),
            window_messages=rng.choice([0, 1, 2**32 - 1]),
            contract={"x": rng.choice(["f32[N]", "f32[", "bf16|f32[A<=3,*]"])},
        )
        return bus_pb2.Item(open=opened)
    return bus_pb2.Item(close=bus_pb2.Close(subscription=rng.randrange(4)))


def _broken(rng: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.choice([0, 0, 1, 1, 3])):
        if not data:
            break
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at : at + 1] = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
            case 3:
                data += data[at:]
            case 4:
                data.insert(at, rng.randrange(256))
    return bytes(data[: 1 << 20])


def _stream(channel: grpc.Channel, rng: random.Random, attack: Attack) -> None:
    method = rng.choice(["Publish", "Subscribe"])
    call_frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def frames() -> Iterator[bytes]:
        while (frame := call_frames.get()) is not None:
            yield frame

    call = channel.stream_stream(f"/sira.v1.Bus/{method}")(frames(), timeout=STREAM_S)
    attack.streams += 1
    ids: list[bytes] = []
    for _ in range(rng.randrange(1, 30)):
        made = bus_pb2.Frame(items=[_item(rng, ids) for _ in range(rng.randrange(1, 6))])
        call_frames.put(_broken(rng, made.SerializeToString()))
        attack.frames += 1
    if rng.random() < 0.2:
        call.cancel()
    call_frames.put(None)
    try:
        for answer in call:
            bus_pb2.Frame.FromString(answer)  # what the node says is always well formed
            attack.answered += 1
    except grpc.RpcError as error:
        code = error.code().name
    else:
        code = "OK"
    attack.ended[code] = attack.ended.get(code, 0) + 1
    if code in ("UNKNOWN", "INTERNAL", "UNAVAILABLE"):
        attack.problems.append(f"a stream ended {code}: {call.details()}")


def run(seconds: float, seed: int, *, tell: Callable[[str], None]) -> Attack:
    """Attack a node for so long; a well-behaved client exchanges messages meanwhile."""
    attack = Attack(seconds, seed)
    rng = random.Random(seed)
    with Node() as node, sira.connect_sync(node.url) as bus:
        stop = threading.Event()

        def ping() -> None:
            sent = np.arange(64, dtype=np.float32)
            with bus.subscribe("calm.echo") as messages:
                calm.set()
                while not stop.is_set():
                    receipt = bus.publish("calm.echo", {"x": sent}, timeout_s=30)
                    got = messages.next(timeout_s=30)
                    if receipt.matched != 1 or not np.array_equal(got["x"], sent):
                        attack.problems.append("the calm client's message changed or was lost")
                    attack.pings += 1

        calm = threading.Event()
        thread = threading.Thread(target=_noting(ping, attack.problems))
        thread.start()
        calm.wait(30)
        until, told_s = time.monotonic() + seconds, time.monotonic()
        with grpc.insecure_channel(node.url.removeprefix("sira://")) as channel:
            while time.monotonic() < until and not attack.problems:
                _stream(channel, rng, attack)
                if time.monotonic() > told_s + 10:
                    told_s = time.monotonic()
                    tell(f"{attack.frames:,} hostile frames on {attack.streams:,} streams")
        stop.set()
        thread.join(60)
        ledger = bus.ledger()
        if not ledger.balanced:
            attack.problems.append("the ledger does not balance")
    if attack.pings < 10:
        attack.problems.append(f"the calm client got {attack.pings} messages through")
    return attack


def _noting(work: Callable[[], None], problems: list[str]) -> Callable[[], None]:
    def noted() -> None:
        try:
            work()
        except Exception as error:
            problems.append(f"the calm client failed: {error!r}")

    return noted
