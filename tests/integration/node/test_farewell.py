"""How a node that goes down parts from a peer that is slow to read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sira.kernel import node as node_module
from sira.kernel.edge import connections, parting
from sira.kernel.edge.open_sockets import Peer, peer_of
from sira.v1 import kernel_pb2
from tests.soak import http2

from .plain import Plain, code_of, data_of, message, running, until, within

pytestmark = pytest.mark.integration
_HEADER_BYTES = 9  # of an HTTP/2 frame: length (3), type, flags, stream (4); RFC 9113, section 4.1
_PING, _GOAWAY = 6, 7
MESSAGES = 200
_FOR_EVER_S = 3_600.0
# gRPC says it twice: when it goes, and when the peer has answered the ping that comes behind it. To
# one that never does it says the second after 20 s.
_GOODBYES_IN_ORDER = 2
# What a client that never calls may have said: nothing, a byte of the preface, all of it.
_SAID = (b"", b"P", http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0))


class Frames:
    """Types of the frames that have come on a connection of HTTP/2."""

    def __init__(self) -> None:
        self._rest = bytearray()  # from the last frame that has not come whole
        self.kinds: list[int] = []

    def note(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= _HEADER_BYTES:
            whole = _HEADER_BYTES + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < whole:
                return
            self.kinds.append(self._rest[3])
            del self._rest[:whole]


class SlowReader:
    """Forwards one connection to a node, and what the node sends only when `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.sent = Frames()  # by the node
        self.near: Peer | None = None  # our end of the connection to the node
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        with contextlib.ExitStack() as ending:
            ending.callback(near_out.transport.abort)
            far, far_out = await asyncio.open_connection(*self.target)
            ending.callback(far_out.transport.abort)
            self.near = far_out.get_extra_info("sockname")
            kept: asyncio.Queue[bytes] = asyncio.Queue()
            async with asyncio.TaskGroup() as forwarding:
                forwarding.create_task(self._forward(near, far_out))
                forwarding.create_task(self._let_read(kept, near_out))
                with contextlib.suppress(OSError):  # reset: what it had sent before is forwarded
                    while data := await far.read(1 << 16):
                        self.sent.note(data)
                        kept.put_nowait(data)
                kept.put_nowait(b"")

    async def _let_read(self, kept: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await kept.get():
                await self.reads.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    @staticmethod
    async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def before(self, address: str) -> AsyncIterator[str]:
        """Serve before a node; yields the address to connect to."""
        host, _, port = address.rpartition(":")
        self.target = host, int(port)
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            try:
                yield f"{host}:{port}"
            finally:
                for task in self._serving:
                    task.cancel()
                await asyncio.gather(*self._serving, return_exceptions=True)


def test_a_node_that_goes_down_waits_until_a_slow_peer_has_read_what_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It asks at the end of the connection (GOAWAY, then PING), and closes after the answer."""
    monkeypatch.setattr(node_module, "_FAREWELL_S", 60.0)

    async def main() -> None:
        slow = SlowReader()
        async with (
            running(drain_s=60) as node,
            slow.before(node.address) as address,
            Plain(address) as reader,
            Plain(node.address) as plain,
        ):
            sub = reader.subscribing()
            await sub.opened(1, "a", window_messages=MESSAGES)
            slow.reads.clear()
            receipts = await plain.publishing().publish(
                *(message("a", bytes([i])) for i in range(MESSAGES))
            )
            assert all(receipt.matched == 1 for receipt in receipts)
            stopping = asyncio.create_task(node.stop())
            await until(lambda: _GOAWAY in slow.sent.kinds)
            await until(lambda: _PING in slow.sent.kinds[slow.sent.kinds.index(_GOAWAY) :])
            assert not stopping.done()
            slow.reads.set()
            assert [data_of(await sub.next())[0] for _ in range(MESSAGES)] == list(range(MESSAGES))
            assert (await sub.item()).ended.error.code == "NODE_DRAINING"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(sub.call.read())
            assert code_of(caught.value) == "NODE_DRAINING"
            await within(stopping)

    asyncio.run(main())


async def _to_its_end(reader: asyncio.StreamReader) -> list[int]:
    """Return the types of the frames that still come on a connection."""
    frames = Frames()
    with contextlib.suppress(ConnectionResetError):
        while data := await within(reader.read(1 << 16)):
            frames.note(data)
    return frames.kinds


def test_neither_who_says_nothing_nor_who_watches_its_health_holds_a_node_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gRPC alone would wait for them until the time for farewells is over: here, an hour."""
    monkeypatch.setattr(node_module, "_FAREWELL_S", _FOR_EVER_S)

    async def main() -> None:
        async with (
            running(drain_s=_FOR_EVER_S, handshake_s=_FOR_EVER_S) as node,
            Plain(node.address) as plain,
            Plain(node.address) as other,
        ):
            sub = plain.subscribing()
            await sub.opened(1, "a")
            watches = [
                health_pb2_grpc.HealthStub(each.channel).Watch(health_pb2.HealthCheckRequest())
                for each in (plain, other)
            ]
            for watch in watches:
                await within(watch.read())
            silent = [await asyncio.open_connection("127.0.0.1", node.port) for _ in _SAID]
            for (reader, writer), said in zip(silent, _SAID, strict=True):
                writer.write(said)
                if said.startswith(http2.PREFACE):
                    await within(reader.readexactly(_HEADER_BYTES))  # gRPC is in talks with it
            await within(node.stop())
            assert (await sub.item()).ended.error.code == "NODE_DRAINING"
            for watch in watches:
                told = await within(watch.read())
                assert told.status == health_pb2.HealthCheckResponse.NOT_SERVING
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await within(watch.read())
                assert code_of(caught.value) == "NODE_DRAINING"
            for reader, writer in silent:
                assert (await _to_its_end(reader)).count(_GOAWAY) < _GOODBYES_IN_ORDER
                writer.close()

    asyncio.run(main())


def test_an_answer_is_waited_for_beside_connections_that_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of a single call, by somebody who has no stream open, and reads when others are shut."""
    monkeypatch.setattr(node_module, "_FAREWELL_S", _FOR_EVER_S)
    shut: list[Peer | None] = []

    def noted(connection: socket.socket) -> None:
        shut.append(peer_of(connection))
        connections.shut(connection)

    monkeypatch.setattr(parting, "shut", noted)

    async def main() -> None:
        slow = SlowReader()
        async with (
            running(drain_s=_FOR_EVER_S) as node,
            slow.before(node.address) as address,
            Plain(address) as caller,
        ):
            await caller.stats()
            slow.reads.clear()
            calls = node.door.calls
            asking = asyncio.ensure_future(caller.stats(prometheus=True))
            await until(lambda: node.door.calls == calls + 1 and not node.door.calls_now)
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            silent = writer.get_extra_info("sockname")
            writer.write(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0))
            await within(reader.readexactly(_HEADER_BYTES))
            stopping = asyncio.create_task(node.stop())
            assert (await _to_its_end(reader)).count(_GOAWAY) < _GOODBYES_IN_ORDER
            writer.close()
            assert not stopping.done() and not asking.done()
            slow.reads.set()
            answer = await within(asking)
            assert isinstance(answer, kernel_pb2.StatsResponse) and answer.prometheus
            await within(stopping)
            assert silent in shut and slow.near not in shut

    asyncio.run(main())
