"""JWTs of a configured issuer over TLS; a key that the issuer exchanges holds without a restart."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import jwt as library
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

import sira
from sira.kernel.errors import Revoked, Unauthenticated

from .keys import Keys, running, until

ISSUERS = """
format = "sira-jwt-issuers 1"
[[issuer]]
name = "login"
issuer = "https://login.example.org"
audience = "sira"
algorithms = ["ES256"]
keys = "jwks.json"
tenant = "clinic"
"""


def _publish(folder: Path, key: ec.EllipticCurvePrivateKey, kid: str) -> None:
    made = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**made, "kid": kid}]}))


def _token(key: ec.EllipticCurvePrivateKey, kid: str) -> str:
    now_s = int(time.time())
    claims = {
        "iss": "https://login.example.org", "aud": "sira", "sub": "u1", "jti": kid,
        "iat": now_s, "exp": now_s + 600,
    }  # fmt: skip
    return library.encode(claims, key, "ES256", {"kid": kid})


def test_a_jwt_says_who_one_is_and_a_new_key_of_its_issuer_holds_at_once(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (tmp_path / "issuers.toml").write_text(ISSUERS)
    _publish(tmp_path, old, "a")

    async def connect(url: str, token: str) -> str:
        async with sira.connect(url, security=keys.security(token=token), timeout_s=10) as bus:
            return str(bus.node.principal)

    async def work() -> None:
        flags = keys.flags(jwt_issuers=str(tmp_path / "issuers.toml"))
        async with asyncio.timeout(60), running(flags) as node:
            url = f"siras://127.0.0.1:{node.port}"
            assert await connect(url, _token(old, "a")) == "sira://test/clinic/user/u1"
            with pytest.raises(Unauthenticated):
                await connect(url, _token(new, "b"))
            before = node.guard._jwts
            _publish(tmp_path, new, "b")
            await until(lambda: node.guard._jwts is not before)
            assert await connect(url, _token(new, "b")) == "sira://test/clinic/user/u1"
            with pytest.raises(Unauthenticated):
                await connect(url, _token(old, "a"))

    asyncio.run(work())


@pytest.mark.parametrize("what", ["issuer", "key", "tenant"])
def test_an_issuer_that_is_taken_away_ends_what_it_had_opened(tmp_path: Path, what: str) -> None:
    """The issuer, one of its keys, or what its entry says of whoever it vouches for."""
    keys = Keys.new(tmp_path)
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (tmp_path / "issuers.toml").write_text(ISSUERS)
    made = [{**json.loads(ECAlgorithm.to_jwk(k.public_key())), "kid": i}
            for k, i in ((old, "a"), (new, "b"))]  # fmt: skip
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": made}))
    changed = {
        "issuer": ("issuers.toml", 'format = "sira-jwt-issuers 1"\n'),
        "key": ("jwks.json", json.dumps({"keys": made[1:]})),
        "tenant": ("issuers.toml", ISSUERS.replace("clinic", "ward")),
    }

    async def work() -> None:
        flags = keys.flags(jwt_issuers=str(tmp_path / "issuers.toml"))
        async with asyncio.timeout(60), running(flags) as node:
            url = f"siras://127.0.0.1:{node.port}"
            security = [keys.security(token=_token(k, i)) for k, i in ((old, "a"), (new, "b"))]
            one = await sira.connect(url, security=security[0])
            two = await sira.connect(url, security=security[1])
            async with one, two, one.subscribe("x") as ends, two.subscribe("x") as goes_on:
                links = list(node.links._links)
                file, text = changed[what]
                (tmp_path / file).write_text(text)
                await until(lambda: any(link.error for link in links))
                ended = [link for link in links if link.error is not None]
                assert all(getattr(link.error, "code", "") == "REVOKED" for link in ended)
                if what == "key":
                    assert (await two.publish("x", "1")).matched == 1
                    assert (await goes_on.next(timeout_s=60)).text == "1"
                else:
                    assert len(ended) == len(links)
                if what != "tenant":
                    with pytest.raises((Revoked, Unauthenticated)):
                        await ends.next(timeout_s=60)

    asyncio.run(work())
