"""Two servers that can be attacked, each with a calm client: ours, and a bare one of grpcio.

The bare server has our channel options but for those that are ours against floods, and answers
what it is sent. Both listen plain, or with TLS where keys are given. The calm client echoes one
small message on streams that are open, and makes calls of their own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import sira
from sira.kernel.edge.server import options
from sira.kernel.settings import load
from sira.testing import Node
from tests.integration.door.keys import Keys, principal

from .attacks import Target

BARE_PATH, BARE_CALL_PATH = "/bare.Echo/Echo", "/bare.Echo/Call"
OUR_PATH = "/grpc.health.v1.Health/Check"  # public: an attacker needs no token for it
ANSWER_S = 60  # a calm client that waits longer has lost
# What grpcio has where nothing is said, or what held before anything was: not ours.
_NO_LIMITS = {"streams_per_connection_max": 4_096}
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
Act = Callable[[], int]  # how often it failed before it was done


@dataclass(frozen=True, slots=True)
class Side:
    """A server and its calm client.

    Attributes:
        pid: of the server.
        acts: what the client does: "echo" on open streams, "call".
    """

    pid: int
    target: Target
    acts: dict[str, Act]


def _serve(pipe: Connection, folder: Path | None) -> None:
    """Serve echoes until told to end."""
    import uvloop

    # As our node is: a session of its own is a share of the CPU of its own (sched(7), autogroup),
    # or attackers, callers and this server would wait for each other otherwise than with ours.
    os.setsid()

    async def both(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def one(request: bytes, _: Any) -> bytes:
        return request

    class Echoes(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            if handler_call_details.method == BARE_CALL_PATH:
                return grpc.unary_unary_rpc_method_handler(one)
            return grpc.stream_stream_rpc_method_handler(both)

    async def serve() -> None:
        server = grpc.aio.server(options=options(load(environ={}, flags=_NO_LIMITS)))
        server.add_generic_rpc_handlers((Echoes(),))
        if folder is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (folder / "node.key").read_bytes(), (folder / "node.pem").read_bytes()
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        pipe.send(port)
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await server.stop(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


@contextmanager
def bare(keys: Keys | None) -> Iterator[Side]:
    """Run a bare server and its client."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    folder = keys.folder if keys else None
    process = context.Process(target=_serve, args=(theirs, folder), daemon=True)
    process.start()
    try:
        address = ("127.0.0.1", int(ours.recv()))
        with _channel(address, keys) as channel:
            waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            replies = channel.stream_stream(BARE_PATH)(iter(waiting.get, None))
            unary = channel.unary_unary(BARE_CALL_PATH)
            payload = b"x" * 256

            def echo() -> int:
                waiting.put(payload)
                assert next(replies) == payload
                return 0

            echo()
            target = Target(address, BARE_PATH, folder / "ca.pem" if folder else None)
            acts = {"echo": echo, "call": lambda: _called(unary, payload)}
            yield Side(int(process.pid or 0), target, acts)
            waiting.put(None)
        ours.send("end")
        process.join(10)
    finally:
        process.kill()
        process.join()


@contextmanager
def ours(keys: Keys | None, settings: dict[str, object]) -> Iterator[Side]:
    """Run a node of ours and its client."""
    flags, security, ca, scheme = settings, None, None, "sira"
    if keys is not None:
        flags = {k: v for k, v in keys.flags().items() if k not in ("listen", "data_dir")}
        flags |= settings
        security = keys.security(token=keys.token(principal("calm")))
        ca, scheme = keys.folder / "ca.pem", "siras"
    sent = np.arange(64, dtype=np.float32)
    with Node(settings=flags) as node:
        host, port = node.url.split("://")[1].rsplit(":", 1)
        address = (host, int(port))
        with (
            sira.connect_sync(f"{scheme}://{host}:{port}", security=security) as bus,
            bus.subscribe("calm.echo") as messages,
            _channel(address, keys) as channel,
        ):
            unary = channel.unary_unary(OUR_PATH)

            def echo() -> int:
                bus.publish("calm.echo", {"x": sent}, timeout_s=ANSWER_S)
                assert np.array_equal(messages.next(timeout_s=ANSWER_S)["x"], sent)
                return 0

            echo()
            acts = {"echo": echo, "call": lambda: _called(unary, b"")}
            yield Side(node.pid, Target(address, OUR_PATH, ca), acts)
            assert bus.ledger(timeout_s=ANSWER_S).balanced


def _channel(address: tuple[str, int], keys: Keys | None) -> grpc.Channel:
    text, own = f"{address[0]}:{address[1]}", [("grpc.use_local_subchannel_pool", 1)]
    if keys is None:
        return grpc.insecure_channel(text, options=own)
    trusted = grpc.ssl_channel_credentials((keys.folder / "ca.pem").read_bytes())
    return grpc.secure_channel(text, trusted, options=own)


def fresh(address: tuple[str, int], keys: Keys | None, path: str, request: bytes) -> None:
    """Make one call on a connection of its own. Raises grpc.RpcError: there is no answer."""
    with _channel(address, keys) as channel:
        channel.unary_unary(path)(request, timeout=ANSWER_S, wait_for_ready=True)


def _called(unary: grpc.UnaryUnaryMultiCallable[Any, Any], request: bytes) -> int:
    """Make one call until it is answered; return how often it failed: the wait counts.

    grpcio refuses calls at random, as CANCELLED, when too many wait to be taken up.
    """
    failed = 0
    while True:
        try:
            unary(request, timeout=ANSWER_S)
            return failed
        except grpc.RpcError as error:
            if error.code() not in _LOST:  # type: ignore[attr-defined]
                raise
            failed += 1
