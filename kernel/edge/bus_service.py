"""`sira.v1.Bus`: publish, subscribe, request, topics; and what this node does not have, by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from google.protobuf.message import Message

from sira import _native
from sira.kernel.authorize import Allow
from sira.kernel.edge.door import Call
from sira.kernel.edge.link import Links
from sira.kernel.edge.parts import taking_turns
from sira.kernel.edge.publish import Publishing
from sira.kernel.edge.subscribe import Subscribing
from sira.kernel.errors import BadRequest, NodeDraining, NotFound, SiraError, Unsupported
from sira.kernel.methods import Method, method
from sira.kernel.parts import TopicKeeper
from sira.kernel.topics import REPLY_PREFIX, covers, first_token, is_pattern
from sira.v1 import bus_pb2, message_pb2

_PAGE_TOPICS, _PAGE_TOPICS_MAX = 1_000, 10_000
_PAGE_BYTES = 1 << 20  # a page ends after so many, or a client's gRPC would not take it
_NAMES_A_STEP, _TOPICS_A_STEP = 400, 100  # between two steps others have the loop


class BusService:
    """The doors of the bus."""

    def __init__(
        self, links: Links, keeper: Callable[[], TopicKeeper | None] = lambda: None
    ) -> None:
        """Serve the streams of all worlds.

        Args:
            links: holds streams while they are open.
            keeper: says who keeps declarations over a restart; None: nobody does.
        """
        self._keeper = keeper
        self._turns: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}
        self._publishing, self._subscribing = Publishing(links), Subscribing(links)

    def methods(self) -> list[Method]:
        """Return the entries for the table."""
        of = bus_pb2.DESCRIPTOR.services_by_name["Bus"].methods_by_name
        pb, message = bus_pb2, message_pb2.Message
        return [
            method(of["Publish"], self._publishing.publish, effects="once", frames=True,
                   parting=True,
                   summary="messages in, a receipt or a refusal for each, in order",
                   request=pb.Frame, response=pb.Frame),
            method(of["Subscribe"], self._subscribing.subscribe, effects="read", frames=True,
                   parting=True,
                   summary="subscriptions and credits in, deliveries out",
                   request=pb.Frame, response=pb.Frame),
            method(of["Request"], self.request, effects="once",
                   summary="publish with a private reply topic, return the first final reply",
                   request=message, response=message),
            method(of["Call"], _missing("registry", "calling a capability"), effects="once",
                   summary="discover, place, deliver, answer; needs a registry",
                   request=message, response=message),
            method(of["Fetch"], _missing("durable", "replay"), effects="read",
                   summary="replay of a durable topic, then end; needs a log",
                   request=pb.FetchRequest, response=pb.Frame),
            method(of["Trace"], _missing("trace", "walking causes"), effects="read",
                   summary="the messages of one conversation; needs a log",
                   request=pb.TraceRequest, response=message),
            method(of["CreateTopic"], self.create_topic, effects="idempotent",
                   administrative=True,
                   summary="declare a topic, or a class of topics by a pattern",
                   request=pb.CreateTopicRequest, response=pb.Topic),
            method(of["ListTopics"], self.list_topics, effects="read",
                   summary="topics and classes, in use or declared, by name",
                   request=pb.ListTopicsRequest, response=pb.ListTopicsResponse),
            method(of["DeleteTopic"], self.delete_topic, effects="idempotent",
                   administrative=True,
                   summary="forget a topic or a class; its counts go to its class",
                   request=pb.DeleteTopicRequest, response=pb.DeleteTopicResponse),
        ]  # fmt: skip

    async def request(self, call: Call, message: message_pb2.Message) -> message_pb2.Message:
        """Publish, and return the first final reply. See `Requests.request`."""
        return await call.world.requests.request(call, message)

    async def create_topic(self, call: Call, request: bus_pb2.CreateTopicRequest) -> bus_pb2.Topic:
        """Declare a topic or a class. See `TopicTable.creating`.

        Raises:
            BadRequest: an owned topic for a caller that has no stream to die with.
        """
        bus = call.world.bus
        if bus.draining:
            raise NodeDraining(retry_after_ms=1_000)
        bus.may(call.credential, "create_topic", request.name)
        owner = _owner(call) if request.owned else 0
        creating = bus.topics.creating(request, owner=owner, by=call.principal)
        keeper = self._keeper()
        if keeper is None or owner:
            await taking_turns(creating)
            return bus.topics.describe(request.name)
        async with self._turn(bus.tenant, request.name):
            known = bus.topics.declarations.get(request.name) is not None
            await taking_turns(creating)
            if not known:
                try:
                    await keeper.keep(bus.tenant, request, call.principal)
                except SiraError:
                    bus.topics.delete(request.name)
                    raise
        return bus.topics.describe(request.name)

    @asynccontextmanager
    async def _turn(self, tenant: str, name: str) -> AsyncIterator[None]:
        """Let one after the other declare or delete what has one name."""
        at = tenant, name
        lock, count = self._turns.get(at, (asyncio.Lock(), 0))
        self._turns[at] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            lock, count = self._turns.pop(at)
            if count > 1:
                self._turns[at] = lock, count - 1

    async def list_topics(
        self, call: Call, request: bus_pb2.ListTopicsRequest
    ) -> bus_pb2.ListTopicsResponse:
        """Return one page of names that match, sorted, and where the next page begins.

        Raises:
            BadTopic: the pattern is not well formed.
        """
        if request.pattern:
            _native.check_pattern(request.pattern)
        count = min(request.count_max or _PAGE_TOPICS, _PAGE_TOPICS_MAX)
        best: list[str] = []
        topics = call.world.bus.topics
        await taking_turns(call.world.bus.settle())
        names = topics.names()
        for start in range(0, len(names), _NAMES_A_STEP):
            step = [n for n in names[start : start + _NAMES_A_STEP] if _shown(n, request)]
            if len(best) > count:
                step = [n for n in step if n < best[-1]]
            readable = sorted(n for n in step if _listed(call, n))
            if readable:  # two sorted runs: sorting them is merging them
                best = list(dict.fromkeys(sorted(best + readable)))[: count + 1]
            await asyncio.sleep(0)
        response, page_bytes = bus_pb2.ListTopicsResponse(), 0
        for index, name in enumerate(best[:count], 1):
            topic = topics.describe(name)
            response.topics.append(topic)
            page_bytes += topic.ByteSize()
            if page_bytes >= _PAGE_BYTES and index < len(best):
                response.next = name
                return response
            if index % _TOPICS_A_STEP == 0:
                await asyncio.sleep(0)
        response.next = best[count - 1] if len(best) > count else ""
        return response

    async def delete_topic(
        self, call: Call, request: bus_pb2.DeleteTopicRequest
    ) -> bus_pb2.DeleteTopicResponse:
        """Forget a topic or a class.

        Raises:
            NotFound: there is none of this name.
        """
        bus = call.world.bus
        bus.may(call.credential, "delete_topic", request.name)
        if first_token(request.name).startswith("_"):
            raise NotFound("private reply topics go with their client")
        keeper = self._keeper()
        async with self._turn(bus.tenant, request.name):
            said = bus.topics.declarations.get(request.name)
            if keeper is not None and said is not None and not said.owner:
                await keeper.forget(bus.tenant, request.name)
            bus.topics.delete(request.name)
        return bus_pb2.DeleteTopicResponse()


def _owner(call: Call) -> int:
    """Return the client that an owned topic dies with."""
    client = call.world.bus.clients.get(call.hello.id) if call.hello.id else None
    if client is None or client.principal != call.principal:
        raise BadRequest(
            "an owned topic dies with its client: open a stream first, with the same "
            "sira-client metadata",
            details={"field": "owned"},
        )
    return client.number


def _listed(call: Call, name: str) -> bool:
    """Whether the caller may see that there is such a topic."""
    decision = call.world.bus.access.decide(call.credential, "inspect", name)
    return isinstance(decision, Allow)


def _shown(name: str, request: bus_pb2.ListTopicsRequest) -> bool:
    """Whether a listing that is asked for so has this name."""
    if name <= request.after or first_token(name) == REPLY_PREFIX:
        return False  # who knows a private reply topic can answer in another's place
    if not request.pattern:
        return True
    if is_pattern(name):
        return covers(request.pattern, name)
    return _native.topic_match(request.pattern, name)


def _missing(feature: str, what: str) -> Callable[[Call, Message], Awaitable[None]]:
    """Return a handler that refuses by name what this node does not have."""

    async def refuse(call: Call, request: Message) -> None:
        del call, request
        raise Unsupported(f"{what} is not in this node", details={"feature": feature})

    return refuse
