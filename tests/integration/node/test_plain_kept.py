"""Leases and configuration by a client of grpcio and generated stubs alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from sira.kernel.logs import Logs
from sira.kernel.node import Node
from sira.kernel.policy.rules import parse
from sira.kernel.settings import load
from sira.services.node.parts import parts
from sira.v1 import cluster_pb2, cluster_pb2_grpc, leases_pb2, leases_pb2_grpc

from .plain import code_of, in_force, until, within

pytestmark = pytest.mark.integration


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    """A node with all its parts, in memory."""
    flags = {"listen": "127.0.0.1:0", "data_dir": "/nonexistent"}
    node = Node(load(environ={}, flags=flags), logs=Logs(node="test", level="error"), parts=parts())
    await node.start()
    try:
        yield node
    finally:
        await node.stop(0)
        node.logs.close()


def session(work: Callable[[Node, Any, Any], Awaitable[None]]) -> None:
    import uvloop

    async def main() -> None:
        async with running() as node, grpc.aio.insecure_channel(node.address) as channel:
            await work(
                node,
                leases_pb2_grpc.LeasesStub(channel),  # type: ignore[no-untyped-call]
                cluster_pb2_grpc.ClusterStub(channel),  # type: ignore[no-untyped-call]
            )

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def acquire(name: str, **fields: Any) -> leases_pb2.AcquireLeaseRequest:
    return leases_pb2.AcquireLeaseRequest(name=name, **{"ttl_ms": 30_000, **fields})


def test_a_lease_is_acquired_renewed_released_and_watched() -> None:
    async def work(node: Node, leases: Any, cluster: Any) -> None:
        watch = leases.Watch(leases_pb2.WatchLeasesRequest(pattern="lab.>"))
        first = await within(watch.read())
        assert (first.snapshot, len(first.changes)) == (True, 0)
        held = await leases.Acquire(acquire("lab.a", holder="me"))
        assert held.token == 1 and 0 < held.left_ms <= 30_000 and held.shared == 1
        assert held.principal == "sira://local/default/user/anonymous"
        waits = asyncio.ensure_future(_answer(leases.Acquire(acquire("lab.a", wait_ms=20_000))))
        await leases.Acquire(acquire("other.a"))
        renewed = await leases.Renew(
            leases_pb2.RenewLeaseRequest(name="lab.a", ticket=held.ticket, ttl_ms=60_000)
        )
        assert renewed.ttl_ms == 60_000 and renewed.token == held.token
        await leases.Release(leases_pb2.ReleaseLeaseRequest(name="lab.a", ticket=held.ticket))
        assert (await within(waits)).token > held.token
        seen: list[tuple[str, str]] = []
        while len(seen) < 5:
            answer = await within(watch.read())
            assert not answer.snapshot
            seen += [(each.lease.name, each.reason) for each in answer.changes]
            last = answer.revision
        assert sorted(seen) == sorted(
            ("lab.a", reason) for reason in ("granted", "waiting", "renewed", "released", "granted")
        )
        watch.cancel()
        again = leases.Watch(leases_pb2.WatchLeasesRequest(pattern="lab.>", since=last))
        await leases.Acquire(acquire("lab.b"))
        answer = await within(again.read())
        assert [(e.lease.name, e.reason) for e in answer.changes] == [("lab.b", "granted")]
        again.cancel()

    session(work)


def test_the_same_request_twice_is_one_grant() -> None:
    async def work(node: Node, leases: Any, cluster: Any) -> None:
        first = await leases.Acquire(acquire("lab.a", request_id="r1"))
        again = await leases.Acquire(acquire("lab.a", request_id="r1"))
        assert (first.ticket, first.token) == (again.ticket, again.token)
        assert await refused(leases.Acquire(acquire("lab.a", request_id="r2"))) == "CONFLICT"

    session(work)


def test_a_caller_that_leaves_leaves_the_line() -> None:
    async def work(node: Node, leases: Any, cluster: Any) -> None:
        held = await leases.Acquire(acquire("lab.a"))
        waits = leases.Acquire(acquire("lab.a", wait_ms=60_000))
        watch = leases.Watch(leases_pb2.WatchLeasesRequest())
        reasons: list[str] = []

        async def reads(reason: str) -> None:
            while reason not in reasons:
                answer = await within(watch.read())
                reasons.extend(each.reason for each in answer.changes)

        async def waiting() -> bool:
            found = leases.Watch(leases_pb2.WatchLeasesRequest())
            answer = await within(found.read())
            found.cancel()
            return sum(not each.lease.token for each in answer.changes) == 1

        await until(waiting)
        waits.cancel()
        await reads("left")
        await leases.Release(leases_pb2.ReleaseLeaseRequest(name="lab.a", ticket=held.ticket))
        watch.cancel()

    session(work)


def test_configuration_is_set_watched_and_rolled_back() -> None:
    async def work(node: Node, leases: Any, cluster: Any) -> None:
        pb = cluster_pb2
        watch = cluster.Watch(pb.WatchClusterRequest(pattern="app.>"))
        assert (await within(watch.read())).snapshot
        first = await cluster.SetConfig(pb.SetConfigRequest(key="app.a", value=b'{"x": 1}'))
        assert first.version == 1 and first.value == b'{"x": 1}'
        expected = pb.SetConfigRequest(key="app.a", value=b"2", expected_version=0)
        assert await refused(cluster.SetConfig(expected)) == "CONFLICT"
        once = pb.SetConfigRequest(key="app.a", value=b"3", request_id="r")
        assert (await cluster.SetConfig(once)).version == 2
        assert (await cluster.SetConfig(once)).version == 2
        back = await cluster.RollbackConfig(pb.RollbackConfigRequest(key="app.a", version=1))
        assert (back.version, back.rolled_back_to, back.value) == (3, 1, b'{"x": 1}')
        history = await cluster.ConfigHistory(pb.ConfigHistoryRequest(key="app.a"))
        assert [each.version for each in history.versions] == [3, 2, 1]
        seen: list[int] = []
        while len(seen) < 3:
            seen += [each.version for each in (await within(watch.read())).values]
        assert seen == [1, 2, 3]
        for text in (b"{", b"NaN", b"\xff", b"[" * 60_000):
            bad = pb.SetConfigRequest(key="app.a", value=text)
            assert await refused(cluster.SetConfig(bad)) == "BAD_REQUEST"
        watch.cancel()

    session(work)


RULES = """
format = "sira-policy 1"
default = "deny"
[[rule]]
name = "methods"
effect = "allow"
principals = "*"
actions = ["call"]
methods = "*"
[[rule]]
name = "mine"
effect = "allow"
principals = "*"
actions = ["lease", "configure", "inspect"]
topics = ["mine.>", "app.mine.>"]
"""


def test_the_rules_say_who_may_hold_what_and_set_what() -> None:
    async def work(node: Node, leases: Any, cluster: Any) -> None:
        pb = cluster_pb2
        await leases.Acquire(acquire("theirs.a"))
        await cluster.SetConfig(pb.SetConfigRequest(key="app.theirs", value=b"1"))
        await in_force(node, parse(RULES, file="rules.toml"))
        await leases.Acquire(acquire("mine.a"))
        assert await refused(leases.Acquire(acquire("theirs.b"))) == "DENIED"
        await cluster.SetConfig(pb.SetConfigRequest(key="app.mine.a", value=b"1"))
        for call in (
            cluster.SetConfig(pb.SetConfigRequest(key="app.theirs", value=b"2")),
            cluster.RollbackConfig(pb.RollbackConfigRequest(key="app.theirs", version=1)),
            cluster.GetConfig(pb.GetConfigRequest(key="app.theirs")),
            cluster.ConfigHistory(pb.ConfigHistoryRequest(key="app.theirs")),
        ):
            assert await refused(call) == "DENIED"
        found = await cluster.ListConfig(pb.ListConfigRequest())
        assert [each.key for each in found.values] == ["app.mine.a"]
        watch = leases.Watch(leases_pb2.WatchLeasesRequest())
        answer = await within(watch.read())
        assert [each.lease.name for each in answer.changes] == ["mine.a"]
        watch.cancel()

    session(work)


def test_a_node_that_stops_ends_those_who_wait_and_watch() -> None:
    async def work(node: Node, leases: Any, cluster: Any) -> None:
        await leases.Acquire(acquire("lab.a"))
        waits = asyncio.ensure_future(_answer(leases.Acquire(acquire("lab.a", wait_ms=60_000))))
        watch = leases.Watch(leases_pb2.WatchLeasesRequest())
        await within(watch.read())
        await within(node.stop(0))
        with pytest.raises(grpc.aio.AioRpcError):
            await within(waits)
        with pytest.raises(grpc.aio.AioRpcError):
            while await within(watch.read()) is not grpc.aio.EOF:
                pass

    session(work)


async def _answer(call: Any) -> Any:
    return await call


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return code_of(caught.value)
