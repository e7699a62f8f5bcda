"""What the SDK shows a node and hears from it: renewed tokens, refusals at once, narrowing."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import sira
from sira.kernel.errors import Denied, Revoked, Unauthenticated
from sira.kernel.node import Node
from sira.kernel.trust import secrets

from .keys import Keys, principal, running, until

WATCHDOG_S = 60.0
SHORT_S = 3.0  # a token ends after so long: enough to connect with it


def session(work: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    asyncio.run(guarded())


def url(node: Node, *, mtls: bool = False) -> str:
    return f"siras://127.0.0.1:{node.mtls_port if mtls else node.port}"


def test_a_client_whose_token_ran_out_comes_back_with_the_renewed_one(tmp_path: Path) -> None:
    """Messages numbered over the change: each is taken once, and in order."""
    keys = Keys.new(tmp_path)
    file, who = tmp_path / "token", principal("ann")
    secrets.write_secret(file, keys.token(who, expires_s=time.time() + SHORT_S).encode())

    async def work() -> None:
        async with running(keys.flags()) as node:
            shown = keys.security(token_file=file)
            sees = keys.security(token=keys.token(principal("ben")))
            async with (
                sira.connect(url(node), security=sees) as watcher,
                watcher.subscribe("lab.n") as numbers,
                sira.connect(url(node), security=shown) as bus,
                bus.subscribe("lab.mine") as mine,
                bus.publisher("lab.n") as publisher,
            ):
                sent = 0
                secrets.write_secret(file, keys.token(who).encode(), replace=True)
                while mine.reconnects == 0:
                    await publisher.send(str(sent))
                    sent += 1
                    await asyncio.sleep(0.001)
                for _ in range(50):
                    await publisher.send(str(sent))
                    sent += 1
                await publisher.flush(timeout_s=30)
                came = [(await numbers.next(timeout_s=60)).text for _ in range(sent)]
                assert came == [str(n) for n in range(sent)]
                with pytest.raises(sira.Timeout):
                    await numbers.next(timeout_s=0.05)
                await bus.publish("lab.mine", "again")
                assert (await mine.next(timeout_s=60)).text == "again"
                assert (await bus.ledger("lab.n")).balanced

    session(work)


def test_a_token_that_ran_out_and_was_not_renewed_is_the_end(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    file = tmp_path / "token"
    secrets.write_secret(
        file, keys.token(principal("ann"), expires_s=time.time() + SHORT_S).encode()
    )

    async def work() -> None:
        async with (
            running(keys.flags()) as node,
            sira.connect(url(node), security=keys.security(token_file=file)) as bus,
            bus.subscribe("lab.x") as messages,
        ):
            with pytest.raises(Unauthenticated, match="expired"):
                await messages.next(timeout_s=60)
            with pytest.raises(Unauthenticated, match="expired"):
                await bus.publish("lab.x", "x")

    session(work)


def test_a_unary_call_after_the_end_of_a_token_uses_the_renewed_one(tmp_path: Path) -> None:
    """No stream is open that the node could end: the call itself is refused, and made again."""
    keys = Keys.new(tmp_path)
    file, who = tmp_path / "token", principal("ann")
    expires_s = time.time() + SHORT_S
    secrets.write_secret(file, keys.token(who, expires_s=expires_s).encode())

    async def work() -> None:
        async with (
            running(keys.flags()) as node,
            sira.connect(url(node), security=keys.security(token_file=file)) as bus,
        ):
            await until(lambda: time.time() > expires_s)
            with pytest.raises(Unauthenticated):
                await bus.stats()
            secrets.write_secret(file, keys.token(who).encode(), replace=True)
            assert (await bus.stats()).node

    session(work)


def test_a_renewed_certificate_is_shown_at_the_next_connection(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    cert, key = keys.certificate("bob", principal("bob", kind="agent"))

    async def work() -> None:
        async with running(keys.flags(listen_mtls="127.0.0.1:0")) as node:
            shown = keys.security(tls_cert=cert, tls_key=key)
            async with sira.connect(url(node, mtls=True), security=shown) as bus:
                assert bus.node.principal.endswith("/agent/bob")
                keys.certificate("bob", principal("rob", kind="agent"))
                bus.connection.outgoing.stop()
                bus.connection._lost(sira.Unreachable("cut by the test"))
                await until(lambda: bus.node.principal.endswith("/agent/rob"))

    session(work)


def test_who_shows_nothing_is_told_at_once_how_to(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)

    async def work() -> None:
        async with running(keys.flags()) as node:
            with pytest.raises(Unauthenticated, match="shows nothing") as caught:
                await sira.connect(url(node), security=keys.security(token=""), timeout_s=30)
            assert "--token-file" in caught.value.help and "SIRA_TOKEN" in caught.value.help

    session(work)


RULES = """
format = "sira-policy 1"
default = "deny"
[[rule]]
name = "calls"
effect = "allow"
principals = ["*"]
actions = ["call"]
methods = ["*"]
[[rule]]
name = "part"
effect = "allow"
principals = ["*"]
actions = ["subscribe", "publish", "inspect"]
topics = ["lab.a.>"]
"""


def test_a_narrowed_subscription_says_so_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys.new(tmp_path)
    (tmp_path / "rules.toml").write_text(RULES)

    async def work() -> None:
        async with (
            running(keys.flags(policy=str(tmp_path / "rules.toml"))) as node,
            sira.connect(
                url(node), security=keys.security(token=keys.token(principal("ann")))
            ) as bus,
            bus.subscribe("lab.>") as some,
            bus.subscribe("lab.a.>") as whole,
        ):
            assert some.readable == ["lab.a.>"]
            assert (whole.readable, whole.cut, whole.narrowed) == ([], [], "")
            bus.connection._lost(sira.Unreachable("cut by the test"))
            await until(lambda: bus.connection.is_up)
            await bus.publish("lab.a.x", "x")
            warned = [r for r in caplog.records if "narrowed" in r.getMessage()]
            assert len(warned) == 1 and "lab.a.>" in warned[0].getMessage()

    with caplog.at_level(logging.WARNING, "sira.client"):
        session(work)


def test_explain_decides_for_somebody_else_and_for_methods(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    (tmp_path / "rules.toml").write_text(
        RULES + '[[rule]]\nname = "ops"\neffect = "allow"\nprincipals = ["*"]\n'
        'actions = ["inspect"]\ntopics = [">", "sira.>"]\n'
    )

    async def work() -> None:
        async with (
            running(keys.flags(policy=str(tmp_path / "rules.toml"))) as node,
            sira.connect(
                url(node), security=keys.security(token=keys.token(principal("ann")))
            ) as bus,
        ):
            ben = str(principal("ben"))
            found = await bus.explain("lab.>", action="subscribe", principal=ben)
            assert (found.decision, found.readable) == ("allow", ("lab.a.>",))
            found = await bus.explain("lab.b", principal=ben)
            assert found.decision == "deny" and found.rule
            found = await bus.explain("/sira.v1.Kernel/Stats", action="call", principal=ben)
            assert (found.decision, found.kind, found.matches) == ("allow", "", ())
            found = await bus.explain("drain", action="administer", principal=ben)
            assert found.decision == "deny" and found.rule
            for wrong in ("", "x" * 300, "a\nb"):
                with pytest.raises(sira.BadRequest, match="printable"):
                    await bus.explain(wrong, action="call")
            with pytest.raises(sira.BadTopic):
                await bus.explain("no topic", action="publish")

    session(work)


def test_the_load_of_a_world_is_told_in_it_alone_and_to_operators(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)

    async def heard(messages: sira.Subscription) -> dict[str, set[str]]:
        """Topics told of, by tenant, until three snapshots were told."""
        found: dict[str, set[str]] = {}
        snapshots: set[int] = set()
        while len(snapshots) < 3:
            fact = json.loads(bytes((await messages.next(timeout_s=60)).bytes))
            snapshots.add(fact["number"])
            for row in fact.get("rows", ()):
                if "unexplained" in row:
                    found.setdefault(fact["tenant"], set()).add(row["name"])
        return found

    async def work() -> None:
        async with (
            running(keys.flags()) as node,
            sira.connect(
                url(node), security=keys.security(token=keys.token(principal("a", "one")))
            ) as one,
            sira.connect(
                url(node), security=keys.security(token=keys.token(principal("b", "two")))
            ) as two,
            sira.connect(
                url(node), security=keys.security(token=keys.token(principal("o", "system")))
            ) as ops,
        ):
            await one.publish("lab.one", "x")
            await two.publish("lab.two", "x")
            async with (
                one.subscribe("sira.load.*") as of_one,
                two.subscribe("sira.load.*") as of_two,
            ):
                first, second = await heard(of_one), await heard(of_two)
            assert first.keys() == {"one"} and "lab.one" in first["one"]
            assert second.keys() == {"two"} and "lab.two" in second["two"]
            async with ops.subscribe("sira.load.*") as of_all:
                told: dict[str, set[str]] = {}
                while "lab.one" not in told.get("one", ()) or "lab.two" not in told.get("two", ()):
                    for tenant, names in (await heard(of_all)).items():
                        told.setdefault(tenant, set()).update(names)

    session(work)


METHODS = """format = "sira-policy 1"
default = "allow"

