"""Topics by name: `bus.topics`."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Mapping

from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.info import KINDS, Topic
from sira.client.requests import Requests
from sira.kernel.errors import BadRequest, SiraError
from sira.v1 import bus_pb2

_log = logging.getLogger("sira.client")
CALL_S = 5.0
OWN_AGAIN_S = 5.0


class Topics:
    """Topics by name: `bus.topics`."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        """Hold `connection`, which gives the connection or raises that there is none."""
        self._connection = connection
        self._requests: Requests | None = None
        # Topics that live as long as this client: the node forgets them at each loss.
        self._owned: dict[str, bus_pb2.CreateTopicRequest] = {}

    def use(self, connection: Connection, requests: Requests) -> None:
        """Take note that the bus is connected."""
        self._requests = requests
        connection.on_back.append(self._own_again)

    async def _own_again(self) -> None:
        for name, request in list(self._owned.items()):
            try:
                await self._create(self._connection(), request, OWN_AGAIN_S)
            except SiraError as error:
                _log.warning("owned topic %s could not be made again: %s", name, error)

    async def _create(
        self, connection: Connection, request: bus_pb2.CreateTopicRequest, timeout_s: float | None
    ) -> bus_pb2.Topic:
        if request.owned and self._requests is not None:
            # The node ties an owned topic to this client's streams: there must be one.
            await self._requests.ready(Deadline(timeout_s, connection.loop))
        return await connection.unary(
            "/sira.v1.Bus/CreateTopic", request, bus_pb2.Topic, timeout_s=timeout_s
        )

    async def create(
        self,
        name: str,
        *,
        kind: str = "volatile",
        contract: Mapping[str, str] | None = None,
        owned: bool = False,
        keep_s: int | None = None,
        keep_bytes: int | None = None,
        timeout_s: float | None = CALL_S,
    ) -> Topic:
        """Declare a topic, or with a pattern a class of topics. The same again changes nothing.

        Args:
            kind: volatile, latest or durable.
            contract: tensor name -> "f32|bf16[B, H<=4096, 3]".
            owned: it goes when this client does, and is made again after a lost connection.
            keep_s, keep_bytes: retention of durable topics.
        Raises:
            Conflict: it exists and is different. Unsupported, BadTopic, BadRequest, Denied
        """
        if kind not in KINDS:
            raise BadRequest(f"kind is {kind!r}", help=f"one of {', '.join(KINDS)}")
        connection = self._connection()
        request = bus_pb2.CreateTopicRequest(
            name=name, kind=KINDS[kind], contract=contract, owned=owned
        )
        if keep_s is not None:
            request.keep_s = keep_s
        if keep_bytes is not None:
            request.keep_bytes = keep_bytes
        answer = await self._create(connection, request, timeout_s)
        if owned:
            self._owned[name] = request
        return Topic.from_proto(answer)

    async def list(self, pattern: str = "", *, timeout_s: float | None = CALL_S) -> list[Topic]:
        """Return the topics that `pattern` matches ("": all), by name."""
        connection = self._connection()
        request = bus_pb2.ListTopicsRequest(pattern=pattern)
        topics: builtins.list[Topic] = []
        while True:
            page = await connection.unary(
                "/sira.v1.Bus/ListTopics", request, bus_pb2.ListTopicsResponse, timeout_s=timeout_s
            )
            topics.extend(Topic.from_proto(topic) for topic in page.topics)
            if not page.next:
                return topics
            request.after = page.next

    async def delete(self, name: str, *, timeout_s: float | None = CALL_S) -> None:
        """Forget a topic; its counts go to its class. Raises NotFound."""
        connection = self._connection()
        await connection.unary(
            "/sira.v1.Bus/DeleteTopic",
            bus_pb2.DeleteTopicRequest(name=name),
            bus_pb2.DeleteTopicResponse,
            timeout_s=timeout_s,
            repeatable=False,
        )
        self._owned.pop(name, None)
