"""Ten tenants, every method of the descriptors, every field that can hold a name of another.

Requests are made from the descriptors, so a method or a field that is new is tried without a line
here. What an attacker may know of a tenant begins with `known-`; what it must never read with
`hidden-`. Answers may repeat what was asked, so only the second kind is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from sira.kernel.methods import Method
from sira.v1 import bus_pb2, kernel_pb2
from tests.integration.node.plain import frame, message, within
from tests.soak.door.plans import METHODS

from .keys import Keys, principal, running

pytestmark = [pytest.mark.integration, pytest.mark.slow]
TENANTS = tuple(f"t{number}" for number in range(10))
DEPTH_MAX = 3
WATCHDOG_S = 100.0  # before pytest's own, which cannot tell what of it all hangs
ANSWER_S = 0.15  # a stream that nobody ends is listened to for so long, at first
# Fewer at once than `streams_per_connection_max`. gRPC's client keeps those beyond in a queue; many
# end there by their deadline and are never sent. In grpcio 1.83 (not 1.82, not 1.85) some of those
# keep a place on the connection for ever, until no call starts on it, or never end themselves.
AT_ONCE_MAX = 64
_F = FieldDescriptor


@dataclass(frozen=True)
class Names:
    """What others know of a tenant."""

    tenant: str

    @property
    def topic(self) -> str:
        return f"lab.known-{self.tenant}"

    @property
    def client(self) -> bytes:
        return hashlib.md5(self.tenant.encode()).digest()

    def text(self, field: str, variant: int) -> str:
        """What to write into a field of text; the second variant claims to be the other."""
        who = str(principal("bob", self.tenant))
        claims = {"principal": who, "tenant": self.tenant, "client": self.client.hex()}
        if field in claims:
            return claims[field] if variant else ""
        if field == "action":
            return ("publish", "subscribe", "attach")[variant % 3]
        if field == "pattern":
            return (self.topic, "lab.>", f"*.known-{self.tenant}", ">")[variant % 4]
        if field in ("group", "service"):
            return f"known-{self.tenant}"
        if field == "reply_to":
            return f"_reply.{self.client.hex()}" if variant else ""
        return (self.topic, f"known-{self.tenant}", who, self.client.hex())[variant % 4]


def filled(kind: Descriptor, names: Names, *, choice: int, variant: int, depth: int = 0) -> Any:
    """A request with the other's names in it; of each oneof the alternative number `choice`."""
    made = GetMessageClass(kind)()
    for field in kind.fields:
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1:
            if oneof.fields[choice % len(oneof.fields)] is not field:
                continue
        elif not variant and field.name in ("tensors", "error", "expect", "fence", "sealed"):
            continue  # the plain variant is one that could be taken
        _fill(made, field, names, choice=choice, variant=variant, depth=depth)
    return made


def _fill(
    made: Any, field: FieldDescriptor, names: Names, *, choice: int, variant: int, depth: int
) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if variant and field.name in ("headers", "metadata", "details"):
            getattr(made, field.name)["sira-client"] = names.client.hex()
        return
    value: Any
    if field.message_type is not None:
        if depth >= DEPTH_MAX:
            return
        value = filled(field.message_type, names, choice=choice, variant=variant, depth=depth + 1)
        if field.is_repeated:
            getattr(made, field.name).append(value)
        else:
            getattr(made, field.name).CopyFrom(value)
        return
    if field.type == _F.TYPE_STRING:
        value = names.text(field.name, variant)
    elif field.type == _F.TYPE_BYTES:
        value = names.client
    elif field.type == _F.TYPE_BOOL:
        value = bool(variant % 2)
    elif field.enum_type is not None:
        value = variant % 2
    else:
        value = 1 if field.name in ("subscription", "subscriptions", "call") else 0
    if field.is_repeated:
        getattr(made, field.name).append(value)
    elif value or field.type == _F.TYPE_STRING:
        setattr(made, field.name, value)


