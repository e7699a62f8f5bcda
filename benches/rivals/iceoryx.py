"""iceoryx2: loans filled in shared memory, samples summed where they lie, no process between.

A sample wakes nobody: each is followed by a notification of an event service of the same name, on
which the reader sleeps. Where a queue is full, `send` of 0.10's Python reaches 0 recipients, also
with RetryUntilDelivered, and the sample is lost. So readers tell of each sample that they have
taken by a sample of 8 bytes, and the writer waits for that before it sends beyond their queues.
"""

from __future__ import annotations

import ctypes
from typing import Any

import iceoryx2
import numpy as np

from benches import patterns
from benches.exchange import Answers, Fill, ask_tensors, leave_when_closed, pour_in_place
from benches.link import Link
from benches.payload import Lost

PROCESSES_MAX = 8
ALIGNMENT_BYTES = 64
TAKEN_BYTES = 8
FLOW_ROOM, TOLD = 512, 128


class _Way:
    """One direction of one measurement: a service of samples and one of events."""

    def __init__(self, node: iceoryx2.Node, name: str, *, size: int, room: int) -> None:
        """Open it; `room` samples of `size` bytes wait at each reader at most."""
        self._size = size
        service = iceoryx2.ServiceName.new(name)
        self._samples = (
            node.service_builder(service)
            .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
            .payload_alignment(iceoryx2.Alignment.new(ALIGNMENT_BYTES))
            .enable_safe_overflow(False)
            .history_size(0)
            .subscriber_max_buffer_size(room)
            .subscriber_max_borrowed_samples(1)
            .max_subscribers(PROCESSES_MAX)
            .max_nodes(PROCESSES_MAX)
            .open_or_create()
        )
        self._events = (
            node.service_builder(service)
            .event()
            .max_listeners(PROCESSES_MAX)
            .max_nodes(PROCESSES_MAX)
            .open_or_create()
        )

    def reader(self) -> _Reader:
        """Open an end that takes samples."""
        subscriber = self._samples.subscriber_builder().create()
        return _Reader(subscriber, self._events.listener_builder().create())

    def writer(self, *, readers: int = 1) -> _Writer:
        """Open the end that sends them to so many readers."""
        publisher = (
            self._samples.publisher_builder()
            .initial_max_slice_len(self._size)
            .max_loaned_samples(1)
            .create()
        )
        return _Writer(publisher, self._events.notifier_builder().create(), self._size, readers)


class _Reader:
    """Takes samples, one at a time: what came before is given back."""

    def __init__(self, subscriber: Any, listener: Any) -> None:
        self._subscriber, self._listener = subscriber, listener
        self._sample: Any = None

    def receive(self) -> memoryview:
        """View the next sample where it lies, until the next call."""
        if self._sample is not None:
            self._sample.delete()
        while (sample := self._subscriber.receive()) is None:
            self._listener.blocking_wait()
        self._sample = sample
        return memoryview(sample.payload().as_memory_view()).cast("B")


class _Writer:
    """Sends samples."""

    def __init__(self, publisher: Any, notifier: Any, size: int, readers: int) -> None:
        self._publisher, self._notifier = publisher, notifier
        self._size, self._readers = size, readers

    def _loan(self) -> tuple[Any, memoryview]:
        sample = self._publisher.loan_slice_uninit(self._size)
        return sample, memoryview(sample.payload().as_memory_view()).cast("B")

    def send_sample(self, sample: Any) -> None:
        """Send what `filled` gave.

        Raises:
            Lost: a reader's queue is full.
        """
        if (reached := sample.assume_init().send()) != self._readers:
            raise Lost(f"a sample reached {reached} of {self._readers} readers")
        self._notifier.notify()

    def send(self, message: Any) -> None:
        """Copy a small message into a loan."""
        sample, memory = self._loan()
        memory[:] = message
        self.send_sample(sample)

    def filled(self, fill: Fill) -> Any:
        """Fill a loan."""
        sample, memory = self._loan()
        fill(np.frombuffer(memory, np.float32))
        return sample

    def send_filled(self, fill: Fill) -> None:
        """Fill a loan and send it."""
        self.send_sample(self.filled(fill))


