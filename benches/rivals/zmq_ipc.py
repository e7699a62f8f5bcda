"""pyzmq over a Unix socket, blocking, `copy=False`, no broker between: row `shm`.

As `zmq_tcp`. A message is sent from where it lies and viewed where it arrived; between them the
kernel copies it into the socket and out of it.
"""

from __future__ import annotations

from typing import Any

import zmq

from benches import patterns
from benches.exchange import Answers, Fill, ask_tensors, held_array, leave_when_closed
from benches.link import Link
from benches.rivals import zmq_tcp
from benches.rivals.zmq_tcp import address, asker, queue_length, sink, source

__all__ = ["asker", "bulk_sink", "bulk_source", "echo_server", "sink", "source", "tensor_answerer",
           "tensor_asker"]  # fmt: skip


def echo_server(link: Link) -> None:
    """Answer on a DEALER."""
    leave_when_closed(link)
    zmq_tcp.echo_server(link)


def bulk_sink(link: Link) -> None:
    """Take tensors on a PULL; of several receivers each on a SUB, from one XPUB."""
    if link.params["receivers"] == 1:
        zmq_tcp.bulk_sink(link)
        return
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.set_hwm(queue_length(link.params))
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(address(link.params))
    link.say("listening")
    check = patterns.TensorSink(link)
    while not check.take(socket.recv(copy=False).buffer):
        pass


def bulk_source(link: Link) -> None:
    """Send tensors in place on a PUSH; to several receivers on an XPUB that waits for the slow."""
    receivers = link.params["receivers"]
    if receivers == 1:
        zmq_tcp.bulk_source(link)
        return
    socket = zmq.Context.instance().socket(zmq.XPUB)
    socket.set_hwm(queue_length(link.params))
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    socket.bind(address(link.params))
    for _ in range(receivers):
        socket.recv()  # a subscription has arrived
    trackers: dict[int, zmq.MessageTracker] = {}

    def before_fill(slot: int) -> None:
        if slot in trackers:
            trackers[slot].wait()

    def send(tensor: Any, slot: int) -> None:
        trackers[slot] = socket.send(tensor.data, copy=False, track=True)

    patterns.pour_tensors(link, send, before_fill)


def tensor_answerer(link: Link) -> None:
    """Sum requests on a DEALER; the reply's array was received before the next request is sent."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.bind(address(link.params))
    link.say("listening")
    leave_when_closed(link)
    answers, reply = Answers(), held_array(link)
    while True:
        answers.take(socket.recv(copy=False).buffer)(reply)
        socket.send(reply.data, copy=False)


def tensor_asker(link: Link) -> None:
    """Ask on a DEALER, one at a time."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(address(link.params))
    tensor = held_array(link)

    def ask(fill: Fill) -> Any:
        fill(tensor)
        socket.send(tensor.data, copy=False)
        return socket.recv(copy=False).buffer

    ask_tensors(link, ask)
