"""Records of the Unix socket, as bytes: pure functions. Splitting them is `_native.RecordReader`.

A record is a head of 16 bytes (little-endian: u32 bytes of the body, u32 call, u8 kind, u8
descriptors, u16 flags = 0, u32 reserved = 0) and its body.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from sira.kernel.errors import ProtocolError, Unsupported
from sira.v1 import socket_pb2

SOCKET_NAME = "sira.sock"  # in the data folder
VERSION = 1
HELLO, CALL, MESSAGE, HALF_CLOSE, STATUS, CANCEL, WINDOW = range(1, 8)
SEGMENT, GONE, RETURNED, STOP = range(8, 12)  # of no call: what `lends` of both hellos allows
LINK, LINK_OVER, PAGE, ROUTE, ROUTE_LEFT = range(12, 17)  # the same: `links`
LINK_DESCRIPTORS = 3  # its memory, the bell to ring, the bell that rings here
BODY_BYTES_MAX = 4 << 20  # frames have at most 2 MiB, answers of unary calls 4
DESCRIPTORS_MAX = 253  # Linux: SCM_MAX_FD, of one sendmsg
HEAD_BYTES = 16
CALLS_LAST = (1 << 32) - 1  # numbers of calls are used once
_HEAD = struct.Struct("<IIBBHI")
_U32 = struct.Struct("<I")
_GRANT_BYTES_MAX = 1 << 30
_LEASES_A_RECORD = 1 << 15  # 10 bytes each at most
_M = TypeVar("_M", bound=Message)


def head(kind: int, call: int, body_bytes: int, descriptors: int = 0) -> bytes:
    """Return the head of a record."""
    return _HEAD.pack(body_bytes, call, kind, descriptors, 0, 0)


def grant(body_bytes: int) -> bytes:
    """Return the body of a `window`."""
    return _U32.pack(body_bytes)


def read_grant(body: bytes) -> int:
    """Return how many bytes a `window` gives.

    Raises:
        ProtocolError: it is none.
    """
    if len(body) != _U32.size:
        raise ProtocolError(f"a window of {len(body)} bytes instead of {_U32.size}")
    given: int = _U32.unpack(body)[0]
    if not 0 < given <= _GRANT_BYTES_MAX:
        raise ProtocolError(f"a window that gives {given} bytes")
    return given


def call(method: str, metadata: Iterable[tuple[str, str]], timeout_s: float | None) -> bytes:
    """Return the body of a `call`."""
    asked = socket_pb2.SocketCall(method=method)
    for key, value in metadata:
        asked.metadata.add(key=key, value=value)
    if timeout_s is not None:
        asked.timeout_us = max(1, round(timeout_s * 1e6))
    return asked.SerializeToString()


def read_call(body: bytes, *, metadata_bytes_max: int) -> socket_pb2.SocketCall:
    """Return what a call asks for.

    Raises:
        ProtocolError: the body is none, or too long.
    """
    if len(body) > metadata_bytes_max:
        raise ProtocolError(
            f"{len(body)} bytes of method and metadata, at most {metadata_bytes_max}",
            details={"setting": "metadata_bytes_max"},
        )
    return _parse(socket_pb2.SocketCall, body, "call")


def read_hello(body: bytes) -> socket_pb2.SocketHello:
    """Return what the other side says of itself.

    Raises:
        ProtocolError: the body is none. Unsupported: another version of the records.
    """
    hello = _parse(socket_pb2.SocketHello, body, "hello")
    if hello.version != VERSION:
        raise Unsupported(
            f"records of version {hello.version}; this side speaks {VERSION}",
            details={"feature": "socket", "version": str(hello.version)},
        )
    if not hello.window_bytes or not hello.record_bytes_max:
        raise ProtocolError("a hello that takes no bytes")
    return hello


def read_status(body: bytes) -> status_pb2.Status:
    """Return how a call ended; code 0 is in order.

    Raises:
        ProtocolError: it is no `google.rpc.Status`.
    """
    return _parse(status_pb2.Status, body, "status")


def segment(number: int, size_bytes: int, audience: str = "", link: int = 0) -> bytes:
    """Return the body of a `segment`; its descriptor goes beside it."""
    return socket_pb2.SocketSegment(
        segment=number, bytes=size_bytes, audience=audience, link=link
    ).SerializeToString()


def read_segment(body: bytes, descriptors: int) -> socket_pb2.SocketSegment:
    """Return which shared memory came beside the record.

    Raises:
        ProtocolError: the body is none, or not one descriptor came.
    """
    found = _parse(socket_pb2.SocketSegment, body, "segment")
    if not found.segment or not found.bytes or descriptors != 1:
        raise ProtocolError(
            f"segment {found.segment} of {found.bytes} bytes with {descriptors} descriptors"
        )
    return found


def segments(numbers: Iterable[int], link: int = 0) -> bytes:
    """Return the body of a `gone` or a `stop`."""
    return socket_pb2.SocketSegments(segments=numbers, link=link).SerializeToString()


def read_segments(body: bytes) -> list[int]:
    """Return which segments a `gone` or a `stop` names. Raises ProtocolError: it is none."""
    return read_segments_of(body)[1]


def read_segments_of(body: bytes) -> tuple[int, list[int]]:
    """Return of which link (0: of chunks), and which segments. Raises ProtocolError: it is none."""
    found = _parse(socket_pb2.SocketSegments, body, "list of segments")
    return found.link, list(found.segments)


def leases(numbers: Iterable[int]) -> bytes:
    """Return the body of a `returned`."""
    return socket_pb2.SocketLeases(leases=numbers).SerializeToString()


def leases_in_parts(numbers: Sequence[int]) -> Iterator[bytes]:
    """Return the bodies of as many `returned` as it takes."""
    for first in range(0, len(numbers), _LEASES_A_RECORD):
        yield leases(numbers[first : first + _LEASES_A_RECORD])


def read_leases(body: bytes) -> list[int]:
    """Return which leases a `returned` ends. Raises ProtocolError: it is none."""
    return list(_parse(socket_pb2.SocketLeases, body, "list of leases").leases)


def link(number: int, generation: int, shape: tuple[int, int, int], *, writes: bool) -> bytes:
    """Return the body of a `link`; its descriptors go beside it.

    Args:
        shape: slots, holds, cells.
        writes: the receiver posts; else it takes.
    """
    slots, holds, cells = shape
    return socket_pb2.SocketLink(
        link=number, generation=generation, slots=slots, holds=holds, cells=cells, writes=writes
    ).SerializeToString()


def read_link(body: bytes, descriptors: int) -> socket_pb2.SocketLink:
    """Return which end of a link came beside the record.

    Raises:
        ProtocolError: the body is none, or not as many descriptors came as it takes.
    """
    found = _parse(socket_pb2.SocketLink, body, "link")
    if not found.link or descriptors != LINK_DESCRIPTORS:
        raise ProtocolError(f"link {found.link} with {descriptors} descriptors")
    return found


def links(numbers: Iterable[int]) -> bytes:
    """Return the body of a `link_over`."""
    return socket_pb2.SocketLinks(links=numbers).SerializeToString()


def read_links(body: bytes) -> list[int]:
    """Return which links are over. Raises ProtocolError: it is no list of any."""
    return list(_parse(socket_pb2.SocketLinks, body, "list of links").links)


def page(words: int) -> bytes:
    """Return the body of a `page`; its descriptor goes beside it."""
    return socket_pb2.SocketPage(words=words).SerializeToString()


def read_page(body: bytes, descriptors: int) -> int:
    """Return how many words the generation page has.

    Raises:
        ProtocolError: the body is none, or not one descriptor came.
    """
    words = _parse(socket_pb2.SocketPage, body, "page").words
    if not words or descriptors != 1:
        raise ProtocolError(f"a page of {words} words with {descriptors} descriptors")
    return words


def read_route(body: bytes) -> socket_pb2.SocketRoute:
    """Return what the node answered to an ask. Raises ProtocolError: the body is none."""
    return _parse(socket_pb2.SocketRoute, body, "route")


def asks(numbers: Iterable[int]) -> bytes:
    """Return the body of a `route_left`."""
    return socket_pb2.SocketAsks(asks=numbers).SerializeToString()


def read_asks(body: bytes) -> list[int]:
    """Return which routes the client has left. Raises ProtocolError: it is no list of any."""
    return list(_parse(socket_pb2.SocketAsks, body, "list of asks").asks)


def _parse(kind: type[_M], body: bytes, name: str) -> _M:
    try:
        return kind.FromString(body)
    except DecodeError:
        raise ProtocolError(f"a {name} that cannot be read, of {len(body)} bytes") from None
