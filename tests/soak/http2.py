"""Just enough HTTP/2 to misbehave: frames (RFC 9113), header fields without a table (RFC 7541)."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import ssl
import struct
import termios
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


class _Tls:
    """TLS of a connection that one thread reads while another writes: OpenSSL itself forbids it."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        """Shake hands. Raises OSError: that failed."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._lock = threading.Lock()
        while True:
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(self._out.read())
                self._in.write(_some(raw))
        raw.sendall(self._out.read())

    def wrap(self, data: bytes) -> bytes:
        """Return what says `data` on the wire."""
        with self._lock:
            self._object.write(data)
            return self._out.read()

    def unwrap(self, data: bytes) -> bytes:
        """Return what has been said with this and what came before; empty: not enough of it yet."""
        said = []
        with self._lock, contextlib.suppress(ssl.SSLWantReadError):
            self._in.write(data)
            while part := self._object.read(1 << 16):
                said.append(part)
        return b"".join(said)


def _some(raw: socket.socket) -> bytes:
    data = raw.recv(1 << 16)
    if not data:
        raise ConnectionResetError("hung up on in the handshake")
    return data


class Wire:
    """One connection that an attacker holds. What comes back is read by a thread and counted.

    Attributes:
        answered: bytes that came back.
        ended: the peer has hung up.
        address: ours, as the peer sees it.
    """

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None,
        *,
        reads: bool = True,
        source: str = "",
        connect_s: float = 10,
    ) -> None:
        """Connect and send the preface and empty settings.

        Args:
            address: where to.
            tls: how; None: plain.
            reads: what comes back; else it stays where it is.
            source: an address of this machine to come from; "": any.
            connect_s: to wait for TCP.

        Raises:
            OSError: nobody takes the connection.
        """
        came_from = (source, 0) if source else None
        self._socket = socket.create_connection(address, connect_s, came_from)
        self._socket.settimeout(10)
        self.address: Address = self._socket.getsockname()
        self._tls = _Tls(self._socket, tls) if tls else None
        self.answered, self.ended = 0, False
        self._pongs: list[bytes] = []
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
            data = b"".join(self._pongs) + data
            self._pongs.clear()
            self._socket.sendall(self._tls.wrap(data) if self._tls else data)

    def unconfirmed_bytes(self) -> int:
        """Return what was sent and the peer's TCP has not taken (SIOCOUTQ). Linux."""
        return int(struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)))[0])

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
                data = self._tls.unwrap(data) if self._tls else data
                self.answered += len(data)
                if data:
                    self._spoken.set()
                if _PONG in data:
                    self._ponged.set()
                for at in _all(data, _PING_HEADER):  # who never answers is hung up on
                    payload = data[at + HEADER_BYTES : at + HEADER_BYTES + 8]
                    self._pongs.append(frame(PING, ACK, 0, payload.ljust(8, b"\0")))
                if self._pongs and not self._sending.locked():  # else they go with what is next
                    self.send(b"")
        except (OSError, ValueError):
            pass  # hung up, by them or by us
        self._spoken.set()
        self._ponged.set()
        self.ended = True
