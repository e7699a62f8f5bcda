"""A small real service: `python -m tests.services.echo`, or `run = "tests.services.echo:make"`.

Its types are declared here instead of in a generated module: the same descriptors, without a
compiler in the tests. A `Module` is what `sira.Service` takes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import sira
from sira.client.attached import Call

NAME = "echo"
_TEXT, _COUNT = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, 13  # 13: uint32


def file_proto(package: str = "tests.v1") -> descriptor_pb2.FileDescriptorProto:
    """Return the file `PACKAGE.proto`."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3"
    )
    for name, fields in {
        "SayRequest": [("text", _TEXT), ("count", _COUNT)],
        "SayReply": [("text", _TEXT), ("pid", _COUNT), ("principal", _TEXT)],
    }.items():
        message = file.message_type.add(name=name)
        for number, (field, type_) in enumerate(fields, 1):
            message.field.add(name=field, number=number, type=type_, label=1)  # type: ignore[arg-type]
    service = file.service.add(name="Echo")
    types = {"input_type": f".{package}.SayRequest", "output_type": f".{package}.SayReply"}
    for name in ("Say", "Shout", "Fail", "Hang"):
        service.method.add(name=name, **types)  # type: ignore[arg-type]
    service.method.add(name="Count", server_streaming=True, **types)  # type: ignore[arg-type]
    return file


class Module:
    """What a generated module would have."""

    def __init__(self, package: str) -> None:
        pool: Any = descriptor_pool.Default()
        pool.AddSerializedFile(file_proto(package).SerializeToString())
        self.DESCRIPTOR = pool.FindFileByName(f"{package}.proto")
        types = self.DESCRIPTOR.message_types_by_name
        self.SayRequest: Any = message_factory.GetMessageClass(types["SayRequest"])
        self.SayReply: Any = message_factory.GetMessageClass(types["SayReply"])


MODULE = Module("tests.v1")
DESCRIPTOR, SayRequest, SayReply = MODULE.DESCRIPTOR, MODULE.SayRequest, MODULE.SayReply


def make(name: str = NAME, **how: Any) -> sira.Service:
    """Make the service."""
    service = sira.Service(name, MODULE, **how)
    pid = os.getpid()

    @service.method("tests.v1.Echo/Say", effects="read", summary="says it again", verb="echo say")
    async def say(request: Any, call: Call) -> Any:
        return SayReply(text=request.text, pid=pid, principal=call.principal)

    @service.method("tests.v1.Echo/Shout", effects="read", summary="the same, from a thread")
    def shout(request: Any) -> Any:
        return SayReply(text=request.text.upper(), pid=pid)

    @service.method(
        "tests.v1.Echo/Fail", effects="once", summary="fails as it is told", verb="echo fail"
    )
    async def fail(request: Any) -> Any:
        if request.text:
            raise sira.NotFound(request.text, details={"why": "asked for"})
        raise ZeroDivisionError("a fault of the handler")

    @service.method("tests.v1.Echo/Hang", effects="read", summary="never answers; tells its end")
    async def hang(request: Any) -> Any:
        try:
            await service.bus.publish("echo.begun", request.text)
            await asyncio.Event().wait()
        finally:
            await service.bus.publish("echo.cancelled", request.text)

    @service.method(
        "tests.v1.Echo/Count", effects="read", summary="counts to a number", verb="echo count"
    )
    async def count(request: Any) -> AsyncIterator[Any]:
        for number in range(request.count):
            yield SayReply(text=str(number))

    return service


if __name__ == "__main__":
    make().run()
