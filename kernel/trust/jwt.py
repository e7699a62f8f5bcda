"""JWTs of configured issuers. Everything a token could choose is pinned per issuer in a file:

    format = "sira-jwt-issuers 1"

    [[issuer]]
    name = "clinic"
    issuer = "https://login.example.org"   # `iss`, exactly
    audience = "sira"                      # must be among `aud`
    algorithms = ["ES256"]                 # never none, never HS*
    keys = "clinic.jwks.json"              # a JWKS file; relative to this one
    tenant = "clinic"                      # or tenant_claim = "org" with tenants = ["a", "b"]
    kind = "user"                          # or kind_claim; default user
    name_claim = "sub"

A claim never gives a tenant that the file does not name, so no issuer can make operators.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sira.kernel import toml_table
from sira.kernel.errors import BadSetting, SiraError, Unauthenticated
from sira.kernel.identity import KINDS, Principal
from sira.kernel.trust.blocks import TOKEN_CHARS_MAX
from sira.kernel.trust.credential import Credential

FORMAT = "sira-jwt-issuers 1"
ISSUERS_MAX = 32
KEYS_MAX = 64  # of one issuer
LEEWAY_S = 30.0  # clocks of issuer and node may differ by so much; never added to the end
RSA_BITS_MIN = 2048
# Algorithm -> the key type that it needs (RFC 7518, RFC 8037). Public-key algorithms alone.
ALGORITHMS: Mapping[str, tuple[str, str]] = {
    "RS256": ("RSA", ""), "RS384": ("RSA", ""), "RS512": ("RSA", ""),
    "PS256": ("RSA", ""), "PS384": ("RSA", ""), "PS512": ("RSA", ""),
    "ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", ""),
}  # fmt: skip
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_CLAIM = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True)
class _Key:
    id: str
    algorithms: frozenset[str]
    key: Any


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer, and how its claims become a principal; see the module for the fields."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    keys: tuple[_Key, ...]
    name_claim: str = "sub"
    tenant: str = ""
    tenant_claim: str = ""
    tenants: tuple[str, ...] = ()
    kind: str = "user"
    kind_claim: str = ""


def looks_like_jwt(text: str) -> bool:
    """Whether a token has the three parts of a JWT; a Biscuit has no dot."""
    return text.count(".") == 2


# ---- the file of issuers ------------------------------------------------------------------------


def parse(text: str, *, file: str, read_keys: Callable[[str], str]) -> tuple[Issuer, ...]:
    """Read a file of issuers.

    Args:
        text: of the file.
        file: as told in errors.
        read_keys: returns the text of the JWKS file that an issuer names.

    Raises:
        BadSetting: with `file`, `issuer` and `field` in its details.
    """
    table = toml_table.parse(text, file=file, form=FORMAT)
    found = []
    for entry in table.entries("issuer", count_max=ISSUERS_MAX):
        found.append(_issuer(entry, read_keys))
        entry.end()
    table.end()
    if len({issuer.issuer for issuer in found}) != len(found):
        raise toml_table.bad(file, "two entries have the same `issuer`")
    return tuple(found)


def load(path: Path | str) -> tuple[Issuer, ...]:
    """Read a file of issuers, and the files of keys that it names.

    Raises:
        BadSetting: one cannot be read, or is wrong.
    """
    path = Path(path)
    return parse(
        toml_table.read_text(path),
        file=str(path),
        read_keys=lambda name: toml_table.read_text(path.parent / name, bytes_max=1 << 20),
    )


def files(path: Path | str) -> tuple[str, ...]:
    """Return the file of issuers and the files of keys that it names, as far as it can be read."""
    path = Path(path)
    try:
        entries = tomllib.loads(toml_table.read_text(path)).get("issuer", [])
    except (SiraError, tomllib.TOMLDecodeError):
        return (str(path),)  # `load` says what is wrong with it
    if not isinstance(entries, list):
        return (str(path),)
    named = (entry.get("keys") for entry in entries if isinstance(entry, dict))
    return (str(path), *(str(path.parent / name) for name in named if isinstance(name, str)))


def _issuer(entry: toml_table.Table, read_keys: Callable[[str], str]) -> Issuer:
    algorithms = entry.texts("algorithms", count_max=len(ALGORITHMS))
    if not algorithms:
        raise entry.bad("algorithms", f"is missing: of {', '.join(ALGORITHMS)}")
    for algorithm in algorithms:
        if algorithm not in ALGORITHMS:
            raise entry.bad(
                "algorithms", f"has {algorithm[:40]!r}, and may have {', '.join(ALGORITHMS)}"
            )
    tenant, claim = entry.text("tenant", ""), entry.text("tenant_claim", "")
    tenants = entry.texts("tenants", count_max=1_000)
    if bool(tenant) == bool(claim):
        raise entry.bad("tenant", "or tenant_claim must be given, one of them")
    if bool(claim) != bool(tenants):
        raise entry.bad("tenants", "names those that tenant_claim may give: both or neither")
    kind = entry.text("kind", "user")
    if kind not in KINDS:
        raise entry.bad("kind", f"is {kind[:40]!r}, and may be {', '.join(sorted(KINDS))}")
    for name in filter(None, (tenant, *tenants)):
        try:
            Principal("cluster", name, kind, "name")
        except SiraError as error:
            raise entry.bad("tenant", f"is wrong: {error}") from None
    issuer, audience = entry.text("issuer"), entry.text("audience")
    if not issuer or not audience:
        raise entry.bad("issuer" if not issuer else "audience", "is empty")
    return Issuer(
        issuer=issuer,
        audience=audience,
        algorithms=algorithms,
        keys=_keys(entry, read_keys(entry.text("keys")), algorithms),
        name_claim=entry.text("name_claim", "sub"),
        tenant=tenant,
        tenant_claim=claim,
        tenants=tenants,
        kind=kind,
        kind_claim=entry.text("kind_claim", ""),
    )


def _keys(entry: toml_table.Table, text: str, algorithms: Sequence[str]) -> tuple[_Key, ...]:
    try:
        values = json.loads(text)["keys"]
        if not isinstance(values, list) or not 1 <= len(values) <= KEYS_MAX:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise entry.bad("keys", f"names no JWKS file of 1 to {KEYS_MAX} keys") from None
    found = []
    for index, value in enumerate(values):
        try:
            key = _key(value, algorithms)
        except SiraError as error:
            raise entry.bad("keys", f"has a key (number {index + 1}) that {error}") from None
        except Exception:
            raise entry.bad("keys", f"has a key (number {index + 1}) that is none") from None
        if key is not None:
            found.append(key)
    if not found:
        raise entry.bad("keys", f"has no key to verify {', '.join(algorithms)} with")
    if len({key.id for key in found}) != len(found):
        raise entry.bad("keys", "has two keys of the same `kid`")
    return tuple(found)


def _key(value: Mapping[str, Any], algorithms: Sequence[str]) -> _Key | None:
    """Return a key of a JWKS; None: it is for something else."""
    kind = value["kty"]
    if kind == "oct" or "d" in value or "k" in value:
        raise BadSetting("is secret: an issuer publishes public keys alone")
    if value.get("use", "sig") != "sig":
        return None
    fits = frozenset(
        name
        for name in algorithms
        if ALGORITHMS[name][0] == kind
        and ALGORITHMS[name][1] in ("", value.get("crv"))
        and value.get("alg", name) == name
    )
    if not fits:
        return None
    key = jwt.PyJWK.from_dict(dict(value), algorithm=min(fits)).key
    if kind == "RSA" and key.key_size < RSA_BITS_MIN:
        raise BadSetting(f"has {key.key_size} bits, of at least {RSA_BITS_MIN}")
    return _Key(str(value.get("kid", "")), fits, key)


# ---- believing ----------------------------------------------------------------------------------


class JwtVerifier:
    """Believes JWTs of its issuers."""

    def __init__(self, issuers: Sequence[Issuer], *, cluster: str) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._cluster = cluster

    @property
    def grounds(self) -> frozenset[str]:
        """What credentials can stand on: one of each issuer and key of it, as they are read now."""
        found = self._issuers.values()
        return frozenset(_ground(issuer, key) for issuer in found for key in issuer.keys)

    def verify(self, text: str, now_s: float) -> Credential:
        """Return what a JWT proves at a time, s since 1970.

        Raises:
            Unauthenticated: why, without a character of the token's signature.
        """
        if len(text) > TOKEN_CHARS_MAX:
            raise Unauthenticated(f"the token is longer than {TOKEN_CHARS_MAX} characters")
        if not _SHAPE.fullmatch(text):
            raise Unauthenticated("the token is no JWT of three parts")
        header, claims = _unverified(text)
        issuer = self._issuers.get(_text(claims, "iss"))
        if issuer is None:
            raise Unauthenticated("the token's issuer is not one that this node believes")
        algorithm = header.get("alg")
        if algorithm not in issuer.algorithms:
            raise Unauthenticated("the token is signed in a way that is not allowed to its issuer")
        if "crit" in header or "b64" in header:
            raise Unauthenticated("the token's header wants what this node does not know")
        key = self._check_signature(text, algorithm, issuer, header)
        expires_s = _check_times(claims, now_s)
        ids = [f"jwt:sha256-{hashlib.sha256(text.rpartition('.')[0].encode()).hexdigest()}"]
        if "jti" in claims:
            ids.insert(0, f"jwt:{_text(claims, 'jti')}")
        principal = self._principal(claims, issuer)
        grounds = (_ground(issuer, key),)
        return Credential(principal, "jwt", tuple(ids), expires_s, grounds=grounds)

    def _check_signature(
        self, text: str, algorithm: str, issuer: Issuer, header: Mapping[str, Any]
    ) -> _Key:
        """Return the key of the issuer that has signed the token."""
        id_ = header.get("kid")
        keys = [key for key in issuer.keys if algorithm in key.algorithms]
        keys = [key for key in keys if key.id == id_] if id_ is not None else keys
        if len(keys) != 1:
            raise Unauthenticated(
                "the token does not say which of its issuer's keys has signed it"
                if keys
                else "the token is signed by a key that its issuer does not publish here"
            )
        try:
            jwt.decode(
                text,
                key=keys[0].key,
                algorithms=[algorithm],
                audience=issuer.audience,
                issuer=issuer.issuer,
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,  # by `now_s`, below
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token was made for somebody else (audience)") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token lacks the claim {error.claim}") from None
        except jwt.InvalidSignatureError:
            raise Unauthenticated("the token's signature is not its issuer's") from None
        except Exception as error:
            raise Unauthenticated(f"the token is not valid ({type(error).__name__})") from None
        return keys[0]

    def _principal(self, claims: Mapping[str, Any], issuer: Issuer) -> Principal:
        tenant = issuer.tenant or _text(claims, issuer.tenant_claim)
        if issuer.tenants and tenant not in issuer.tenants:
            raise Unauthenticated("the token names a tenant that its issuer may not give")
        kind = _text(claims, issuer.kind_claim) if issuer.kind_claim else issuer.kind
        try:
            return Principal(self._cluster, tenant, kind, _text(claims, issuer.name_claim))
        except SiraError as error:
            raise Unauthenticated(f"the token's claims make no principal: {error}") from None


def _ground(issuer: Issuer, key: _Key) -> str:
    """Name an issuer, as its entry says, and one of its keys: another of either has another."""
    said = repr((replace(issuer, keys=()), key.id, sorted(key.algorithms)))
    public = key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"jwt:{hashlib.sha256(said.encode() + public).hexdigest()}"


def _unverified(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims as written by whoever; believe nothing of them."""
    parts = []
    for part in text.split(".")[:2]:
        try:
            value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        except (ValueError, binascii.Error, RecursionError):
            raise Unauthenticated("the token is no JWT: a part is no JSON") from None
        if not isinstance(value, dict):
            raise Unauthenticated("the token is no JWT: a part is no object")
        parts.append(value)
    return parts[0], parts[1]


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not _CLAIM.fullmatch(value):
        raise Unauthenticated(f"the token's claim {name} is missing, or no short plain text")
    return value


def _check_times(claims: Mapping[str, Any], now_s: float) -> float:
    """Return when the token ends; refuse one that has ended or has not begun."""
    times = {}
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None and name != "exp":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Unauthenticated(f"the token's claim {name} is no time")
        if not abs(value) <= 2**53:  # so written, not-a-number is refused too
            raise Unauthenticated(f"the token's claim {name} is no time")
        times[name] = float(value)
    if now_s >= times["exp"]:
        raise Unauthenticated(
            f"the token ended {now_s - times['exp']:.0f} s ago", details={"reason": "expired"}
        )
    begins_s = max(times.get("nbf", -math.inf), times.get("iat", -math.inf))
    if now_s < begins_s - LEEWAY_S:
        raise Unauthenticated(f"the token holds only in {begins_s - now_s:.0f} s")
    return times["exp"]
