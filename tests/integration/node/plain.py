"""A client of a node made of grpcio and generated stubs, and of nothing else of ours."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, Self, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from sira.kernel.authorize import Policy
from sira.kernel.logs import Logs
from sira.kernel.node import Node
from sira.kernel.settings import load
from sira.v1 import bus_pb2, bus_pb2_grpc, kernel_pb2, kernel_pb2_grpc, message_pb2, tensor_pb2

WATCHDOG_S = 60.0
# Where set, nodes of this module listen with TLS and clients show a token: (settings, CA, token).
OVER_TLS: ContextVar[tuple[dict[str, object], bytes, str] | None] = ContextVar(
    "OVER_TLS", default=None
)
T = TypeVar("T")
CHUNK_BYTES = 1 << 20


async def within(awaitable: Awaitable[T], watchdog_s: float = WATCHDOG_S) -> T:
    """Wait under the watchdog."""
    return await asyncio.wait_for(awaitable, watchdog_s)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until a condition holds, under the watchdog."""
    async with asyncio.timeout(WATCHDOG_S):
        while True:
            holds = condition()
            if not isinstance(holds, bool):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(0.005)


def message(topic: str, data: bytes = b"x", **fields: Any) -> message_pb2.Message:
    """A message of one u8 tensor `x`."""
    made = message_pb2.Message(id=os.urandom(16), topic=topic, **fields)
    made.tensors.add(name="x", dtype=tensor_pb2.DTYPE_U8, shape=[len(data)], data=data)
    return made


def frame(*items: bus_pb2.Item) -> bus_pb2.Frame:
    return bus_pb2.Frame(items=items)


def data_of(got: message_pb2.Message) -> bytes:
    return bytes(got.tensors[0].data)


def code_of(error: grpc.aio.AioRpcError) -> str:
    """The stable code, out of `google.rpc.Status`, as any client can read it."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    (packed,) = [each for each in status.details if each.Is(info.DESCRIPTOR)]
    assert packed.Unpack(info) and info.domain == "sira.v1"
    return str(info.reason)


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    return status


class Publishing:
    """One Publish stream."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, *items: bus_pb2.Item) -> None:
        await within(self.call.write(frame(*items)))

    async def items(self, count: int) -> list[bus_pb2.Item]:
        """The next `count` items that the node answers with."""
        got: list[bus_pb2.Item] = []
        while len(got) < count:
            answer = await within(self.call.read())
            assert answer is not grpc.aio.EOF, f"the stream ended after {len(got)} of {count}"
            got.extend(answer.items)
        assert len(got) == count, got
        return got

    async def publish(self, *messages: message_pb2.Message, **fields: Any) -> list[Any]:
        """Publish and return the receipts."""
        await self.send(*(bus_pb2.Item(message=each, **fields) for each in messages))
        return [item.receipt for item in await self.items(len(messages))]

    async def upload(self, whole: message_pb2.Message, window_bytes: int) -> bus_pb2.Receipt:
        """Publish a message in chunks, as its window and credit allow; return the receipt."""
        head = message_pb2.Message()
        head.CopyFrom(whole)
        for tensor in head.tensors:
            tensor.data_bytes = len(tensor.data)
            tensor.ClearField("data")
        await self.send(bus_pb2.Item(head=head))
        credit = window_bytes
        for index, tensor in enumerate(whole.tensors):
            data = tensor.data
            for offset in range(0, len(data), CHUNK_BYTES):
                part = data[offset : offset + CHUNK_BYTES]
                while credit < len(part):
                    for item in (await within(self.call.read())).items:
                        if item.HasField("receipt"):
                            return item.receipt
                        assert item.credit.message_id == whole.id
                        credit += item.credit.bytes
                credit -= len(part)
                chunk = bus_pb2.Chunk(message_id=whole.id, tensor=index, offset=offset, data=part)
                await self.send(bus_pb2.Item(chunk=chunk))
        while True:
            for item in (await within(self.call.read())).items:
                if item.HasField("receipt"):
                    return item.receipt


