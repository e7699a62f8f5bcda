"""JWTs: what an issuer of the file has signed for us, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt as library
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sira.kernel.errors import BadSetting, Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.trust.jwt import Issuer, JwtVerifier, load, parse

NOW_S = 1_800_000_000.0
EC_KEY, OTHER_KEY = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65_537, 2_048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    made = library.get_algorithm_by_name(algorithm)
    found: dict[str, Any] = json.loads(made.to_jwk(key.public_key()))  # type: ignore[attr-defined]
    return {**found, **more}


KEYS = json.dumps(
    {
        "keys": [
            jwk(EC_KEY, "ES256", kid="ec"),
            jwk(RSA_KEY, "RS256", kid="rsa"),
            jwk(ED_KEY, "EdDSA", kid="ed"),
        ]
    }
)
FILE = """
format = "sira-jwt-issuers 1"
[[issuer]]
name = "clinic"
issuer = "https://login.example.org"
audience = "sira"
algorithms = ["ES256", "PS256", "EdDSA"]
keys = "keys.json"
tenant = "clinic"
[[issuer]]
name = "many"
issuer = "https://many.example.org"
audience = "sira"
algorithms = ["ES256"]
keys = "keys.json"
tenant_claim = "org"
tenants = ["a", "b"]
kind_claim = "sort"
name_claim = "email"
"""
CLAIMS: dict[str, Any] = {
    "iss": "https://login.example.org",
    "aud": ["x", "sira"],
    "sub": "u1",
    "exp": NOW_S + 60,
    "iat": NOW_S - 5,
    "jti": "n-17",
}


def issuers(text: str = FILE) -> tuple[Issuer, ...]:
    return parse(text, file="issuers.toml", read_keys=lambda name: KEYS)


VERIFIER = JwtVerifier(issuers(), cluster="local")


def signed(
    claims: dict[str, Any], key: Any = EC_KEY, algorithm: str = "ES256", **headers: Any
) -> str:
    text = json.dumps(claims).encode()  # `jwt.encode` would refuse some of these claims
    return library.PyJWS().encode(text, key, algorithm, {"kid": "ec", **headers})


def by_hand(header: dict[str, Any], claims: Any, secret: bytes = b"") -> str:
    """Write a token with any header; with `secret`, signed by HMAC."""

    def part(value: Any) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{part(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


def test_a_good_token_proves_the_principal_that_the_file_maps_it_to() -> None:
    found = VERIFIER.verify(signed(CLAIMS), NOW_S)
    assert found.principal == Principal("local", "clinic", "user", "u1")
    assert (found.kind, found.expires_s, found.ids[0]) == ("jwt", NOW_S + 60, "jwt:n-17")
    assert found.ids[1].startswith("jwt:sha256-") and found.scope is None
    assert len(VERIFIER.verify(signed(without("jti")), NOW_S).ids) == 1


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA_KEY, "PS256", "rsa"), (ED_KEY, "EdDSA", "ed")]
)
def test_each_algorithm_goes_with_its_own_kind_of_key(key: Any, algorithm: str, kid: str) -> None:
    assert VERIFIER.verify(signed(CLAIMS, key, algorithm, kid=kid), NOW_S).principal.name == "u1"


def test_claims_give_tenant_kind_and_name_only_as_the_file_allows() -> None:
    claims = {**CLAIMS, "iss": "https://many.example.org", "org": "a", "sort": "tool"}
    claims["email"] = "me@example.org"
    found = VERIFIER.verify(signed(claims), NOW_S)
    assert found.principal == Principal("local", "a", "tool", "me@example.org")
    for wrong in (
        {"org": "system"}, {"org": "A"}, {"org": ["a"]}, {"sort": "root"}, {"email": "a/b"},
        {"email": ""}, {"email": "é"}, {"email": "a\n"}, {"email": None},
    ):  # fmt: skip
        with pytest.raises(Unauthenticated):
            VERIFIER.verify(signed({**claims, **wrong}), NOW_S)


PUBLIC_PEM = EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (signed({**CLAIMS, "exp": NOW_S}), "ended"),
        (signed({**CLAIMS, "exp": NOW_S - 1}), "ended"),
        (signed({**CLAIMS, "nbf": NOW_S + 60}), "holds only"),
        (signed({**CLAIMS, "iat": NOW_S + 60}), "holds only"),
        (signed({**CLAIMS, "exp": "soon"}), "no time"),
        (signed({**CLAIMS, "exp": True}), "no time"),
        (signed({**CLAIMS, "exp": 1e400}), "no time"),
        (signed({**CLAIMS, "exp": 10**400}), "no time"),
        (signed(without("exp")), "lacks the claim exp"),
        (signed(without("aud")), "lacks the claim aud"),
        (signed(without("iss")), "claim iss"),
        (signed(without("sub")), "claim sub"),
        (signed({**CLAIMS, "aud": "sirakernel"}), "somebody else"),
        (signed({**CLAIMS, "aud": {}}), "audience|lacks|not valid"),
        (signed({**CLAIMS, "iss": "https://login.example.org/"}), "issuer"),
        (signed({**CLAIMS, "iss": ["https://login.example.org"]}), "iss"),
        (signed({**CLAIMS, "sub": "a" * 200}), "no principal"),
        (signed({**CLAIMS, "jti": 7}), "jti|not valid"),
        (signed(CLAIMS, OTHER_KEY), "signature"),
        (signed(CLAIMS, kid="rsa"), "key"),
        (signed(CLAIMS, kid="nobody"), "key"),
        (signed(CLAIMS, RSA_KEY, "RS256", kid="rsa"), "not allowed"),
        (signed(CLAIMS, RSA_KEY, "PS256"), "key"),
        (signed(CLAIMS, crit=["x"]), "header"),
        (by_hand({"alg": "ES256", "b64": False}, CLAIMS), "header"),
        (by_hand({"alg": "none"}, CLAIMS), "not allowed"),
        (by_hand({"alg": "None"}, CLAIMS), "not allowed"),
        (by_hand({"alg": "HS256", "kid": "ec"}, CLAIMS, PUBLIC_PEM), "not allowed"),
        (by_hand({"alg": ["ES256"]}, CLAIMS), "not allowed"),
        (by_hand({"alg": "ES256", "kid": ["ec"]}, CLAIMS), "key"),
        (by_hand({"kid": "ec"}, CLAIMS), "not allowed"),
        (by_hand({"alg": "ES256"}, [1]), "no object"),
        (by_hand({"alg": "ES256"}, b"[" * 9_000), "no J"),
        (by_hand({"alg": "ES256"}, b"\xff"), "no JSON"),
        ("a" * 20_000 + ".a.a", "longer"),
        ("..", "three parts"),
        ("a.b.", "three parts"),
        (signed(CLAIMS) + "\n", "three parts"),
    ],
)  # fmt: skip
def test_a_token_that_is_not_for_us_now_is_refused_and_not_repeated(token: str, why: str) -> None:
    with pytest.raises(Unauthenticated, match=why) as caught:
        VERIFIER.verify(token, NOW_S)
    if len(token) > 10:
        assert token.rpartition(".")[2][:20] not in str(caught.value) or len(token) > 16_384


def test_a_token_cut_or_changed_anywhere_is_refused() -> None:
    token = signed(CLAIMS)
    for at in range(0, len(token) - 2, 3):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        for text in (token[:at], changed):
            with pytest.raises(Unauthenticated):
                VERIFIER.verify(text, NOW_S)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"ES256", "PS256", "EdDSA"', '"HS256"'),
        ('"ES256", "PS256", "EdDSA"', '"none"'),
        ('algorithms = ["ES256", "PS256", "EdDSA"]', ""),
        ('"ES256", "PS256", "EdDSA"', '"ES512"'),
        ('tenant = "clinic"', ""),
        ('tenant = "clinic"', 'tenant = "a/b"'),
        ('tenant = "clinic"', 'tenant = "a"\ntenant_claim = "x"'),
        ('tenants = ["a", "b"]', ""),
        ('audience = "sira"', 'audience = ""'),
        ('audience = "sira"', ""),
        ('issuer = "https://many.example.org"', 'issuer = "https://login.example.org"'),
        ("sira-jwt-issuers 1", "sira-jwt-issuers 2"),
        ('name_claim = "email"', 'nameclaim = "email"'),
    ],
)
def test_a_wrong_file_of_issuers_is_refused(old: str, new: str) -> None:
    assert old in FILE
    with pytest.raises(BadSetting):
        issuers(FILE.replace(old, new, 1))


@pytest.mark.parametrize(
    "keys",
    [
        "", "[]", '{"keys": []}', '{"keys": [1]}', '{"keys": [{"kty": "EC"}]}', "[" * 9_000,
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0"}]}),
        json.dumps({"keys": [jwk(EC_KEY, "ES256", d="c2VjcmV0c2VjcmV0")]}),
        json.dumps({"keys": [jwk(EC_KEY, "ES256", use="enc")]}),
        json.dumps({"keys": [jwk(EC_KEY, "ES256"), jwk(OTHER_KEY, "ES256")]}),
        json.dumps({"keys": [jwk(rsa.generate_private_key(65_537, 1_024), "RS256")]}),
    ],
)  # fmt: skip
def test_a_wrong_file_of_keys_is_refused_and_not_repeated(keys: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parse(FILE, file="issuers.toml", read_keys=lambda name: keys)
    assert "c2VjcmV0" not in str(caught.value)


def test_keys_are_found_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "issuers.toml").write_text(FILE)
    with pytest.raises(BadSetting, match=r"keys\.json"):
        load(tmp_path / "issuers.toml")
    (tmp_path / "keys.json").write_text(KEYS)
    assert [issuer.issuer for issuer in load(tmp_path / "issuers.toml")] == [
        "https://login.example.org",
        "https://many.example.org",
    ]
