"""Tenants of one node: a world each, and nothing in one that reaches another.

Who calls is said by the test through the node's own seam (`_identify`); certificates and tokens,
which say it for users, are tested at their own doors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from sira.kernel.errors import Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.node import Node
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2, kernel_pb2

from .plain import Plain, code_of, data_of, in_force, message, session, until, within

TENANTS = tuple(f"t{number}" for number in range(10))


def by_metadata(context: Any, metadata: Mapping[str, str | bytes]) -> Credential | None:
    del context
    tenant = metadata.get("test-tenant")
    if tenant is None:
        return None
    return Credential(Principal("local", str(tenant), "user", "bob"), "token")


def as_(tenant: str) -> tuple[tuple[str, str], ...]:
    return (("test-tenant", tenant),)


def test_ten_tenants_use_the_same_names_and_reach_only_their_own() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.door._identify = by_metadata
        subs, pubs = {}, {}
        for tenant in TENANTS:
            subs[tenant] = plain.subscribing(*as_(tenant))
            pubs[tenant] = plain.publishing(*as_(tenant))
            await subs[tenant].opened(1, "lab.same")
            await subs[tenant].opened(2, ">")
            await subs[tenant].opened(3, "lab.same", group="workers")
            await within(
                plain.bus.CreateTopic(
                    bus_pb2.CreateTopicRequest(name="lab.kept", kind=bus_pb2.TOPIC_KIND_LATEST),
                    metadata=as_(tenant),
                )
            )
        for tenant in TENANTS:
            (receipt,) = await pubs[tenant].publish(message("lab.same", tenant.encode()))
            assert receipt.matched == 3, "its own three, and nobody else's"
        for tenant in TENANTS:
            for _ in range(3):
                got = await subs[tenant].next()
                assert data_of(got) == tenant.encode() and got.tenant == tenant
                assert got.principal == f"sira://local/{tenant}/user/bob"
        for tenant in TENANTS:
            await _sees_only_itself(plain, tenant)
        ended = await within(
            plain.bus.DeleteTopic(bus_pb2.DeleteTopicRequest(name="lab.kept"), metadata=as_("t0"))
        )
        assert ended == bus_pb2.DeleteTopicResponse()
        listed = await within(plain.bus.ListTopics(bus_pb2.ListTopicsRequest(), metadata=as_("t1")))
        assert "lab.kept" in {each.name for each in listed.topics}

    session(work)


async def _sees_only_itself(plain: Plain, tenant: str) -> None:
    stats = await within(
        plain.kernel.Stats(kernel_pb2.StatsRequest(prometheus=True), metadata=as_(tenant))
    )
    assert {client.principal for client in stats.clients} == {f"sira://local/{tenant}/user/bob"}
    assert stats.values["clients"] == 2 and stats.values["subscriptions"] == 3
    ledger = await within(plain.kernel.Ledger(kernel_pb2.LedgerRequest(), metadata=as_(tenant)))
    (row,) = [row for row in ledger.rows if row.topic == "lab.same"]
    assert (row.published, row.owed) == (1, 3)
    explained = await within(
        plain.kernel.Explain(kernel_pb2.ExplainRequest(topic="lab.same"), metadata=as_(tenant))
    )
    assert len(explained.matches) == 3
    texts = [str(stats), str(ledger), str(explained)]
    introspected = await within(
        plain.kernel.Introspect(kernel_pb2.IntrospectRequest(), metadata=as_(tenant))
    )
    texts.append(str(introspected))
    for other in set(TENANTS) - {tenant}:
        assert not any(f"/{other}/" in text for text in texts)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(
                plain.kernel.Explain(
                    kernel_pb2.ExplainRequest(
                        topic="lab.same", principal=f"sira://local/{other}/user/bob"
                    ),
                    metadata=as_(tenant),
                )
            )
        assert code_of(caught.value) == "BAD_REQUEST"


def test_a_client_id_of_another_tenant_opens_nothing_of_it() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.door._identify = by_metadata
        shared = (("sira-client", "ab" * 16),)
        one = plain.subscribing(*as_("t0") + shared)
        await one.opened(1, "lab.a")
        other = plain.publishing(*as_("t1") + shared)
        (receipt,) = await other.publish(message("lab.a"))
        assert receipt.matched == 0
        worlds = node.worlds
        assert len(worlds.of("t0").bus.clients) == len(worlds.of("t1").bus.clients) == 1

    session(work)


def test_a_reply_topic_of_another_tenant_reaches_nobody() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.door._identify = by_metadata
        asking = plain.subscribing(*as_("t0"))
        await asking.opened(1, "_reply.abcdef")
        (receipt,) = await plain.publishing(*as_("t1")).publish(message("_reply.abcdef"))
        assert receipt.error.code == "NO_MATCH"

    session(work)


def test_who_shows_nothing_gets_negotiate_and_health_and_nothing_else() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.door._identify = by_metadata
        agreed = await within(plain.kernel.Negotiate(kernel_pb2.NegotiateRequest()))
        assert agreed.principal == "" and agreed.tenant == ""
        for each in node.catalog.methods():
            if not each.public and not each.request_stream:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await within(plain.channel.unary_unary(each.name)(b""))
                assert code_of(caught.value) == "UNAUTHENTICATED", each.name
        assert node.door.unidentified > 0

    session(work)


def test_operators_hear_the_facts_of_every_tenant_and_tenants_only_their_own() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.door._identify = by_metadata
        operators = plain.subscribing(*as_("system"))
        await operators.opened(1, "sira.audit")
        tenant = plain.subscribing(*as_("t0"))
        await tenant.opened(1, "sira.audit")
        other = plain.subscribing(*as_("t1"))
        await other.opened(1, "sira.audit")
        await within(
            plain.bus.CreateTopic(bus_pb2.CreateTopicRequest(name="lab.a"), metadata=as_("t0"))
        )
        for listener in (operators, tenant):
            fact = json.loads(data_of(await listener.next()))
            assert fact["tenant"] == "t0" and fact["action"] == "/sira.v1.Bus/CreateTopic"
            assert (fact["resource"], fact["result"]) == ("lab.a", "ok")
            assert fact["principal"] == "sira://local/t0/user/bob"
        await within(
            plain.bus.CreateTopic(bus_pb2.CreateTopicRequest(name="lab.b"), metadata=as_("t1"))
        )
        fact = json.loads(data_of(await other.next()))
        assert fact["tenant"] == "t1", "the first it hears is its own"

    session(work)


def test_one_tenant_too_many_is_refused_and_the_others_go_on() -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.door._identify = by_metadata
        request = kernel_pb2.StatsRequest()
        await within(plain.kernel.Stats(request, metadata=as_("t0")))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(plain.kernel.Stats(request, metadata=as_("t1")))
        assert code_of(caught.value) == "QUOTA_EXCEEDED"
        await within(plain.kernel.Stats(request, metadata=as_("t0")))
        await within(plain.kernel.Stats(request, metadata=as_("system")))

    session(work, tenants_max=2)


def test_a_revoked_credential_ends_its_streams_and_those_of_no_other() -> None:
    async def work(node: Node, plain: Plain) -> None:
        principal = Principal("local", "t0", "user", "bob")
        credentials = {
            "short": Credential(principal, "token", ("biscuit:1",)),
            "long": Credential(principal, "token", ("biscuit:2",)),
        }

        def identify(context: Any, metadata: Mapping[str, str | bytes]) -> Credential | None:
            del context
            found = credentials.get(str(metadata.get("test-token")))
            if found is None:
                raise Unauthenticated("no such token")
            return found

        node.door._identify = identify
        doomed = plain.subscribing(("test-token", "short"))
        stays = plain.subscribing(("test-token", "long"))
        await doomed.opened(1, "lab.>")
        await stays.opened(1, "lab.>")
        await in_force(node, revoked=frozenset({"biscuit:1"}))
        ended = await doomed.item()
        assert ended.ended.error.code == "REVOKED"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(doomed.call.read())
        assert code_of(caught.value) == "REVOKED"
        publishing = plain.publishing(("test-token", "long"))
        (receipt,) = await publishing.publish(message("lab.a"))
        assert receipt.matched == 1
        assert (await stays.next()).topic == "lab.a"
        await until(lambda: len(node.worlds.of("t0").bus.clients) == 2)

    session(work)


def test_a_stream_ends_when_its_credential_expires() -> None:
    async def work(node: Node, plain: Plain) -> None:
        principal = Principal("local", "t0", "user", "bob")
        ends_s = time.time() + 2
        node.door._identify = lambda *_: Credential(principal, "token", expires_s=ends_s)
        stream = plain.subscribing()
        await stream.opened(1, "lab.>")
        ended = await stream.item()
        assert ended.ended.error.code == "UNAUTHENTICATED" and time.time() >= ends_s
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(stream.call.read())
        assert code_of(caught.value) == "UNAUTHENTICATED"

    session(work)
