"""A method that this program was not built with: its types come from the node's reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from grpc_reflection.v1alpha import reflection_pb2

from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.transport import Stream
from sira.kernel.errors import FrameCorrupt, NotFound, ProtocolError

_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_FILES_MAX = 256


class Method:
    """One method, ready to be called.

    Attributes:
        name: `/acme.v1.Echo/Say`.
        request, response: its message classes, made from descriptors.
        takes: the type of `request`.
        streams: it answers with any number of replies.
    """

    def __init__(
        self, connection: Connection, name: str, pool: descriptor_pool.DescriptorPool
    ) -> None:
        """Look the method up in the pool. Raises KeyError."""
        service, _, method = name.removeprefix("/").partition("/")
        found = pool.FindServiceByName(service).methods_by_name[method]
        self._connection, self.name = connection, name
        self.takes: Descriptor = found.input_type
        self.request: type[Message] = message_factory.GetMessageClass(found.input_type)
        self.response: type[Message] = message_factory.GetMessageClass(found.output_type)
        self.streams = bool(found.server_streaming)

    async def call(
        self, request: Message, *, timeout_s: float | None, repeatable: bool = False
    ) -> Message:
        """Return the one reply. Raises SiraError."""
        try:
            return await self._connection.unary(
                self.name, request, self.response, timeout_s=timeout_s, repeatable=repeatable
            )
        except DecodeError:
            raise self._corrupt() from None

    async def replies(self, request: Message, *, timeout_s: float | None) -> AsyncIterator[Message]:
        """Yield the replies of a stream. Who stops listening cancels it.

        Args:
            timeout_s: for the longest wait between two.

        Raises:
            Timeout, SiraError: how it ended.
        """
        stream = await _opened(self._connection, self.name, timeout_s)
        try:
            await stream.write(request.SerializeToString())
            await stream.done_writing()
            while (data := await _next(stream, self._connection, self.name, timeout_s)) is not None:
                try:
                    yield self.response.FromString(data)
                except DecodeError:
                    raise self._corrupt() from None
        finally:
            stream.cancel()

    def _corrupt(self) -> FrameCorrupt:
        return FrameCorrupt(f"a reply of {self.name} is no {self.response.DESCRIPTOR.full_name}")


async def find(connection: Connection, name: str, *, timeout_s: float | None) -> Method:
    """Ask the node for the types of a method.

    Raises:
        NotFound: it knows no such method, or not any more.
        ProtocolError: its descriptors do not fit together.
        Timeout, SiraError: as of any call.
    """
    service = name.removeprefix("/").partition("/")[0]
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    stream = await _opened(connection, _REFLECTION, timeout_s)
    try:
        await stream.write(request.SerializeToString())
        await stream.done_writing()
        data = await _next(stream, connection, _REFLECTION, timeout_s)
    finally:
        stream.cancel()
    answer = reflection_pb2.ServerReflectionResponse.FromString(data or b"")
    try:
        return Method(connection, name, _pool(answer.file_descriptor_response))
    except KeyError:
        raise NotFound(f"the node has no method {name}", details={"method": name}) from None


async def _opened(connection: Connection, method: str, timeout_s: float | None) -> Stream:
    transport = await connection.up(Deadline(timeout_s, connection.loop))
    return transport.stream(method, metadata=connection.metadata())


async def _next(
    stream: Stream, connection: Connection, method: str, timeout_s: float | None
) -> bytes | None:
    deadline = Deadline(timeout_s, connection.loop)
    try:
        async with asyncio.timeout(timeout_s):
            return await stream.read()
    except TimeoutError:
        raise deadline.error(method, method=method) from None


def _pool(answer: reflection_pb2.FileDescriptorResponse) -> descriptor_pool.DescriptorPool:
    """Build a pool of its own of the files: two services may name different things alike."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for data in answer.file_descriptor_proto[:_FILES_MAX]:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        files[file.name] = file
    pool = descriptor_pool.DescriptorPool()
    for file in _in_order(files):
        try:
            pool.AddSerializedFile(file.SerializeToString())
        except Exception as error:  # what protobuf raises differs between its implementations
            raise ProtocolError(f"the node's descriptors do not fit together: {error}") from None
    return pool


def _in_order(
    files: dict[str, descriptor_pb2.FileDescriptorProto],
) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """Yield each file after those that it imports."""
    begun: set[str] = set()
    waiting = [(name, False) for name in files]
    while waiting:
        name, ready = waiting.pop()
        if ready:
            yield files[name]
        elif name in files and name not in begun:
            begun.add(name)
            waiting.append((name, True))
            waiting += [(each, False) for each in files[name].dependency]
