"""Just enough HTTP/2 to misbehave: frames (RFC 9113), header fields without a table (RFC 7541)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = struct.pack("!I", 8)
HEADER_BYTES = 9
STREAM_ID_MAX = (1 << 31) - 1
Address = tuple[str, int]
Field = tuple[bytes, bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame; lengths and ids are cut to their fields, so that nonsense can be sent."""
    size = len(payload) & 0xFFFFFF
    return struct.pack("!BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _text(data: bytes) -> bytes:
    """Encode a string literal: its length with a prefix of 7 bits, no Huffman code."""
    size = len(data)
    if size < 127:
        return bytes((size,)) + data
    out, size = bytearray((127,)), size - 127
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + data


def fields(*pairs: Field, indexed: bool = False) -> bytes:
    """Encode header fields as literals; `indexed`: each goes into the peer's table, too."""
    first = b"\x40" if indexed else b"\x00"
    return b"".join(first + _text(name) + _text(value) for name, value in pairs)


_PING_HEADER = frame(PING, 0, 0, b"")[:2] + b"\x08" + frame(PING, 0, 0)[3:]
_PONG = frame(PING, ACK, 0, b"are you?")


def _all(data: bytes, part: bytes) -> list[int]:
    found, at = [], data.find(part)
    while at >= 0:
        found.append(at)
        at = data.find(part, at + len(part))
    return found


def call(path: str, *more: Field) -> bytes:
    """Return the header block of a gRPC call."""
    return fields(
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()),
        (b":authority", b"localhost"), (b"content-type", b"application/grpc"), (b"te", b"trailers"),
        *more,
    )  # fmt: skip


def trusting(ca: Path) -> ssl.SSLContext:
    """Return how a TLS attacker connects: HTTP/2 by ALPN."""
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context


class Wire:
    """One connection that an attacker holds. What comes back is read by a thread and counted.

    Attributes:
        answered: bytes that came back.
        ended: the peer has hung up.
    """

    def __init__(self, address: Address, tls: ssl.SSLContext | None, *, reads: bool = True) -> None:
        """Connect and send the preface and empty settings.

        Raises:
            OSError: nobody takes the connection.
        """
        raw = socket.create_connection(address, timeout=10)
        self._socket = tls.wrap_socket(raw, server_hostname="localhost") if tls else raw
        self._socket.settimeout(10)
        self.answered, self.ended = 0, False
        self._spoken, self._sending = threading.Event(), threading.Lock()
        self._ponged = threading.Event()
        self.send(PREFACE + frame(SETTINGS, 0, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        if reads:
            self._reader.start()

    def __enter__(self) -> Self:
        """Hold it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._reader.is_alive():
            self._reader.join(10)
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError: the peer has hung up, or takes nothing for 10 s."""
        with self._sending:
            self._socket.sendall(data)

    def agreed(self) -> None:
        """Wait for the peer's settings and confirm them. Raises OSError: none came in 10 s."""
        if not self._spoken.wait(10):
            raise TimeoutError("the peer sent no settings")
        self.send(frame(SETTINGS, ACK, 0))

    def pinged(self) -> None:
        """Wait until the peer has read what was sent, which it says to a ping, or has hung up.

        Raises:
            TimeoutError: neither, in 10 s.
        """
        with contextlib.suppress(OSError):
            self.send(frame(PING, 0, 0, b"are you?"))
        if not self._ponged.wait(10):
            raise TimeoutError("no answer to a ping")

    def _read(self) -> None:
        try:
            while data := self._socket.recv(1 << 16):
                self.answered += len(data)
                self._spoken.set()
                if _PONG in data:
                    self._ponged.set()
                for at in _all(data, _PING_HEADER):  # who never answers is hung up on
                    payload = data[at + HEADER_BYTES : at + HEADER_BYTES + 8]
                    self.send(frame(PING, ACK, 0, payload.ljust(8, b"\0")))
        except (OSError, ValueError):
            pass  # hung up, by them or by us
        self._spoken.set()
        self._ponged.set()
        self.ended = True