[[rule]]
name = "not-{method}"
effect = "deny"
principals = "sira://*/default/user/ann"
actions = "call"
methods = ["/sira.v1.Bus/{method}"]
"""


@pytest.mark.parametrize("method", ["Publish", "Subscribe"])
def test_a_method_that_a_rule_denies_is_told_at_once(tmp_path: Path, method: str) -> None:
    """Without a timeout: who tried again until its time is over would never end."""
    keys = Keys.new(tmp_path)
    rules = tmp_path / "rules.toml"
    rules.write_text(METHODS.format(method=method))

    async def work() -> None:
        async with running(keys.flags(policy=str(rules))) as node:
            shown = keys.security(token=keys.token(principal("ann")))
            async with sira.connect(url(node), security=shown, timeout_s=None) as bus:
                for _ in range(2):  # and again at once, the second time
                    with pytest.raises(Denied) as caught:
                        await bus.request("lab.a", "x", timeout_s=None)
                    assert f"not-{method}" in str(caught.value)
                if method == "Publish":
                    with pytest.raises(Denied):
                        await bus.publish("lab.a", "x", timeout_s=None)
                    with pytest.raises(Denied):
                        await bus.publish_many("lab.a", ["x", "y"], timeout_s=None)
                    out = bus.publisher("lab.a", timeout_s=None)
                    await out.send("x")
                    with pytest.raises(Denied):
                        await out.flush()
                    async with bus.subscribe("lab.a") as messages:
                        rules.write_text(METHODS.format(method="Nothing"))
                        before = node.access.version
                        await until(lambda: node.access.version > before)
                        assert (await bus.publish("lab.a", "y")).matched == 1
                        assert (await messages.next(timeout_s=60)).text == "y"
                else:
                    with pytest.raises(Denied):
                        await bus.subscribe("lab.a").open()
                    assert (await bus.publish("lab.a", "x")).matched == 0
                assert bus.connection.is_up, "it may do other things"

    session(work)


@pytest.mark.parametrize("method", ["Publish", "Subscribe"])
def test_a_method_that_a_rule_denies_from_now_on_is_told_at_once(
    tmp_path: Path, method: str
) -> None:
    keys = Keys.new(tmp_path)
    rules = tmp_path / "rules.toml"
    rules.write_text(METHODS.format(method="Nothing"))

    async def work() -> None:
        async with running(keys.flags(policy=str(rules))) as node:
            shown = keys.security(token=keys.token(principal("ann")))
            async with sira.connect(url(node), security=shown) as bus:
                if method == "Publish":
                    await bus.publish("lab.a", "x")
                    rules.write_text(METHODS.format(method=method))
                    with pytest.raises((Denied, Revoked)):
                        while True:
                            await bus.publish("lab.a", "x", timeout_s=None)
                            await asyncio.sleep(0.005)
                else:
                    messages = bus.subscribe("lab.a")
                    await messages.open()
                    rules.write_text(METHODS.format(method=method))
                    with pytest.raises((Denied, Revoked)):
                        await messages.next()
                assert bus.connection.is_up

    session(work)
