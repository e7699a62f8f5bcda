"""The bus, as an application holds it: publish, subscribe, ask, find, look.

`Bus` only translates. What sends is in publishing.py, what waits for replies in requests.py, what
finds and calls agents in finding.py and calling.py, what only looks in looking.py, what later
features bring in later.py; messages come by subscription.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, Unpack

from sira import _native
from sira.client.address import addresses, is_local, url_of
from sira.client.answers import Answers
from sira.client.calling import Calls
from sira.client.config import Config
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.envelope import Envelope, envelope
from sira.client.leases import Leases
from sira.client.local.transport import SocketTransport
from sira.client.message import Body, Message
from sira.client.publishing import Publishing
from sira.client.reply_stream import ReplyStream
from sira.client.requests import REQUEST_S, Requests
from sira.client.retry import Retry
from sira.client.security import Security, Settled, with_token
from sira.client.subscription import Subscription
from sira.client.topics import Topics
from sira.client.transport import GrpcTransport, Transport
from sira.kernel.errors import Unreachable
from sira.v1 import kernel_pb2

CONNECT_S = 5.0


def connect(
    url: str | None = None,
    *,
    name: str = "",
    retry: Retry | None = None,
    timeout_s: float | None = CONNECT_S,
    token: str | None = None,
    security: Security | None = None,
) -> Bus:
    """Return the bus; `await` it or enter it with `async with` to connect.

    Args:
        url: "sira://host:7700", "siras://host:7700" (TLS), "unix:/path/sira.sock" (a node of this
            host), several joined by commas; None: `SIRA_URL`, else the node of this host: by the
            descriptor in `SIRA_FD`, the socket in its data folder, or 127.0.0.1:7700.
        name: `source` of what is published; for people, not for rights.
        retry: what is tried again; None: connects, publishes by id, idempotent requests.
        timeout_s: how long the first connection may take.
        token: shown to the node; short for `security=Security(token=...)`.
        security: token, its file, and certificates; None: what the environment says (`SIRA_TOKEN`,
            `SIRA_TOKEN_FILE`, `SIRA_TLS_CA`, `SIRA_CLIENT_CERT`, `SIRA_CLIENT_KEY`).
    Raises:
        BadRequest: the URL is none, or what is shown does not fit together.
    """
    security = with_token(security, token)
    return Bus(url, name=name, retry=retry, timeout_s=timeout_s, security=security)


@dataclass(frozen=True, slots=True)
class Beside:
    """What a second connection to the same nodes is made of.

    Attributes:
        key: equal for buses whose second connections are as good as one.
        nodes: addresses, in order; `are_ways`: of one node, the best first.
    """

    key: tuple[object, ...]
    nodes: tuple[str, ...]
    are_ways: bool
    name: str
    retry: Retry
    dial: Callable[[str], Transport]

    def nodes_from(self, first: str) -> list[str]:
        """Return the addresses, that of the node in use first."""
        if self.are_ways or first not in self.nodes:
            return list(self.nodes)
        return [first, *(each for each in self.nodes if each != first)]


def _dial(address: str, security: Settled) -> Transport:
    kind = SocketTransport if is_local(address) else GrpcTransport
    return kind(address, security)


class Bus(Publishing):
    """A connection to a node and all that is done over it. Belongs to one event loop.

    Attributes:
        url: as given; the addresses are in it.
        topics: create, list and delete topics.
        config: values that the node keeps, with their versions.
        leases: rights that end, held by one or by so many.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str = "",
        retry: Retry | None = None,
        timeout_s: float | None = CONNECT_S,
        security: Security | None = None,
        dial: Callable[[str], Transport] | None = None,
        message_type: type[_native.Message] = Message,
    ) -> None:
        """Prepare; see `connect`.

        Args:
            dial: makes the way to an address; None: the socket of a node of this host, else gRPC,
                with `security`.
            message_type: of replies; the synchronous twin has its own.
        """
        self._nodes, tls = addresses(url)
        self._are_ways = not (url or os.environ.get("SIRA_URL"))
        self.url = url or ",".join(url_of(node, tls=tls) for node in self._nodes)
        self._settled: Settled | None = None  # None: the way is somebody else's
        if dial is None:
            settled = self._settled = (security or Security()).settled(tls=tls)
            dial = partial(_dial, security=settled)
        self.topics = Topics(lambda: self.connection)
        self.config = Config(lambda: self.connection)
        self.leases = Leases(lambda: self.connection)
        self._name = name
        self._retry = retry or Retry()
        self._timeout_s = timeout_s
        self._dial = dial
        self._message_type = message_type
        self._live: Connection | None = None
        self._answers: Answers | None = None
        self._requests: Requests | None = None
        self._calls: Calls | None = None

    async def _open(self) -> Self:
        if self._live is None:
            connection = Connection(
                list(self._nodes),
                name=self._name,
                retry=self._retry,
                dial=self._dial,
                are_ways=self._are_ways,
            )
            await connection.open(self._timeout_s)
            self._answers = Answers(connection)
            self._requests = Requests(connection, self._answers, self._message_type)
            self._calls = Calls(connection, self._requests, self._message_type)
            self.topics.use(connection, self._requests)
            self._live = connection
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Connect. Raises Unreachable."""
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        """Connect. Raises Unreachable."""
        return await self._open()

    async def __aexit__(self, *_error: object) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Send what is queued, confirm what was taken, disconnect. Twice is once."""
        if self._calls is not None:
            await self._calls.finish()
        if self._live is not None:
            await self._live.close()

    @property
    def connection(self) -> Connection:
        """The connection under the bus.

        Raises:
            Unreachable: not connected yet, closed, or made by the parent of this process.
        """
        if self._live is None:
            raise Unreachable(
                "this bus is not connected",
                retryable=False,
                help="write `async with sira.connect() as bus:` or `bus = await sira.connect()`",
            )
        self._live.check()
        return self._live

    def beside(self) -> Beside | None:
        """Return what a second connection is made of; None: there can be only this one."""
        if self._settled is None:
            return None
        nodes = tuple(self._nodes)
        return Beside(
            (nodes, self._are_ways, self._settled, self._retry),
            nodes, self._are_ways, self._name, self._retry, self._dial,
        )  # fmt: skip

    @property
    def node(self) -> kernel_pb2.NegotiateResponse:
        """What the node said when we connected: name, version, limits, who it takes us for."""
        return self.connection.node

    # ---- subscribing and asking ------------------------------------------------------------------

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
    ) -> Subscription:
        """Return the messages of a topic or pattern; enter it, then iterate.

        Args:
            pattern: `*` matches one token, a last `>` the rest.
            group: members of one queue group share the messages.
            overflow: what happens to a publish when this subscription does not keep up: `block`
                makes the publisher wait, `drop` drops the new message, `latest` keeps the newest
                of each publisher and topic.
            window_messages: sent and not yet taken, at most; None: 1,024, with `latest` 1.
            window_bytes: the same in bytes; 0: the node's default.
            contract: tensor name -> contract; refused when the topic's cannot meet it.
            start, ack_wait_s, max_deliver: for durable topics.
        Raises:
            BadTopic, BadRequest: the pattern or a setting is wrong.
        """
        connection = self.connection
        assert self._answers is not None, "connected"
        return Subscription(
            connection,
            pattern,
            responder=self._answers,
            group=group,
            overflow=overflow,
            window_messages=window_messages,
            window_bytes=window_bytes,
            contract=contract,
            start=str(start),
            ack_wait_s=ack_wait_s,
            max_deliver=max_deliver,
        )

    async def request(
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
    ) -> Message:
        """Publish a request and return its reply.

        Args:
            timeout_s: how long to wait for the reply, in s; the request expires with it.
            idempotent: doing it twice does no harm: sent again when the connection is lost.
        Raises:
            NoMatch: nobody listens. HandlerFailed: the handler raised. Timeout: no reply in time.
            OutcomeUnknown: the connection was lost before the reply came.
            SiraError: what the handler or the node refused with.
        """
        connection = self.connection
        assert self._requests is not None, "connected"
        fields = envelope(priority=priority, key=key, headers=headers, further=further)
        return await self._requests.request(
            topic,
            body,
            deadline=Deadline(timeout_s, connection.loop),
            idempotent=idempotent,
            fields=fields,
        )

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
    ) -> ReplyStream:
        """Publish a request and return its replies: an async iterator that ends when they do.

        Args:
            timeout_s: how long the whole stream may take, in s.
        Raises (while iterating):
            StreamTruncated: a reply is missing, or the connection was lost midway.
            NoMatch, HandlerFailed, Timeout, SiraError
        """
        self.connection.check()
        assert self._requests is not None, "connected"
        fields = envelope(priority=priority, key=key, headers=headers, further=further)
        return self._requests.stream(topic, body, timeout_s=timeout_s, fields=fields)
