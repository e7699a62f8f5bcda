"""Without our SDK: gRPC's own client and the classes that protoc makes of proto/sira/v1, nothing
else.

    python examples/plain_grpc.py HOST:PORT

What any language can do: subscribe, publish with a receipt, ask.
"""

from __future__ import annotations

import queue
import struct
import sys
import time
import uuid
from collections.abc import Iterator

import grpc

from sira.v1 import bus_pb2, bus_pb2_grpc, message_pb2, tensor_pb2

TIMEOUT_S = 10.0


def floats(name: str, values: list[float]) -> tensor_pb2.Tensor:
    """Make a tensor f32[n]: little-endian, C order."""
    data = struct.pack(f"<{len(values)}f", *values)
    return tensor_pb2.Tensor(name=name, dtype=tensor_pb2.DTYPE_F32, shape=[len(values)], data=data)


def message(topic: str, *tensors: tensor_pb2.Tensor) -> message_pb2.Message:
    """Make a message with an id of its own."""
    return message_pb2.Message(
        id=message_id(), topic=topic, time_ns=time.time_ns(), source="plain", tensors=tensors
    )


def message_id() -> bytes:
    """Return a UUIDv7: 48 bits of milliseconds, then random bits."""
    random = uuid.uuid4().int & ((1 << 76) - 1)
    value = (time.time_ns() // 1_000_000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return value.to_bytes(16, "big")


def frames(waiting: queue.Queue[bus_pb2.Frame | None]) -> Iterator[bus_pb2.Frame]:
    """Yield what is put into `waiting`, until None."""
    while (frame := waiting.get()) is not None:
        yield frame


def main(address: str) -> None:
    """Subscribe, publish, take, confirm, ask."""
    with grpc.insecure_channel(address) as channel:
        bus = bus_pb2_grpc.BusStub(channel)

        up: queue.Queue[bus_pb2.Frame | None] = queue.Queue()
        down = bus.Subscribe(frames(up), timeout=TIMEOUT_S)
        opening = bus_pb2.Open(subscription=1, pattern="plain.>", window_messages=16)
        up.put(bus_pb2.Frame(items=[bus_pb2.Item(open=opening)]))
        assert next(down).items[0].opened.subscription == 1

        sent = message("plain.greeting", floats("x", [1.0, 2.0, 3.0]))
        (answer,) = bus.Publish(
            iter([bus_pb2.Frame(items=[bus_pb2.Item(message=sent)])]), timeout=TIMEOUT_S
        )
        receipt = answer.items[0].receipt
        print(f"receipt: matched {receipt.matched}, {receipt.bytes} bytes")

        came = next(down).items[0].message
        tensor = came.tensors[0]
        print(f"took {tensor.name} = {struct.unpack('<3f', tensor.data)} of {came.topic}")
        credit = bus_pb2.Credit(subscription=1, taken=1)
        up.put(bus_pb2.Frame(items=[bus_pb2.Item(credit=credit)]))
        closing = bus_pb2.Close(subscription=1)
        up.put(bus_pb2.Frame(items=[bus_pb2.Item(close=closing)]))
        assert not next(down).items[0].ended.HasField("error")
        up.put(None)
        down.cancel()

        try:
            reply = bus.Request(
                message("lab.normalise", floats("x", [1.0, 2.0, 3.0])), timeout=TIMEOUT_S
            )
            print(f"reply: {[tensor.name for tensor in reply.tensors]}")
        except grpc.RpcError as error:
            print(f"request: {error.code().name}: {error.details()}")


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "127.0.0.1:7700")