def choices(kind: Descriptor, depth: int = 0) -> int:
    """How many alternatives the widest oneof inside a type has, and at least one."""
    widest = max((len(each.fields) for each in kind.oneofs), default=1)
    inner = [each.message_type for each in kind.fields if each.message_type is not None]
    if depth < DEPTH_MAX:
        widest = max([widest, *(choices(each, depth + 1) for each in inner)])
    return widest


def asked(method: Method, names: Names) -> Iterator[bytes]:
    """Every request of a method that names the other, once."""
    kind, seen = METHODS[method.name].input_type, set[bytes]()
    for choice in range(choices(kind)):
        for variant in range(4):
            data = filled(kind, names, choice=choice, variant=variant).SerializeToString()
            if data not in seen:
                seen.add(data)
                yield data


def test_every_field_of_text_or_bytes_is_tried() -> None:
    """What this page is for: nothing that could hold a name is left out."""
    names = Names("t1")
    for name, method in METHODS.items():
        seen: set[str] = set()
        for choice in range(choices(method.input_type)):
            for variant in range(4):
                made = filled(method.input_type, names, choice=choice, variant=variant)
                seen |= _set_fields(made)
        assert seen >= _fields(method.input_type), name


def _set_fields(made: Any, depth: int = 0) -> set[str]:
    found: set[str] = set()
    for field, value in made.ListFields():
        if field.type in (_F.TYPE_STRING, _F.TYPE_BYTES):
            found.add(field.full_name)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                found |= _set_fields(each, depth + 1)
    return found


def _fields(kind: Descriptor, depth: int = 0) -> set[str]:
    found: set[str] = set()
    for field in kind.fields:
        if field.type in (_F.TYPE_STRING, _F.TYPE_BYTES):
            found.add(field.full_name)
            continue
        inner = field.message_type
        if inner is not None and depth < DEPTH_MAX and not inner.GetOptions().map_entry:
            found |= _fields(inner, depth + 1)
    return found


# ---- a node with ten tenants ---------------------------------------------------------------------


