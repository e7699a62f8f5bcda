"""One client and the node it is connected to: its calls, its messages, its end.

How it finds a node is in nodes.py, how its streams come and go in streams.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message as ProtoMessage

from sira import _native
from sira.client.deadline import Deadline
from sira.client.lineage import check_fork
from sira.client.nodes import TRANSIENT, is_of_proof
from sira.client.outgoing import IN_A_ROW_MAX, NEXT_TURN, Answer, Ticket
from sira.client.retry import Retry
from sira.client.streams import Streams
from sira.client.transport import GrpcTransport, Transport
from sira.kernel.errors import (
    NodeDraining,
    QuotaExceeded,
    RateLimited,
    Revoked,
    SiraError,
    Timeout,
    Unauthenticated,
    Unreachable,
)

__all__ = ["TRANSIENT", "Connection"]

_Response = TypeVar("_Response", bound=ProtoMessage)

_CLOSE_S = 2.0


class Connection(Streams):
    """A client of one of several nodes. Belongs to the event loop it was opened on."""

    def __init__(
        self,
        nodes: list[str],
        *,
        name: str,
        retry: Retry,
        dial: Callable[[str], Transport] = GrpcTransport,
        are_ways: bool = False,
    ) -> None:
        """Prepare; `open` connects.

        Args:
            nodes: the address of each, tried in order; after a loss the last one first.
            name: `source` of what is published; for people, not for rights.
            dial: makes the transport to one address.
            are_ways: the addresses are ways to one node, the best first: always tried so.
        """
        super().__init__(nodes, name=name, retry=retry, dial=dial, are_ways=are_ways)
        self._in_a_row = 0  # messages past the node since the loop had a turn

    async def close(self) -> None:
        """Send what is queued, confirm what was taken, and leave. A second call does nothing."""
        if self.ended is not None and self._transport is None:
            return
        check_fork(self._forks)
        deadline = Deadline(_CLOSE_S, self.loop)
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        self.direct.leave()
        if self._transport is not None:
            await self.outgoing.finish(deadline)
            await self.incoming.finish(deadline)
        transport, self._transport = self._transport, None
        closed = Unreachable("this connection was closed", retryable=False, help="connect again")
        self.ended = closed
        self._is_up.set()
        self.lender.end()
        self.outgoing.stop()
        self.incoming.stop()
        self.outgoing.give_up(closed)
        self.incoming.end(None)
        for call in self.on_lost:
            call()
        self.direct.end()
        if transport is not None:
            await transport.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)

    async def unary(
        self,
        method: str,
        request: ProtoMessage,
        response_type: type[_Response],
        *,
        timeout_s: float | None,
        repeatable: bool = True,
    ) -> _Response:
        """Call a method of the node, again while it cannot be reached and `repeatable`.

        Raises:
            Timeout, Unreachable, SiraError
        """
        deadline = Deadline(timeout_s, self.loop)
        delays_s = self.retry.delays_s(self.rng)
        while True:
            transport = await self.up(deadline)
            if transport.over is not None and not self.has_streams:  # else these notice
                self._lost(transport.over)
                continue
            try:
                answer = await transport.unary(
                    method,
                    request.SerializeToString(),
                    metadata=self.metadata(),
                    timeout_s=max(0.001, min(deadline.left_s(), 1e6)),
                )
                return response_type.FromString(answer)
            except Timeout as error:
                error.details.setdefault("method", method)
                raise
            except (Unauthenticated, Revoked) as error:
                # Nothing was done: again, if there is something new to show.
                if not (self.retry.connects and is_of_proof(error) and transport.renewed()):
                    raise
                if transport is self._transport:
                    self._lost(error)
            except (RateLimited, QuotaExceeded) as error:  # nothing was done
                wait_s = self.retry.limit_delay_s(error, self.rng)
                if wait_s is None or deadline.left_s() <= wait_s:
                    raise
                await asyncio.sleep(wait_s)
            except (Unreachable, NodeDraining):
                delay_s = next(delays_s)
                if not (repeatable and self.retry.connects and deadline.left_s() > delay_s):
                    raise
                await asyncio.sleep(delay_s)

    def push(
        self, topic: str, body: _native.Body, options: _native.Options | None, ticket: Ticket | None
    ) -> bytes:
        """Queue one message; returns its id. Raises for a topic or body that cannot be sent."""
        return self.outgoing.outbox.push(topic, body, options, ticket)

    def post(
        self,
        topic: str,
        body: _native.Body,
        options: _native.Options | None,
        loan: _native.ShmChunk | None = None,
    ) -> _native.Receipt | None:
        """Publish one message past the node now, unless others wait to; None: see `past_node`."""
        if topic in self.direct.lines:
            return None
        return self.outgoing.outbox.direct(topic, body, options, loan)

    def due(self) -> bool:
        """Whether the loop is due a turn, after one message more that waited for nobody."""
        self._in_a_row += 1
        if self._in_a_row < IN_A_ROW_MAX:
            return False
        self._in_a_row = 0
        return True

    async def past_node(
        self,
        topic: str,
        body: _native.Body,
        options: _native.Options | None,
        deadline: Deadline,
        loan: _native.ShmChunk | None = None,
    ) -> _native.Receipt | None:
        """Publish one message past the node, in its turn; None: it is to go by the node.

        Of many in a row the loop gets a turn now and then: most wait for nobody.
        """
        receipt = self.post(topic, body, options, loan)
        if receipt is None and self.direct.waits(topic):
            await self.direct.answered(topic, deadline)
            receipt = self.outgoing.outbox.direct(topic, body, options, loan)
        if receipt is not None and self.due():
            await NEXT_TURN
        return receipt

    async def publish(
        self,
        topic: str,
        body: _native.Body,
        options: _native.Options | None,
        deadline: Deadline,
        loan: _native.ShmChunk | None = None,
    ) -> _native.Receipt:
        """Publish one message and wait for its receipt.

        Args:
            loan: where the body lies already.
        Raises:
            Timeout, Unreachable: no answer before the deadline; the details say the outcome.
            SiraError: refused by the node; nobody got it.
        """
        outgoing = self.outgoing
        if outgoing.outbox.links:
            receipt = await self.past_node(topic, body, options, deadline, loan)
            if receipt is not None:
                return receipt
        answer = Answer(self.loop)
        message_id = await outgoing.push(topic, body, options, answer, deadline, loan)
        timer = None
        if deadline.timeout_s is not None:
            timer = self.loop.call_at(
                deadline.at_s, self._expire, answer, deadline, topic, message_id
            )
        try:
            return await answer.future
        except asyncio.CancelledError:
            outgoing.outbox.cancel(answer)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, answer: Answer, deadline: Deadline, topic: str, message_id: bytes) -> None:
        if answer.future.done():
            return
        self.outgoing.outbox.cancel(answer)
        answer(self.late(deadline, f"publish to {topic}", id=message_id.hex(), outcome="unknown"))

    def late(self, deadline: Deadline, what: str, **details: str) -> SiraError:
        """Return the error of a caller whose time is up: who did not answer."""
        if self.is_up:
            return deadline.error(what, **details)
        error = self._unreachable()
        return Unreachable(
            f"{what}: not connected for {deadline.timeout_s:g} s: {error}",
            details={**error.details, **details},
        )
