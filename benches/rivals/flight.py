"""Arrow Flight over a Unix socket: a record batch a tensor, put one way, exchanged when asked.

Batches lie over arrays of ours, so filling makes no copy; gRPC below it copies through the socket.
Its C++ threads do the transport; Python sees whole batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import flight

from benches import patterns
from benches.exchange import Answers, Fill, ask_tensors
from benches.link import Link

SCHEMA = pa.schema([("x", pa.float32())])
DESCRIPTOR = flight.FlightDescriptor.for_path("bench")


def _location(link: Link, process: int) -> str:
    return f"grpc+unix://{link.params['url']}.{process}"


def _batch(array: NDArray[np.float32]) -> pa.RecordBatch:
    """Lay a batch over an array."""
    column = pa.Array.from_buffers(pa.float32(), array.size, [None, pa.py_buffer(array)])
    return pa.record_batch([column], schema=SCHEMA)


def _array(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """Lay an array over a batch."""
    found: NDArray[np.float32] = batch.column(0).to_numpy(zero_copy_only=True)
    return found


class _Sink(flight.FlightServerBase):  # type: ignore[misc]
    """Sums what is put, and tells of each that it is summed."""

    def __init__(self, link: Link) -> None:
        super().__init__(_location(link, link.params["process"]))
        self._check = patterns.TensorSink(link)

    def do_put(self, _context: Any, _descriptor: Any, reader: Any, writer: Any) -> None:
        """Take one stream of tensors."""
        for chunk in reader:
            self._check.take(_array(chunk.data))
            writer.write(b"x")


class _Answerer(flight.FlightServerBase):  # type: ignore[misc]
    """Answers each batch of a stream, or sends it back."""

    def __init__(self, link: Link, *, echo: bool) -> None:
        super().__init__(_location(link, 0))
        self._echo = echo

    def do_exchange(self, _context: Any, _descriptor: Any, reader: Any, writer: Any) -> None:
        """Take one stream of requests."""
        writer.begin(SCHEMA)
        answers, reply = Answers(), np.empty(0, np.float32)
        for chunk in reader:
            if self._echo:
                writer.write_batch(chunk.data)
                continue
            asked = _array(chunk.data)
            if not reply.size:
                reply = np.ones_like(asked)
            answers.take(asked)(reply)
            writer.write_batch(_batch(reply))


def bulk_sink(link: Link) -> None:
    """Serve; the work is done on a thread of Flight's."""
    server = _Sink(link)
    link.say("listening")
    link.rest()
    del server


def bulk_source(link: Link) -> None:
    """Put each tensor to every receiver in turn; refill one once all have summed it."""
    receivers, buffers = link.params["receivers"], link.params["buffers"]
    clients = [flight.connect(_location(link, process)) for process in range(receivers)]
    streams = [client.do_put(DESCRIPTOR, SCHEMA) for client in clients]
    sent = 0

    def before_fill(_slot: int) -> None:
        if sent >= buffers:
            for _writer, told in streams:
                told.read()

    def send(tensor: NDArray[np.float32], _slot: int) -> None:
        nonlocal sent
        batch = _batch(tensor)
        for writer, _told in streams:
            writer.write_batch(batch)
        sent += 1

    patterns.pour_tensors(link, send, before_fill)
    link.rest()  # the streams stay open until all has been summed


def echo_server(link: Link) -> None:
    """Serve; batches go back as they came."""
    server = _Answerer(link, echo=True)
    link.say("listening")
    link.rest()
    del server


def tensor_answerer(link: Link) -> None:
    """Serve; batches are summed and answered."""
    server = _Answerer(link, echo=False)
    link.say("listening")
    link.rest()
    del server


def asker(link: Link) -> None:
    """Ask on one stream, one at a time; a message of bytes is sent as float32."""
    client = flight.connect(_location(link, 0))
    writer, reader = client.do_exchange(DESCRIPTOR)
    writer.begin(SCHEMA)

    def ask(message: bytes) -> Any:
        writer.write_batch(_batch(np.frombuffer(message, np.float32)))
        return _array(reader.read_chunk().data).view(np.uint8)

    patterns.ask_in_turn(link, ask)
    link.rest()


def tensor_asker(link: Link) -> None:
    """Ask on one stream with an array of ours, one at a time."""
    client = flight.connect(_location(link, 0))
    writer, reader = client.do_exchange(DESCRIPTOR)
    writer.begin(SCHEMA)
    tensor = np.ones(link.params["payload_bytes"] // 4, np.float32)

    def ask(fill: Fill) -> Any:
        fill(tensor)
        writer.write_batch(_batch(tensor))
        return _array(reader.read_chunk().data)

    ask_tensors(link, ask)
    link.rest()