class Subscribing:
    """One Subscribe stream. Confirms each message unless told not to."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._waiting: list[bus_pb2.Item] = []

    async def send(self, *items: bus_pb2.Item) -> None:
        await within(self.call.write(frame(*items)))

    async def item(self) -> bus_pb2.Item:
        """The next item of any kind."""
        while not self._waiting:
            got = await within(self.call.read())
            assert got is not grpc.aio.EOF, "the stream ended"
            self._waiting.extend(got.items)
        return self._waiting.pop(0)

    async def open(self, subscription: int, pattern: str, **fields: Any) -> bus_pb2.Item:
        """Open and return the answer: opened or ended."""
        opening = bus_pb2.Open(subscription=subscription, pattern=pattern, **fields)
        await self.send(bus_pb2.Item(open=opening))
        return await self.item()

    async def opened(self, subscription: int, pattern: str, **fields: Any) -> None:
        answer = await self.open(subscription, pattern, **fields)
        assert answer.opened.subscription == subscription, answer

    async def credit(self, subscription: int, taken: int = 1) -> None:
        """Confirm what was taken; where the node has ended the stream meanwhile nobody needs that.

        One layer below `write`, which ends the reading, too, when it fails: what the node had sent
        before would be lost here.
        """
        credit = bus_pb2.Credit(subscription=subscription, taken=taken)
        data = frame(bus_pb2.Item(credit=credit)).SerializeToString()
        with suppress(grpc.aio.BaseError, asyncio.InvalidStateError):
            await within(self.call._cython_call.send_serialized_message(data))

    async def next(self, *, confirm: bool = True) -> message_pb2.Message:
        """The next message; reassembled when it comes in chunks."""
        item = await self.item()
        if item.HasField("head"):
            whole = await self._assemble(item.head)
        else:
            assert item.HasField("message"), item
            whole = item.message
        if confirm:
            for subscription in item.subscriptions:
                await self.credit(subscription)
        return whole

    async def _assemble(self, head: message_pb2.Message) -> message_pb2.Message:
        parts = [bytearray() for _ in head.tensors]
        wanted = sum(tensor.data_bytes for tensor in head.tensors)
        while sum(map(len, parts)) < wanted:
            item = await self.item()
            assert item.HasField("chunk"), item.WhichOneof("kind")
            chunk = item.chunk
            assert chunk.message_id == head.id and chunk.offset == len(parts[chunk.tensor])
            parts[chunk.tensor] += chunk.data
        for tensor, data in zip(head.tensors, parts, strict=True):
            tensor.data = bytes(data)
            tensor.data_bytes = 0
        return head


class Plain:
    """A connection with the generated stubs."""

    def __init__(self, address: str, *, client: str = "") -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        over_tls = OVER_TLS.get()
        if over_tls is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            _, ca, token = over_tls
            shown = grpc.composite_channel_credentials(
                grpc.ssl_channel_credentials(ca), grpc.access_token_call_credentials(token)
            )
            self.channel = grpc.aio.secure_channel(address, shown, options=options)
        self.id = client
        self.metadata = (("sira-client", client),) if client else ()
        self.kernel = kernel_pb2_grpc.KernelStub(self.channel)
        self.bus = bus_pb2_grpc.BusStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def publishing(self, *metadata: tuple[str, str]) -> Publishing:
        return Publishing(self.bus.Publish(metadata=(*self.metadata, *metadata)))

    def subscribing(self, *metadata: tuple[str, str]) -> Subscribing:
        return Subscribing(self.bus.Subscribe(metadata=(*self.metadata, *metadata)))

    async def create(self, name: str, **fields: Any) -> bus_pb2.Topic:
        request = bus_pb2.CreateTopicRequest(name=name, **fields)
        return await self.bus.CreateTopic(request, metadata=self.metadata, timeout=WATCHDOG_S)

    async def ledger(self, pattern: str = "") -> dict[str, kernel_pb2.LedgerRow]:
        request = kernel_pb2.LedgerRequest(pattern=pattern)
        answer = await self.kernel.Ledger(request, timeout=WATCHDOG_S)
        assert answer.balanced, answer
        return {row.topic: row for row in answer.rows}

    async def stats(self, *, prometheus: bool = False) -> kernel_pb2.StatsResponse:
        request = kernel_pb2.StatsRequest(prometheus=prometheus)
        return await self.kernel.Stats(request, timeout=WATCHDOG_S)


async def in_force(
    node: Node, policy: Policy | None = None, revoked: frozenset[str] | None = None
) -> None:
    """Put rules in force as a changed file would."""
    node.access.change(policy=policy, revoked=revoked)
    await node.recheck()


@asynccontextmanager
async def running(**flags: object) -> AsyncIterator[Node]:
    """A node in this process, on a free port of loopback."""
    settings = load(
        environ={},
        flags={
            "listen": "127.0.0.1:0",
            "data_dir": "/nonexistent",
            **(over_tls[0] if (over_tls := OVER_TLS.get()) else {}),
            **flags,
        },
    )
    node = Node(settings, logs=Logs(node="test", level="error"))
    await node.start()
    try:
        yield node
    finally:
        await node.stop(0)
        node.logs.close()


def session(work: Callable[[Node, Plain], Awaitable[None]], **flags: object) -> None:
    """Run `work` with a node and a plain client, on uvloop, as the daemon does."""
    import uvloop

    async def main() -> None:
        async with running(**flags) as node, Plain(node.address) as plain:
            await work(node, plain)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
