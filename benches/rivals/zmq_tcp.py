"""pyzmq over TCP, blocking sockets, `copy=False`, no broker between; `zmq_ipc` has the rest.

PUSH/PULL for one-way flows (it waits when the other side is full, so nothing is lost), DEALER pairs
for echo, XPUB with XPUB_NODROP for fan-out (a plain PUB drops at its high-water mark).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import numpy as np
import zmq
import zmq.asyncio
from numpy.typing import NDArray

from benches import mixture, patterns
from benches.link import Link
from benches.payload import Sequence, Tensors, now_ns

HELD_BYTES = 64 << 20
"""Most that a queue of tensors holds; the default of 1,000 messages would be 1,000 tensors."""


def queue_length(params: dict[str, Any]) -> int:
    """High-water mark for tensors: the default 1,000, less when they are large."""
    return int(max(2, min(1000, HELD_BYTES // params["payload_bytes"])))


def address(params: dict[str, Any]) -> str:
    """Where to bind or connect: TCP, unless the measurement says otherwise."""
    url = str(params["url"])
    return url if "://" in url else f"tcp://{url}"


def _socket(kind: int) -> zmq.Socket[bytes]:
    return zmq.Context.instance().socket(kind)


def echo_server(link: Link) -> None:
    """Answer on a DEALER."""
    socket = _socket(zmq.DEALER)
    socket.bind(address(link.params))
    link.say("listening")
    while True:
        socket.send(socket.recv(copy=False), copy=False)


def asker(link: Link) -> None:
    """Ask on a DEALER, one at a time."""
    socket = _socket(zmq.DEALER)
    socket.connect(address(link.params))

    def ask(message: bytes) -> Any:
        socket.send(message, copy=False)
        return socket.recv(copy=False).buffer

    patterns.ask_in_turn(link, ask)


def sink(link: Link) -> None:
    """Take a numbered one-way flow on a PULL."""
    socket = _socket(zmq.PULL)
    socket.bind(address(link.params))
    link.say("listening")
    patterns.drain(link, lambda: socket.recv(copy=False).buffer)


def source(link: Link) -> None:
    """Send a numbered one-way flow on a PUSH."""
    socket = _socket(zmq.PUSH)
    socket.connect(address(link.params))
    patterns.pour(link, lambda message: socket.send(message, copy=False))


def bulk_sink(link: Link) -> None:
    """Take tensors on a PULL, viewed where zmq put them."""
    socket = _socket(zmq.PULL)
    socket.set_hwm(queue_length(link.params))
    socket.bind(address(link.params))
    link.say("listening")
    check = patterns.TensorSink(link)
    while not check.take(socket.recv(copy=False).buffer):
        pass


def bulk_source(link: Link) -> None:
    """Send tensors in place on a PUSH; a buffer is refilled once zmq has let go of it."""
    socket = _socket(zmq.PUSH)
    socket.set_hwm(queue_length(link.params))
    socket.connect(address(link.params))
    trackers: dict[int, zmq.MessageTracker] = {}

    def before_fill(slot: int) -> None:
        if slot in trackers:
            trackers[slot].wait()

    def send(tensor: NDArray[np.float32], slot: int) -> None:
        trackers[slot] = socket.send(tensor.data, copy=False, track=True)

    patterns.pour_tensors(link, send, before_fill)


def fan_source(link: Link) -> None:
    """Publish on an XPUB that waits for slow subscribers."""
    socket = _socket(zmq.XPUB)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    socket.bind(address(link.params))
    link.say("listening")
    link.hear("subscribed")
    for _ in range(link.params["subscriptions"]):
        socket.recv()  # a subscription has arrived
    patterns.pour(link, lambda message: socket.send(message, copy=False))


def fan_sink(link: Link) -> None:
    """Hold one SUB socket, and so one connection, for each subscription."""
    params = link.params
    sockets = {}
    poller = zmq.Poller()
    for _ in range(params["subscriptions"]):
        socket = _socket(zmq.SUB)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(address(params))
        poller.register(socket, zmq.POLLIN)
        sockets[socket] = Sequence()
    link.say("subscribed")
    for event in ("warm", "done"):
        open_flows = len(sockets)
        while open_flows:
            for socket, _flags in poller.poll():
                check = sockets[socket]
                for _ in range(patterns.BURST):
                    try:
                        message = socket.recv(zmq.NOBLOCK, copy=False)
                    except zmq.Again:
                        break
                    if check.take(message.buffer):
                        open_flows -= 1
                        break
        count = sum(check.count - params["warmup"] for check in sockets.values())
        link.say(event, end_ns=now_ns(), count=count)


def mixed_sink(link: Link) -> None:
    """One DEALER for all: a message is a kind and a body."""
    socket = _socket(zmq.DEALER)
    socket.bind(address(link.params))
    link.say("listening")
    check = Tensors()
    while True:
        kind, body = socket.recv_multipart(copy=False)
        if kind.bytes == b"tensor":
            check.take(np.frombuffer(body.buffer, np.float32))
            socket.send_multipart([b"tensor", b"summed"])
        else:
            socket.send_multipart([b"ask", body], copy=False)


async def mixed_source(link: Link) -> None:
    """One DEALER for all, on the event loop."""
    socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    socket.connect(address(link.params))
    waiting = {b"tensor": mixture.Replies(), b"ask": mixture.Replies()}

    async def hand_over(kind: bytes, body: Any) -> Any:
        reply = waiting[kind].expect()
        await socket.send_multipart([kind, body], copy=False)
        return await reply

    async def read() -> None:
        while True:
            kind, body = await socket.recv_multipart()
            waiting[kind].arrived(body)

    reading = asyncio.create_task(read())
    await mixture.mix(link, partial(hand_over, b"tensor"), partial(hand_over, b"ask"))
    reading.cancel()
