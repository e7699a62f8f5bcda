"""A `FileDescriptorSet` of a stranger, made into a pool of its own.

Each service has its own pool: two tenants may name different things alike, and what one brings is
gone with it. Files that the node has itself (`google/protobuf/`, `sira/v1/`) are taken from the
node, whatever the set says.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

from sira.kernel.errors import BadRequest, MessageTooLarge

FILES_MAX = 64
ELEMENTS_MAX = 5_000  # messages, fields, enums, values, services, methods
_DEPTH_MAX = 32  # of messages inside messages
_OURS = ("google/protobuf/", "sira/v1/")
# Packages that are the node's, or gRPC's own, and nobody else's.
_RESERVED = ("sira", "grpc", "google")


def read_pool(data: bytes) -> tuple[descriptor_pool.DescriptorPool, list[str]]:
    """Build the pool of an encoded FileDescriptorSet.

    Args:
        data: its bytes; the caller has checked their number.

    Returns:
        The pool, and the names of the files that the set brought, dependencies first.

    Raises:
        BadRequest: no such set; a file twice, missing, importing itself in a circle, of a reserved
            package, or against the rules of protobuf.
        MessageTooLarge: over a limit of this module, which the details name.
    """
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    except DecodeError:
        raise _bad("is no FileDescriptorSet") from None
    if len(files) > FILES_MAX:
        raise _too_many("FILES_MAX", FILES_MAX)
    left = ELEMENTS_MAX
    brought: dict[str, FileDescriptorProto] = {}
    for file in files:
        if file.name.startswith(_OURS):
            continue
        if file.name in brought:
            raise _bad(f"has {file.name[:100]!r} twice")
        if not file.package or file.package.split(".")[0] in _RESERVED:
            raise _bad(f"has a file of the reserved package {file.package[:100]!r}")
        left -= _elements(file, left)
        brought[file.name] = file
    pool = descriptor_pool.DescriptorPool()
    order = list(_in_order(brought))
    for each in order:
        _add(pool, each)
    return pool, [each.name for each in order if each.name in brought]


def _elements(file: FileDescriptorProto, left: int) -> int:
    """Count what a file declares, without recursion: depth is the stranger's choice."""
    count = len(file.service) + sum(len(each.method) for each in file.service)
    count += _enum_elements(file) + len(file.extension)
    waiting: list[tuple[DescriptorProto, int]] = [(each, 1) for each in file.message_type]
    while waiting:
        message, depth = waiting.pop()
        if depth > _DEPTH_MAX:
            raise _too_many("DEPTH_MAX", _DEPTH_MAX)
        count += 1 + len(message.field) + len(message.oneof_decl) + _enum_elements(message)
        if count > left:
            break
        waiting += [(each, depth + 1) for each in message.nested_type]
    if count > left:
        raise _too_many("ELEMENTS_MAX", ELEMENTS_MAX)
    return count


def _enum_elements(holder: FileDescriptorProto | DescriptorProto) -> int:
    return sum(1 + len(each.value) for each in holder.enum_type)


def _in_order(brought: dict[str, FileDescriptorProto]) -> Iterator[FileDescriptorProto]:
    """Yield all files that are needed, each after those that it imports."""
    done: set[str] = set()
    open_: dict[str, None] = {}  # being visited: meeting one again is a circle
    for first in brought:
        waiting = [(first, False)]
        while waiting:
            name, leaving = waiting.pop()
            if leaving:
                del open_[name]
                done.add(name)
                yield _file(name, brought)
            elif name in open_:
                raise _bad(f"imports {name[:100]!r} in a circle")
            elif name not in done:
                open_[name] = None
                waiting.append((name, True))
                waiting += [(each, False) for each in _file(name, brought).dependency]


def _file(name: str, brought: dict[str, FileDescriptorProto]) -> FileDescriptorProto:
    if name in brought:
        return brought[name]
    if name.startswith(_OURS):
        try:
            found = descriptor_pool.Default().FindFileByName(name)
        except KeyError:
            pass
        else:
            file = FileDescriptorProto()
            found.CopyToProto(file)
            return file
    raise _bad(f"imports {name[:100]!r}, which is not in it")


def _add(pool: descriptor_pool.DescriptorPool, file: FileDescriptorProto) -> None:
    try:
        pool.AddSerializedFile(file.SerializeToString())
    except Exception as error:  # what protobuf raises here differs between its implementations
        raise _bad(f"has a file {file.name[:100]!r} that protobuf refuses: {error}") from None


def _bad(why: str) -> BadRequest:
    return BadRequest(f"the descriptor set {why[:300]}", details={"field": "descriptors"})


def _too_many(limit: str, value: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"the descriptor set is over {limit} = {value}",
        details={"field": "descriptors", "limit": limit, "limit_value": str(value)},
    )
