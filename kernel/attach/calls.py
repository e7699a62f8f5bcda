"""Calls under way between callers and one service. No socket, no clock, no waiting.

What is held is bounded three ways: so many calls, so many replies of each that its caller has not
taken (`WINDOW_REPLIES`, which the service is told), and so many bytes of all. When the bytes are
over, the call that holds most ends with QUEUE_FULL: a caller that does not read costs itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sira.kernel.errors import HandlerFailed, ProtocolError, QueueFull, SiraError, from_proto
from sira.v1 import kernel_pb2

WINDOW_REPLIES = 16


@dataclass(slots=True, eq=False)
class Pending:
    """One call.

    Attributes:
        request: encoded; b"" once it has left for the service.
        end_ns: when its caller stops waiting, CLOCK_MONOTONIC; 0: it does not say.
        wake: told when there is a reply, an end or an error.
        replies: that came and were not taken.
        ended: no more replies come.
        error: why it ends badly.
    """

    number: int
    method: str
    principal: str
    tenant: str
    end_ns: int
    metadata: Mapping[str, str]
    request: bytes
    wake: Callable[[], None]
    sent: bool = False
    replies: deque[bytes] = field(default_factory=deque)
    replies_bytes: int = 0
    ended: bool = False
    error: SiraError | None = None
    may_send: int = WINDOW_REPLIES  # replies that the service may still send
    taken: int = 0  # by the caller, and not yet given back to the service

    @property
    def held_bytes(self) -> int:
        """Bytes that the node holds for it."""
        return len(self.request) + self.replies_bytes


class Calls:
    """All calls of one service."""

    def __init__(self, *, calls_max: int, held_bytes_max: int) -> None:
        """Begin with none."""
        self._calls_max, self._held_bytes_max = calls_max, held_bytes_max
        self._pending: dict[int, Pending] = {}
        self._unsent: dict[int, Pending] = {}
        self._cancels: dict[int, str] = {}
        self._credits: dict[int, int] = {}
        self._last_number = 0
        self._closed: SiraError | None = None
        self.held_bytes = 0
        self.late = 0  # replies that nobody waited for any more

    def __len__(self) -> int:
        """Return how many are under way."""
        return len(self._pending)

    @property
    def has_out(self) -> bool:
        """Whether there is something to tell the service."""
        return bool(self._cancels or self._credits or self._unsent)

    # ---- from callers ----------------------------------------------------------------------------

    def begin(
        self,
        method: str,
        *,
        principal: str,
        tenant: str,
        end_ns: int,
        metadata: Mapping[str, str],
        request: bytes,
        wake: Callable[[], None],
    ) -> Pending:
        """Take a call.

        Raises:
            QueueFull: the service has too many, or too many bytes wait.
            SiraError: it has gone.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._pending) >= self._calls_max:
            raise _full("attach_calls_max", self._calls_max)
        if self.held_bytes + len(request) > self._held_bytes_max:
            raise _full("attach_held_bytes_max", self._held_bytes_max)
        self._last_number += 1
        made = Pending(
            self._last_number, method, principal, tenant, end_ns, metadata, request, wake
        )
        self._pending[made.number] = self._unsent[made.number] = made
        self.held_bytes += len(request)
        return made

    def take(self, call: Pending) -> bytes | None:
        """Return the next reply; None: none has come.

        Raises:
            SiraError: the call ends with it.
        """
        if call.error is not None:
            raise call.error
        if not call.replies:
            return None
        reply = call.replies.popleft()
        call.replies_bytes -= len(reply)
        self.held_bytes -= len(reply)
        call.taken += 1
        if call.taken >= WINDOW_REPLIES // 2 and not call.ended:
            call.may_send += call.taken
            self._credits[call.number] = self._credits.get(call.number, 0) + call.taken
            call.taken = 0
        return reply

    def finish(self, call: Pending, code: str = "CANCELLED") -> None:
        """Forget a call: it is answered, or its caller has gone; then the service is told."""
        if self._pending.pop(call.number, None) is None:
            return
        self.held_bytes -= call.held_bytes
        self._unsent.pop(call.number, None)
        self._credits.pop(call.number, None)
        if call.sent and not call.ended and self._closed is None:
            self._cancels.setdefault(call.number, code)

    # ---- from the service ------------------------------------------------------------------------

    def heard(self, reply: kernel_pb2.AttachReply) -> None:
        """Take what the service says about a call.

        Raises:
            ProtocolError: about one that it was never sent.
        """
        call = self._pending.get(reply.call)
        if not 0 < reply.call <= self._last_number or (call is not None and not call.sent):
            raise ProtocolError(f"a reply to call {reply.call}, which was never made")
        if call is None or call.ended or call.error is not None:
            self.late += 1  # its caller has gone meanwhile
            return
        if reply.HasField("error"):
            call.ended = True
            self._fail(call, _of_service(from_proto(reply.error)))
            return
        if reply.HasField("response"):
            if not call.may_send:
                self._refuse(call, ProtocolError("the service sent more replies than it may"))
                return
            call.may_send -= 1
            call.replies.append(reply.response)
            call.replies_bytes += len(reply.response)
            self.held_bytes += len(reply.response)
        call.ended = reply.end
        call.wake()
        while self.held_bytes > self._held_bytes_max:
            most = max(self._pending.values(), key=lambda each: each.replies_bytes)
            if not most.replies_bytes:
                break  # requests alone, and these were within the limit
            error = _full("attach_held_bytes_max", self._held_bytes_max)
            self._refuse(most, error)

    def next_out(self, now_ns: int) -> kernel_pb2.AttachResponse | None:
        """Return what the service is to be told next; None: nothing."""
        if self._cancels:
            number, code = self._cancels.popitem()
            cancel = kernel_pb2.AttachCancel(call=number, code=code)
            return kernel_pb2.AttachResponse(cancel=cancel)
        if self._credits:
            number, replies = self._credits.popitem()
            credit = kernel_pb2.AttachCredit(call=number, replies=replies)
            return kernel_pb2.AttachResponse(credit=credit)
        if not self._unsent:
            return None
        call = self._unsent.pop(next(iter(self._unsent)))
        made = kernel_pb2.AttachCall(
            call=call.number,
            method=call.method,
            principal=call.principal,
            tenant=call.tenant,
            timeout_ms=max(1, (call.end_ns - now_ns) // 1_000_000) if call.end_ns else 0,
            metadata=call.metadata,
            request=call.request,
            window=WINDOW_REPLIES,
        )
        self.held_bytes -= len(call.request)
        call.request, call.sent = b"", True
        return kernel_pb2.AttachResponse(call=made)

    def close(self, error: SiraError) -> None:
        """End all: the service has gone. A second time changes nothing."""
        if self._closed is not None:
            return
        self._closed = error
        for call in self._pending.values():
            if not call.ended:
                self._fail(call, error)
        self._unsent.clear()
        self._cancels.clear()
        self._credits.clear()

    def _refuse(self, call: Pending, error: SiraError) -> None:
        """End a call for something that one of its sides did; the service is told."""
        self._fail(call, error)
        call.ended = True
        self._credits.pop(call.number, None)
        self._cancels[call.number] = error.code

    def _fail(self, call: Pending, error: SiraError) -> None:
        self.held_bytes -= call.replies_bytes
        call.replies.clear()
        call.replies_bytes = 0
        call.error = error
        call.wake()


def _of_service(error: SiraError) -> SiraError:
    """Return a service's error as the caller gets it. INTERNAL would be a fault of the node."""
    if error.code != "INTERNAL":
        return error
    return HandlerFailed(str(error), details=error.details)


def _full(setting: str, limit: int) -> QueueFull:
    return QueueFull(
        f"the service is behind: {setting} = {limit} is reached",
        details={"setting": setting, "limit": str(limit)},
        help="wait and call again; read replies as they come",
    )
