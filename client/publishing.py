"""Publishing, as an application does it: one message, many, a pipeline, or one written in place.

Waiting for receipts is connection.py's. `Bus` has these methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from sira import _native
from sira.client.deadline import Deadline
from sira.client.envelope import WAIT_PART, Envelope, envelope
from sira.client.finding import Finding
from sira.client.lineage import id_text, lineage
from sira.client.loan import Loan, Wanted
from sira.client.loan_way import LoanWay
from sira.client.message import Body
from sira.client.outgoing import NEXT_TURN
from sira.client.publisher import Batch, Publisher
from sira.client.requests import Requests
from sira.client.retry import Retry
from sira.kernel.errors import (
    NodeDraining,
    QuotaExceeded,
    RateLimited,
    SiraError,
)

# The node answers QUEUE_FULL by itself; we wait a little longer than it does, so that this is what
# the caller hears.
_NODE_LEAD_S = 2.0


def _id(each: bytes | _native.Receipt) -> str:
    return id_text(each) if isinstance(each, bytes) else each.id


class Publishing(Finding):
    """What sends messages. `Bus` has it."""

    _retry: Retry
    _requests: Requests | None
    _loans: LoanWay | None = None

    async def publish(
        self,
        topic: str,
        body: Body = None,
        *,
        grade: str | None = None,
        dedupe_key: str = "",
        key: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        ttl_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **further: Unpack[Envelope],
    ) -> _native.Receipt:
        """Publish one message and return its receipt, when its grade is reached.

        Args:
            topic: a name without wildcards.
            body: tensors by name (NumPy, DLPack producers, buffers, numbers, lists), bytes, text,
                or a received message, whose body is passed on without decoding. Arrays keep their
                shape and dtype; their memory must not change until this returns.
            grade: accepted (default), disk, replicated, consumed; above `accepted` needs a durable
                topic.
            dedupe_key, key: for durable topics.
            priority: 0 to 7, higher first.
            timeout_s: how long to wait for room and for the grade, in s; None: the node's
                `publish_block_s`.
            ttl_s: an undelivered message expires after so long, in s; None: never.
            headers: text to text, at most 64.
            further: type, content_type, schema, reply_to.
        Raises:
            QueueFull: no room in time; nobody got it.
            RateLimited: no room within a limit in time; nobody got it.
            BadTopic, BadRequest, ContractMismatch, Denied, Unsupported: refused; nobody got it.
            Timeout, Unreachable, OutcomeUnknown: no answer; the details say what is known.
        """
        connection = self.connection
        fields = envelope(
            grade=grade,
            dedupe_key=dedupe_key,
            key=key,
            priority=priority,
            wait_s=None if timeout_s is None else timeout_s * WAIT_PART,
            ttl_s=ttl_s,
            headers=headers,
            further=further,
        )
        if connection.outgoing.outbox.links and timeout_s is None:  # past the node, as most go
            fields.update(lineage())
            options = _native.Options(**fields) if fields else None
            receipt = connection.post(topic, body, options)
            if receipt is not None:
                if connection.due():
                    await NEXT_TURN
                return receipt
        deadline = Deadline(self._publish_s(timeout_s), connection.loop)
        return await self._publish(topic, body, fields, deadline)

    async def _publish(
        self,
        topic: str,
        body: Body,
        fields: dict[str, Any],
        deadline: Deadline,
        loan: _native.ShmChunk | None = None,
    ) -> _native.Receipt:
        connection = self.connection
        fields.update(lineage())
        options = _native.Options(**fields) if fields else None
        try:
            return await connection.publish(topic, body, options, deadline, loan)
        except (RateLimited, QuotaExceeded, NodeDraining) as error:
            refused: SiraError = error
        delays_s = self._retry.delays_s(connection.rng)
        while True:  # refused for the moment: nobody got it, so it may be sent again
            delay_s = self._retry.limit_delay_s(refused, connection.rng)
            if isinstance(refused, NodeDraining) and self._retry.publishes:
                delay_s = max(next(delays_s), refused.retry_after_ms / 1e3)
            if delay_s is None or deadline.left_s() <= delay_s:
                raise refused
            await asyncio.sleep(delay_s)
            try:
                return await connection.publish(topic, body, options, deadline, loan)
            except (RateLimited, QuotaExceeded, NodeDraining) as error:
                refused = error

    def loan(
        self,
        topic: str,
        tensors: Mapping[str, str],
        *,
        request: bool = False,
        grade: str | None = None,
        key: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        ttl_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **further: Unpack[Envelope],
    ) -> Loan:
        """Return a message to be written in place; it is sent at the end of its `async with`.

        On the node's socket its arrays lie in shared memory, and no byte is copied on the way.

        Args:
            tensors: name -> dtype and shape, as "bf16[1080,1920,3]"; "f32": a scalar.
            request: what is sent is a request; `await out.reply()` gives the answer.
            timeout_s: as `publish`, or as `request`, whose default it has then.
            grade, key, priority, ttl_s, headers, further: as `publish`; a request has no grade
                and no ttl_s.
        Raises:
            BadTopic, BadRequest: no such topic, dtype or shape, or a setting that does not fit.
        """
        way = self._lending()
        fields = envelope(
            grade=grade,
            key=key,
            priority=priority,
            wait_s=None if timeout_s is None or request else timeout_s * WAIT_PART,
            ttl_s=ttl_s,
            headers=headers,
            further=further,
        )
        return Loan(way, Wanted(topic, tensors, fields, timeout_s, request))

    def _lending(self) -> LoanWay:
        """Return how loans are sent. Raises Unreachable: not connected."""
        connection = self.connection
        if self._loans is None:
            self._loans = LoanWay(self, connection)
        return self._loans

    def _publish_s(self, timeout_s: float | None) -> float:
        return self.connection.publish_block_s + _NODE_LEAD_S if timeout_s is None else timeout_s

    async def publish_many(
        self,
        topic: str,
        bodies: Iterable[Body],
        *,
        grade: str | None = None,
        key: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        ttl_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **further: Unpack[Envelope],
    ) -> list[_native.Receipt]:
        """Publish several messages on one topic; return their receipts in order.

        Raises:
            SiraError: the first refusal; its details say the `index` of the message and how many
                were `accepted` (others than the refused ones have been delivered).
            Timeout: not all were answered in time; without `timeout_s`: none was for so long as one
                may take.
        """
        connection = self.connection
        outgoing = connection.outgoing

        def due() -> Deadline:
            return Deadline(self._publish_s(timeout_s), connection.loop)

        deadline, renew = due(), due if timeout_s is None else None
        fields = envelope(
            grade=grade,
            key=key,
            priority=priority,
            wait_s=None if timeout_s is None else timeout_s * WAIT_PART,
            ttl_s=ttl_s,
            headers=headers,
            further=further,
        )
        fields.update(lineage())
        options = _native.Options(**fields) if fields else None
        outbox, batch = outgoing.outbox, Batch(connection.loop)
        ids: list[bytes | _native.Receipt] = []
        past_node = 0
        try:
            for body in bodies:
                if outbox.links:
                    receipt = connection.post(topic, body, options)
                    if receipt is None:
                        receipt = await connection.past_node(topic, body, options, deadline)
                    elif connection.due():
                        await NEXT_TURN
                    if receipt is not None:
                        ids.append(receipt)
                        batch.receipts.append(receipt)
                        past_node += 1
                        continue
                if renew is not None and not outbox.room:
                    deadline = renew()
                ids.append(await outgoing.push(topic, body, options, batch, deadline))
            batch.count += past_node
            await batch.wait(len(ids), deadline, renew=renew)
        except TimeoutError as error:
            while outbox.cancel(batch):
                pass
            raise connection.late(
                deadline, f"publish_many to {topic}", accepted=str(len(batch.receipts))
            ) from error
        except BaseException:
            while outbox.cancel(batch):
                pass
            raise
        if batch.error is not None:
            # A large message is refused before smaller ones that were sent earlier are answered.
            accepted = {receipt.id for receipt in batch.receipts}
            index = next(i for i, each in enumerate(ids) if _id(each) not in accepted)
            batch.error.details["index"] = str(index)
            batch.error.details["accepted"] = str(len(batch.receipts))
            batch.error.details["refused"] = str(batch.refused)
            raise batch.error
        if 0 < past_node < len(ids):  # the two ways have no common order
            order = {_id(each): at for at, each in enumerate(ids)}
            batch.receipts.sort(key=lambda receipt: order[receipt.id])
        return batch.receipts

    def publisher(
        self,
        topic: str,
        *,
        grade: str | None = None,
        key: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        ttl_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **further: Unpack[Envelope],
    ) -> Publisher:
        """Return a pipelined publisher for one topic; use it with `async with`.

        Args: as `publish`; `timeout_s` also limits how long one `send` waits for room here.
        """
        fields = envelope(
            grade=grade,
            key=key,
            priority=priority,
            wait_s=timeout_s,
            ttl_s=ttl_s,
            headers=headers,
            further=further,
        )
        return Publisher(self.connection, topic, fields=fields, timeout_s=timeout_s)