class Tenant:
    """One tenant: a subscriber, a topic that keeps a message, a service; and a look at them."""

    def __init__(self, channel: grpc.aio.Channel, name: str, token: str) -> None:
        self.names = Names(name)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self._mine = (*self.metadata, ("sira-client", self.names.client.hex()))
        self._channel = channel
        self._held: list[Any] = []
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)

    async def settle(self) -> None:
        """Make all that others must not see."""
        hidden = f"hidden-{self.names.tenant}"
        created = bus_pb2.CreateTopicRequest(name=f"{hidden}.>", kind=bus_pb2.TOPIC_KIND_LATEST)
        await self._unary("/sira.v1.Bus/CreateTopic", created)
        opening = bus_pb2.Open(subscription=1, pattern=self.names.topic, group=hidden)
        await self._stream("/sira.v1.Bus/Subscribe", frame(bus_pb2.Item(open=opening)))
        sent = message(f"{hidden}.kept", hidden.encode(), headers={"key": hidden})
        await self._stream("/sira.v1.Bus/Publish", frame(bus_pb2.Item(message=sent)))
        offer = kernel_pb2.AttachOffer(
            name=f"known-{self.names.tenant}",
            topic_classes=[kernel_pb2.TopicClass(pattern=f"{hidden}.>", summary=hidden)],
            verbs=[kernel_pb2.Verb(name=hidden, summary=hidden)],
        )
        await self._stream("/sira.v1.Kernel/Attach", kernel_pb2.AttachRequest(offer=offer))

    async def look(self) -> tuple[str, ...]:
        """What of the tenant's world others could have changed."""
        topics = bus_pb2.ListTopicsResponse.FromString(
            await self._unary("/sira.v1.Bus/ListTopics", bus_pb2.ListTopicsRequest())
        )
        ledger = kernel_pb2.LedgerResponse.FromString(
            await self._unary("/sira.v1.Kernel/Ledger", kernel_pb2.LedgerRequest())
        )
        stats = kernel_pb2.StatsResponse.FromString(
            await self._unary("/sira.v1.Kernel/Stats", kernel_pb2.StatsRequest())
        )
        offered = kernel_pb2.IntrospectResponse.FromString(
            await self._unary("/sira.v1.Kernel/Introspect", kernel_pb2.IntrospectRequest())
        )
        assert ledger.balanced
        return (
            *sorted(map(str, topics.topics)), *sorted(map(str, ledger.rows)),
            *sorted(map(str, stats.subscriptions)), *sorted(each.id for each in stats.clients),
            *sorted(map(str, offered.verbs)),
        )  # fmt: skip

    async def _unary(self, method: str, request: Any) -> bytes:
        call = self._channel.unary_unary(method)
        answer: bytes = await call(request.SerializeToString(), metadata=self._mine, timeout=20)
        return answer

    async def _stream(self, method: str, first: Any) -> None:
        """Open a stream and keep it; returns when it was answered."""
        call = self._channel.stream_stream(method)(metadata=self._mine)
        await call.write(first.SerializeToString())
        assert await within(call.read()) is not grpc.aio.EOF
        self._held.append(call)

    async def attack(self, methods: Sequence[Method], other: Names) -> list[str]:
        """Ask every method for every name of another; return what it told that it must not."""
        leaks: list[str] = []
        for method in methods:
            answers = await asyncio.gather(
                *(self._answer(method, data) for data in asked(method, other))
            )
            secret = f"hidden-{other.tenant}".encode()
            leaks += [method.name for each in answers if secret in each]
        return leaks

    async def _answer(self, method: Method, data: bytes) -> bytes:
        async with self._at_once:
            return await self._ask(method, data, ANSWER_S)

    async def _ask(self, method: Method, data: bytes, answer_s: float) -> bytes:
        got = bytearray()
        endless = method.request_stream or method.response_stream
        call = self._channel.stream_stream(method.name)(
            _once(data), metadata=self.metadata, timeout=answer_s if endless else 20
        )
        try:
            async for each in call:
                got += each
        except grpc.aio.AioRpcError as error:
            got += str(error).encode()
            got += str(error.trailing_metadata()).encode()
        except asyncio.CancelledError:
            # By gRPC itself: the deadline passed, or the node ended the call, while it still wrote
            # the request. What was answered is then not to be had: ask again, and give it longer.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                print(f"under way at the end: {method.name}, asked for {answer_s:g} s")
                raise
            return await self._ask(method, data, 2 * answer_s)
        return bytes(got)


async def _once(data: bytes) -> Any:
    yield data


@pytest.mark.parametrize("from_", [0, 5], ids=["t0-t4", "t5-t9"])
def test_no_call_of_the_descriptors_tells_or_changes_anything_of_another_tenant(
    tmp_path: Path, from_: int
) -> None:
    keys = Keys.new(tmp_path)
    ca = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())

    async def work() -> None:
        async with (
            asyncio.timeout(WATCHDOG_S),
            running(keys.flags()) as node,
            contextlib.AsyncExitStack() as exits,
        ):
            methods = [each for each in node.catalog.methods() if each.name in METHODS]
            assert {each.name for each in node.catalog.methods()} <= set(METHODS), "not known here"
            tenants = []
            for name in TENANTS:
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = await exits.enter_async_context(
                    grpc.aio.secure_channel(f"127.0.0.1:{node.port}", ca, options)
                )
                tenants.append(Tenant(channel, name, keys.token(principal("bob", name))))
            for each in tenants:
                await each.settle()
            assert any("hidden-t3" in line for line in await tenants[3].look()), "it can be seen"
            for attacker in tenants[from_ : from_ + 5]:
                others = [each for each in tenants if each is not attacker]
                before = [await each.look() for each in others]
                leaks = await asyncio.gather(
                    *(attacker.attack(methods, each.names) for each in others)
                )
                assert not any(leaks), leaks
                assert [await each.look() for each in others] == before

    asyncio.run(work())
