"""Attach, with the generated stubs alone: what may be offered, and what is there while it is."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from sira.kernel.authorize import allow_all
from sira.kernel.methods import Verb
from sira.kernel.node import Node
from sira.v1 import kernel_pb2
from tests.services.echo import file_proto

from .attaching import SAY, attached, failing, files, offered, refusal, said
from .plain import Plain, code_of, in_force, session, until, within
from .test_edge import Rules
from .test_worlds import as_, by_metadata

pytestmark = pytest.mark.integration
pb = kernel_pb2


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
