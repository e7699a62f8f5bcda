"""Bad certificates and tokens at a running node, at both doors: the typed error, and the audit."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import jwt as library
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import ECAlgorithm

import sira
from sira.kernel.errors import Revoked, SiraError, Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.rpc import from_grpc
from sira.kernel.trust import revocations, secrets, tokens
from sira.kernel.trust.certificates import Pair, make_ca, principal_of_certificate
from sira.testing import Node
from tests.integration.door.keys import CLUSTER, Keys, principal
from tests.integration.door.test_jwt_issuers import ISSUERS
from tests.integration.http.calls import Http, listening, until
from tests.integration.http.test_door import over_tls
from tests.integration.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.slow]
STATS = "/sira.v1.Kernel/Stats"
DAY_S = 86_400.0


@dataclass(frozen=True)
class Stage:
    """A node with TLS at every door, an issuer of JWTs, and an operator who hears the audit."""

    node: Node
    http: Http
    keys: Keys
    issuer: ec.EllipticCurvePrivateKey
    mtls_port: int
    audit: sira.SyncSubscription
    operator: sira.SyncBus

    @property
    def port(self) -> int:
        return int(self.node.url.rpartition(":")[2])

    def code(self, token: str) -> str:
        """The code that a gRPC call with this token ends with; "OK": it was answered."""
        ca = grpc.ssl_channel_credentials((self.keys.folder / "ca.pem").read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{self.port}", ca) as channel:
            return _code(channel, (("authorization", f"Bearer {token}"),))

    def code_of_certificate(self, pair: Pair) -> str:
        """The same with a certificate, on the listener that asks for one."""
        shown = grpc.ssl_channel_credentials(
            (self.keys.folder / "ca.pem").read_bytes(), pair.key, pair.certificate
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"127.0.0.1:{self.mtls_port}", shown, options) as channel:
            return _code(channel, ())

    def heard(self, method: str) -> dict[str, Any]:
        """The next refusal of a method that the audit tells of."""
        while True:
            fact = json.loads(bytes(self.audit.next(timeout_s=60).bytes))
            if fact["resource"] == method and fact["result"] != "ok":
                return dict(fact)


def _code(channel: grpc.Channel, metadata: Sequence[tuple[str, str]]) -> str:
    try:
        channel.unary_unary(STATS)(b"", metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        found = from_grpc(error)
        for _, value in metadata:
            assert value not in str(found), "an error repeats what was shown"
        return found.code
    return "OK"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("keys")
    keys, issuer = Keys.new(folder), ec.generate_private_key(ec.SECP256R1())
    (folder / "issuers.toml").write_text(ISSUERS)
    made = json.loads(ECAlgorithm.to_jwk(issuer.public_key()))
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**made, "kid": "a"}]}))
    flags = {
        name: value for name, value in keys.flags().items()
        if name not in ("listen", "data_dir")
    } | {
        "jwt_issuers": folder / "issuers.toml", "listen_mtls": f"127.0.0.1:{free_port()}",
        "revocations": folder / "revocations.toml", "events_per_s_max": 1_000,
    }  # fmt: skip
    revocations.add(folder / "revocations.toml", ["jwt:nobody"], "a first one", now_s=time.time())
    with ExitStack() as exits:
        node, http = exits.enter_context(listening(over_tls(keys), **flags))
        token = keys.token(principal("op", "system"))
        url = f"siras://{node.url.removeprefix('sira://')}"
        operator = exits.enter_context(sira.connect_sync(url, security=keys.security(token=token)))
        audit = exits.enter_context(operator.subscribe("sira.audit"))
        port = int(str(flags["listen_mtls"]).rpartition(":")[2])
        yield Stage(node, http, keys, issuer, port, audit, operator)


# ---- tokens --------------------------------------------------------------------------------------


def _jwt(key: Any, algorithm: str = "ES256", **claims: Any) -> str:
    now_s = int(time.time())
    said = {
        "iss": "https://login.example.org", "aud": "sira", "sub": "u1", "iat": now_s,
        "exp": now_s + 600,
    } | claims  # fmt: skip
    return library.encode(said, key, algorithm, {"kid": "a"})


def _signed_by_its_public_key(stage: Stage) -> str:
    """HS256 with the issuer's public key as the secret: what a confused verifier believes."""
    public = stage.issuer.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head, body, _ = _jwt(stage.issuer).split(".")
    head = _part({"alg": "HS256", "typ": "JWT", "kid": "a"})
    signed = hmac.new(public, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(signed).rstrip(b'=').decode()}"


