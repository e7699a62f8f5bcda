"""Attach, with the generated stubs alone: what a hostile service or caller gets, and costs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from sira.kernel.authorize import allow_all
from sira.kernel.methods import Verb
from sira.kernel.node import Node
from sira.v1 import kernel_pb2
from tests.services.echo import file_proto

from .plain import Plain, code_of, in_force, message, session, until, within
from .test_edge import Rules
from .test_worlds import as_, by_metadata

pytestmark = pytest.mark.integration
SAY, COUNT = "/acme.v1.Echo/Say", "/acme.v1.Echo/Count"
pb = kernel_pb2


def files(*every: descriptor_pb2.FileDescriptorProto) -> bytes:
    return descriptor_pb2.FileDescriptorSet(
        file=every or [file_proto("acme.v1")]
    ).SerializeToString()


def offered(name: str = "echo", *methods: str, **fields: Any) -> kernel_pb2.AttachOffer:
    brought = [pb.AttachMethod(name=each, effects="read") for each in methods or (SAY, COUNT)]
    return pb.AttachOffer(**{"name": name, "descriptors": files(), "methods": brought, **fields})


class Peer:
    """A service made of a bare stream."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, **fields: Any) -> None:
        await within(self.call.write(pb.AttachRequest(**fields)))

    async def reply(self, call: int, **fields: Any) -> None:
        await self.send(reply=pb.AttachReply(call=call, **fields))

    async def read(self) -> kernel_pb2.AttachResponse:
        got = await within(self.call.read())
        assert got is not grpc.aio.EOF, "the stream ended"
        response: kernel_pb2.AttachResponse = got
        return response

    async def asked(self) -> kernel_pb2.AttachCall:
        response = await self.read()
        assert response.HasField("call"), response
        return response.call


@asynccontextmanager
async def attached(
    plain: Plain, offer: kernel_pb2.AttachOffer | None = None, *metadata: Any
) -> Any:
    """A service whose offer was taken."""
    peer = Peer(plain.kernel.Attach(metadata=metadata))
    await peer.send(offer=offer or offered())
    assert (await peer.read()).HasField("accepted")
    try:
        yield peer
    finally:
        peer.call.cancel()


async def refusal(plain: Plain, *requests: kernel_pb2.AttachRequest) -> str:
    """Send requests, return the code with which the stream ends."""
    call = plain.kernel.Attach()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        for each in requests:
            await within(call.write(each))
        await call.done_writing()
        while await within(call.read()) is not grpc.aio.EOF:
            pass
        assert await call.code() is grpc.StatusCode.OK
        raise AssertionError("it was taken")
    return code_of(caught.value)


async def failing(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await within(call)
    return code_of(caught.value)


def said(plain: Plain, method: str = SAY, request: bytes = b"", **how: Any) -> Any:
    """Begin a unary call with raw bytes."""
    return asyncio.ensure_future(plain.channel.unary_unary(method)(request, **how))


# ---- offers --------------------------------------------------------------------------------------


def _importing(name: str, *imports: str, package: str = "acme.v1") -> Any:
    return descriptor_pb2.FileDescriptorProto(name=name, package=package, dependency=imports)


def _many(count: int) -> list[descriptor_pb2.FileDescriptorProto]:
    return [_importing(f"f{number}") for number in range(count)]


def _nested(depth: int) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="deep.proto", package="acme.v1")
    message = file.message_type.add(name="M")
    for _ in range(depth):
        message = message.nested_type.add(name="M")
    return file


def _wide(count: int) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="wide.proto", package="acme.v1")
    for number in range(count):
        file.message_type.add(name=f"M{number}")
    return file


def _client_streaming() -> descriptor_pb2.FileDescriptorProto:
    file = file_proto("acme.v1")
    file.service[0].method[0].client_streaming = True
    return file


