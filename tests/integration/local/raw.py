"""A node with a socket, and clients of it made of bytes alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from google.rpc import status_pb2

from sira import _native
from sira.kernel.local import record
from sira.kernel.logs import Logs
from sira.kernel.node import Node
from sira.kernel.rpc import DETAILS_KEY, from_status, status_code
from sira.kernel.settings import load
from sira.v1 import socket_pb2

WATCHDOG_S = 120.0


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds; the test's watchdog ends it."""
    while not condition():  # noqa: ASYNC110  there is no event for what others do
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(folder: Path, **flags: object) -> AsyncIterator[Node]:
    """Run a node that has a socket in `folder`."""
    flags = {"listen": "127.0.0.1:0", "node_name": "n1", "data_dir": str(folder)} | flags
    settings = load(flags=flags, environ={})
    logs = Logs(node="n1", level="error")
    node = Node(settings, logs=logs, holds_folder=True)
    await node.start()
    try:
        yield node
    finally:
        await node.stop(0)
        logs.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test on uvloop, under its watchdog; what is left behind on the loop is an error."""
    faults: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(guarded())
    finally:
        while _raws:
            _raws.pop().close()
    assert not [each for each in faults if "PollerCompletionQueue" not in str(each)], faults


_raws: list[Raw] = []  # closed when the test ends, if not before


def url_of(node: Node) -> str:
    return f"unix:{node.settings.data_path / record.SOCKET_NAME}"


class Raw:
    """A connection that sends what it is told to, well formed or not."""

    def __init__(self, node: Node) -> None:
        self._path = str(node.settings.data_path / record.SOCKET_NAME)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._reader = _native.RecordReader(record.BODY_BYTES_MAX)
        self._records: list[tuple[int, int, int, bytes]] = []
        self._call = 0
        _raws.append(self)

    async def open(self, *, hello: bool = True) -> Raw:
        await self._loop.sock_connect(self.sock, self._path)
        if hello:
            await self.record(record.HELLO, 0, said())
        return self

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def record(self, kind: int, call: int, body: bytes = b"") -> None:
        await self.send(record.head(kind, call, len(body)) + body)

    async def call(
        self, method: str, request: bytes | None = None, *, timeout_s: Any = None
    ) -> int:
        """Begin a call; with a request it is a unary one. Returns its number."""
        self._call += 1
        await self.record(record.CALL, self._call, record.call(method, [], timeout_s))
        if request is not None:
            await self.record(record.MESSAGE, self._call, request)
            await self.record(record.HALF_CLOSE, self._call)
        return self._call

    async def next(self) -> tuple[int, int, bytes] | None:
        """Return kind, call and body of the next record; None: the node closed."""
        while not self._records:
            try:
                count = await self._loop.sock_recv_into(self.sock, self._reader)
            except ConnectionError:
                return None
            if not count:
                return None
            self._records = self._reader.feed(count)
        kind, call, _, body = self._records.pop(0)
        return kind, call, body

    async def ended(self, call: int = 0) -> str:
        """Return the code that a call, or the connection, ends with; "": in order."""
        while (found := await self.next()) is not None:
            if found[:2] == (record.STATUS, call):
                return code_of(found[2])
        return "closed"

    def close(self) -> None:
        self.sock.close()


def said(**fields: object) -> bytes:
    """Return an honest hello, but for `fields`."""
    hello = {"version": 1, "window_bytes": 1 << 18, "record_bytes_max": record.BODY_BYTES_MAX}
    return socket_pb2.SocketHello(**{**hello, **fields}).SerializeToString()  # type: ignore[arg-type]


def code_of(body: bytes) -> str:
    if not body:
        return ""
    status = status_pb2.Status.FromString(body)
    return from_status(status_code(""), status.message, [(DETAILS_KEY, body)]).code
