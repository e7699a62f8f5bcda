"""Ten tenants with real tokens over TLS: every method with every name of the others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from sira.kernel.methods import Method
from sira.v1 import bus_pb2, kernel_pb2, message_pb2
from tests.integration.node.plain import code_of, data_of, frame, message, within

from .keys import Keys, principal, running
from .test_listeners import session

pytestmark = pytest.mark.integration
TENANTS = tuple(f"t{number}" for number in range(10))
SECRET = "secret-of-"
# What each method is asked for: everything that a caller could name of another tenant's.
ASKED: dict[str, Any] = {
    "/sira.v1.Kernel/Negotiate": lambda _: kernel_pb2.NegotiateRequest(),
    "/sira.v1.Kernel/Introspect": lambda _: kernel_pb2.IntrospectRequest(),
    "/sira.v1.Kernel/Stats": lambda _: kernel_pb2.StatsRequest(prometheus=True),
    "/sira.v1.Kernel/Ledger": lambda _: kernel_pb2.LedgerRequest(),
    "/sira.v1.Kernel/Memory": lambda other: kernel_pb2.MemoryRequest(pattern=topic(other)),
    "/sira.v1.Kernel/Explain": lambda other: kernel_pb2.ExplainRequest(topic=topic(other)),
    "/sira.v1.Bus/Request": lambda other: message(topic(other), ttl_ns=50_000_000),
    "/sira.v1.Bus/Call": lambda other: message(topic(other)),
    "/sira.v1.Bus/Fetch": lambda other: bus_pb2.FetchRequest(),
    "/sira.v1.Bus/Trace": lambda other: bus_pb2.TraceRequest(),
    "/sira.v1.Bus/ListTopics": lambda _: bus_pb2.ListTopicsRequest(),
    "/sira.v1.Bus/DeleteTopic": lambda other: bus_pb2.DeleteTopicRequest(name=topic(other)),
}
# Asked in the test's own way: streams, what makes a name, and what tells nobody's names. What
# services bring to a tenant: tests/integration/node/test_attach.py.
OTHERWISE = {
    "/sira.v1.Bus/Publish", "/sira.v1.Bus/Subscribe", "/sira.v1.Bus/CreateTopic",
    "/sira.v1.Kernel/Attach",
}  # fmt: skip
NOT_OURS = ("/grpc.health.", "/grpc.reflection.")


def topic(tenant: str) -> str:
    return f"lab.{SECRET}{tenant}"


async def _answer(
    channel: grpc.aio.Channel, method: Method, request: Any, metadata: Any
) -> tuple[str, str]:
    """The code that a unary call or a stream of answers ends with, and what it told."""
    data = request.SerializeToString()
    try:
        if not method.response_stream:
            reply = await channel.unary_unary(method.name)(data, metadata=metadata, timeout=20)
            return "OK", str(method.response.FromString(reply))
        call = channel.unary_stream(method.name)(data, metadata=metadata, timeout=20)
        return "OK", "".join([str(each) async for each in call])
    except grpc.aio.AioRpcError as error:
        return code_of(error), ""


def test_no_method_reaches_a_name_of_another_tenant(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    ca = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
    shown = {
        tenant: (("authorization", f"Bearer {keys.token(principal('bob', tenant))}"),)
        for tenant in TENANTS
    }

    async def work() -> None:
        async with (
            running(keys.flags()) as node,
            grpc.aio.secure_channel(f"127.0.0.1:{node.port}", ca) as channel,
        ):
            ours = [m for m in node.catalog.methods() if not m.name.startswith(NOT_OURS)]
            assert {m.name for m in ours} == set(ASKED) | OTHERWISE, "a method nobody asks here"
            heard: dict[str, Any] = {}
            for tenant in TENANTS:
                stream = channel.stream_stream("/sira.v1.Bus/Subscribe")(metadata=shown[tenant])
                opening = bus_pb2.Open(subscription=1, pattern=topic(tenant))
                await stream.write(frame(bus_pb2.Item(open=opening)).SerializeToString())
                await within(stream.read())
                heard[tenant] = stream
            for tenant in TENANTS:
                await _tries_all(channel, ours, tenant, shown[tenant])
            for tenant in TENANTS:  # the first thing each hears is its own
                pub = channel.stream_stream("/sira.v1.Bus/Publish")(metadata=shown[tenant])
                sent = message(topic(tenant), tenant.encode())
                await pub.write(frame(bus_pb2.Item(message=sent)).SerializeToString())
                (item,) = bus_pb2.Frame.FromString(await within(heard[tenant].read())).items
                assert data_of(item.message) == tenant.encode()
                assert item.message.tenant == tenant

    session(work)


async def _tries_all(
    channel: grpc.aio.Channel, methods: list[Method], tenant: str, metadata: Any
) -> None:
    others = [other for other in TENANTS if other != tenant]
    for method in sorted(methods, key=_leaves_names):
        ask = ASKED.get(method.name)
        for other in others if ask is not None else ():
            code, told = await _answer(channel, method, ask(other), metadata)
            told = told.replace(topic(other), "", told.count(topic(other)) * _echoes(method))
            assert SECRET + other not in told, (method.name, code)
            assert f"/{other}/" not in told, method.name
    pub = channel.stream_stream("/sira.v1.Bus/Publish")(metadata=metadata)
    items = [bus_pb2.Item(message=message(topic(other), b"stolen")) for other in others]
    await pub.write(frame(*items).SerializeToString())
    receipts: list[Any] = []
    async with asyncio.timeout(60):
        while len(receipts) < len(others):
            receipts += bus_pb2.Frame.FromString(await pub.read()).items
    assert all(each.receipt.matched == 0 for each in receipts)


def _leaves_names(method: Method) -> bool:
    """Whether asking leaves the name in the caller's own world, to be listed there from then on."""
    return method.name in ("/sira.v1.Bus/Request", "/sira.v1.Bus/Call")


def _echoes(method: Method) -> bool:
    """Whether the answer repeats the name that was asked about."""
    return method.name == "/sira.v1.Kernel/Explain"


def test_a_message_that_claims_another_tenant_is_refused(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    ca = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
    metadata = (("authorization", f"Bearer {keys.token(principal('bob', 't0'))}"),)

    async def work() -> None:
        async with (
            running(keys.flags()) as node,
            grpc.aio.secure_channel(f"127.0.0.1:{node.port}", ca) as channel,
        ):
            call = channel.stream_stream("/sira.v1.Bus/Publish")(metadata=metadata)
            sent: message_pb2.Message = message("lab.a", tenant="t1")
            await call.write(frame(bus_pb2.Item(message=sent)).SerializeToString())
            answer = bus_pb2.Frame.FromString(await within(call.read()))
            assert answer.items[0].receipt.error.code == "DENIED"

    session(work)
