"""A service made of a bare Attach stream, and callers of it, with the generated stubs alone."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from sira.v1 import kernel_pb2
from tests.services.echo import file_proto

from .plain import Plain, code_of, within

SAY, COUNT = "/acme.v1.Echo/Say", "/acme.v1.Echo/Count"
pb = kernel_pb2


def files(*every: descriptor_pb2.FileDescriptorProto) -> bytes:
    return descriptor_pb2.FileDescriptorSet(
        file=every or [file_proto("acme.v1")]
    ).SerializeToString()


def offered(name: str = "echo", *methods: str, **fields: Any) -> kernel_pb2.AttachOffer:
    brought = [pb.AttachMethod(name=each, effects="read") for each in methods or (SAY, COUNT)]
    return pb.AttachOffer(**{"name": name, "descriptors": files(), "methods": brought, **fields})


class Peer:
    """A service made of a bare stream."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, **fields: Any) -> None:
        await within(self.call.write(pb.AttachRequest(**fields)))

    async def reply(self, call: int, **fields: Any) -> None:
        await self.send(reply=pb.AttachReply(call=call, **fields))

    async def read(self) -> kernel_pb2.AttachResponse:
        got = await within(self.call.read())
        assert got is not grpc.aio.EOF, "the stream ended"
        response: kernel_pb2.AttachResponse = got
        return response

    async def asked(self) -> kernel_pb2.AttachCall:
        response = await self.read()
        assert response.HasField("call"), response
        return response.call


@asynccontextmanager
async def attached(
    plain: Plain, offer: kernel_pb2.AttachOffer | None = None, *metadata: Any
) -> Any:
    """A service whose offer was taken."""
    peer = Peer(plain.kernel.Attach(metadata=metadata))
    await peer.send(offer=offer or offered())
    assert (await peer.read()).HasField("accepted")
    try:
        yield peer
    finally:
        peer.call.cancel()


async def refusal(plain: Plain, *requests: kernel_pb2.AttachRequest) -> str:
    """Send requests, return the code with which the stream ends."""
    call = plain.kernel.Attach()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        for each in requests:
            await within(call.write(each))
        await call.done_writing()
        while await within(call.read()) is not grpc.aio.EOF:
            pass
        assert await call.code() is grpc.StatusCode.OK
        raise AssertionError("it was taken")
    return code_of(caught.value)


async def failing(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await within(call)
    return code_of(caught.value)


def said(plain: Plain, method: str = SAY, request: bytes = b"", **how: Any) -> Any:
    """Begin a unary call with raw bytes."""
    return asyncio.ensure_future(plain.channel.unary_unary(method)(request, **how))
