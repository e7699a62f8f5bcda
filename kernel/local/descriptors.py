"""Descriptors beside records: SCM_RIGHTS, one way and the other.

The first byte of a record that brings descriptors is the first of its sendmsg, and Linux hands the
descriptors over with that byte; so they are there before the record is whole, in order.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Sequence

from sira._native import RecordReader
from sira.kernel.errors import BadRequest, ProtocolError, QuotaExceeded
from sira.kernel.local.record import DESCRIPTORS_MAX

_INT_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * _INT_BYTES)


def send(
    sock: socket.socket, buffers: Sequence[bytes | memoryview], descriptors: Sequence[int]
) -> int:
    """Send a record, or its beginning, with descriptors; return how many bytes went.

    The descriptors went if a byte did. They stay open here.

    Raises:
        BadRequest: more than DESCRIPTORS_MAX. BlockingIOError, OSError: as `sendmsg`.
    """
    if len(descriptors) > DESCRIPTORS_MAX:
        raise BadRequest(f"{len(descriptors)} descriptors at once, at most {DESCRIPTORS_MAX}")
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    return sock.sendmsg(buffers, [rights])


class Received:
    """What came beside the records of one connection and was not taken yet. Owns it."""

    __slots__ = ("_cut", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._cut = False  # the kernel dropped some: this process had no number left for them

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def receive(self, sock: socket.socket, reader: RecordReader) -> int:
        """Receive into `reader` what is there; return how many bytes, 0 at the end.

        Raises:
            ProtocolError: more descriptors than records brought. OSError: as `recvmsg`.
        """
        count, ancillary, flags, _ = sock.recvmsg_into(
            (reader,), _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        if ancillary or flags & socket.MSG_CTRUNC:
            self._keep(ancillary, cut=bool(flags & socket.MSG_CTRUNC))
        return count

    def take(self, count: int) -> list[int]:
        """Return the descriptors of the record that is whole now; the caller closes them.

        Raises:
            QuotaExceeded: some were lost: this process is at its limit of open files. What follows
                on the connection is not touched by that.
            ProtocolError: the record announced what did not come.
        """
        if self._cut:
            self._cut = False
            self.close()
            raise QuotaExceeded(
                f"{count} descriptors came, and this process may open no more files",
                details={"limit": "RLIMIT_NOFILE"},
            )
        if count > len(self._waiting):
            raise ProtocolError(f"a record announced {count} descriptors that did not come")
        return [self._waiting.popleft() for _ in range(count)]

    def close(self) -> None:
        """Close what waits."""
        while self._waiting:
            os.close(self._waiting.popleft())

    def _keep(self, ancillary: list[tuple[int, int, bytes]], *, cut: bool) -> None:
        self._cut = self._cut or cut
        for level, kind, data in ancillary:
            if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                continue
            found = array.array("i")
            found.frombytes(data[: len(data) - len(data) % _INT_BYTES])
            self._waiting.extend(found)
        if len(self._waiting) > DESCRIPTORS_MAX:
            waiting = len(self._waiting)
            self.close()
            raise ProtocolError(f"{waiting} descriptors that no record has taken")