def _broken_types() -> descriptor_pb2.FileDescriptorProto:
    file = file_proto("acme.v1")
    file.service[0].method[0].input_type = ".acme.v1.Nowhere"
    return file


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        (offered(descriptors=bytes(200 << 10)), "MESSAGE_TOO_LARGE"),
        (offered(descriptors=b"\xff\xff"), "BAD_REQUEST"),
        (offered(descriptors=files(_importing("a", "b"), _importing("b", "a"))), "BAD_REQUEST"),
        (offered(descriptors=files(_importing("a", "a"))), "BAD_REQUEST"),
        (offered(descriptors=files(_importing("a", "none"))), "BAD_REQUEST"),
        (offered(descriptors=files(_importing("a"), _importing("a"))), "BAD_REQUEST"),
        (offered(descriptors=files(*_many(65))), "MESSAGE_TOO_LARGE"),
        (offered(descriptors=files(_nested(33))), "MESSAGE_TOO_LARGE"),
        (offered(descriptors=files(_wide(5_001))), "MESSAGE_TOO_LARGE"),
        (offered(descriptors=files(_broken_types())), "BAD_REQUEST"),
        (offered(descriptors=files(_client_streaming())), "UNSUPPORTED"),
        (offered(descriptors=files(file_proto("sira.v1"))), "BAD_REQUEST"),
        (offered(descriptors=files(file_proto("grpc.health.v1"))), "BAD_REQUEST"),
        (offered(descriptors=files(_importing("a", package=""))), "BAD_REQUEST"),
        (offered("echo", "/sira.v1.Bus/Publish"), "BAD_REQUEST"),
        (offered("echo", "/acme.v1.Echo/None"), "BAD_REQUEST"),
        (offered("echo", SAY, SAY), "BAD_REQUEST"),
        (offered("echo", *([SAY] * 257)), "MESSAGE_TOO_LARGE"),
        (offered(""), "BAD_REQUEST"),
        (offered("x" * 201), "BAD_REQUEST"),
        (offered("not a name"), "BAD_REQUEST"),
        (offered(methods=[pb.AttachMethod(name=SAY, effects="perhaps")]), "BAD_REQUEST"),
        (offered(topic_classes=[pb.TopicClass(pattern="sira.>")]), "BAD_REQUEST"),
        (offered(topic_classes=[pb.TopicClass(pattern="a..b")]), "BAD_TOPIC"),
        (offered(settings=[pb.Setting(name="stall_s")]), "BAD_REQUEST"),
        (offered(settings=[pb.Setting(name="echo.x", schema="{")]), "BAD_REQUEST"),
        (offered(verbs=[pb.Verb(name="say", summary="s" * 501)]), "BAD_REQUEST"),
        (offered(verbs=[pb.Verb(name="say"), pb.Verb(name="say")]), "CONFLICT"),
        (offered(verbs=[pb.Verb(name="a b c d e")]), "BAD_REQUEST"),
        (offered(verbs=[pb.Verb(name="say $(x)")]), "BAD_REQUEST"),
        (offered(verbs=[pb.Verb(name="--say")]), "BAD_REQUEST"),
        (offered(verbs=[pb.Verb(name="say", method="/sira.v1.Kernel/Stats")]), "BAD_REQUEST"),
    ],
)  # fmt: skip
def test_an_offer_that_cannot_be_is_refused_and_leaves_nothing(
    offer: kernel_pb2.AttachOffer, code: str
) -> None:
    async def work(node: Node, plain: Plain) -> None:
        before = node.catalog.services("default")
        assert await refusal(plain, pb.AttachRequest(offer=offer)) == code
        assert node.catalog.services("default") == before
        async with attached(plain):  # and the next is taken
            pass

    session(work)


def test_a_type_that_holds_itself_is_no_circle() -> None:
    """Imports may not turn; types may."""

    async def work(node: Node, plain: Plain) -> None:
        file = file_proto("acme.v1")
        file.message_type[0].field.add(
            name="inner", number=9, type=11, label=1, type_name=".acme.v1.SayRequest"
        )
        async with attached(plain, offered(descriptors=files(file))):
            got = await plain.kernel.Introspect(pb.IntrospectRequest(service="acme.v1.Echo"))
            assert got.services[0].methods[0].request_schema.count("acme.v1.SayRequest") == 3

    session(work)


