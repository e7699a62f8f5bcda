"""What a node keeps for its clients: configuration with history, leases, over every way to it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import sira

Until = Callable[..., Awaitable[Any]]


@pytest.fixture
def key() -> str:
    """A key that nothing else uses: a real node serves all tests."""
    return f"app.t{uuid.uuid4().hex}"


async def test_what_was_set_holds_and_its_versions_say_by_whom_and_when(
    world: Any, key: str
) -> None:
    async with world.bus() as bus, world.bus() as other:
        made = await bus.config.set(key, 5)
        assert (made.version, made.value) == (1, 5)
        assert await other.config.get(key) == 5
        await other.config.set(key, {"a": [1, None, "é"]}, expected_version=1)
        newest, oldest = await bus.config.history(key)
        assert (newest.value, newest.version) == ({"a": [1, None, "é"]}, 2)
        assert (oldest.value, oldest.version) == (5, 1)
        assert oldest.principal.startswith("sira://") and 0 < oldest.time_ns <= newest.time_ns


async def test_a_set_that_expects_another_version_changes_nothing(world: Any, key: str) -> None:
    async with world.bus() as bus:
        await bus.config.set(key, 1, expected_version=0)
        with pytest.raises(sira.SiraError) as caught:
            await bus.config.set(key, 2, expected_version=0)
        assert caught.value.code == "CONFLICT" and caught.value.details["version"] == "1"
        assert await bus.config.get(key) == 1


async def test_a_rollback_makes_a_new_version_of_an_old_value(world: Any, key: str) -> None:
    async with world.bus() as bus:
        for value in (1, 2):
            await bus.config.set(key, value)
        made = await bus.config.rollback(key, 1)
        assert (made.value, made.version, made.rolled_back_to) == (1, 3, 1)
        assert await bus.config.get(key) == 1
        with pytest.raises(sira.SiraError) as caught:
            await bus.config.rollback(key, 9)
        assert caught.value.code == "NOT_FOUND"


async def test_a_listing_has_the_keys_of_a_pattern_by_name(world: Any, key: str) -> None:
    async with world.bus() as bus:
        for name in ("b", "a", "c.d"):
            await bus.config.set(f"{key}.{name}", name)
        await bus.config.set(f"{key}x", 0)
        found = await bus.config.list(f"{key}.>")
        assert [(each.key, each.value) for each in found] == [
            (f"{key}.{name}", name) for name in ("a", "b", "c.d")
        ]


async def test_a_setting_of_the_node_is_read_by_name_and_not_set(world: Any) -> None:
    async with world.bus() as bus:
        assert await bus.config.get("stall_s") == 10.0
        with pytest.raises(sira.Unsupported):
            await bus.config.set("stall_s", 1)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("other.a", 1, "BAD_REQUEST"),
        ("app..a", 1, "BAD_TOPIC"),
        ("app.*", 1, "BAD_TOPIC"),
        ("app.a", float("nan"), "BAD_REQUEST"),
        ("app.a", object(), "BAD_REQUEST"),
        ("app.a", "x" * (64 << 10), "MESSAGE_TOO_LARGE"),
    ],
)
async def test_what_cannot_be_set_is_refused(world: Any, name: str, value: Any, code: str) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.SiraError) as caught:
            await bus.config.set(name, value)
        assert caught.value.code == code


async def test_a_key_that_was_never_set_is_not_found(world: Any, key: str) -> None:
    async with world.bus() as bus:
        for asks in (bus.config.get(key), bus.config.history(key), bus.config.get("nosuch")):
            with pytest.raises(sira.SiraError) as caught:
                await asks
            assert caught.value.code == "NOT_FOUND"


async def test_a_change_is_a_fact_on_the_bus(world: Any, key: str) -> None:
    async with world.bus() as bus, bus.subscribe("sira.config") as facts:
        await bus.config.set(key, [1])
        while True:
            fact = json.loads((await facts.next(timeout_s=60)).text)
            if fact["setting"] == key:
                break
        assert fact["value"] == "[1]" and fact["principal"].startswith("sira://")


async def test_a_lease_is_one_holders_and_refused_to_others_until_it_is_given_back(
    world: Any, key: str
) -> None:
    async with world.bus() as bus, world.bus() as other:
        async with bus.leases.acquire(key, holder="first") as first:
            assert first.token > 0 and 0 < first.left_s <= 30
            with pytest.raises(sira.SiraError) as caught:
                async with other.leases.acquire(key):
                    pass
            assert caught.value.code == "CONFLICT" and "first" in str(caught.value)
            token = first.token
        with pytest.raises(sira.SiraError):
            first.check()
        async with other.leases.acquire(key) as second:
            assert second.token > token


async def test_who_waits_gets_the_lease_when_it_is_free(world: Any, key: str) -> None:
    async with world.bus() as bus, world.bus() as other:
        order = []

        async def waits(name: str) -> None:
            async with other.leases.acquire(key, wait_s=50) as lease:
                order.append((name, lease.token))

        async with bus.leases.acquire(key) as first:
            one = asyncio.ensure_future(waits("one"))
            order.append(("first", first.token))
        await one
        assert [name for name, _ in order] == ["first", "one"]
        assert order[0][1] < order[1][1]


async def test_a_shared_lease_has_so_many_holders(world: Any, key: str) -> None:
    async with world.bus() as bus, bus.leases.acquire(key, shared=2) as one:
        async with bus.leases.acquire(key, shared=2) as two:
            assert one.token != two.token
            with pytest.raises(sira.SiraError) as caught:
                async with bus.leases.acquire(key, shared=2):
                    pass
            assert caught.value.code == "CONFLICT"
        async with bus.leases.acquire(key, shared=2):
            pass


async def test_a_lease_is_renewed_for_as_long_as_it_is_held(
    world: Any, key: str, until: Until
) -> None:
    async with world.bus() as bus, bus.leases.acquire(key, ttl_s=0.6) as lease:
        first_until_s = lease._until_s
        await until(lambda: lease._until_s > first_until_s + 0.6)
        assert not lease.lost.is_set() and lease.token > 0


async def test_who_waits_in_vain_is_told_and_leaves_the_line(world: Any, key: str) -> None:
    async with world.bus() as bus, bus.leases.acquire(key):
        with pytest.raises(sira.Timeout):
            async with bus.leases.acquire(key, wait_s=0.2):
                pass


async def test_who_gives_up_leaves_the_line(world: Any, key: str) -> None:
    async with world.bus() as bus, world.bus() as other:
        async with bus.leases.acquire(key):
            waits = asyncio.ensure_future(other.leases.acquire(key, wait_s=50).__aenter__())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waits), 0.1)
            waits.cancel()
        async with bus.leases.acquire(key, wait_s=20):
            pass


@pytest.mark.parametrize(
    ("name", "asked", "code"),
    [("a..b", {}, "BAD_TOPIC"), ("a", {"ttl_s": 0.01}, "BAD_REQUEST"),
     ("a", {"shared": 5_000}, "BAD_REQUEST"), ("a", {"wait_s": 1e6}, "BAD_REQUEST")],
)  # fmt: skip
async def test_a_lease_that_cannot_be_is_refused(
    world: Any, name: str, asked: dict[str, float], code: str
) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.SiraError) as caught:
            async with bus.leases.acquire(name, **asked):
                pass
        assert caught.value.code == code


async def test_a_lease_granted_and_ended_are_facts_on_the_bus(world: Any, key: str) -> None:
    async with world.bus() as bus, bus.subscribe("sira.lease.*") as facts:
        async with bus.leases.acquire(key) as lease:
            token = lease.token
        seen: list[Any] = []
        while len(seen) < 2:
            message = await facts.next(timeout_s=60)
            fact = json.loads(message.text)
            if fact["lease"] == key:
                seen.append((message.topic, fact["token"], fact.get("reason")))
        assert seen == [
            ("sira.lease.granted", token, None), ("sira.lease.ended", token, "RELEASED"),
        ]  # fmt: skip


def test_the_synchronous_twin_has_the_same(world: Any, key: str) -> None:
    with world.sync() as bus:
        assert bus.config.set(key, 1).version == 1
        assert bus.config.set(key, 2, expected_version=1).version == 2
        assert bus.config.get(key) == 2
        assert [each.value for each in bus.config.history(key)] == [2, 1]
        assert bus.config.rollback(key, 1).value == 1
        assert [each.key for each in bus.config.list(key)] == [key]
        with bus.leases.acquire(key, ttl_s=5) as lease:
            assert lease.token > 0 and lease.left_s > 0 and lease.name == key
            lease.check()
        with pytest.raises(sira.SiraError) as caught:
            lease.check()
        assert caught.value.code == "REVOKED"