def _node(link: Link) -> iceoryx2.Node:
    """Open a node whose files are the measurement's own, and go with it."""
    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    config = iceoryx2.config.default()
    names = config.global_cfg  # a view: what is set here is set there
    names.prefix = iceoryx2.FileName.new(link.params["prefix"])
    names.root_path = iceoryx2.Path.new(link.params["url"])
    return iceoryx2.NodeBuilder.new().config(config).create(iceoryx2.ServiceType.Ipc)


def _room(link: Link) -> int:
    """How many samples wait for a reader at most: one more is being filled."""
    return max(1, int(link.params["buffers"]) - 1)


def _taken(link: Link, node: iceoryx2.Node, process: int) -> _Way:
    """The way on which a reader tells what it has taken."""
    return _Way(node, f"taken.{process}", size=TAKEN_BYTES, room=_room(link) + 1)


def bulk_sink(link: Link) -> None:
    """Sum each sample."""
    node, check = _node(link), patterns.TensorSink(link)
    way = _Way(node, "there", size=link.params["payload_bytes"], room=_room(link))
    reader, taken = way.reader(), _taken(link, node, link.params["process"]).writer()
    link.say("listening")
    last = False
    while not last:
        last = check.take(reader.receive())
        taken.send(bytes(TAKEN_BYTES))
    link.rest()  # what a closed end has sent goes with it


def bulk_source(link: Link) -> None:
    """Fill loans."""
    node, readers, sent = _node(link), link.params["receivers"], 0
    way = _Way(node, "there", size=link.params["payload_bytes"], room=_room(link))
    taken = [_taken(link, node, process).reader() for process in range(readers)]
    writer, room = way.writer(readers=readers), _room(link)

    def send(fill: Fill) -> None:
        nonlocal sent
        sample = writer.filled(fill)
        if sent >= room:
            for each in taken:
                each.receive()
        writer.send_sample(sample)
        sent += 1

    pour_in_place(link, send)
    link.rest()


def sink(link: Link) -> None:
    """Take a numbered one-way flow; tell now and then."""
    node, count = _node(link), 0
    reader = _Way(node, "there", size=link.params["message_bytes"], room=FLOW_ROOM).reader()
    taken = _Way(node, "taken.0", size=TAKEN_BYTES, room=FLOW_ROOM).writer()
    link.say("listening")

    def receive() -> memoryview:
        nonlocal count
        if count and count % TOLD == 0:
            taken.send(bytes(TAKEN_BYTES))
        count += 1
        return reader.receive()

    patterns.drain(link, receive)
    link.rest()


def source(link: Link) -> None:
    """Send a numbered one-way flow; a full queue would lose."""
    node, count = _node(link), 0
    writer = _Way(node, "there", size=link.params["message_bytes"], room=FLOW_ROOM).writer()
    taken = _Way(node, "taken.0", size=TAKEN_BYTES, room=FLOW_ROOM).reader()

    def send(message: bytes) -> None:
        nonlocal count
        if count >= FLOW_ROOM and count % TOLD == 0:
            taken.receive()
        writer.send(message)
        count += 1

    patterns.pour(link, send)
    link.rest()


def _both(link: Link, *, asks: bool) -> tuple[_Writer, _Reader]:
    """Open a way there and one back; whoever is asked is there first and waits for the other."""
    node, size = _node(link), link.params["payload_bytes"]
    out, into = (_Way(node, name, size=size, room=1) for name in ("there", "back"))
    if asks:
        reader = into.reader()
        return out.writer(), reader
    reader = out.reader()
    link.say("listening")
    leave_when_closed(link)
    return into.writer(), reader


def echo_server(link: Link) -> None:
    """Copy what came into a reply."""
    writer, reader = _both(link, asks=False)
    while True:
        writer.send(reader.receive())


def asker(link: Link) -> None:
    """Ask, one at a time."""
    writer, reader = _both(link, asks=True)

    def ask(message: bytes) -> Any:
        writer.send(message)
        return reader.receive()

    patterns.ask_in_turn(link, ask)


def tensor_answerer(link: Link) -> None:
    """Sum each request, fill a reply."""
    (writer, reader), answers = _both(link, asks=False), Answers()
    while True:
        writer.send_filled(answers.take(reader.receive()))


def tensor_asker(link: Link) -> None:
    """Ask, one at a time."""
    writer, reader = _both(link, asks=True)

    def ask(fill: Fill) -> Any:
        writer.send_filled(fill)
        return reader.receive()

    ask_tensors(link, ask)