def test_no_verb_of_a_service_begins_with_a_word_of_the_command_itself() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.catalog.add_verb(Verb("topics list", "those there are"))
        for name in ("topics", "topics list", "topics boom"):
            offer = offered(verbs=[pb.Verb(name=name, method=SAY)])
            assert await refusal(plain, pb.AttachRequest(offer=offer)) == "CONFLICT"
        async with attached(plain, offered(verbs=[pb.Verb(name="topic", method=SAY)])):
            got = await plain.kernel.Introspect(pb.IntrospectRequest())
            assert {(each.name, each.method) for each in got.verbs} == {
                ("topics list", ""), ("topic", SAY),
            }  # fmt: skip

    session(work)


def test_what_is_brought_is_there_while_the_stream_is_and_then_gone() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async def listed() -> Any:
            return await plain.kernel.Introspect(pb.IntrospectRequest())

        before = await listed()
        offer = offered(
            topic_classes=[pb.TopicClass(pattern="echo.>", summary="echoes")],
            settings=[pb.Setting(name="echo.volume", value="3", unit="dB", schema="{}")],
            verbs=[pb.Verb(name="echo say", summary="say it")],
        )
        async with attached(plain, offer):
            got = await listed()
            assert {"acme.v1.Echo"} == {s.name for s in got.services} - {
                s.name for s in before.services
            }
            assert ("echo.volume", "3", "echo") in [
                (s.name, s.value, s.source) for s in got.settings
            ]
            assert "echo.>" in {each.pattern for each in got.topic_classes}
            assert "echo say" in {each.name for each in got.verbs}
        await until(lambda: not list(node.catalog.brought("default")))
        assert await listed() == before

    session(work)


def test_two_services_of_one_name_and_more_than_the_limit_are_refused() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain):
            again = pb.AttachRequest(offer=offered())
            assert await refusal(plain, again) == "CONFLICT"
            same_methods = pb.AttachRequest(offer=offered("another"))
            assert await refusal(plain, same_methods) == "CONFLICT"
            other = offered("other", "/o.v1.Echo/Say", descriptors=files(file_proto("o.v1")))
            async with attached(plain, other):
                third = pb.AttachRequest(offer=offered("third"))
                assert await refusal(plain, third) == "QUOTA_EXCEEDED"

    session(work, attached_max=2)


def test_a_service_needs_the_right_and_loses_all_with_it() -> None:
    async def work(node: Node, plain: Plain) -> None:
        def without(refused: str) -> Rules:
            return Rules(lambda action, resource: (action, resource) != ("attach", refused))

        for refused in ("echo", "acme.v1.Echo"):
            await in_force(node, without(refused))
            assert await refusal(plain, pb.AttachRequest(offer=offered())) == "DENIED"
        await in_force(node, allow_all)
        async with attached(plain) as peer:
            under_way = said(plain)
            await peer.asked()
            await in_force(node, without("acme.v1.Echo"))
            assert await failing(under_way) == "REVOKED"
            assert await failing(said(plain)) == "UNSUPPORTED"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(peer.call.read())
            assert code_of(caught.value) == "REVOKED"

    session(work)


def test_a_tenant_sees_its_own_services_and_the_operators() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.door._identify = by_metadata
        ours = offered("ours", "/sys.v1.Echo/Say", descriptors=files(file_proto("sys.v1")))
        async with (
            attached(plain, offered(), *as_("a")) as of_a,
            attached(plain, offered(), *as_("b")) as of_b,  # the same names in another world
            attached(plain, ours, *as_("system")) as of_all,
        ):
            for tenant, peer, method in (
                ("a", of_a, SAY), ("b", of_b, SAY), ("a", of_all, "/sys.v1.Echo/Say"),
            ):  # fmt: skip
                calling = said(plain, method, metadata=as_(tenant))
                asked = await peer.asked()
                assert asked.tenant == tenant and asked.principal.endswith(f"/{tenant}/user/bob")
                await peer.reply(asked.call, response=b"yes", end=True)
                assert await within(calling) == b"yes"
            assert await failing(said(plain, metadata=as_("c"))) == "UNSUPPORTED"
            # To one who has proved nothing, a name that is there is like one that is not.
            assert await failing(said(plain)) == "UNAUTHENTICATED"
            assert await failing(said(plain, "/no.v1.Echo/Say")) == "UNAUTHENTICATED"
            for tenant, count in (("a", 2), ("c", 1)):
                got = await plain.kernel.Introspect(pb.IntrospectRequest(), metadata=as_(tenant))
                names = [s.name for s in got.services if s.name.endswith(".v1.Echo")]
                assert len(names) == count

    session(work)