def _part(said: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()


def _without_a_signature(stage: Stage) -> str:
    _, body, _ = _jwt(stage.issuer).split(".")
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{body}."


def _claims_none_but_is_signed(stage: Stage) -> str:
    _, body, signed = _jwt(stage.issuer).split(".")
    return f"{_part({'alg': 'none', 'typ': 'JWT', 'kid': 'a'})}.{body}.{signed}"


EVE = principal("eve")
BAD_TOKENS = {
    "noise": lambda _: "x" * 60,
    "expired": lambda s: s.keys.token(EVE, expires_s=time.time() - 1),
    "cut": lambda s: s.keys.token(EVE)[:-9],
    "doubled": lambda s: s.keys.token(EVE) * 2,
    "a foreign root": lambda s: tokens.mint(tokens.new_root_key(), EVE),
    "another cluster": lambda s: tokens.mint(s.keys.root, Principal("other", "a", "user", "eve")),
    "JWT: alg none": _without_a_signature,
    "JWT: alg none and a signature": _claims_none_but_is_signed,
    "JWT: HS256 by the public key": _signed_by_its_public_key,
    "JWT: another key": lambda s: _jwt(ec.generate_private_key(ec.SECP256R1())),
    "JWT: expired": lambda s: _jwt(s.issuer, exp=int(time.time()) - 1),
    "JWT: not yet valid": lambda s: _jwt(s.issuer, nbf=int(time.time()) + 600),
    "JWT: another audience": lambda s: _jwt(s.issuer, aud="other"),
    "JWT: another issuer": lambda s: _jwt(s.issuer, iss="https://evil.example"),
    "JWT: cut": lambda s: _jwt(s.issuer)[:-6],
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_is_refused_at_both_doors_and_stands_on_the_audit(
    stage: Stage, name: str
) -> None:
    token = BAD_TOKENS[name](stage)
    assert stage.code(token) == "UNAUTHENTICATED"
    fact = stage.heard(STATS)
    assert fact["result"] == "UNAUTHENTICATED"
    assert fact["principal"].endswith("/nobody"), "a claim that was not proved is nobody's"
    answer = stage.http.post("/v1/publish/lab.x", "x", Authorization=f"Bearer {token}")
    answer.problem(401, "UNAUTHENTICATED")
    assert token.encode() not in answer.data
    assert stage.heard("/sira.v1.Kernel/Negotiate")["result"] == "UNAUTHENTICATED"


def test_good_tokens_get_in_at_both_doors(stage: Stage) -> None:
    """What the bad ones are made of is good: nothing else keeps them out."""
    for token in (stage.keys.token(EVE), _jwt(stage.issuer)):
        assert stage.code(token) == "OK"
        answer = stage.http.post("/v1/publish/lab.x", "x", Authorization=f"Bearer {token}")
        assert answer.status == 200, answer


@pytest.mark.parametrize("kind", ["token", "jwt"])
def test_what_is_revoked_while_a_stream_is_open_ends_it_at_both_doors_and_proves_nothing_again(
    stage: Stage, kind: str
) -> None:
    if kind == "token":
        token = stage.keys.token(principal(f"lost-{kind}"))
        ids = [block.id for block in tokens.describe(token).blocks]
    else:
        token, ids = _jwt(stage.issuer, jti="lost"), ["jwt:lost"]
    shown = {"Authorization": f"Bearer {token}"}
    url = f"siras://127.0.0.1:{stage.port}"
    with (
        sira.connect_sync(url, security=stage.keys.security(token=token)) as bus,
        bus.subscribe("lab.gone") as messages,
        stage.http.events("lab.gone", **shown) as events,
    ):
        revocations.add(stage.keys.folder / "revocations.toml", ids, "stolen", now_s=time.time())
        with pytest.raises((Revoked, Unauthenticated)):
            messages.next(timeout_s=60)
        last = events.next()
        assert last["event"] == "error", last
        assert json.loads(last["data"])["code"] in ("REVOKED", "UNAUTHENTICATED")
    until(lambda: stage.code(token) == "UNAUTHENTICATED", "it is refused")
    assert stage.code(token) == "UNAUTHENTICATED", "and stays so: it is shown again"
    stage.http.post("/v1/publish/lab.x", "x", **shown).problem(401, "UNAUTHENTICATED")
    until(lambda: stage.heard(STATS)["result"] == "UNAUTHENTICATED", "the audit says so")


# ---- certificates --------------------------------------------------------------------------------


def _certificate(ca: Pair, uris: Sequence[str], *, begins_s: float, ends_s: float) -> Pair:
    """A client's certificate as `sira tls` makes it, but for what one asks of it."""
    signer = x509.load_pem_x509_certificate(ca.certificate)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    names = [x509.UniformResourceIdentifier(each) for each in uris] or [x509.DNSName("eve.test")]
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eve")]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=begins_s))
        .not_valid_after(now + datetime.timedelta(seconds=ends_s))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(serialization.load_pem_private_key(ca.key, None), hashes.SHA256())  # type: ignore[arg-type]
    )
    return Pair(
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )  # fmt: skip


def _now(ca: Pair, *uris: str) -> Pair:
    return _certificate(ca, uris, begins_s=-60, ends_s=DAY_S)


def test_a_good_certificate_gets_in(stage: Stage) -> None:
    assert stage.code_of_certificate(_now(stage.keys.ca, str(EVE))) == "OK"


@pytest.mark.parametrize(
    "uris",
    [
        (),
        (str(EVE), str(principal("ann"))),
        (f"sira://other/default/user/{EVE.name}",),
        (f"https://{CLUSTER}/default/user/eve",),
        (f"sira://{CLUSTER}/default/user/eve/more",),
        (f"sira://{CLUSTER.upper()}/default/user/eve",),
    ],
    ids=["none", "two", "another cluster", "another scheme", "too long", "another case"],
)
def test_a_certificate_that_proves_no_principal_of_ours_is_refused_and_audited(
    stage: Stage, uris: Sequence[str]
) -> None:
    """The authority is ours, so the handshake is good; what it says is not."""
    assert stage.code_of_certificate(_now(stage.keys.ca, *uris)) == "UNAUTHENTICATED"
    fact = stage.heard(STATS)
    assert fact["result"] == "UNAUTHENTICATED" and fact["principal"].endswith("/nobody")


@pytest.mark.parametrize("name", ["expired", "not yet valid", "another authority", "none"])
def test_a_certificate_that_is_no_good_ends_in_the_handshake(stage: Stage, name: str) -> None:
    """No call comes to be, so there is none to audit; the client is told that nobody is reached."""
    security = stage.keys.security()
    if name != "none":
        pair = {
            "expired": _certificate(stage.keys.ca, [str(EVE)], begins_s=-DAY_S, ends_s=-60),
            "not yet valid": _certificate(stage.keys.ca, [str(EVE)], begins_s=3_600, ends_s=DAY_S),
            "another authority": _now(make_ca(CLUSTER, now_s=time.time()), str(EVE)),
        }[name]
        assert stage.code_of_certificate(pair) == "UNREACHABLE"
        files = [stage.keys.folder / f"bad.{end}" for end in ("pem", "key")]
        files[0].write_bytes(pair.certificate)
        secrets.write_secret(files[1], pair.key, replace=True)
        security = stage.keys.security(tls_cert=files[0], tls_key=files[1])
    with pytest.raises(SiraError) as caught:
        sira.connect_sync(f"siras://127.0.0.1:{stage.mtls_port}", security=security, timeout_s=1.0)
    assert caught.value.code == "UNREACHABLE"


def test_a_certificate_revoked_while_its_stream_is_open_ends_it_and_opens_nothing(
    stage: Stage,
) -> None:
    pair = _now(stage.keys.ca, str(principal("laptop")))
    cert, key = (stage.keys.folder / f"laptop.{end}" for end in ("pem", "key"))
    cert.write_bytes(pair.certificate)
    secrets.write_secret(key, pair.key, replace=True)
    found = principal_of_certificate(pair.certificate, cluster=CLUSTER, now_s=time.time())
    with (
        sira.connect_sync(
            f"siras://127.0.0.1:{stage.mtls_port}",
            security=stage.keys.security(tls_cert=cert, tls_key=key),
        ) as bus,
        bus.subscribe("lab.gone") as messages,
    ):
        file = stage.keys.folder / "revocations.toml"
        revocations.add(file, list(found.ids), "lost laptop", now_s=time.time())
        with pytest.raises((Revoked, Unauthenticated)):
            messages.next(timeout_s=60)
    assert stage.code_of_certificate(pair) == "UNAUTHENTICATED"
    until(lambda: stage.heard(STATS)["result"] == "UNAUTHENTICATED", "the audit says so")


def test_after_all_of_it_the_neighbours_are_served(stage: Stage) -> None:
    token = stage.keys.token(principal("ann"))
    url = f"siras://127.0.0.1:{stage.port}"
    with (
        sira.connect_sync(url, security=stage.keys.security(token=token)) as bus,
        bus.subscribe("lab.calm") as messages,
    ):
        assert bus.publish("lab.calm", b"hello").matched == 1
        assert bytes(messages.next(timeout_s=60).bytes) == b"hello"
