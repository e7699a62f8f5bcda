"""TLS, tokens and certificates from a client's side: who gets in, as whom, and who does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sira
from sira.kernel.authorize import deny_all
from sira.kernel.errors import BadSetting, Denied, Revoked, Unauthenticated
from sira.kernel.node import Node
from sira.kernel.trust import certificates, revocations, tokens
from sira.kernel.trust.checks import Right

from .keys import CLUSTER, Keys, principal, running, until

WATCHDOG_S = 60.0
X = np.arange(5, dtype=np.float32)


def session(work: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    asyncio.run(guarded())


def url(node: Node, *, mtls: bool = False) -> str:
    return f"siras://127.0.0.1:{node.mtls_port if mtls else node.port}"


async def exchange(bus: sira.Bus) -> Any:
    """One message to oneself; return it."""
    async with bus.subscribe("lab.x") as messages:
        await bus.publish("lab.x", {"x": X})
        message = await messages.next(timeout_s=60)
        np.testing.assert_array_equal(message["x"], X)
        return message


def test_a_token_over_tls_says_who_one_is(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)

    async def work() -> None:
        async with running(keys.flags()) as node:
            token = keys.token(principal("ann", "clinic", "gateway"))
            async with sira.connect(url(node), security=keys.security(token=token)) as bus:
                assert bus.node.principal == "sira://test/clinic/gateway/ann"
                message = await exchange(bus)
                assert message.principal == "sira://test/clinic/gateway/ann"
                assert message.tenant == "clinic"

    session(work)


def test_a_certificate_says_who_one_is_and_a_token_beside_it_narrows(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    cert, key = keys.certificate("bob", principal("bob", kind="agent"))

    async def work() -> None:
        async with running(keys.flags(listen_mtls="127.0.0.1:0")) as node:
            shown = keys.security(tls_cert=cert, tls_key=key)
            async with sira.connect(url(node, mtls=True), security=shown) as bus:
                assert bus.node.principal == "sira://test/default/agent/bob"
                await exchange(bus)
            reads = keys.token(
                principal("bob", kind="agent"), rights=(Right(("call", "subscribe"), ()),)
            )
            shown = keys.security(tls_cert=cert, tls_key=key, token=reads)
            async with sira.connect(url(node, mtls=True), security=shown) as bus:
                with pytest.raises(Denied, match="check"):
                    await bus.publish("lab.x", {"x": X})
            with pytest.raises(sira.SiraError):  # no certificate: the handshake fails
                await sira.connect(url(node, mtls=True), security=keys.security(), timeout_s=1.0)

    session(work)


def test_nobody_gets_in_without_showing_something_good(tmp_path: Path) -> None:
    keys, others = Keys.new(tmp_path / "a"), Keys.new(tmp_path / "b")
    who = principal("eve")
    wrong = {
        "nothing": "",
        "noise": "x" * 40,
        "another root": others.token(who),
        "expired": keys.token(who, expires_s=time.time() - 1),
        "cut": keys.token(who)[:-8],
        "another cluster": tokens.mint(keys.root, type(who)("other", "default", "user", "eve")),
    }

    async def work() -> None:
        async with running(keys.flags()) as node:
            for name, token in wrong.items():
                with pytest.raises(Unauthenticated) as caught:
                    async with sira.connect(
                        url(node), security=keys.security(token=token), timeout_s=5.0
                    ) as bus:
                        await bus.publish("lab.x", {"x": X})
                assert token[:12] not in str(caught.value) or not token, name
            with pytest.raises(sira.Unreachable):  # a node that another authority vouches for
                await sira.connect(
                    url(node), security=others.security(token=keys.token(who)), timeout_s=1.0
                )

    session(work)


def test_what_is_revoked_in_the_file_ends_what_it_had_opened(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    doomed, stays = keys.token(principal("ann")), keys.token(principal("ben"))
    file = tmp_path / "revocations.toml"

    async def work() -> None:
        async with running(keys.flags()) as node:
            one = await sira.connect(url(node), security=keys.security(token=doomed))
            two = await sira.connect(url(node), security=keys.security(token=stays))
            async with one, two, one.subscribe("lab.>") as ends, two.subscribe("lab.>") as goes_on:
                ids = [block.id for block in tokens.describe(doomed).blocks]
                await asyncio.to_thread(
                    revocations.add, file, ids, "lost laptop", now_s=time.time()
                )
                with pytest.raises(Revoked):
                    await ends.next(timeout_s=60)
                receipt = await two.publish("lab.x", {"x": X})
                assert receipt.matched == 1
                await goes_on.next(timeout_s=60)
                with pytest.raises((Revoked, Unauthenticated, sira.Unreachable)):
                    await one.publish("lab.x", {"x": X}, timeout_s=5)

    session(work)


def test_a_token_key_that_is_taken_away_ends_what_it_had_opened(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    other = tokens.new_root_key()
    doomed = keys.token(principal("ann"))
    stays = tokens.mint(other, principal("ben"))
    both = [tokens.public_key(keys.root), tokens.public_key(other)]
    (tmp_path / "token.pub").write_text(tokens.keys_file(both), encoding="utf-8")

    async def work() -> None:
        async with running(keys.flags()) as node:
            one = await sira.connect(url(node), security=keys.security(token=doomed))
            two = await sira.connect(url(node), security=keys.security(token=stays))
            async with one, two, one.subscribe("lab.>") as ends, two.subscribe("lab.>") as goes_on:
                (tmp_path / "token.pub").write_text(tokens.keys_file(both[1:]), encoding="utf-8")
                with pytest.raises((Revoked, Unauthenticated)):
                    await ends.next(timeout_s=60)
                assert (await two.publish("lab.x", {"x": X})).matched == 1
                await goes_on.next(timeout_s=60)
                with pytest.raises((Revoked, Unauthenticated, sira.Unreachable)):
                    await one.publish("lab.x", {"x": X}, timeout_s=5)

    session(work)


def test_an_authority_that_is_taken_away_ends_what_it_had_vouched_for(tmp_path: Path) -> None:
    keys, others = Keys.new(tmp_path), Keys.new(tmp_path / "others")
    both = keys.ca.certificate + others.ca.certificate
    (tmp_path / "ca.pem").write_bytes(both)
    shown = {
        name: keys.security(
            **dict(
                zip(("tls_cert", "tls_key"), whose.certificate(name, principal(name)), strict=True)
            ),
            **({"token": keys.token(principal("ann"))} if name == "both" else {}),
        )
        for name, whose in {"stays": keys, "goes": others, "both": others}.items()
    }

    async def work() -> None:
        async with running(keys.flags(listen_mtls="127.0.0.1:0")) as node, AsyncExitStack() as all_:
            open_, seen = {}, {}
            for name, security in shown.items():
                bus = await all_.enter_async_context(
                    sira.connect(
                        url(node, mtls=True), security=security, retry=sira.Retry(connects=False)
                    )
                )
                open_[name] = bus
                seen[name] = await all_.enter_async_context(bus.subscribe("lab.x"))
                await bus.publish("lab.y", {"x": X})
            (tmp_path / "ca.pem").write_bytes(keys.ca.certificate)
            for name in ("goes", "both"):
                with pytest.raises((Revoked, Unauthenticated)):
                    await seen[name].next(timeout_s=60)
                with pytest.raises((Revoked, Unauthenticated, sira.Unreachable)):
                    await open_[name].publish("lab.y", {"x": X})
            await open_["stays"].publish("lab.x", {"x": X})
            np.testing.assert_array_equal((await seen["stays"].next(timeout_s=60))["x"], X)
            renewed = certificates.make_ca(CLUSTER, now_s=time.time())
            assert renewed.certificate != keys.ca.certificate
            (tmp_path / "ca.pem").write_bytes(both + renewed.certificate)
            handshakes = node.guard.handshakes
            assert handshakes is not None
            await until(lambda: others.ca.certificate in handshakes.pair.client_ca)
            await open_["stays"].publish("lab.x", {"x": X})
            async with sira.connect(url(node, mtls=True), security=shown["goes"]) as again:
                await exchange(again)

    session(work)


def test_a_new_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    token = keys.token(principal("ann"))

    async def work() -> None:
        async with (
            running(keys.flags()) as node,
            sira.connect(url(node), security=keys.security(token=token)) as before,
        ):
            old = node.guard.handshakes
            assert old is not None
            first = old.pair
            keys.certificate("node", principal("n2", "system", "node"), server=True)
            await until(lambda: old.pair != first)
            async with sira.connect(url(node), security=keys.security(token=token)) as after:
                await exchange(after)
            await exchange(before)
            kept = old.pair
            (tmp_path / "node.pem").write_text("no certificate")
            await until(lambda: node.files_refused > 0)
            assert old.pair == kept, "the old pair stays in force"
            async with sira.connect(url(node), security=keys.security(token=token)) as still:
                await exchange(still)

    session(work)


RULES = """
format = "sira-policy 1"
default = "allow"
[[rule]]
name = "nobody-writes"
effect = "deny"
principals = ["*"]
actions = ["publish"]
topics = ["lab.>"]
"""


def test_a_changed_policy_holds_from_the_next_message_on_and_a_broken_one_never(
    tmp_path: Path,
) -> None:
    keys = Keys.new(tmp_path)
    file = tmp_path / "rules.toml"
    file.write_text('format = "sira-policy 1"\ndefault = "allow"\n')
    token = keys.token(principal("ann"))

    async def work() -> None:
        async with (
            running(keys.flags(policy=str(file))) as node,
            sira.connect(url(node), security=keys.security(token=token)) as bus,
        ):
            await exchange(bus)
            version = node.access.version
            file.write_text(RULES)
            await until(lambda: node.access.version > version)
            with pytest.raises(Denied, match="nobody-writes"):
                await bus.publish("lab.x", {"x": X})
            refused = node.files_refused
            file.write_text("format = 'sira-policy 1'\ndefault = 'perhaps'\n")
            await until(lambda: node.files_refused > refused)
            with pytest.raises(Denied, match="nobody-writes"):
                await bus.publish("lab.x", {"x": X})
            file.write_text('format = "sira-policy 1"\ndefault = "allow"\n')
            version = node.access.version
            await until(lambda: node.access.version > version)
            await exchange(bus)

    session(work)


def test_with_deny_all_only_negotiate_and_health_answer(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)

    async def work() -> None:
        async with running(keys.flags(policy="deny_all")) as node:
            assert node.access.policy is deny_all
            token = keys.token(principal("ann"))
            async with sira.connect(url(node), security=keys.security(token=token)) as bus:
                assert bus.node.principal == "sira://test/default/user/ann"
                for call in (bus.stats(), bus.ledger(), bus.explain("lab.x"), bus.introspect()):
                    with pytest.raises(Denied):
                        await call
                with pytest.raises(Denied):
                    await bus.publish("lab.x", {"x": X})

    session(work)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"listen": "0.0.0.0:0", "tls_cert": "", "tls_key": ""}, "--insecure"),
        ({"tls_key": ""}, "tls_key is missing"),
        ({"tls_cert": ""}, "tls_cert is missing"),
        ({"token_keys": ""}, "token_keys|issuer"),
        ({"listen_mtls": "127.0.0.1:0", "tls_client_ca": ""}, "tls_client_ca"),
        ({"tls_key": "/nonexistent"}, "/nonexistent"),
        ({"policy": "/nonexistent.toml"}, "nonexistent"),
        ({"policy": "everybody"}, "everybody"),
        ({"limits_file": "/nonexistent.toml"}, "nonexistent"),
        ({"jwt_issuers": "/nonexistent.toml"}, "nonexistent"),
        ({"revocations": "/nonexistent.toml"}, "nonexistent"),
    ],
)
def test_a_node_that_would_stand_open_or_lacks_a_file_does_not_start(
    tmp_path: Path, flags: dict[str, object], says: str
) -> None:
    keys = Keys.new(tmp_path)

    async def work() -> None:
        with pytest.raises(BadSetting) as caught:
            async with running(keys.flags(**flags)):
                pass
        text = f"{caught.value} {caught.value.help}"
        assert any(part in text for part in says.split("|")), text

    session(work)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    (tmp_path / "node.key").chmod(0o644)

    async def work() -> None:
        with pytest.raises(BadSetting, match="0644"):
            async with running(keys.flags()):
                pass

    session(work)


def test_a_token_is_not_sent_where_others_could_read_it() -> None:
    with pytest.raises(sira.BadRequest, match="everybody on the way"):
        asyncio.run(_dial("sira://192.0.2.1:7700"))


async def _dial(to: str) -> None:
    await sira.connect(to, token="secret", timeout_s=0.5)


def test_a_loopback_node_honours_a_token_and_lets_others_in_as_anonymous(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    plain = {"tls_cert": "", "tls_key": "", "tls_client_ca": ""}

    async def work() -> None:
        async with running(keys.flags(**plain)) as node:
            to = f"sira://127.0.0.1:{node.port}"
            async with sira.connect(to) as bus:
                assert bus.node.principal == "sira://test/default/user/anonymous"
            async with sira.connect(to, token=keys.token(principal("ann"))) as bus:
                assert bus.node.principal == "sira://test/default/user/ann"
        async with running(keys.flags(**plain, anonymous="refuse")) as node:
            with pytest.raises(Unauthenticated):
                async with sira.connect(f"sira://127.0.0.1:{node.port}") as bus:
                    await bus.publish("lab.x", {"x": X})

    session(work)


def test_who_cannot_agree_on_tls_is_told_why_and_what_to_do(tmp_path: Path) -> None:
    keys, others = Keys.new(tmp_path / "keys"), Keys.new(tmp_path / "others")
    token = keys.token(principal("ann"))

    async def told(address: str, **shown: Any) -> tuple[str, str]:
        with pytest.raises(sira.Unreachable) as caught:
            await sira.connect(address, security=sira.Security(**shown), timeout_s=10)
        return str(caught.value), caught.value.help

    async def work() -> None:
        plain = {"listen": "127.0.0.1:0", "data_dir": str(tmp_path / "plain")}
        (tmp_path / "plain").mkdir()
        async with running(keys.flags()) as node, running(plain) as open_:
            wrong = str(others.folder / "ca.pem")
            # Each tries for all of its time: at once, for what they wait for is the clock.
            (text, help_text), (_, plain_help), (open_text, open_help) = await asyncio.gather(
                told(url(node), tls_ca=wrong, token=token),
                told(f"sira://127.0.0.1:{node.port}", token=token),
                told(url(open_), tls_ca=str(keys.folder / "ca.pem")),
            )
            assert wrong in text and "SIRA_TLS_CA" in help_text
            assert "siras://" in plain_help
            assert "no TLS" in open_text and "sira://" in open_help

    session(work)
