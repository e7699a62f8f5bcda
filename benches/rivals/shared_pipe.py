"""multiprocessing.shared_memory and a byte through a pipe for each tensor: the least there is.

Slots take turns. Whoever made the memory fills one and writes a byte; the reader sums it where it
lies and writes a byte back, after which the slot may be filled again. No names, no rights, no
counts, and a reader may write wherever it likes.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches import patterns
from benches.exchange import (
    Answers,
    Fill,
    Stamp,
    answer_touched,
    ask_tensors,
    ask_touched,
    held_array,
    leave_when_closed,
    pour_in_place,
)
from benches.link import Link
from benches.payload import HEAD

NAME_BYTES = 64
FLOW_SLOTS, TOLD = 512, 128
"""Small messages under way at most, and after how many the reader tells that it took them."""


def _attached(name: str) -> SharedMemory:
    """Map what another process made, and leave its removal to that one."""
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    memory = SharedMemory(name)
    resource_tracker.unregister(f"/{memory.name}", "shared_memory")
    return memory


class _Reader:
    """The end that did not make the memory."""

    def __init__(self, link: Link) -> None:
        path = f"{link.params['url']}.{link.params.get('process', 0)}"
        for way in ("there", "back"):
            os.mkfifo(f"{path}.{way}")
        link.say("listening")
        self._into = os.open(f"{path}.there", os.O_RDONLY)
        self._out = os.open(f"{path}.back", os.O_WRONLY)
        self.memory = _attached(os.read(self._into, NAME_BYTES).decode().rstrip())
        self.tell()

    def wait(self) -> None:
        """Wait for a byte. EOFError: the other end has gone."""
        if not os.read(self._into, 1):
            raise EOFError

    def tell(self) -> None:
        """Write one."""
        os.write(self._out, b"x")


class _Maker:
    """The end that made the memory, and a pipe each way for each reader."""

    def __init__(self, link: Link, size: int) -> None:
        self.memory = SharedMemory(create=True, size=size)
        np.frombuffer(self.memory.buf, np.uint8).fill(1)  # its pages are there from now on
        self._out, self._into = [], []
        for process in range(link.params.get("receivers", 1)):
            path = f"{link.params['url']}.{process}"
            self._out.append(os.open(f"{path}.there", os.O_WRONLY))
            self._into.append(os.open(f"{path}.back", os.O_RDONLY))
            os.write(self._out[-1], self.memory.name.encode().ljust(NAME_BYTES))
        self.wait()
        self.memory.unlink()  # mapped by all; nothing is left behind

    def wait(self) -> None:
        """Wait for a byte of each reader."""
        for each in self._into:
            if not os.read(each, 1):
                raise EOFError

    def tell(self) -> None:
        """Write one to each."""
        for each in self._out:
            os.write(each, b"x")


def _slots(memory: SharedMemory, params: dict[str, Any], count: int) -> list[NDArray[np.float32]]:
    """View the memory as tensors. (It may be longer than was asked for.)"""
    size = params["payload_bytes"]
    return [
        np.frombuffer(memory.buf, np.float32, size // 4, offset=slot * size)
        for slot in range(count)
    ]


def bulk_sink(link: Link) -> None:
    """Sum each slot where it lies."""
    reader, check = _Reader(link), patterns.TensorSink(link)
    slots = _slots(reader.memory, link.params, link.params["buffers"])
    index, last = 0, False
    while not last:
        reader.wait()
        last = check.take(slots[index % len(slots)])
        reader.tell()
        index += 1


def bulk_source(link: Link) -> None:
    """Fill slots in turn, each once all readers have given it back."""
    params = link.params
    maker = _Maker(link, params["buffers"] * params["payload_bytes"])
    slots, sent = _slots(maker.memory, params, params["buffers"]), 0

    def send(fill: Fill) -> None:
        nonlocal sent
        if sent >= len(slots):
            maker.wait()
        fill(slots[sent % len(slots)])
        maker.tell()
        sent += 1

    pour_in_place(link, send)


def copied_source(link: Link) -> None:
    """Fill an array of ours, and copy it into slots in turn."""
    params = link.params
    maker, tensor = _Maker(link, params["buffers"] * params["payload_bytes"]), held_array(link)
    slots, sent = _slots(maker.memory, params, params["buffers"]), 0

    def send(fill: Fill) -> None:
        nonlocal sent
        fill(tensor)
        if sent >= len(slots):
            maker.wait()
        slots[sent % len(slots)][:] = tensor
        maker.tell()
        sent += 1

    pour_in_place(link, send)


def sink(link: Link) -> None:
    """Take a numbered one-way flow, each message where it lies; tell now and then."""
    reader, size, count = _Reader(link), link.params["message_bytes"], 0

    def receive() -> memoryview:
        nonlocal count
        if count and count % TOLD == 0:
            reader.tell()
        reader.wait()
        at = count % FLOW_SLOTS * size
        count += 1
        return reader.memory.buf[at : at + size]

    patterns.drain(link, receive)


def source(link: Link) -> None:
    """Send a numbered one-way flow, each message into a slot that the reader has done with."""
    size, count = link.params["message_bytes"], 0
    maker = _Maker(link, FLOW_SLOTS * size)

    def send(message: bytes) -> None:
        nonlocal count
        if count >= FLOW_SLOTS and count % TOLD == 0:
            maker.wait()
        at = count % FLOW_SLOTS * size
        maker.memory.buf[at : at + size] = message
        maker.tell()
        count += 1

    patterns.pour(link, send)
    link.rest()


def echo_server(link: Link) -> None:
    """Copy what came into the reply."""
    reader, size = _Reader(link), link.params["message_bytes"]
    leave_when_closed(link)
    asked, answered = reader.memory.buf[:size], reader.memory.buf[size : 2 * size]
    while True:
        reader.wait()
        answered[:] = asked
        reader.tell()


def asker(link: Link) -> None:
    """Ask, one at a time."""
    size = link.params["message_bytes"]
    maker = _Maker(link, 2 * size)
    asked, answered = maker.memory.buf[:size], maker.memory.buf[size : 2 * size]

    def ask(message: bytes) -> Any:
        asked[:] = message
        maker.tell()
        maker.wait()
        return answered

    patterns.ask_in_turn(link, ask)


def tensor_answerer(link: Link) -> None:
    """Sum the request, fill the reply beside it."""
    reader, answers = _Reader(link), Answers()
    leave_when_closed(link)
    asked, answered = _slots(reader.memory, link.params, 2)
    while True:
        reader.wait()
        answers.take(asked)(answered)
        reader.tell()


def tensor_asker(link: Link) -> None:
    """Fill the request, sum the reply beside it."""
    maker = _Maker(link, 2 * link.params["payload_bytes"])
    asked, answered = _slots(maker.memory, link.params, 2)

    def ask(fill: Fill) -> Any:
        fill(asked)
        maker.tell()
        maker.wait()
        return answered

    ask_tensors(link, ask)


def copied_answerer(link: Link) -> None:
    """Sum the request, fill an array of ours, and copy it beside it."""
    reader, answers, tensor = _Reader(link), Answers(), held_array(link)
    leave_when_closed(link)
    asked, answered = _slots(reader.memory, link.params, 2)
    while True:
        reader.wait()
        answers.take(asked)(tensor)
        answered[:] = tensor
        reader.tell()


def copied_asker(link: Link) -> None:
    """Fill an array of ours and copy it in; sum the reply beside it."""
    maker, tensor = _Maker(link, 2 * link.params["payload_bytes"]), held_array(link)
    asked, answered = _slots(maker.memory, link.params, 2)

    def ask(fill: Fill) -> Any:
        fill(tensor)
        asked[:] = tensor
        maker.tell()
        maker.wait()
        return answered

    ask_tensors(link, ask)


def touched_answerer(link: Link) -> None:
    """Look at both ends of the request, answer with a few bytes."""
    reader, size = _Reader(link), link.params["payload_bytes"]
    leave_when_closed(link)
    asked, answered = reader.memory.buf[:size], reader.memory.buf[size : size + HEAD.size]
    while True:
        reader.wait()
        answered[:] = answer_touched(asked)
        reader.tell()


def touched_asker(link: Link) -> None:
    """Write both ends of the request where it lies."""
    size = link.params["payload_bytes"]
    maker = _Maker(link, size + HEAD.size)
    asked, answered = maker.memory.buf[:size], maker.memory.buf[size : size + HEAD.size]

    def ask(write: Stamp) -> Any:
        write(asked)
        maker.tell()
        maker.wait()
        return answered

    ask_touched(link, ask)
