"""The edge: every door asks, refusals are rich, health, reflection, deadlines, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sira.kernel.admission.limits import Limit
from sira.kernel.authorize import Allow, Deny, Readable, allow_all
from sira.kernel.identity import Principal
from sira.kernel.methods import method
from sira.kernel.node import Node
from sira.v1 import bus_pb2, error_pb2, kernel_pb2, message_pb2

from .plain import Plain, code_of, data_of, details_of, in_force, message, session, until, within

pytestmark = pytest.mark.integration


class Rules:
    """A policy of one function of action and resource."""

    def __init__(self, allows: Callable[[str, str], bool]) -> None:
        self._allows = allows

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        return Allow() if self._allows(action, resource) else Deny("DENIED", "the test says no")

    def readable(self, principal: Principal, pattern: str) -> Readable:
        return Readable((pattern,) if self._allows("subscribe", pattern) else ())


async def _knock(plain: Plain, name: str, *, streams: bool) -> grpc.aio.AioRpcError:
    """Call a method with nothing in it and return how it refused."""
    if streams:
        call = plain.channel.stream_stream(name)()
        await call.done_writing()
    else:
        call = plain.channel.unary_unary(name)(b"")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if streams:
            while await within(call.read()) is not grpc.aio.EOF:
                pass
            raise AssertionError(f"{name} let it through: {await call.code()}")
        await within(call)
    return caught.value


def test_every_door_asks_authorize_and_admit() -> None:
    """A walk over the whole table: with a policy that says no, no method lets anything through."""

    async def work(node: Node, plain: Plain) -> None:
        asked: list[tuple[str, str]] = []

        def nobody(action: str, resource: str) -> bool:
            asked.append((action, resource))
            return False

        methods = [each for each in node.catalog.methods() if not each.public]
        assert len(methods) >= 14
        await in_force(node, Rules(nobody))
        for each in methods:
            error = await _knock(plain, each.name, streams=each.request_stream)
            assert code_of(error) == "DENIED", each.name
            assert ("call", each.name) in asked
        await in_force(node, allow_all)
        node.bus.set_limits((Limit("tight", "principal", messages_per_s=1e-9),))
        first = await _knock(plain, "/sira.v1.Bus/Call", streams=False)
        assert code_of(first) in ("UNSUPPORTED", "RATE_LIMITED")
        for each in methods:
            error = await _knock(plain, each.name, streams=each.request_stream)
            assert code_of(error) == "RATE_LIMITED", each.name

    session(work)


def test_a_refusal_carries_code_retry_and_the_field_that_is_wrong() -> None:
    async def work(node: Node, plain: Plain) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.bus.Request(message("a.b", reply_to="mine"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        bad = error_details_pb2.BadRequest()
        (packed,) = [d for d in details_of(caught.value).details if d.Is(bad.DESCRIPTOR)]
        assert packed.Unpack(bad) and bad.field_violations[0].field == "reply_to"

        node.bus.set_limits((Limit("slow", "topic", "a.>", messages_per_s=1),))
        pub = plain.publishing()
        first, second = await pub.publish(message("a.b"), message("a.b"))
        assert not first.HasField("error")
        assert second.error.code == "RATE_LIMITED" and second.error.retryable
        assert 0 < second.error.retry_after_ms <= 1_000 and second.error.details["limit"] == "slow"
        (free,) = await pub.publish(message("b.b"))
        assert not free.HasField("error")

    session(work)


def test_what_the_node_does_not_have_is_refused_by_name() -> None:
    async def work(node: Node, plain: Plain) -> None:
        for call, feature in (
            (plain.bus.Call(message_pb2.Message()), "registry"),
            (plain.bus.Fetch(bus_pb2.FetchRequest()).read(), "durable"),
            (plain.bus.Trace(bus_pb2.TraceRequest()).read(), "trace"),
            (plain.create("a.b", kind=bus_pb2.TOPIC_KIND_DURABLE), "durable"),
            (plain.create("a.b", keep_s=3), "durable"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(call)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert code_of(caught.value) == "UNSUPPORTED"
            assert feature.encode() in details_of(caught.value).SerializeToString()
        sub = plain.subscribing()
        answer = await sub.open(1, "a.b", start="first")
        assert answer.ended.error.code == "UNSUPPORTED"
        await sub.opened(2, "a.b")
        await sub.send(bus_pb2.Item(ack=bus_pb2.Ack(subscription=2, message_id=b"x" * 16)))
        assert (await sub.item()).ended.error.code == "UNSUPPORTED"
        receipts = [
            *await plain.publishing().publish(message("a.b", dedupe_key="k")),
            *await plain.publishing().publish(message("a.b"), grade=bus_pb2.GRADE_DISK),
        ]
        assert [r.error.code for r in receipts] == ["UNSUPPORTED", "GRADE_UNAVAILABLE"]
        error = await _knock(plain, "/sira.v1.Registry/Discover", streams=False)
        assert code_of(error) == "UNSUPPORTED"

    session(work)


def test_a_request_to_nobody_fails_at_once_and_one_without_answer_at_its_deadline() -> None:
    async def work(node: Node, plain: Plain) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.bus.Request(message("nobody"), timeout=60)
        assert code_of(caught.value) == "NO_MATCH"
        sub = plain.subscribing()
        await sub.opened(1, "deaf")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.bus.Request(message("deaf"), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: len(node.worlds.default.requests) == 0)
        assert len(node.bus.subscriptions) == 1

    session(work)


def test_cancelling_a_call_ends_all_that_it_held() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "deaf")
        await pub.publish(message("deaf"))
        asking = plain.bus.Request(message("deaf"), timeout=600)
        await until(lambda: len(node.worlds.default.requests) == 1)
        asking.cancel()
        await until(lambda: len(node.worlds.default.requests) == 0)
        for stream in (sub, pub):
            stream.call.cancel()
        await until(lambda: len(node.bus.clients) == 0 and len(node.links) == 0)
        assert len(node.bus.subscriptions) == 0
        row = (await plain.ledger())["deaf"]
        assert (row.owed, sum(row.dropped.values())) == (2, 2)

    session(work)


def test_requests_in_flight_are_limited() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub = plain.subscribing()
        await sub.opened(1, "deaf")
        waiting = plain.bus.Request(message("deaf"), timeout=600)
        await until(lambda: len(node.worlds.default.requests) == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plain.bus.Request(message("deaf"), timeout=5)
        assert code_of(caught.value) == "QUOTA_EXCEEDED"
        waiting.cancel()

    session(work, requests_in_flight_max=1)


def test_health_is_told_for_the_node_and_each_service_and_changes_when_it_drains() -> None:
    async def work(node: Node, plain: Plain) -> None:
        stub = health_pb2_grpc.HealthStub(plain.channel)
        for service in ("", "sira.v1.Bus", "sira.v1.Kernel", "grpc.health.v1.Health"):
            got = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert got.status == health_pb2.HealthCheckResponse.SERVING, service
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="none"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await within(watching.read())).status == health_pb2.HealthCheckResponse.SERVING
        node.health.not_serving()
        got = await within(watching.read())
        assert got.status == health_pb2.HealthCheckResponse.NOT_SERVING

    session(work)


async def _reflect(plain: Plain, **question: Any) -> Any:
    stub = reflection_pb2_grpc.ServerReflectionStub(plain.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(**question))
    return await within(call.read())


def test_a_caller_with_no_proto_at_hand_calls_by_reflection_alone() -> None:
    """What grpcurl does: list, fetch the file, build the messages, call."""

    async def work(node: Node, plain: Plain) -> None:
        listed = await _reflect(plain, list_services="*")
        names = [s.name for s in listed.list_services_response.service]
        assert "sira.v1.Bus" in names and "sira.v1.Kernel" in names
        got = await _reflect(plain, file_containing_symbol="sira.v1.Kernel")
        pool = descriptor_pool.DescriptorPool()
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(each)
            for each in got.file_descriptor_response.file_descriptor_proto
        ]
        for file in reversed(files):
            pool.Add(file)
        service = pool.FindServiceByName("sira.v1.Kernel")
        found = service.methods_by_name["Negotiate"]
        request = message_factory.GetMessageClass(found.input_type)()
        reply = message_factory.GetMessageClass(found.output_type)()
        call = plain.channel.unary_unary(f"/{service.full_name}/{found.name}")
        reply.ParseFromString(await call(request.SerializeToString()))
        assert reply.node == node.settings.node_name
        missing = await _reflect(plain, file_containing_symbol="no.Such")
        assert missing.error_response.error_code == 5
        again = await _reflect(plain, file_by_filename="sira/v1/bus.proto")
        assert len(again.file_descriptor_response.file_descriptor_proto) == 4

    session(work)


def test_services_come_and_go_while_the_node_runs() -> None:
    async def work(node: Node, plain: Plain) -> None:
        of = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
        seen: list[str] = []

        async def check(call: Any, request: Any) -> Any:
            seen.append(request.service)
            return health_pb2.HealthCheckResponse(status=1)

        made = method(of, check, effects="read", summary="a test's own",
                      request=health_pb2.HealthCheckRequest,
                      response=health_pb2.HealthCheckResponse)  # fmt: skip
        from dataclasses import replace

        node.catalog.add_methods(replace(made, name="/test.Later/Check"))
        call = plain.channel.unary_unary(
            "/test.Later/Check", request_serializer=health_pb2.HealthCheckRequest.SerializeToString
        )
        await call(health_pb2.HealthCheckRequest(service="x"))
        assert seen == ["x"]
        listed = await _reflect(plain, list_services="*")
        assert "test.Later" in [s.name for s in listed.list_services_response.service]
        described = await plain.kernel.Introspect(
            kernel_pb2.IntrospectRequest(service="test.Later")
        )
        assert described.services[0].methods[0].name == "/test.Later/Check"
        node.catalog.remove_service("test.Later")
        assert code_of(await _knock(plain, "/test.Later/Check", streams=False)) == "UNSUPPORTED"

    session(work)


def test_a_pattern_gets_only_what_its_owner_may_read_and_a_withdrawn_right_ends() -> None:
    async def work(node: Node, plain: Plain) -> None:
        def no_secrets(action: str, resource: str) -> bool:
            return not (action == "subscribe" and resource.startswith("lab.secret"))

        await in_force(node, Rules(no_secrets))
        sub, pub = plain.subscribing(), plain.publishing()
        refused = await sub.open(1, "lab.secret.>")
        assert refused.ended.error.code == "DENIED"
        await sub.opened(2, "lab.>")
        hidden, shown = await pub.publish(message("lab.secret.a"), message("lab.open"))
        assert (hidden.matched, shown.matched) == (0, 1)
        assert (await sub.next()).topic == "lab.open"
        await in_force(node, Rules(lambda action, _: action != "subscribe"))
        ended = await sub.item()
        assert ended.ended.subscription == 2 and ended.ended.error.code == "REVOKED"
        (receipt,) = await pub.publish(message("lab.open"))
        assert receipt.matched == 0

    session(work)


def test_what_happens_is_told_on_the_bus_and_only_by_the_node() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub, other = plain.subscribing(), plain.subscribing()
        await sub.opened(1, "sira.refused")
        await other.opened(1, ">")
        (receipt,) = await plain.publishing().publish(message("sira.refused", b"forged"))
        assert receipt.error.code == "DENIED"
        fact = await sub.next()
        assert fact.principal == f"sira://local/default/node/{node.settings.node_name}"
        assert b'"DENIED"' in data_of(fact) and fact.content_type == "application/json"
        await plain.publishing().publish(message("plain.topic"))
        assert (await other.next()).topic == "plain.topic"  # `>` does not hear the node's facts

    session(work)


def test_private_replies_are_read_by_the_client_that_opened_them_alone() -> None:
    async def work(node: Node, plain: Plain) -> None:
        mine, thief = plain.subscribing(), plain.subscribing()
        await mine.opened(1, "_reply.ab12")
        for pattern in ("_reply.ab12", "_reply.>", "_reply.*", "_other.x", "_reply.XY"):
            answer = await thief.open(1, pattern)
            assert answer.ended.error.code in ("DENIED", "BAD_REQUEST"), pattern
        gone, there = await plain.publishing().publish(
            message("_reply.dead"), message("_reply.ab12")
        )
        assert gone.error.code == "NO_MATCH" and there.matched == 1
        assert (await mine.next()).topic == "_reply.ab12"

    session(work)


def test_a_thousand_silent_streams_leave_the_others_undisturbed() -> None:
    async def work(node: Node, plain: Plain) -> None:
        silent = [plain.subscribing() for _ in range(1_000)]
        await asyncio.gather(*(within(each.call.wait_for_connection()) for each in silent))
        await until(lambda: len(node.bus.clients) == 1_000)
        async with Plain(node.address) as other:
            sub = other.subscribing()
            await sub.opened(1, "a")
            await other.publishing().publish(message("a"))
            assert (await sub.next()).topic == "a"
        for each in silent:
            each.call.cancel()
        await until(lambda: len(node.bus.clients) == 0)

    session(work, streams_per_connection_max=1_000, resets_per_connection_s_max=1_000)


def test_an_answer_that_is_a_timeout_is_the_answer_also_without_a_deadline() -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "lab.slow")
        asking = asyncio.ensure_future(plain.bus.Request(message("lab.slow")))
        asked = await sub.next()
        error = error_pb2.Error(code="TIMEOUT", message="the camera was asleep")
        reply = message(asked.reply_to, reply_kind=message_pb2.REPLY_KIND_ERROR, error=error)
        await pub.publish(reply)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(asking)
        assert (code_of(caught.value), caught.value.details()) == (
            "TIMEOUT",
            "the camera was asleep",
        )

    session(work)


@pytest.mark.parametrize("text", ["x" * 20_000, "ж" * 1_000])
def test_an_error_too_long_for_the_headers_of_a_reply_comes_shortened(text: str) -> None:
    async def work(node: Node, plain: Plain) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "lab.verbose")
        asking = asyncio.ensure_future(plain.bus.Request(message("lab.verbose"), timeout=5))
        asked = await sub.next()
        error = error_pb2.Error(
            code="BAD_REQUEST",
            message=text,
            details={f"d{number}": text[:900] for number in range(15)},
            help=text,
        )
        reply = message(asked.reply_to, reply_kind=message_pb2.REPLY_KIND_ERROR, error=error)
        (receipt,) = await pub.publish(reply)
        assert receipt.matched == 1, receipt
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(asking)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
        assert code_of(caught.value) == "BAD_REQUEST"
        assert (caught.value.details() or "").startswith(text[:100])

    session(work)
