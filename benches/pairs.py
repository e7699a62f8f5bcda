"""Two processes joined by something bare: the asking end, a forked peer, and what is timed of them.

Not through a node, not through the SDK. A `Join` is made before the fork; each side then opens its
own `End`. All joins are driven by the same loops, so a call of Python weighs on all alike.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from benches.harness import Figures, die_with_parent
from benches.link import Link
from benches.payload import HEAD, Lost, Sequence, Tensors, now_ns
from benches.stats import latency_figures, median

WARM_S = 0.1
WARM_MESSAGES = 2_000
CLOCK_EVERY = 64
"""Messages sent one way between two looks at the clock."""
TRACE_BYTES = 8_000
STAMP = struct.Struct("<q")
"""When the last message of a one-way phase was taken: CLOCK_MONOTONIC, ns."""


class End(Protocol):
    """One side of a join. Each call waits as long as it must."""

    def send(self, number: int, total: int) -> None:
        """Send a message of the case's size, stamped with HEAD(number, total)."""

    def receive(self) -> Any:
        """Take the next message, a buffer; it is dropped before this end sends or takes again."""


class TensorEnd(End, Protocol):
    """One that carries tensors, too."""

    def send_tensor(self, index: int) -> None:
        """Fill a float32 tensor of the case's size where it is sent from, and send it."""

    def receive_tensor(self) -> Any:
        """Take the next tensor where it arrived: a float32 array, dropped as above."""


class Join(Protocol):
    """What joins the two processes, made before they are two."""

    def open(self, *, asks: bool, line: socket.socket) -> End:
        """This process's end. `line` leads to the other process, which opens its end, too."""

    def close(self) -> None:
        """Forget it; its end has been dropped."""


def stamp(message: Any, number: int, total: int) -> None:
    """Write head and tail of a large message in place: both ends of its memory are touched."""
    HEAD.pack_into(message, 0, number, total)
    HEAD.pack_into(message, len(message) - HEAD.size, number, total)


def check_stamp(message: Any) -> None:
    """Compare head and tail of a large message.

    Raises:
        Lost: they are not of one message.
    """
    if HEAD.unpack_from(message) != HEAD.unpack_from(message, len(message) - HEAD.size):
        raise Lost("a message has the head of one and the tail of another")


class Peer:
    """A forked process that runs `work`; its failure is raised here, wherever this one waits."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._told, telling = os.pipe()
        self._status: int | None = None
        self._pid = os.fork()  # a participant has no thread
        if self._pid == 0:
            die_with_parent()
            try:
                work()
            except BaseException:
                os.write(telling, traceback.format_exc().encode()[-TRACE_BYTES:])
                os._exit(1)
            os._exit(0)
        os.close(telling)
        signal.signal(signal.SIGCHLD, self._ended)
        self._ended(signal.SIGCHLD, None)  # it may have ended before that

    def _ended(self, _signal: int, _frame: Any) -> None:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = status
                self._check()

    def _check(self) -> None:
        if self._status:
            told = os.read(self._told, TRACE_BYTES).decode(errors="replace")
            raise Lost(f"the peer ended with status {self._status}: {told}")

    def join(self) -> None:
        """Wait until it has done its work.

        Raises:
            Lost: it failed.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._status is None:
            self._status = os.waitpid(self._pid, 0)[1]
        self._check()
        os.close(self._told)


@contextmanager
def busy_cpu(wanted: bool) -> Iterator[None]:
    """Keep the last CPU of this process busy at its own priority meanwhile, if `wanted`."""
    if not wanted:
        yield
        return
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        while True:
            pass
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _ask(end: End, _line: socket.socket, params: dict[str, Any]) -> Figures:
    """Request and reply, one at a time, until the time is over."""
    replies, samples_ns, number, last = Sequence(), [], 0, False
    warm_ns = now_ns() + int(WARM_S * 1e9)
    stop_ns = warm_ns + int(params["seconds"] * 1e9)
    while not last:
        start_ns = now_ns()
        last = start_ns >= stop_ns
        end.send(number, number + 1 if last else 0)
        replies.take(end.receive())
        if start_ns >= warm_ns:
            samples_ns.append(now_ns() - start_ns)
        number += 1
    figures = latency_figures(samples_ns)
    return {"us_p50": figures["latency_us_p50"], "us_p99": figures["latency_us_p99"]}


