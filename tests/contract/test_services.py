"""A real service in a process of its own, with the rights of a client: killed, and back again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import sira
import sira.testing
from sira.client.deadline import Deadline
from tests.services import echo

ROOT = Path(__file__).parents[2]
WATCHDOG_S = 60.0
slow = echo.Module("tests.slow.v1")


@pytest.fixture(scope="module")
def node_with_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sira.testing.Node]:
    """A node whose settings file names the echo service."""
    file = tmp_path_factory.mktemp("services") / "sira.toml"
    file.write_text(
        "restart_s_min = 0.01\n"
        f'[services.echo]\nrun = "tests.services.echo:make"\nfolder = "{ROOT}"\n'
    )
    with sira.testing.Node(settings={"config": file}) as node:
        yield node


def channel_to(node: sira.testing.Node) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(node.url.removeprefix("sira://"))


def caller(channel: grpc.aio.Channel, method: str) -> Any:
    """Return a callable of a method, as generated stubs have it."""
    return channel.unary_unary(
        f"/tests.v1.Echo/{method}",
        request_serializer=echo.SayRequest.SerializeToString,
        response_deserializer=echo.SayReply.FromString,
    )


async def said(say: Any, text: str) -> Any:
    """Call until the service answers: it comes when the node is up, and again after a kill."""
    async with asyncio.timeout(WATCHDOG_S):
        while True:
            try:
                return await say(echo.SayRequest(text=text))
            except grpc.aio.AioRpcError as error:
                gone = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE)
                assert error.code() in gone, error
                await asyncio.sleep(0.02)


async def test_a_killed_service_comes_back_while_messages_flow(
    node_with_service: sira.testing.Node, reach: Any
) -> None:
    node = node_with_service
    async with sira.connect(reach(node)) as bus, sira.connect(reach(node)) as other:
        channel = channel_to(node)
        say = caller(channel, "Say")
        async with bus.subscribe("sira.child.>") as facts, bus.subscribe("flow") as messages:
            first = await said(say, "one")
            assert first.principal == "sira://local/default/user/anonymous"
            before = node.pid
            flowing, sent = asyncio.Event(), 0

            async def flow() -> None:
                nonlocal sent
                while True:
                    await other.publish("flow", str(sent))
                    sent += 1
                    flowing.set()
                    await asyncio.sleep(0)

            publisher = asyncio.create_task(flow())
            await flowing.wait()
            os.kill(first.pid, signal.SIGKILL)
            again = await said(say, "two")
            while again.pid == first.pid:
                again = await said(say, "two")
            publisher.cancel()
            await asyncio.gather(publisher, return_exceptions=True)
            told = [await anext(facts) for _ in range(2)]
            assert [each.topic for each in told] == ["sira.child.ended", "sira.child.started"]
            assert node.pid == before
            got = [int((await anext(messages)).text) for _ in range(sent)]
            assert got == list(range(sent)) and sent > 1
        await channel.close()


async def test_what_a_service_brings_is_listed_like_the_nodes_own(
    node_with_service: sira.testing.Node,
) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    url = node_with_service.url
    channel = channel_to(node_with_service)
    await said(caller(channel, "Say"), "there")
    async with sira.connect(url) as bus:
        (service,) = [s for s in (await bus.introspect()).services if s.name == "tests.v1.Echo"]
    methods = {each.name.rpartition("/")[2]: each for each in service.methods}
    assert methods["Say"].effects == "read" and '"text"' in methods["Say"].request_schema
    assert methods["Count"].response_stream and not methods["Say"].response_stream
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="tests.v1.Echo"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="tests.v1.Echo")
    async for reply in stub.ServerReflectionInfo(iter([request])):
        (data,) = reply.file_descriptor_response.file_descriptor_proto
        assert data == echo.file_proto().SerializeToString()
    await channel.close()


async def test_a_service_answers_streams_threads_and_errors(
    node_with_service: sira.testing.Node,
) -> None:
    channel = channel_to(node_with_service)
    await said(caller(channel, "Say"), "there")
    shouted = await caller(channel, "Shout")(echo.SayRequest(text="loud"))
    assert shouted.text == "LOUD"
    count = channel.unary_stream(
        "/tests.v1.Echo/Count",
        request_serializer=echo.SayRequest.SerializeToString,
        response_deserializer=echo.SayReply.FromString,
    )
    counted = [int(each.text) async for each in count(echo.SayRequest(count=500))]
    assert counted == list(range(500))
    for text, code, words in (
        ("nothing here", grpc.StatusCode.NOT_FOUND, "nothing here"),
        ("", grpc.StatusCode.ABORTED, "ZeroDivisionError"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller(channel, "Fail")(echo.SayRequest(text=text))
        assert caught.value.code() is code and words in (caught.value.details() or "")
    await channel.close()


async def test_what_a_service_brings_is_called_by_the_sdk_on_each_way(
    node_with_service: sira.testing.Node, reach: Any, until: Any
) -> None:
    async with sira.connect(reach(node_with_service)) as bus:
        request = echo.SayRequest(text="loud", count=500)

        async def shouted() -> bool:
            try:
                reply = await bus.connection.unary(
                    "/tests.v1.Echo/Shout", request, echo.SayReply, timeout_s=WATCHDOG_S
                )
            except sira.SiraError as error:  # it has not come yet
                assert error.code in ("UNSUPPORTED", "PEER_LOST"), error
                return False
            return bool(reply.text == "LOUD")

        await until(shouted)
        transport = await bus.connection.up(Deadline(WATCHDOG_S, asyncio.get_running_loop()))
        stream = transport.stream("/tests.v1.Echo/Count", metadata=[])
        await stream.write(request.SerializeToString())
        await stream.done_writing()
        counted = []
        while (reply := await stream.read()) is not None:
            counted.append(int(echo.SayReply.FromString(reply).text))
        assert counted == list(range(500))
        with pytest.raises(sira.SiraError) as caught:
            await bus.connection.unary(
                "/tests.v1.Echo/Fail", echo.SayRequest(text="nothing here"), echo.SayReply,
                timeout_s=WATCHDOG_S,
            )  # fmt: skip
        assert caught.value.code == "NOT_FOUND"


@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_who_gives_up_stops_the_handler(
    node_with_service: sira.testing.Node, reach: Any, how: str, topic: str
) -> None:
    async def told(messages: sira.Subscription) -> None:
        while (await anext(messages)).text != topic:
            pass  # of a call of another test

    url = reach(node_with_service)
    channel = channel_to(node_with_service)
    await said(caller(channel, "Say"), "there")
    async with (
        sira.connect(url) as bus,
        bus.subscribe("echo.begun") as begins,
        bus.subscribe("echo.cancelled") as ends,
    ):
        begun, deadline_s = asyncio.ensure_future(told(begins)), 0.5
        while True:
            call = caller(channel, "Hang")(
                echo.SayRequest(text=topic), timeout=deadline_s if how == "deadline" else None
            )
            ended = asyncio.ensure_future(call.code())  # a call is made when somebody waits for it
            await asyncio.wait({begun, ended}, return_when=asyncio.FIRST_COMPLETED)
            if begun.done():
                break
            deadline_s *= 2  # it was over before the service had the call
        await begun
        if how == "cancel":
            call.cancel()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call
        await told(ends)
        await ended
    await channel.close()


async def test_a_service_that_leaves_finishes_what_it_took_and_takes_no_more(
    node_with_service: sira.testing.Node, reach: Any
) -> None:
    url = reach(node_with_service)
    channel = channel_to(node_with_service)
    service = sira.Service("slow", slow, url=url)
    begun, may_end = asyncio.Event(), asyncio.Event()

    @service.method("tests.slow.v1.Echo/Say", effects="read", summary="waits until it may end")
    async def say(request: Any) -> Any:
        begun.set()
        await may_end.wait()
        return slow.SayReply(text=request.text)

    with pytest.raises(sira.BadRequest):
        service.method("tests.slow.v1.Echo/None", effects="read", summary="")(say)
    await service.start()
    waits = channel.unary_unary("/tests.slow.v1.Echo/Say")
    under_way = asyncio.ensure_future(waits(slow.SayRequest(text="x").SerializeToString()))
    await begun.wait()
    stopping = asyncio.create_task(service.stop())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while True:
            await waits(b"", timeout=0.2)
    while caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # it was not gone yet
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waits(b"", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    may_end.set()
    assert slow.SayReply.FromString(await under_way).text == "x"
    await stopping
    await channel.close()


async def test_a_name_that_is_taken_is_refused(
    node_with_service: sira.testing.Node, reach: Any
) -> None:
    url = reach(node_with_service)
    channel = channel_to(node_with_service)
    await said(caller(channel, "Say"), "there")
    with pytest.raises(sira.Conflict):
        await echo.make("another", url=url).start()
    await channel.close()
