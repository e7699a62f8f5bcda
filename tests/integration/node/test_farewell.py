"""How a node that goes down parts from a peer that is slow to read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from sira.kernel import node as node_module

from .plain import Plain, code_of, data_of, message, running, until, within

pytestmark = pytest.mark.integration
_HEADER_BYTES = 9  # of an HTTP/2 frame: length (3), type, flags, stream (4); RFC 9113, section 4.1
_PING, _GOAWAY = 6, 7
MESSAGES = 200


class SlowReader:
    """Forwards one connection to a node, and what the node sends only when `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self._sent = bytearray()  # by the node, from the last frame that has not come whole
        self.kinds: list[int] = []  # types of the frames that the node has sent

    async def serve(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far, far_out = await asyncio.open_connection(*self.target)
        up = asyncio.ensure_future(self._forward(near, far_out))
        kept: asyncio.Queue[bytes] = asyncio.Queue()
        down = asyncio.ensure_future(self._let_read(kept, near_out))
        with contextlib.suppress(OSError):  # reset: what it had sent before is forwarded
            while data := await far.read(1 << 16):
                self._note(data)
                kept.put_nowait(data)
        kept.put_nowait(b"")
        await asyncio.gather(up, down)

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

    def _note(self, data: bytes) -> None:
        self._sent += data
        while len(self._sent) >= _HEADER_BYTES:
            whole = _HEADER_BYTES + int.from_bytes(self._sent[:3], "big")
            if len(self._sent) < whole:
                return
            self.kinds.append(self._sent[3])
            del self._sent[:whole]

    @contextlib.asynccontextmanager
    async def before(self, address: str) -> AsyncIterator[str]:
        """Serve before a node; yields the address to connect to."""
        host, _, port = address.rpartition(":")
        self.target = host, int(port)
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            yield f"{host}:{port}"


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
            await until(lambda: _GOAWAY in slow.kinds)
            await until(lambda: _PING in slow.kinds[slow.kinds.index(_GOAWAY) :])
            assert not stopping.done()
            slow.reads.set()
            assert [data_of(await sub.next())[0] for _ in range(MESSAGES)] == list(range(MESSAGES))
            assert (await sub.item()).ended.error.code == "NODE_DRAINING"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(sub.call.read())
            assert code_of(caught.value) == "NODE_DRAINING"
            await within(stopping)

    asyncio.run(main())
