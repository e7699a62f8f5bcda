"""How loans are sent: by the node on the loop, or past it in the calling thread."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from sira import _native
from sira.client.asked import Asked
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.lineage import lineage
from sira.client.loan import Memory, Wanted
from sira.client.message import Body, Message
from sira.client.requests import REQUEST_S

if TYPE_CHECKING:
    from sira.client.publishing import Publishing


class LoanWay:
    """The loans of one bus (`loan.Way`)."""

    def __init__(self, bus: Publishing, connection: Connection) -> None:
        """Send what `bus` lends over `connection`, which it keeps until its end."""
        self._bus, self._connection = bus, connection
        self._outbox = connection.outgoing.outbox
        self.place, self.check = connection.lender.place, connection.check
        assert bus._requests is not None, "connected"
        self._requests = bus._requests

    async def publish(self, wanted: Wanted, body: Body, memory: Memory) -> _native.Receipt:
        """Publish the arrays; raises as `Bus.publish`."""
        deadline = Deadline(self._bus._publish_s(wanted.timeout_s), self._connection.loop)
        return await self._bus._publish(wanted.topic, body, dict(wanted.fields), deadline, memory)

    def post(
        self, wanted: Wanted, body: Body, memory: _native.ShmChunk
    ) -> asyncio.Future[Message] | None:
        """Ask past the node, on the loop and at once; None: that cannot be now."""
        return self._requests.post_on_loop(
            wanted.topic,
            body,
            deadline=Deadline(_asked_s(wanted), self._connection.loop),
            fields=wanted.fields,
            loan=memory,
        )

    async def ask(self, wanted: Wanted, body: Body, memory: Memory) -> Message:
        """Send them as a request, and return the answer; raises as `Bus.request`."""
        return await self._requests.request(
            wanted.topic,
            body,
            deadline=Deadline(_asked_s(wanted), self._connection.loop),
            idempotent=False,
            fields=wanted.fields,
            loan=memory,
        )

    def publish_here(
        self, wanted: Wanted, body: Body, memory: _native.ShmChunk
    ) -> _native.Receipt | None:
        """Publish past the node, in the calling thread; None: that cannot be now."""
        if not self._outbox.links:
            return None
        said = {**wanted.fields, **lineage()}
        options = _native.Options(**said) if said else None
        wait_s = math.inf if wanted.timeout_s is None else wanted.timeout_s
        return self._outbox.direct(wanted.topic, body, options, memory, wait_s)

    def ask_here(self, wanted: Wanted, body: Body, memory: _native.ShmChunk) -> Asked | None:
        """Ask past the node, in the calling thread; None: that cannot be now."""
        if not self._outbox.links:
            return None
        return self._requests.here.post(
            wanted.topic,
            body,
            timeout_s=_asked_s(wanted),
            fields=wanted.fields,
            loan=memory,
        )


def _asked_s(wanted: Wanted) -> float:
    return REQUEST_S if wanted.timeout_s is None else wanted.timeout_s
