"""Limits of a real node: the SDK waits as long as the node says, and no longer than its caller."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import sira
from sira import _native
from sira.kernel import listening
from sira.kernel.edge import ticker
from sira.kernel.errors import QuotaExceeded, RateLimited, Revoked
from sira.kernel.node import Node
from sira.v1 import bus_pb2

from .keys import running

WATCHDOG_S = 60.0


def session(work: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    asyncio.run(guarded())


def limited(folder: Path, rules: str) -> dict[str, object]:
    """Settings of a node on loopback, in plain text, with these limits."""
    file = folder / "limits.toml"
    file.write_text(f'format = "sira-limits 1"\n{rules}')
    return {"listen": "127.0.0.1:0", "data_dir": str(folder), "limits_file": str(file)}


def topic_limit(pattern: str, rate: float, burst_s: float) -> str:
    return (
        f'[[limit]]\nname = "slow"\nscope = "topic"\npattern = "{pattern}"\n'
        f"messages_per_s = {rate}\nburst_s = {burst_s}\n"
    )


def url(node: Node) -> str:
    return f"sira://{node.address}"


def refusals(node: Node, topic: str) -> int:
    row = node.bus.hub.row(topic)
    assert row is not None
    return int(row["refused"].get("RATE_LIMITED", 0))


def test_publishes_past_a_limit_wait_and_each_comes_once_and_in_order(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            running(limited(tmp_path, topic_limit("lab.slow", 50, 0.1))) as node,
            sira.connect(url(node)) as bus,
            bus.subscribe("lab.slow") as messages,
        ):
            start_s = time.monotonic()
            for n in range(20):
                await bus.publish("lab.slow", str(n), timeout_s=30)
            assert time.monotonic() - start_s > 0.2, "15 past the burst at 50 a second"
            assert [(await messages.next(timeout_s=60)).text for _ in range(20)] == [
                str(n) for n in range(20)
            ]
            assert refusals(node, "lab.slow") == 0, "they waited on the node"
            assert (await bus.ledger("lab.slow")).balanced

    session(work)


def test_a_wait_that_does_not_fit_is_told_at_once_with_its_length(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            running(limited(tmp_path, topic_limit("lab.slow", 0.01, 100))) as node,
            sira.connect(url(node)) as bus,
        ):
            await bus.publish("lab.slow", "1")
            with pytest.raises(RateLimited) as caught:
                await bus.publish("lab.slow", "2", timeout_s=20)
            assert caught.value.retry_after_ms > 20_000

    session(work)


def test_who_does_not_want_to_wait_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            running(limited(tmp_path, topic_limit("lab.slow", 5, 0.2))) as node,
            sira.connect(url(node), retry=sira.Retry(limited=False)) as bus,
        ):
            await bus.publish("lab.slow", "1")
            with pytest.raises(RateLimited) as caught:
                await bus.publish("lab.slow", "2", timeout_s=20)
            assert 0 < caught.value.retry_after_ms <= 200
            with pytest.raises(RateLimited):
                await bus.request("lab.slow", "3", timeout_s=20)
            assert refusals(node, "lab.slow") == 2

    session(work)


def test_the_limits_of_the_file_and_of_the_settings_both_hold_and_a_change_is_told_once(
    tmp_path: Path,
) -> None:
    def wide(rate: float) -> str:
        return topic_limit("lab.wide", rate, 1) + topic_limit("lab.narrow", 1, 1).replace(
            "slow", "narrow"
        )

    async def work() -> None:
        flags = limited(tmp_path, wide(1_000)) | {
            "principal_messages_per_s_max": 20, "reload_s": 0.02,
        }  # fmt: skip
        async with (
            running(flags) as node,
            sira.connect(url(node), retry=sira.Retry(limited=False)) as bus,
            sira.connect(url(node)) as watcher,
            watcher.subscribe("sira.config") as changes,
        ):
            for topic, name in (("lab.narrow", "narrow"), ("lab.wide", "principal_*_per_s_max")):
                with pytest.raises(RateLimited) as caught:
                    await bus.publish_many(topic, ["x"] * 100)
                assert caught.value.details["limit"] == name, "the tighter one"
            for rate in (5, 6):  # each time one fact, and no other
                limited(tmp_path, topic_limit("lab.other", rate, 1))
                said = await changes.next(timeout_s=60)
                assert json.loads(said.text)["setting"] == "limits_file"
            with pytest.raises(RateLimited) as caught:
                await bus.publish_many("lab.wide", ["x"] * 100)
            assert caught.value.details["limit"] == "principal_*_per_s_max", "it still holds"

    session(work)


def test_requests_wait_too(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            running(limited(tmp_path, topic_limit("lab.ask", 60, 0.1))) as node,
            sira.connect(url(node)) as bus,
            sira.Agent("echo", topic="lab.ask", handler=lambda x: x, bus=bus),
        ):
            answers = [(await bus.request("lab.ask", str(n), timeout_s=30)).text for n in range(15)]
            assert answers == [str(n) for n in range(15)]
            assert refusals(node, "lab.ask") == 0

    session(work)


def test_calls_and_the_opening_of_streams_wait_too(tmp_path: Path) -> None:
    rules = '[[limit]]\nname = "each"\nscope = "principal"\nmessages_per_s = 20\nburst_s = 0.1\n'

    async def work() -> None:
        async with (
            running(limited(tmp_path, rules)) as node,
            sira.connect(url(node)) as bus,
        ):
            start_s = time.monotonic()
            for _ in range(6):
                await bus.stats(timeout_s=30)
            async with bus.subscribe("lab.x") as messages:
                await bus.publish("lab.x", "x", timeout_s=30)
                assert (await messages.next(timeout_s=60)).text == "x"
            assert time.monotonic() - start_s > 0.2, "5 and more past the burst at 20 a second"

    session(work)


def test_a_handlers_own_limit_is_not_asked_twice(tmp_path: Path) -> None:
    """What a handler refuses has been begun: only who says idempotent=True is asked again."""
    calls: list[str] = []

    def handle(x: str) -> str:
        calls.append(x)
        if len(calls) < 3:
            raise QuotaExceeded("not now", retry_after_ms=1, retryable=True)
        return "done"

    async def work() -> None:
        async with (
            running(limited(tmp_path, topic_limit("lab.other", 5, 1))) as node,
            sira.connect(url(node)) as bus,
            sira.Agent("busy", topic="lab.ask", handler=handle, bus=bus),
        ):
            with pytest.raises(QuotaExceeded):
                await bus.request("lab.ask", "a", timeout_s=30)
            assert calls == ["a"]
            again = await bus.request("lab.ask", "b", timeout_s=30, idempotent=True)
            assert (again.text, calls) == ("done", ["a", "b", "b"])

    session(work)


def test_a_held_quota_that_is_given_back_is_waited_for(tmp_path: Path) -> None:
    rules = '[[limit]]\nname = "held"\nscope = "topic"\npattern = "lab.held"\nheld_bytes = 3000\n'

    async def work() -> None:
        async with (
            running(limited(tmp_path, rules)) as node,
            sira.connect(url(node)) as bus,
            sira.connect(url(node)) as reader,
            reader.subscribe("lab.held", window_messages=1) as messages,
        ):
            sends = [
                asyncio.ensure_future(bus.publish("lab.held", bytes(1000), timeout_s=30))
                for _ in range(8)
            ]
            for _ in range(8):
                await messages.next(timeout_s=60)
            await asyncio.gather(*sends)

    session(work)


def test_who_does_not_wait_keeps_what_is_open_when_a_limit_refuses_a_stream(tmp_path: Path) -> None:
    rules = '[[limit]]\nname = "each"\nscope = "principal"\nmessages_per_s = 0.01\nburst_s = 100\n'

    async def work() -> None:
        async with (
            running(limited(tmp_path, rules) | {"reload_s": 0.02}) as node,
            sira.connect(url(node), retry=sira.Retry(limited=False)) as bus,
            bus.subscribe("lab.x") as messages,  # the one token
            sira.connect(url(node), retry=sira.Retry(limited=False)) as other,
        ):
            for _ in range(2):
                with pytest.raises(RateLimited) as caught:
                    await bus.publish("lab.x", "no")
                assert caught.value.retry_after_ms > 0
            with pytest.raises(RateLimited):
                await bus.request("lab.x", "no", timeout_s=20)
            with pytest.raises(RateLimited):
                async with other.subscribe("lab.y"):
                    raise AssertionError("there is no room for it")
            limited(tmp_path, "")
            while True:
                try:
                    await bus.publish("lab.x", "yes")
                    break
                except RateLimited:
                    await asyncio.sleep(0.01)
            assert (await messages.next(timeout_s=60)).text == "yes"
            assert messages.reconnects == 0
            async with other.subscribe("lab.y") as later:
                await bus.publish("lab.y", "too")
                assert (await later.next(timeout_s=60)).text == "too"

    session(work)


def test_bytes_that_are_given_back_wake_who_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing looks by the clock here, and no frame comes: only the sending gives bytes back."""
    monkeypatch.setattr(ticker, "_BUSY_S", 3_600.0)
    rules = '[[limit]]\nname = "held"\nscope = "topic"\npattern = "lab.held"\nheld_bytes = 3000\n'

    async def work() -> None:
        async with running(limited(tmp_path, rules)) as node, sira.connect(url(node)) as bus:
            stream = node.bus.open_subscribe(node.bus.node, node.bus.self, wake=lambda: None)
            opening = bus_pb2.Open(subscription=1, pattern="lab.held", window_messages=100)
            listening.open_now(node.bus, stream, opening, _native.now_ns())
            sends = [
                asyncio.ensure_future(bus.publish("lab.held", bytes(1000), timeout_s=60))
                for _ in range(4)
            ]
            while node.bus.hub.stats["waiting"] != 1 or node.bus.hub.due_ns:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert not sends[3].done()
            while stream.egress.next_frame(_native.now_ns()) is not None:
                pass
            await asyncio.gather(*sends)
            stream.close(_native.now_ns())

    session(work)


