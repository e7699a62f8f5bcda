"""What holds for who is alive, kept in memory alone or shared by a Redis server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from sira.registry.health import Rules, Status
from sira.registry.live import Live
from sira.registry.redis_live import RedisLive
from sira.registry.sharing import Sharing
from sira.v1 import registry_pb2
from tests.redis_server import RedisServer, redis_server

WATCHDOG_S = 120.0
RULES = Rules()
TENANT = "ward"


class Store:
    """One node's, whose clock the test moves. With a Redis, what it tells goes there."""

    def __init__(
        self,
        *,
        url: str = "",
        node: str = "n1",
        cluster: str = "c",
        still_turns: int = 100_000,
        **given: Any,
    ) -> None:
        self.now_ms = 0
        self.told: list[tuple[str, Status | None]] = []
        self.said: list[str] = []
        self.texts: list[str] = []
        self.live: Live[str] = Live(RULES, 0, changed=self._changed, shares=bool(url))
        self.lives = {TENANT: self.live}
        # A turn may take long on a slow machine, where others turn meanwhile.
        self.sharing = Sharing(
            node, RULES, lambda: self.lives, lambda: self.now_ms, still_turns=still_turns
        )
        self.redis: RedisLive | None = None
        if url:
            self.redis = RedisLive(
                self.sharing, url, cluster=cluster, said=self._said, turn_s=0.01,
                **{"answer_s": WATCHDOG_S, **given},
            )  # fmt: skip

    def _changed(self, name: str, before: Status | None) -> None:
        self.told.append((name, before))

    def _said(self, word: str, text: str) -> None:
        self.said.append(word)
        self.texts.append(text)

    def beat(self, name: str, **load: Any) -> bool:
        return self.live.beat(name, registry_pb2.Beat(name=name, **load), self.now_ms)

    def status(self, name: str) -> Status:
        vital = self.live.get(name)
        assert vital is not None
        return vital.status

    def pass_s(self, seconds: int, *beating: str) -> None:
        """Let time pass, in which some beat each second."""
        for _ in range(seconds):
            self.now_ms += 1_000
            self.live.tick(self.now_ms)
            for name in beating:
                self.beat(name)

    async def turned(self, turns: int = 2) -> None:
        """Wait until so many turns have gone by: what was true before them is told and heard."""
        if self.redis is not None:
            begun = self.redis.turns
            while self.redis.turns < begun + turns:  # noqa: ASYNC110
                await asyncio.sleep(0.002)


Open = Callable[..., AbstractAsyncContextManager[Store]]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def opened(request: pytest.FixtureRequest) -> Open:
    url = ""
    if request.param == "redis":
        running: RedisServer = request.getfixturevalue("server")
        with running.client() as client:
            client.flushall()
        url = running.url
    return lambda **given: open_store(url=url, **given)


@asynccontextmanager
async def open_store(**given: Any) -> AsyncIterator[Store]:
    store = Store(**given)
    if store.redis is not None:
        store.redis.start()
    try:
        yield store
    finally:
        if store.redis is not None:
            await store.redis.stop()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    asyncio.run(guarded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_who_registers_is_up_and_each_change_is_told_once(opened: Open) -> None:
    async def work() -> None:
        async with opened() as store:
            store.live.begin("a", store.now_ms, 7)
            await store.turned()
            assert store.status("a") is Status.UP and store.told == [("a", None)]
            assert store.beat("a", in_flight=3, waiting=2, lag_ms=5)
            await store.turned()
            state = store.live.state("a", store.now_ms)
            assert (state.in_flight, state.waiting, state.lag_ms) == (3, 2, 5)
            assert store.told == [("a", None)] and not store.beat("b")

    run(work)


def test_who_is_silent_is_suspect_then_down_and_comes_back(opened: Open) -> None:
    async def work() -> None:
        async with opened() as store:
            for name in ("calm", "mute"):
                store.live.begin(name, store.now_ms, 1)
            await store.turned()
            store.pass_s(11, "calm")
            assert (store.status("calm"), store.status("mute")) == (Status.UP, Status.SUSPECT)
            await store.turned()
            store.pass_s(5, "calm")
            assert (store.status("calm"), store.status("mute")) == (Status.UP, Status.DOWN)
            assert list(store.live.down(for_ms=0, now_ms=store.now_ms)) == ["mute"]
            await store.turned()
            store.beat("mute")
            assert store.status("mute") is Status.UP

    run(work)


def test_a_lost_connection_a_drain_and_lag_are_what_they_were(opened: Open) -> None:
    async def work() -> None:
        async with opened() as store:
            for name in ("gone", "ended", "full", "slow"):
                store.live.begin(name, store.now_ms, 1)
            store.live.lose("gone", store.now_ms, reason="its socket has closed", is_gone=True)
            store.live.lose("ended", store.now_ms, reason="its beats have ended", is_gone=False)
            store.beat("full", draining=True)
            store.beat("slow", lag_ms=5_000)
            await store.turned()
            assert [store.status(each) for each in ("gone", "ended", "full", "slow")] == [
                Status.DOWN, Status.SUSPECT, Status.DRAINING, Status.SUSPECT,
            ]  # fmt: skip
            assert store.live.state("gone", store.now_ms).reason == "its socket has closed"

    run(work)


def test_who_is_forgotten_is_known_no_more(opened: Open) -> None:
    async def work() -> None:
        async with opened() as store:
            store.live.begin("a", store.now_ms, 1)
            await store.turned()
            store.live.forget("a")
            await store.turned()
            assert store.live.get("a") is None and not store.beat("a")
            store.live.expect("a", store.now_ms, 2)
            await store.turned()
            assert store.status("a") is Status.SUSPECT, "nobody has heard it"

    run(work)
