"""Bad tokens at a TLS port, end to end: the typed error, and a neighbour whose stream goes on."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import grpc
import pytest

import sira
from sira.kernel.identity import Principal
from sira.kernel.trust import revocations, tokens
from sira.v1 import kernel_pb2
from tests.integration.node.plain import code_of

from .keys import Keys, principal, running, until
from .test_listeners import exchange, session, url

pytestmark = pytest.mark.integration
STATS = "/sira.v1.Kernel/Stats"


def _part(**fields: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()


def _unsigned(keys: Keys) -> str:
    """A JWT that says it needs no signature."""
    who = _part(sub="eve", iss="https://issuer", aud="sira", exp=int(time.time()) + 600)
    return f"{_part(alg='none', typ='JWT')}.{who}."


async def _code(channel: grpc.aio.Channel, token: str) -> str:
    """The code that a call with this token ends with; "OK": it was answered."""
    call = channel.unary_unary(STATS)
    try:
        await call(
            kernel_pb2.StatsRequest().SerializeToString(),
            metadata=(("authorization", f"Bearer {token}"),), timeout=20,
        )  # fmt: skip
    except grpc.aio.AioRpcError as error:
        assert token not in str(error.details())
        return code_of(error)
    return "OK"


def test_bad_tokens_are_told_so_and_the_neighbour_notices_nothing(tmp_path: Path) -> None:
    keys, others = Keys.new(tmp_path / "a"), Keys.new(tmp_path / "b")
    eve, good = principal("eve"), keys.token(principal("ann"))
    whole = keys.token(eve)
    bad = {
        "expired": keys.token(eve, expires_s=time.time() - 1),
        "foreign root": others.token(eve),
        "foreign cluster": tokens.mint(keys.root, Principal("other", "default", "user", "eve")),
        "alg none": _unsigned(keys),
        "a letter changed": whole[:60] + ("A" if whole[60] != "A" else "B") + whole[61:],
    } | {f"cut at {cut}": whole[:cut] for cut in range(1, len(whole) - 4, 29)}

    async def work() -> None:
        ca = (tmp_path / "a" / "ca.pem").read_bytes()
        async with (
            running(keys.flags()) as node,
            sira.connect(url(node), security=keys.security(token=good)) as neighbour,
            grpc.aio.secure_channel(
                f"127.0.0.1:{node.port}", grpc.ssl_channel_credentials(ca)
            ) as channel,
        ):
            await exchange(neighbour)
            for name, token in bad.items():
                assert await _code(channel, token) == "UNAUTHENTICATED", name
            assert await _code(channel, whole) == "OK", "the whole one, to compare"
            await exchange(neighbour)

    session(work)


def test_a_revoked_token_shown_again_is_refused_on_any_connection(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    doomed, good = keys.token(principal("eve")), keys.token(principal("ann"))

    async def work() -> None:
        ca = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
        async with (
            running(keys.flags()) as node,
            sira.connect(url(node), security=keys.security(token=good)) as neighbour,
            grpc.aio.secure_channel(f"127.0.0.1:{node.port}", ca) as before,
        ):
            assert await _code(before, doomed) == "OK"
            ids = [block.id for block in tokens.describe(doomed).blocks]
            revocations.add(tmp_path / "revocations.toml", ids, "stolen", now_s=time.time())
            await until(lambda: bool(node.access.revoked))
            async with grpc.aio.secure_channel(f"127.0.0.1:{node.port}", ca) as after:
                for channel in (before, after):
                    assert await _code(channel, doomed) in ("REVOKED", "UNAUTHENTICATED")
                    assert await _code(channel, good) == "OK"
            await exchange(neighbour)

    session(work)