def test_a_stream_that_ends_tells_what_was_taken_behind_what_waits(tmp_path: Path) -> None:
    """Answers come in order: those without one would be taken for refused, or sent again."""
    rules = tmp_path / "rules.toml"
    rules.write_text('format = "sira-policy 1"\ndefault = "allow"\n')
    flags = limited(tmp_path, topic_limit("lab.slow", 0.01, 100))
    flags |= {"publish_block_s": 600, "policy": str(rules), "reload_s": 0.02}

    async def work() -> None:
        async with (
            running(flags) as node,
            sira.connect(url(node)) as bus,
            bus.subscribe("lab.>") as messages,
        ):
            slow = [asyncio.ensure_future(bus.publish("lab.slow", "slow")) for _ in range(3)]
            others = [asyncio.ensure_future(bus.publish("lab.other", str(n))) for n in range(5)]
            got = [(await messages.next(timeout_s=60)).text for _ in range(6)]
            assert got == ["slow", *map(str, range(5))]
            assert node.bus.hub.stats["waiting"] == 2
            rules.write_text(
                'format = "sira-policy 1"\ndefault = "allow"\n[[rule]]\nname = "no-more"\n'
                'effect = "deny"\nprincipals = "*"\nactions = "call"\n'
                'methods = ["/sira.v1.Bus/Publish"]\n'
            )
            assert [each.matched for each in await asyncio.gather(*others)] == [1] * 5
            outcomes = await asyncio.gather(*slow, return_exceptions=True)
            assert [isinstance(each, Revoked) for each in outcomes] == [False, True, True]
            assert (await bus.ledger("lab.slow"))["lab.slow"].refused == {"REVOKED": 2}

    session(work)
