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
from sira.kernel.errors import Unauthenticated

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
