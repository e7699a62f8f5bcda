"""One call on the node's side of the Unix socket: what the door and the streams ask of a context.

The names are those of `grpc.aio.ServicerContext`, so that one door serves both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.rpc import status_pb2

from sira.kernel import lanes
from sira.kernel.access import Access
from sira.kernel.direct import Past
from sira.kernel.errors import Internal, MessageTooLarge, SiraError, Timeout
from sira.kernel.lent import Lender, Reader
from sira.kernel.local.flow import Flow, FlowOver
from sira.kernel.local.record import MESSAGE, STATUS
from sira.kernel.rpc import DETAILS_KEY, rich_status
from sira.kernel.trust.credential import Credential

if TYPE_CHECKING:
    from sira.kernel.local.peer import Peer
    from sira.kernel.local.session import Session

_NO_PROTECTION: Mapping[str, Sequence[bytes]] = {}


class Gone(grpc.aio.BaseError):
    """The caller is gone: there is nobody to tell."""


class ServedCall:
    """A call under way, and the task that answers it."""

    lane = lanes.SOCKET

    def __init__(
        self,
        session: Session,
        flow: Flow,
        handler: Any,
        metadata: Sequence[tuple[str, str]],
        timeout_s: float | None,
    ) -> None:
        """Begin. `handler` is what the door gave for the method; it reads the request itself."""
        self.flow = flow
        self._session, self._handler = session, handler
        self._metadata = metadata
        self._loop = session.loop
        self._end_s = None if timeout_s is None else self._loop.time() + timeout_s
        self._timer = None if self._end_s is None else self._loop.call_at(self._end_s, self._expire)
        self.over = False
        self._task = self._loop.create_task(self._run(), name="sira-socket-call")
        session.keep(self._task)

    # ---- what the door asks ----------------------------------------------------------------------

    @property
    def local_peer(self) -> Peer:
        """Who is at the other end."""
        return self._session.peer

    @property
    def is_lost(self) -> bool:
        """Whether the connection is over, not the call alone: its process has ended or left."""
        return self._session.is_lost

    def peer(self) -> str:
        """Return it for people."""
        return str(self._session.peer)

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """Return what protects the connection: nothing that gRPC has a name for."""
        return _NO_PROTECTION

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """Return the metadata of the call, and what the connection has shown."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return how long the caller waits, in s; None: for ever."""
        return None if self._end_s is None else max(0.0, self._end_s - self._loop.time())

    def introduce(self, tenant: str, client: str) -> None:
        """Take note of who uses the connection, for people who ask."""
        self._session.introduce(tenant, client)

    def lender(self, tenant: str) -> Lender | None:
        """Return what finds the bytes that the caller's chunks name; None: it names none."""
        return self._session.lender(tenant)

    def reader(self, who: Credential, access: Access) -> Reader | None:
        """Return what lends bytes to the caller's stream; None: it takes none."""
        return self._session.reader(who, access)

    def direct(self) -> Past | None:
        """Return the caller's way past the node; None: it takes no links."""
        return self._session.direct

    async def read(self) -> Any:
        """Return the next request; `grpc.aio.EOF`: there are no more."""
        body = await self.flow.read()
        if body is None:
            if self.over:
                raise Gone
            return grpc.aio.EOF
        return body

    async def write(self, body: bytes) -> None:
        """Send one reply. Raises Gone, MessageTooLarge."""
        self._session.check_size(body)
        try:
            await self.flow.write(body)
        except FlowOver:
            raise Gone from None

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """End the call with an error and leave the handler."""
        status = next((value for key, value in trailing_metadata if key == DETAILS_KEY), None)
        if not isinstance(status, bytes):
            status = status_pb2.Status(code=code.value[0], message=details).SerializeToString()
        self._end(status)
        raise grpc.aio.AbortError(details)

    # ---- its life --------------------------------------------------------------------------------

    def fail(self, error: SiraError) -> None:
        """End the call with an error from outside of its handler."""
        if not self.over:
            self._end(rich_status(error).SerializeToString())
        self.cancel()

    def cancel(self) -> None:
        """Give the call up: nobody waits for it."""
        self._finish()
        self._task.cancel()

    async def _run(self) -> None:
        handler = self._handler
        try:
            if handler.stream_unary is not None:
                reply = await handler.stream_unary(None, self)
                if reply is not None and not self.over:
                    self._session.check_size(reply)
                    await self._session.channel.drained()
                    self._session.channel.send(MESSAGE, self.flow.number, reply)
            else:
                await handler.stream_stream(None, self)
        except grpc.aio.BaseError:
            pass  # aborted: the status has been told; or there is nobody to tell
        except SiraError as error:  # of `check_size`: the door lets no other out
            self._end(rich_status(error).SerializeToString())
        except Exception as error:
            self._end(rich_status(Internal(type(error).__name__)).SerializeToString())
            raise
        finally:
            self._end(b"")

    def _expire(self) -> None:
        self.fail(Timeout("the call's time is over"))

    def _end(self, status: bytes) -> None:
        """Tell the status, once."""
        if not self.over:
            self._session.channel.send(STATUS, self.flow.number, status)
            self._finish()

    def _finish(self) -> None:
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        self.flow.end()
        self._session.forget(self)


def too_long(size: int, limit: int) -> MessageTooLarge:
    """Return the refusal of an answer that the caller would not take."""
    return MessageTooLarge(
        f"an answer of {size} bytes, and the caller takes {limit}",
        details={"limit_bytes": str(limit)},
    )
