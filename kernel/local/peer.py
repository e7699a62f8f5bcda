"""Who is at the other end of a Unix socket, as the kernel says."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass

from sira.kernel.trust.credential import Credential

_SO_PEERPIDFD = 77  # asm-generic/socket.h, Linux 6.5
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that made the connection, at the moment when it did.

    Attributes:
        pid: 0 where it is of another pid namespace.
        uid: effective user id.
        handed: the credential of a descriptor that the node itself handed out; None: it connected.
    """

    pid: int
    uid: int
    handed: Credential | None = None

    def __str__(self) -> str:
        """Return it as gRPC names peers."""
        return f"unix:pid={self.pid},uid={self.uid}"


def peer_of(sock: socket.socket, handed: Credential | None = None) -> Peer:
    """Return who connected (SO_PEERCRED)."""
    said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(said)
    return Peer(pid, uid, handed)


def pidfd_of(sock: socket.socket, peer: Peer) -> int | None:
    """Return a descriptor that becomes readable when the peer's process ends; None: there is none.

    It tells of a death that the socket does not: a child forked off keeps that open. Without
    SO_PEERPIDFD the pid is looked at again afterwards: another process may have got it meanwhile.
    """
    with contextlib.suppress(OSError):
        pidfd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        os.set_inheritable(pidfd, False)
        return pidfd
    if peer.pid <= 0 or not hasattr(os, "pidfd_open"):
        return None
    try:
        pidfd = os.pidfd_open(peer.pid)
    except OSError:
        return None
    try:
        owner = os.stat(f"/proc/{peer.pid}").st_uid
    except OSError:
        owner = -1
    if owner == peer.uid:
        return pidfd
    os.close(pidfd)
    return None
