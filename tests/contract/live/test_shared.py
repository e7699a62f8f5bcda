"""Nodes that share one Redis server: what each hears of the others, and of failures makes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from sira.registry.health import Status
from sira.registry.redis_live import PREFIX
from sira.v1 import registry_pb2
from tests.redis_server import RedisServer, redis_server

from .test_live import RULES, TENANT, Store, open_store, run, until

pytestmark = pytest.mark.redis
LEASE_S = RULES.lease_ms // 1_000


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@asynccontextmanager
async def two(server: RedisServer, *names: str, **given: Any) -> AsyncIterator[tuple[Store, Store]]:
    """Run two nodes of which the first has these agents; the second knows they are registered."""
    async with (
        open_store(url=server.url, node="n1", **given) as one,
        open_store(url=server.url, node="n2", **given) as other,
    ):
        for name in names:
            one.live.begin(name, 0, 5)
            other.live.expect(name, 0, 5)
        yield one, other


async def heard(other: Store, name: str, status: Status) -> None:
    await until(lambda: other.status(name) is status)


async def refused(call: Awaitable[Any]) -> bool:
    try:
        await call
    except redis.RedisError:
        return True
    return False


def test_another_node_hears_status_load_and_beats(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a", "b", "c") as (one, other):
            assert other.status("a") is Status.SUSPECT
            one.beat("a", generation=5, in_flight=4, waiting=2, lag_ms=9)
            one.beat("b", generation=5, draining=True)
            one.live.lose("c", 0, reason="its socket has closed", is_gone=True)
            await heard(other, "a", Status.UP)
            await heard(other, "b", Status.DRAINING)
            await heard(other, "c", Status.DOWN)
            vital = other.live.get("a")
            assert vital is not None and (vital.home, vital.generation) == ("n1", 5)
            state = other.live.state("a", 0)
            assert (state.in_flight, state.waiting, state.lag_ms) == (4, 2, 9)
            assert other.live.state("c", 0).reason == "its socket has closed"
            assert other.told.count(("a", Status.SUSPECT)) == 1
            one.beat("c", generation=5)
            await heard(other, "c", Status.UP)
            # The home judges: the second's own clock blames nobody whose home is heard.
            other.pass_s(LEASE_S + 5)
            assert other.status("a") is Status.UP

    run(work)


def test_a_lost_home_makes_its_agents_suspect_and_down_after_a_lease(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a", "b") as (one, other):
            one.beat("b", draining=True)
            await heard(other, "a", Status.UP)
            await heard(other, "b", Status.DRAINING)
            other.sharing.still_turns = 4
            assert one.redis is not None and one.redis._task is not None
            one.redis._task.cancel()  # it dies without a word
            one.redis.is_well = False
            await heard(other, "a", Status.SUSPECT)
            assert "n1 is not heard" in other.live.state("a", 0).reason
            assert other.status("b") is Status.DRAINING
            other.pass_s(LEASE_S - 1)
            assert other.status("a") is Status.SUSPECT
            other.pass_s(2)
            assert (other.status("a"), other.status("b")) == (Status.DOWN, Status.DOWN)

    run(work)


def test_a_home_that_goes_in_order_says_so(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a") as (one, other):
            await heard(other, "a", Status.UP)
            assert one.redis is not None
            await one.turned()
            await one.redis.stop()
            await heard(other, "a", Status.SUSPECT)
            assert "gone down" in other.live.state("a", 0).reason

    run(work)


def test_what_a_dead_node_has_left_is_not_believed(server: RedisServer) -> None:
    async def work() -> None:
        async with open_store(url=server.url, node="n1") as one:
            one.live.begin("a", 0, 5)
            await one.turned()
            assert one.redis is not None and one.redis._task is not None
            one.redis._task.cancel()
            one.redis.is_well = False
        with server.client() as client:
            assert client.xlen(f"{PREFIX}:1:c:told:n1"), "it is still there to read"
        async with open_store(url=server.url, node="n2") as other:
            other.live.expect("a", 0, 5)
            await other.turned(12)
            assert other.status("a") is Status.SUSPECT and other.sharing.counts.heard == 0

    run(work)


def test_an_agent_that_moves_is_told_of_by_its_new_home_alone(server: RedisServer) -> None:
    async def work() -> None:
        async with (
            two(server, "a") as (one, other),
            open_store(url=server.url, node="n3") as third,
        ):
            third.live.expect("a", 0, 5)
            await heard(third, "a", Status.UP)
            one.live.lose("a", 0, reason="its beats have ended", is_gone=False)
            await heard(third, "a", Status.SUSPECT)
            other.now_ms += 1_000
            other.beat("a", generation=5)
            await heard(third, "a", Status.UP)
            await heard(one, "a", Status.UP)
            for store in (one, third):
                vital = store.live.get("a")
                assert vital is not None and vital.home == "n2"
            # The old stream is noticed to have ended only now: that says nothing any more.
            one.live.lose("a", 0, reason="its socket has closed", is_gone=True)
            await one.turned(4)
            assert {one.status("a"), other.status("a"), third.status("a")} == {Status.UP}

    run(work)


def test_an_older_instance_is_not_believed(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a") as (one, other):
            await heard(other, "a", Status.UP)
            other.live.begin("a", 0, 6)
            one.beat("a", generation=5, draining=True)
            await one.turned(3)
            await other.turned(3)
            assert other.status("a") is Status.UP
            await until(lambda: one.live.get("a").generation == 6)  # type: ignore[union-attr]
            assert one.status("a") is Status.UP

    run(work)


def test_clusters_and_tenants_do_not_hear_each_other(server: RedisServer) -> None:
    async def work() -> None:
        async with (
            open_store(url=server.url, node="n1", cluster="c") as one,
            open_store(url=server.url, node="n2", cluster="c:told") as other,
            open_store(url=server.url, node="n3", cluster="c") as third,
        ):
            one.live.begin("a", 0, 5)
            other.live.expect("a", 0, 5)
            third.lives = {f"{TENANT}x": third.live}
            third.live.expect("a", 0, 5)
            await one.turned(8)
            await other.turned(8)
            await until(lambda: "n1" in third.sharing.homes)
            await third.turned(8)
            assert not other.sharing.homes and other.status("a") is Status.SUSPECT
            assert third.status("a") is Status.SUSPECT

    run(work)


def test_whom_a_home_says_nothing_of_any_more_is_suspect(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a", "b") as (one, other):
            await heard(other, "a", Status.UP)
            await heard(other, "b", Status.UP)
            one.live.forget("a")
            other.pass_s(one.sharing.kept_turns)
            await heard(other, "a", Status.DOWN)
            assert "says nothing" in other.live.state("a", 0).reason
            await heard(other, "b", Status.UP)

    run(work)


def test_10_000_agents_are_back_one_round_after_everything_was_flushed(server: RedisServer) -> None:
    names = [f"agent-{index}" for index in range(10_000)]

    async def work() -> None:
        async with two(server, *names) as (one, other):
            await until(lambda: all(other.status(name) is Status.UP for name in names))
            with server.client() as client:
                client.flushall()
            assert one.redis is not None
            # Beats of one round, while it is noticed.
            for index, name in enumerate(names):
                one.beat(name, generation=5)
                if index % 500 == 0:
                    await asyncio.sleep(0)
            await until(lambda: one.redis.flushes == 1)  # type: ignore[union-attr]
            assert all(other.status(name) is Status.UP for name in names), "nobody was missed"
            async with open_store(url=server.url, node="n3") as third:
                for name in names:
                    third.live.expect(name, 0, 5)
                await until(lambda: all(third.status(name) is Status.UP for name in names))

    run(work)


def test_it_goes_on_from_memory_while_redis_is_gone_and_says_so_once(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a") as (one, other):
            await heard(other, "a", Status.UP)
            await one.turned()
            server.kill()
            for store in (one, other):
                await until(lambda store=store: store.redis.failures >= 2)  # type: ignore[misc]
                assert store.said == ["", "UNREACHABLE"]
            assert one.beat("a", generation=5, in_flight=2)
            assert (one.status("a"), other.status("a")) == (Status.UP, Status.UP)
            server.start()
            await until(lambda: other.said[-1] == "" and one.said[-1] == "")
            assert one.said == other.said == ["", "UNREACHABLE", ""]
            await until(lambda: other.live.state("a", 0).in_flight == 2)

    run(work)


def test_who_hears_nobody_for_a_lease_suspects_and_does_not_bury(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a") as (_, other):
            await heard(other, "a", Status.UP)
            for _ in other.sharing.cut("nobody is heard"):
                pass
            assert other.status("a") is Status.SUSPECT
            other.pass_s(3 * LEASE_S)
            assert other.status("a") is Status.SUSPECT, "its home may think well of it"

    run(work)


def test_a_redis_that_answers_nothing_is_waited_for_by_nobody(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a", answer_s=0.3) as (one, other):
            await heard(other, "a", Status.UP)
            await one.turned()
            server.pause()
            try:
                await until(lambda: "SLOW" in one.said)
                assert one.beat("a", generation=5) and one.status("a") is Status.UP
            finally:
                server.go_on()
            await until(lambda: one.said[-1] == "" and other.said[-1] == "")
            await heard(other, "a", Status.UP)

    run(work)


def test_a_full_redis_is_said_to_be_full() -> None:
    async def work() -> None:
        with redis_server() as server:
            async with open_store(url=server.url) as store:
                store.live.begin("a", 0, 5)
                await store.turned()
                with server.client() as client:
                    client.config_set("maxmemory", 1)
                await until(lambda: "FULL" in store.said)
                assert store.beat("a", generation=5) and store.status("a") is Status.UP
                with server.client() as client:
                    client.config_set("maxmemory", 0)
                await until(lambda: store.said[-1] == "")

    run(work)


def test_a_wrong_password_is_refused_and_never_shown() -> None:
    wrong, right = f"wrong-{secrets.token_hex(8)}", f"right-{secrets.token_hex(8)}"

    async def work() -> None:
        with redis_server("--requirepass", right) as server:
            async with (
                open_store(url=server.url, password=wrong) as one,
                open_store(url=server.url) as other,
                open_store(url=server.url.replace("unix://", f"unix://:{right}@")) as third,
            ):
                await until(lambda: bool(one.said and other.said and third.said))
                assert one.said == other.said == ["REFUSED"] and third.said == [""]
                assert wrong not in "".join(one.texts)

    run(work)


def test_garbage_in_its_keys_hurts_nobody(server: RedisServer) -> None:
    async def work() -> None:
        async with two(server, "a", "b") as (one, other):
            await heard(other, "a", Status.UP)
            part = registry_pb2.ListAgentsResponse()
            part.agents.add(generation=9).registration.name = "b"  # of no status
            part.agents.add(generation=1 << 63, state={"status": 4}).registration.name = "nobody"
            with server.client() as client:
                pulse, told = f"{PREFIX}:1:c:pulse", f"{PREFIX}:1:c:told:evil"
                for number in range(1, 6):
                    client.hset(pulse, "evil", f"life {number}")
                    client.hset(pulse, b"\xff\xfe", b"\x00")
                    client.hset(pulse, "worse", "9" * 5_000)
                    client.hset(pulse, "", " ")
                    client.xadd(told, {TENANT: b"\xff" * 40, b"\xff": b"", "": b"\x00"})
                    client.xadd(told, {TENANT: part.SerializeToString()})
                    await other.turned(3)
            assert other.sharing.counts.garbled > 5
            assert (other.status("a"), other.status("b")) == (Status.UP, Status.UP)
            assert other.said == [""] and other.live.get("nobody") is None
            # And where a key is of another type, it is as if Redis were gone.
            with server.client() as client:
                client.set(pulse, "text")
            await until(lambda: "FAILED" in other.said)
            assert one.beat("a", generation=5)
            with server.client() as client:
                client.delete(pulse)
            await until(lambda: one.said[-1] == "" and other.said[-1] == "")

    run(work)


def test_two_nodes_of_one_name_are_told_apart_and_neither_is_believed_to_share(
    server: RedisServer,
) -> None:
    async def work() -> None:
        async with (
            open_store(url=server.url, node="n1") as one,
            open_store(url=server.url, node="n1") as twin,
        ):
            await until(lambda: "NAME_TAKEN" in one.said and "NAME_TAKEN" in twin.said)

    run(work)


def test_what_is_kept_expires_by_itself(server: RedisServer) -> None:
    async def work() -> None:
        async with open_store(url=server.url) as store:
            store.live.begin("a", 0, 5)
            await store.turned(3)
            with server.client() as client:
                keys = client.keys("*")
                assert len(keys) == 2
                for key in keys:
                    assert key.startswith(f"{PREFIX}:1:c:".encode())
                    assert 0 < client.pttl(key) <= 2 * RULES.lease_ms
            store.live.forget("a")

    run(work)


def test_what_was_told_is_trimmed_and_told_again_within_a_lease(server: RedisServer) -> None:
    async def work() -> None:
        async with open_store(url=server.url) as store:
            store.live.begin("a", 0, 5)
            told_before = 0
            for _ in range(3):
                await store.turned(store.sharing.lease_turns + 1)
                assert store.sharing.counts.told > told_before, "though it does not beat"
                told_before = store.sharing.counts.told
            with server.client() as client:
                entries = client.xlen(f"{PREFIX}:1:c:told:n1")
                assert 1 <= entries <= 3, "one each lease, and no older ones"

    run(work)
