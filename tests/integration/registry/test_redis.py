"""A node shares its live state by Redis, tells of that, and needs it for nothing."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sira.registry.redis_live import PREFIX
from sira.v1 import kernel_pb2, kernel_pb2_grpc, registry_pb2
from tests.redis_server import redis_server

from .nodes import connected, register, registration, run, running

pytestmark = pytest.mark.integration
pb = registry_pb2
SERVING = health_pb2.HealthCheckResponse.SERVING


async def wait_for(ask: Any) -> None:
    while not await ask():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@pytest.mark.redis
def test_a_node_tells_redis_who_lives_and_serves_on_without_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    password = secrets.token_hex(8)

    async def work() -> None:
        with redis_server("--requirepass", password) as server:
            url = server.url.replace("unix://", f"unix://:{password}@")
            async with (
                running(tmp_path, redis_url=url) as its,
                grpc.aio.insecure_channel(its.node.address) as channel,
                connected(its.node) as stub,
            ):
                kernel = kernel_pb2_grpc.KernelStub(channel)
                health = health_pb2_grpc.HealthStub(channel)

                async def number(name: str) -> float:
                    stats = await kernel.Stats(kernel_pb2.StatsRequest())
                    return float(stats.values[name])

                async def is_shared() -> bool:
                    asked = health_pb2.HealthCheckRequest(service="redis")
                    is_well = (await health.Check(asked)).status == SERVING
                    assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
                    return is_well and await number("live_shared") == 1

                async def is_unshared() -> bool:
                    return not await is_shared() and await number("live_failures_total") > 0

                (mine,) = await register(stub, registration("a", "sort numbers"))
                await wait_for(is_shared)
                with server.client(password=password) as client:
                    told = f"{PREFIX}:5:local:told:n1"

                    async def is_told() -> bool:
                        return bool(client.xlen(told))

                    await wait_for(is_told)
                    ((_, fields),) = client.xrange(told, count=1)
                    (agent,) = pb.ListAgentsResponse.FromString(fields[b"default"]).agents
                    assert agent.registration.name == "a" and agent.generation == mine.generation
                    assert agent.state.status == pb.AGENT_STATUS_UP
                server.kill()
                await wait_for(is_unshared)
                found = await stub.Discover(pb.DiscoverRequest(text="sort numbers"))
                assert found.matches[0].state.status == pb.AGENT_STATUS_UP
                server.start()
                await wait_for(is_shared)
                told_all = await kernel.Introspect(kernel_pb2.IntrospectRequest())
                values = {each.name: each.value for each in told_all.settings}
                assert values["redis_url"] == server.url.replace("unix://", "unix://:***@")

    run(work)
    assert password not in "".join(capfd.readouterr())


def test_a_url_that_is_none_is_said_without_its_password(tmp_path: Path) -> None:
    from sira.kernel.errors import BadSetting
    from sira.kernel.settings import load

    for url in ("http://:hush@h", "redis://", "redis://:hush@h:port", "redis://h?password=hush"):
        with pytest.raises(BadSetting) as caught:
            load(flags={"redis_url": url, "data_dir": str(tmp_path)}, environ={})
        assert "hush" not in str(caught.value) + str(caught.value.details), url
    for url in ("redis://h:1/2", "rediss://u:p@h?ssl_ca_certs=/ca.pem", "unix:///run/r.sock?db=1"):
        settings = load(flags={"redis_url": url, "data_dir": str(tmp_path)}, environ={})
        assert settings.redis_url == url


def test_a_node_that_goes_down_registers_nobody(tmp_path: Path) -> None:
    """Its clients are told to come again, elsewhere or later, as by every other call."""

    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            await register(stub, registration("a", "sort numbers"))
            its.node.bus.drain()
            asked = pb.RegisterRequest(registrations=[registration("b", "sort numbers")])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Register(asked)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert its.registry.feed.of("default").directory.get("b") is None
            assert (await stub.Discover(pb.DiscoverRequest(text="sort"))).matches, "others go on"

    run(work)
