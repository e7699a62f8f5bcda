"""eclipse-zenoh: two or more peers on Unix sockets with its shared memory, blocking, none between.

Its Python takes `bytes` or a `bytearray` into shared memory and gives `bytes` out of it: no array
can be laid over either. So a tensor is filled in a `bytearray`, copied in, copied out, and summed.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import zenoh
import zenoh.shm
from numpy.typing import NDArray

from benches import patterns
from benches.exchange import Answers, Fill, ask_tensors, leave_when_closed, pour_in_place
from benches.link import Link

THERE, BACK = "bench/there", "bench/back"
WAIT_S = 20.0
LOOK_S = 0.01


def _session(*, listen: list[str], connect: list[str]) -> zenoh.Session:
    """Open a peer that looks for nobody else."""
    zenoh.init_log_from_env_or("error")
    config = zenoh.Config()
    for key, value in {
        "mode": "peer",
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "transport/shared_memory/enabled": True,
        "listen/endpoints": listen,
        "connect/endpoints": connect,
    }.items():
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


class _End:
    """One peer: what it publishes, what it takes, its shared memory and an array to fill."""

    def __init__(self, session: zenoh.Session, *, out: str, into: str, params: dict[str, Any]):
        self._session = session
        room = zenoh.handlers.FifoChannel(params.get("buffers", 4))
        self._messages = session.declare_subscriber(into, room)
        self._publisher = session.declare_publisher(
            out, congestion_control=zenoh.CongestionControl.BLOCK, express=True
        )
        self._size: int = params.get("payload_bytes", 0)
        self._policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())
        self._filled = bytearray(self._size)
        self._array: NDArray[np.float32] = np.frombuffer(self._filled, np.float32)
        self._shared: zenoh.shm.ShmProvider | None = None
        if self._size:
            size = (params.get("buffers", 4) + 1) * self._size + (1 << 20)
            self._shared = zenoh.shm.ShmProvider.default_backend(size)

    def send(self, message: bytes) -> None:
        """Publish bytes as they are."""
        self._publisher.put(message)

    def send_filled(self, fill: Fill) -> None:
        """Fill, copy into shared memory, publish; waits while there is no room there."""
        assert self._shared is not None  # tensors are sent
        fill(self._array)
        buffer = self._shared.alloc(self._size, self._policy)
        buffer[:] = self._filled
        self._publisher.put(buffer)

    def receive(self) -> bytes:
        """Copy out what came next."""
        return self._messages.recv().payload.to_bytes()

    def wait_for_reader(self) -> None:
        """Wait until somebody subscribes to what we publish. TimeoutError: nobody does."""
        deadline_s = time.monotonic() + WAIT_S
        while not self._publisher.matching_status.matching:
            if time.monotonic() > deadline_s:
                raise TimeoutError("no zenoh peer subscribes")
            time.sleep(LOOK_S)  # before anything is timed


def _listening(link: Link) -> _End:
    """Open the end that is there first; it says that it is to whoever subscribes to it."""
    process = link.params.get("process", 0)
    session = _session(listen=[f"unixsock-stream/{link.params['url']}.{process}"], connect=[])
    end = _End(session, out=f"{BACK}/{process}", into=THERE, params=link.params)
    link.say("listening")
    end.wait_for_reader()
    end.send(b"here")
    return end


def _dialled(link: Link) -> _End:
    """Open the other end, once every peer has subscribed."""
    receivers = link.params.get("receivers", 1)
    ends = [f"unixsock-stream/{link.params['url']}.{process}" for process in range(receivers)]
    session = _session(listen=[], connect=ends)
    end = _End(session, out=THERE, into=f"{BACK}/*", params=link.params)
    for _ in range(receivers):
        end.receive()
    return end


def sink(link: Link) -> None:
    """Take a numbered one-way flow."""
    patterns.drain(link, _listening(link).receive)
    link.rest()


def source(link: Link) -> None:
    """Send a numbered one-way flow."""
    end = _dialled(link)
    patterns.pour(link, end.send)
    link.rest()


def bulk_sink(link: Link) -> None:
    """Sum each tensor."""
    end, check = _listening(link), patterns.TensorSink(link)
    while not check.take(end.receive()):
        pass


def bulk_source(link: Link) -> None:
    """Send tensors one way."""
    end = _dialled(link)
    pour_in_place(link, end.send_filled)
    link.rest()  # a session that is closed takes along what has not arrived


def echo_server(link: Link) -> None:
    """Send back what came."""
    end = _listening(link)
    leave_when_closed(link)
    while True:
        end.send(end.receive())


def asker(link: Link) -> None:
    """Ask, one at a time."""
    end = _dialled(link)

    def ask(message: bytes) -> Any:
        end.send(message)
        return end.receive()

    patterns.ask_in_turn(link, ask)


def tensor_answerer(link: Link) -> None:
    """Sum each request and send a reply of the same size."""
    end, answers = _listening(link), Answers()
    leave_when_closed(link)
    while True:
        end.send_filled(answers.take(end.receive()))


def tensor_asker(link: Link) -> None:
    """Ask, one at a time."""
    end = _dialled(link)

    def ask(fill: Fill) -> Any:
        end.send_filled(fill)
        return end.receive()

    ask_tensors(link, ask)
