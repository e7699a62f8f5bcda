"""The node's connections and listeners, found among the open files of this process.

gRPC gives no handle to either. What is looked at is a copy of a descriptor: gRPC may close its own
meanwhile, and the system give that number to another file.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import os
import resource
import socket
import stat
import struct
from collections.abc import Iterator
from urllib.parse import unquote

Peer = tuple[str, int]  # address, as `ipaddress` writes it, and port

FOLDER = "/proc/self/fd"
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # SO_... of asm-generic/socket.h; Python has no names
# tcpi_bytes_received of struct tcp_info (linux/tcp.h): 8 bytes, 24 words and 3 long words before.
_TCP_INFO_BYTES, _RECEIVED_AT = 136, 128


def parse(peer: str) -> Peer | None:
    """Return what gRPC's name of a peer stands for; None: no TCP connection.

    gRPC writes `ipv4:127.0.0.1:8080`, `ipv6:%5B::1%5D:8080`, `unix:PATH`.
    """
    kind, _, text = unquote(peer).partition(":")
    host, _, port = text.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    try:
        return normal(host.strip("[]")), int(port)
    except ValueError:
        return None


def named(peer: Peer) -> str:
    """Return the name that gRPC would give a peer, for `parse` and for people."""
    host, port = peer
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


def normal(host: str) -> str:
    """Return an address as it is counted: IPv4 within IPv6 is IPv4."""
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def open_count() -> int:
    """Return how many files are open, or 0: that is not known."""
    with contextlib.suppress(OSError):
        return os.stat(FOLDER).st_size or len(os.listdir(FOLDER))  # Linux 6.2, or older
    return 0


def listed() -> Iterator[int]:
    """Yield the descriptors of this process, and numbers between them that are none.

    By trying, for the system gives out the lowest number that is free: reading FOLDER costs 3 µs of
    kernel a file, and all at once, so that 5,000 connections would stop the loop for 16 ms.
    """
    count = open_count()
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in itertools.count() if most == resource.RLIM_INFINITY else range(most):
        if count <= 0:
            return
        with contextlib.suppress(OSError):
            os.fstat(number)
            count -= 1
        yield number


def copy_at(descriptor: int, ports: frozenset[int]) -> socket.socket | None:
    """Return a copy of a descriptor, the caller's to close; None: no TCP at one of these ports."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        copy = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None  # closed since it was listed
    with contextlib.suppress(OSError):
        inet = copy.family in (socket.AF_INET, socket.AF_INET6)
        if inet and copy.type == socket.SOCK_STREAM and copy.getsockname()[1] in ports:
            return copy
    copy.close()
    return None


def listens(copy: socket.socket) -> bool:
    """Whether it takes connections and is none itself."""
    return bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def peer_of(copy: socket.socket) -> Peer | None:
    """Return whom a connection leads to; None: it is none, or has ended by itself."""
    with contextlib.suppress(OSError):
        host, port = copy.getpeername()[:2]
        return normal(host), port
    return None


def received_bytes(descriptor: int, inode: int) -> int | None:
    """Return how much has come on a connection since it began, TLS and frames included.

    None: it is no more what was looked at under this inode, or the system does not count.
    """
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=os.dup(descriptor)) as copy,
    ):
        if os.fstat(copy.fileno()).st_ino == inode:
            told = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            if len(told) == _TCP_INFO_BYTES:
                return int(struct.unpack_from("Q", told, _RECEIVED_AT)[0])
    return None


def set_filter(copy: socket.socket, program: bytes) -> bool:
    """Let a program of classic BPF judge what arrives; False: not Linux, or a sandbox forbids it.

    Args:
        copy: a connection, or a listener.
        program: instructions of 8 bytes each; empty: everything is let through again.
    """
    try:
        if not program:
            copy.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
            return True
        kept = ctypes.create_string_buffer(program, len(program))  # until it is copied
        told = struct.pack("HP", len(program) // 8, ctypes.addressof(kept))
        copy.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, told)
    except OSError:
        return False
    return True
