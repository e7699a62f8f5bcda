"""A call that goes on for long ends with the rights of its caller, as a stream does."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import grpc
import pytest

from sira.kernel.authorize import allow_all
from sira.kernel.node import Node
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2

from .attaching import COUNT, attached
from .plain import Plain, code_of, frame, in_force, message, session, until, within
from .test_edge import Rules

pytestmark = pytest.mark.integration
REQUEST = "/sira.v1.Bus/Request"


def test_a_request_under_way_ends_when_its_caller_may_not_call_any_more() -> None:
    async def work(node: Node, plain: Plain) -> None:
        listening = plain.bus.Subscribe()
        opening = bus_pb2.Open(subscription=1, pattern="lab.slow")
        await within(listening.write(frame(bus_pb2.Item(open=opening))))
        await within(listening.read())
        asking = asyncio.ensure_future(plain.bus.Request(message("lab.slow")))
        await until(lambda: len(node.worlds.default.requests) == 1)
        taken_back = node.door.calls_taken_back
        await in_force(node, Rules(lambda _, resource: resource != REQUEST))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(asking)
        assert code_of(caught.value) == "REVOKED"
        assert len(node.worlds.default.requests) == 0
        assert node.door.calls_taken_back == taken_back, "its caller has waited"
        await in_force(node, allow_all)
        again = asyncio.ensure_future(plain.bus.Request(message("lab.slow")))
        await until(lambda: len(node.worlds.default.requests) == 1)
        await in_force(node, Rules(lambda _, resource: resource != COUNT))
        assert not again.done(), "others go on"
        again.cancel()
        listening.cancel()

    session(work)


@pytest.mark.parametrize(("how", "code"), [("revoked", "REVOKED"), ("expired", "UNAUTHENTICATED")])
def test_what_a_service_streams_ends_with_its_callers_credential(how: str, code: str) -> None:
    async def work(node: Node, plain: Plain) -> None:
        identify = node.door._identify

        def shown(context: Any, metadata: Any) -> Credential | None:
            who = identify(context, metadata)
            assert who is not None
            if how == "revoked":
                return replace(who, ids=("biscuit:00",))
            return replace(who, expires_s=time.time() + 3)

        async with attached(plain) as peer:
            node.door._identify = shown
            call = plain.channel.unary_stream(COUNT)(b"")
            number = (await peer.asked()).call
            await peer.reply(number, response=b"1")
            assert await within(call.read()) == b"1"
            if how == "revoked":
                await in_force(node, revoked=frozenset({"biscuit:00"}))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(call.read())
            assert code_of(caught.value) == code
            while not (told := await peer.read()).HasField("cancel"):
                pass
            assert told.cancel.call == number, "the service is told"

    session(work)
