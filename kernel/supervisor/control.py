"""What supervisor and child tell each other: JSON lines on a pair of connected sockets.

To the child: `{"begin": {...}}` once, then `{"tell": {"topic", "fields", "late"}}`. From it:
`{"ready": {setting: address}}`, or `{"failed": {error}}` before it ends. The end of the line means
that the other side is no more. Neither side waits for the other.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from sira.kernel.errors import SiraError, from_code

_LINE_BYTES_MAX = 1 << 20
_UNSENT_BYTES_MAX = 1 << 20
_READ_BYTES = 65_536


class Control:
    """One end. Both sides trust each other: they are one program."""

    def __init__(self, end: socket.socket) -> None:
        """Take the socket, which is closed by `close`."""
        end.setblocking(False)
        self._socket = end
        self._in, self._out = bytearray(), bytearray()
        self.ended = False

    def fileno(self) -> int:
        """Descriptor to poll."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether `flush` should be called when the socket takes more."""
        return bool(self._out)

    def send(self, **message: Any) -> bool:
        """Send one message, or keep it until `flush`; False: the other side reads nothing."""
        if len(self._out) > _UNSENT_BYTES_MAX:
            return False
        self._out += json.dumps(message).encode() + b"\n"
        self.flush()
        return True

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:  # the other side is gone: reading says so
            self._out.clear()

    def receive(self) -> list[dict[str, Any]]:
        """Return what has come; `ended` is set when nothing will come any more."""
        while not self.ended:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.ended = not data or len(self._in) > _LINE_BYTES_MAX
            self._in += data
        *lines, rest = self._in.split(b"\n")
        self._in = bytearray(rest)
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def error_fields(error: SiraError) -> dict[str, Any]:
    """Return an error as JSON carries it."""
    return {
        "code": error.code,
        "message": str(error),
        "details": error.details,
        "retryable": error.retryable,
        "retry_after_ms": error.retry_after_ms,
        "help": error.help,
    }


def error_of(fields: dict[str, Any]) -> SiraError:
    """Return the error that `error_fields` wrote."""
    return from_code(
        fields["code"],
        fields["message"],
        fields["details"],
        retryable=fields["retryable"],
        retry_after_ms=fields["retry_after_ms"],
        help=fields["help"],
    )