def _answer(end: End, _line: socket.socket, _params: dict[str, Any]) -> None:
    requests, last = Sequence(), False
    while not last:
        last = requests.take(end.receive())
        end.send(requests.count - 1, requests.count if last else 0)


def _flow(end: End, line: socket.socket, params: dict[str, Any]) -> Figures:
    """One way, from the first send to the taking of the last, every number checked there."""
    for number in range(WARM_MESSAGES):
        end.send(number, WARM_MESSAGES if number + 1 == WARM_MESSAGES else 0)
    line.recv(STAMP.size)
    start_ns = now_ns()
    stop_ns = start_ns + int(params["seconds"] * 1e9)
    number, send = WARM_MESSAGES, end.send
    while now_ns() < stop_ns:
        for number in range(number, number + CLOCK_EVERY):  # noqa: B020 (each round goes on)
            send(number, 0)
        number += 1
    send(number, number + 1)
    (taken_ns,) = STAMP.unpack(line.recv(STAMP.size))
    return {"messages_per_s": (number + 1 - WARM_MESSAGES) / ((taken_ns - start_ns) / 1e9)}


def _sink(end: End, line: socket.socket, _params: dict[str, Any]) -> None:
    numbers = Sequence()
    for _phase in range(2):
        while not numbers.take(end.receive()):
            pass
        line.sendall(STAMP.pack(now_ns()))


def _fill(end: TensorEnd, _line: socket.socket, params: dict[str, Any]) -> Figures:
    """Tensors one at a time: filled here, every element summed there, answered. Median GB/s."""
    samples_s, replies = [], Sequence()
    for index in range(params["warmup"] + params["count"]):
        start_s = time.perf_counter()
        end.send_tensor(index)
        replies.take(end.receive())
        samples_s.append(time.perf_counter() - start_s)
    return {"gb_per_s": params["tensor_bytes"] / 1e9 / median(samples_s[params["warmup"] :])}


def _sum(end: TensorEnd, _line: socket.socket, params: dict[str, Any]) -> None:
    tensors = Tensors()
    for index in range(params["warmup"] + params["count"]):
        tensors.take(end.receive_tensor())
        end.send(index, 0)


PHASES = {"rtt": (_ask, _answer), "rate": (_flow, _sink), "fill": (_fill, _sum)}


def timed(make: Callable[[dict[str, Any]], Join], phase: str, params: dict[str, Any]) -> Figures:
    """Figures of one phase of one join, with a peer of its own.

    Raises:
        Lost: a message was lost, repeated, reordered or changed, or the peer failed.
    """
    ours, theirs = PHASES[phase]
    join = make(params)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer = Peer(lambda: theirs(join.open(asks=False, line=far), far, params))
    with near:
        far.close()
        end = join.open(asks=True, line=near)
        figures = ours(end, near, params)
        peer.join()
        del end
        join.close()
    return figures


def run(link: Link) -> None:
    """Every phase of the case with all CPUs idle, then with one kept busy."""
    module_name, _, name = link.params["join"].partition(":")
    make = getattr(importlib.import_module(module_name), name)
    figures: Figures = {}
    for state in link.params["states"]:
        for phase in link.params["phases"]:
            # Where tensors are filled, what comes back is small: only the one way is timed.
            small = {"message_bytes": 256} if phase == "fill" else {}
            with busy_cpu(state == "busy"):
                found = timed(make, phase, {**link.params, **small})
            figures.update({f"{state}_{key}": value for key, value in found.items()})
    link.say("done", figures=figures)