# ---- calls ---------------------------------------------------------------------------------------


def test_a_call_goes_down_with_who_how_long_and_the_trace_and_the_answer_comes_back() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            metadata = (("traceparent", trace), ("x-secret", "not passed on"))
            calling = said(plain, request=b"\x0a\x02hi", timeout=20, metadata=metadata)
            asked = await peer.asked()
            assert (asked.method, asked.request, asked.tenant) == (SAY, b"\x0a\x02hi", "default")
            assert asked.principal == "sira://local/default/user/anonymous"
            assert 10_000 < asked.timeout_ms < 30_000  # gRPC rounds what it sends
            assert dict(asked.metadata) == {"traceparent": trace}
            await peer.reply(asked.call, response=b"\x0a\x02ho", end=True)
            assert await within(calling) == b"\x0a\x02ho"

    session(work)


@pytest.mark.parametrize("number", [0, 7, 1 << 60])
def test_a_reply_to_a_call_that_was_never_made_ends_the_service(number: int) -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calling = said(plain)
            await peer.asked()
            await peer.reply(number, response=b"x", end=True)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(peer.call.read())
            assert code_of(caught.value) == "PROTOCOL_ERROR"
            assert await failing(calling) == "PEER_LOST"

    session(work)


def test_a_service_that_goes_loses_its_callers_with_a_code() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calls = [said(plain) for _ in range(5)]
            for _ in calls:
                await peer.asked()
        for call in calls:
            assert await failing(call) == "PEER_LOST"
        await until(lambda: node.attaching.calls_now == 0)

    session(work)


def test_a_service_that_never_answers_is_told_when_its_caller_has_gone() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calling = said(plain, timeout=4)
            asked = await peer.asked()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(calling)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            cancelled = (await peer.read()).cancel
            assert (cancelled.call, cancelled.code) == (asked.call, "CANCELLED")
            await peer.reply(asked.call, response=b"late", end=True)  # harmless
            calling = said(plain)
            asked = await peer.asked()
            await peer.reply(asked.call, response=b"in time", end=True)
            assert await within(calling) == b"in time"

    session(work)


def test_a_service_that_never_reads_costs_its_callers_and_nobody_else() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer, Plain(node.address) as others:
            big = bytes(1 << 20)
            calls = [said(plain, request=big) for _ in range(40)]
            done: list[Any] = []
            for call in calls:
                call.add_done_callback(done.append)
            await until(lambda: len(done) >= 16)  # 4 MiB wait here, some more in gRPC
            for call in done:
                assert isinstance(call.exception(), grpc.aio.AioRpcError)
                assert code_of(call.exception()) == "QUEUE_FULL"
            (here,) = node.attaching._attached
            assert here.calls.held_bytes <= 4 << 20
            (receipt,) = await others.publishing().publish(message("flows"))
            assert not receipt.HasField("error")
            for call in calls:
                call.cancel()
            await until(lambda: node.attaching.calls_now == 0)
            assert here.calls.held_bytes == 0
            del peer

    session(work, attach_held_bytes_max=4 << 20)


def test_so_many_calls_and_no_more() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calls = [said(plain) for _ in range(3)]
            asked = [await peer.asked() for _ in calls]
            assert await failing(said(plain)) == "QUEUE_FULL"
            await peer.reply(asked[0].call, response=b"", end=True)
            await until(lambda: node.attaching.calls_now == 2)
            calls.append(said(plain))
            await peer.asked()

    session(work, attach_calls_max=3)


