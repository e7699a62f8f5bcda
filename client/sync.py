"""The bus without `await`: the same names, from any thread, also inside a running event loop.

One background thread of the process runs the event loop of all synchronous connections. What must
be quick does not go through it: a message that has come is popped, and one that has room is pushed,
in the calling thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Self, Unpack, cast

from sira import _native
from sira.client import bus as async_bus
from sira.client.bus import Bus
from sira.client.envelope import WAIT_PART, Envelope, envelope
from sira.client.info import Explanation, Ledger
from sira.client.lineage import lineage
from sira.client.loan import SyncLoan, Wanted, plain
from sira.client.looking import CALL_S
from sira.client.message import Body, SyncMessage
from sira.client.reply_stream import ReplyStream
from sira.client.requests import REQUEST_S
from sira.client.retry import Retry
from sira.client.runner import Runner, runner
from sira.client.security import Security, with_token
from sira.client.sync_finding import SyncFinding
from sira.client.sync_kept import SyncConfig, SyncLeases
from sira.client.sync_parts import SyncPublisher, SyncReplyStream, SyncTopics
from sira.client.sync_subscription import SyncSubscription
from sira.kernel.errors import SiraError
from sira.v1 import kernel_pb2


def connect_sync(
    url: str | None = None,
    *,
    name: str = "",
    retry: Retry | None = None,
    timeout_s: float | None = async_bus.CONNECT_S,
    token: str | None = None,
    security: Security | None = None,
) -> SyncBus:
    """Connect, and return the bus; see `sira.connect` for the arguments.

    Raises:
        Unreachable: no node answered in `timeout_s`.
    """
    return SyncBus(
        Bus(
            url,
            name=name,
            retry=retry,
            timeout_s=timeout_s,
            security=with_token(security, token),
            message_type=SyncMessage,
        )
    )


class SyncBus(SyncFinding):
    """A connection to a node and all that is done over it. For any thread."""

    def __init__(self, bus: Bus) -> None:
        """Connect `bus` on the background loop. Raises Unreachable."""
        self._runner: Runner = runner()
        self._bus = bus
        self._runner.run(bus._open())
        self.topics = SyncTopics(self._runner, bus.topics)
        self.config = SyncConfig(self._runner, bus.config)
        self.leases = SyncLeases(self._runner, bus.leases)

    @property
    def url(self) -> str:
        """The addresses, as given."""
        return self._bus.url

    @property
    def node(self) -> kernel_pb2.NegotiateResponse:
        """What the node said when we connected."""
        return self._bus.node

    def __enter__(self) -> Self:
        """Return itself: it is connected."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Send what is queued, confirm what was taken, disconnect. Twice is once."""
        self._runner.run(self._bus.close())

    def publish(
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
        """Publish one message and return its receipt; see `Bus.publish`."""
        outbox = self._bus.connection.outgoing.outbox
        if outbox.links:  # past the node, in this thread
            fields = envelope(
                grade=grade,
                dedupe_key=dedupe_key,
                key=key,
                priority=priority,
                ttl_s=ttl_s,
                headers=headers,
                further=further,
            )
            fields.update(lineage())
            options = _native.Options(**fields) if fields else None
            wait_s = math.inf if timeout_s is None else timeout_s
            receipt = outbox.direct(topic, body, options, None, wait_s)
            if receipt is not None:
                return receipt
        return self._runner.run(
            self._bus.publish(
                topic,
                body,
                grade=grade,
                dedupe_key=dedupe_key,
                key=key,
                priority=priority,
                timeout_s=timeout_s,
                ttl_s=ttl_s,
                headers=headers,
                **further,
            )
        )

    def publish_many(
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
        """Publish several messages on one topic; see `Bus.publish_many`."""
        left, rest = iter(bodies), list[Body]()  # a generator runs in the caller's thread
        posted: list[_native.Receipt] = []
        outbox = self._bus.connection.outgoing.outbox
        if outbox.links:  # past the node, in this thread
            fields = envelope(
                grade=grade,
                key=key,
                priority=priority,
                ttl_s=ttl_s,
                headers=headers,
                further=further,
            )
            fields.update(lineage())
            options = _native.Options(**fields) if fields else None
            wait_s = math.inf if timeout_s is None else timeout_s
            for body in left:
                receipt = outbox.direct(topic, body, options, None, wait_s)
                if receipt is None:
                    rest.append(body)
                    break
                posted.append(receipt)
        rest.extend(left)
        if posted and not rest:
            return posted
        try:
            return posted + self._runner.run(
                self._bus.publish_many(
                    topic,
                    rest,
                    grade=grade,
                    key=key,
                    priority=priority,
                    timeout_s=timeout_s,
                    ttl_s=ttl_s,
                    headers=headers,
                    **further,
                )
            )
        except SiraError as error:
            for name in error.details.keys() & {"index", "accepted"}:
                error.details[name] = str(int(error.details[name]) + len(posted))
            raise

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
    ) -> SyncPublisher:
        """Return a pipelined publisher for one topic; see `Bus.publisher`."""
        publisher = self._bus.publisher(
            topic,
            grade=grade,
            key=key,
            priority=priority,
            timeout_s=timeout_s,
            ttl_s=ttl_s,
            headers=headers,
            **further,
        )
        return SyncPublisher(self._runner, publisher)

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
    ) -> SyncLoan:
        """Return a message to be written in place; see `Bus.loan`."""
        way = self._bus._loans or self._bus._lending()
        wait_s = None if timeout_s is None or request else timeout_s * WAIT_PART
        says = grade is not None or key or priority or ttl_s is not None or headers or further
        if wait_s is None and not says:
            wanted = plain(topic, tuple(tensors.items()), timeout_s, request)
            return SyncLoan(self._runner, way, wanted)
        fields = envelope(
            grade=grade,
            key=key,
            priority=priority,
            wait_s=wait_s,
            ttl_s=ttl_s,
            headers=headers,
            further=further,
        )
        wanted = Wanted(topic, tensors, fields, timeout_s, request)
        return SyncLoan(self._runner, way, wanted)

    def subscribe(
        self,
        pattern: str,
        *,
        group: str = "",
        overflow: str = "block",
        window_messages: int | None = None,
        window_bytes: int = 0,
        contract: Mapping[str, str] | None = None,
        start: str | int = "",
        ack_wait_s: float = 0.0,
        max_deliver: int = 0,
    ) -> SyncSubscription:
        """Return the messages of a topic or pattern; see `Bus.subscribe`."""
        connection = self._bus.connection
        assert self._bus._answers is not None, "connected"

        async def make() -> SyncSubscription:  # on the loop that it belongs to
            return SyncSubscription(
                self._runner,
                connection,
                pattern,
                responder=self._bus._answers,
                group=group,
                overflow=overflow,
                window_messages=window_messages,
                window_bytes=window_bytes,
                contract=contract,
                start=str(start),
                ack_wait_s=ack_wait_s,
                max_deliver=max_deliver,
            )

        return self._runner.run(make())

    def request(
        self,
        topic: str,
        body: Body = None,
        *,
        timeout_s: float | None = REQUEST_S,
        priority: int = 0,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        **further: Unpack[Envelope],
    ) -> SyncMessage:
        """Publish a request and return its reply; see `Bus.request`."""
        connection = self._bus.connection
        if connection.outgoing.outbox.links and self._bus._requests is not None:
            until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
            found = self._bus._requests.here.ask(
                topic,
                body,
                timeout_s=timeout_s,
                until_s=until_s,
                idempotent=idempotent,
                fields=envelope(priority=priority, key=key, headers=headers, further=further)
                if priority or key or headers or further
                else {},
            )
            if found is not None:
                return found
            if timeout_s is not None:
                timeout_s = max(0.0, until_s - time.monotonic())
        reply = self._runner.run(
            self._bus.request(
                topic,
                body,
                timeout_s=timeout_s,
                priority=priority,
                key=key,
                headers=headers,
                idempotent=idempotent,
                **further,
            )
        )
        return cast(SyncMessage, reply)  # `message_type` said so

    def request_stream(
        self,
        topic: str,
        body: Body = None,
        *,
        timeout_s: float | None = REQUEST_S,
        priority: int = 0,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        **further: Unpack[Envelope],
    ) -> SyncReplyStream:
        """Publish a request and return its replies; see `Bus.request_stream`."""

        async def make() -> ReplyStream:  # on the loop that it belongs to
            return self._bus.request_stream(
                topic,
                body,
                timeout_s=timeout_s,
                priority=priority,
                key=key,
                headers=headers,
                **further,
            )

        return SyncReplyStream(self._runner, self._runner.run(make()))

    def ledger(self, pattern: str = "", *, timeout_s: float | None = CALL_S) -> Ledger:
        """Return the deliveries owed on the topics of `pattern`; see `Bus.ledger`."""
        return self._runner.run(self._bus.ledger(pattern, timeout_s=timeout_s))

    def explain(
        self,
        topic: str,
        *,
        principal: str = "",
        action: str = "",
        client: str = "",
        timeout_s: float | None = CALL_S,
    ) -> Explanation:
        """Return where a message on `topic` would go, and why; see `Bus.explain`."""
        return self._runner.run(
            self._bus.explain(
                topic, principal=principal, action=action, client=client, timeout_s=timeout_s
            )
        )

    def stats(
        self, *, prometheus: bool = False, timeout_s: float | None = CALL_S
    ) -> kernel_pb2.StatsResponse:
        """Return the node's counts; see `Bus.stats`."""
        return self._runner.run(self._bus.stats(prometheus=prometheus, timeout_s=timeout_s))

    def memory(
        self, pattern: str = "", *, timeout_s: float | None = CALL_S
    ) -> kernel_pb2.MemoryResponse:
        """Return the memory that clients share on the node; see `Bus.memory`."""
        return self._runner.run(self._bus.memory(pattern, timeout_s=timeout_s))

    def introspect(
        self, service: str = "", *, timeout_s: float | None = CALL_S
    ) -> kernel_pb2.IntrospectResponse:
        """Return the node's services, methods and settings; see `Bus.introspect`."""
        return self._runner.run(self._bus.introspect(service, timeout_s=timeout_s))