def test_more_replies_than_the_window_end_the_call() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            call = plain.channel.unary_stream(COUNT)(b"")
            asked = await peer.asked()
            for number in range(2_000):  # the caller reads nothing; no credit is waited for
                await peer.reply(asked.call, response=bytes(64 << 10))
                if not node.attaching.calls_now and number > asked.window:
                    break
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await within(call.read()) is not grpc.aio.EOF:
                    pass
            assert code_of(caught.value) == "PROTOCOL_ERROR"
            while not (told := await peer.read()).HasField("cancel"):
                assert told.HasField("credit")
            assert told.cancel.code == "PROTOCOL_ERROR"

    session(work)


def test_callers_that_do_not_read_end_and_one_that_does_goes_on() -> None:
    """Replies within the window, of callers that take none, fill what is held; the reader lives."""

    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            lazy = [plain.channel.unary_stream(COUNT)(b"") for _ in range(6)]
            numbers = [(await peer.asked()).call for _ in lazy]
            eager = plain.channel.unary_stream(COUNT)(b"")
            last = (await peer.asked()).call
            for _ in range(16):
                for number in numbers:
                    await peer.reply(number, response=bytes(1 << 20))
            await peer.reply(last, response=b"small", end=True)
            assert await within(eager.read()) == b"small"
            (here,) = node.attaching._attached
            assert here.calls.held_bytes <= 4 << 20
            codes = []
            for call in lazy:
                await within(peer.reply(numbers.pop(0), end=True))
                try:
                    while await within(call.read()) is not grpc.aio.EOF:
                        pass
                except grpc.aio.AioRpcError as error:
                    codes.append(code_of(error))
            assert codes and set(codes) == {"QUEUE_FULL"}

    session(work, attach_held_bytes_max=4 << 20)


@pytest.mark.parametrize(
    ("replies", "code"),
    [([{"end": True}], "HANDLER_FAILED"),
     ([{"response": b"1"}, {"response": b"2", "end": True}], "HANDLER_FAILED"),
     ([{"end": True, "error": {"code": "INTERNAL", "message": "mine"}}], "HANDLER_FAILED"),
     ([{"end": True, "error": {"code": "MY_OWN", "message": "m" * 10_000}}], "MY_OWN")],
)  # fmt: skip
def test_a_unary_call_ends_with_one_reply_or_an_error(
    replies: list[dict[str, Any]], code: str
) -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calling = said(plain)
            asked = await peer.asked()
            for each in replies:
                error = each.pop("error", None)
                known = {"error": _error(**error)} if error else {}
                await peer.reply(asked.call, **each, **known)
            assert await failing(calling) == code

    session(work)


def _error(**fields: Any) -> Any:
    from sira.v1 import error_pb2

    return error_pb2.Error(**fields)


@pytest.mark.parametrize(
    "first",
    [pb.AttachRequest(), pb.AttachRequest(reply=pb.AttachReply(call=1)),
     pb.AttachRequest(leave=pb.AttachLeave())],
)  # fmt: skip
def test_who_does_not_begin_with_an_offer_is_refused(first: kernel_pb2.AttachRequest) -> None:
    async def work(node: Node, plain: Plain) -> None:
        assert await refusal(plain, first) == "PROTOCOL_ERROR"

    session(work)


def test_who_says_nothing_is_not_waited_for() -> None:
    async def work(node: Node, plain: Plain) -> None:
        call = plain.kernel.Attach()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(call.read())
        assert code_of(caught.value) == "TIMEOUT"

    session(work, handshake_s=0.1)


def test_a_drain_waits_for_calls_under_way_and_takes_no_new_ones() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calling = said(plain)
            asked = await peer.asked()
            stopping = asyncio.create_task(node.stop())
            await until(lambda: node.bus.draining)
            assert await failing(said(plain)) == "NODE_DRAINING"
            await peer.reply(asked.call, response=b"done", end=True)
            assert await within(calling) == b"done"
            await within(stopping)

    session(work)
