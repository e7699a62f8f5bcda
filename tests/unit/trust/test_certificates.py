"""Certificates: what we issue is believed; what only looks like it is not."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sira.kernel.errors import BadRequest, BadSetting, Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.trust.certificates import (
    BACKDATED_S,
    Pair,
    issue,
    make_ca,
    principal_of_certificate,
    read,
)

NOW_S = 1_800_000_000.0
WHO = Principal("local", "lab", "agent", "a1")
CA = make_ca("local", now_s=NOW_S)


def proved(data: bytes, now_s: float = NOW_S) -> Principal:
    return principal_of_certificate(data, cluster="local", now_s=now_s).principal


def forged(*names: x509.GeneralName, ca: bool = False) -> bytes:
    """Return a certificate with any alternative names."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.fromtimestamp(NOW_S, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def uri(text: str) -> x509.UniformResourceIdentifier:
    """Return a URI name of any bytes, as a hand-made certificate may have."""
    return x509.UniformResourceIdentifier._init_without_validation(text)


def test_what_is_issued_proves_its_principal_and_can_be_revoked() -> None:
    made = issue(CA, WHO, now_s=NOW_S, dns=["localhost"], ips=["127.0.0.1", "::1"], server=True)
    found = principal_of_certificate(made.certificate, cluster="local", now_s=NOW_S)
    told = read(made.certificate)
    assert (found.principal, found.kind, found.ids) == (WHO, "certificate", (told.id,))
    assert found.expires_s == told.expires_s > NOW_S
    assert told.begins_s == NOW_S - BACKDATED_S
    assert (told.dns, told.ips) == (("localhost",), ("127.0.0.1", "::1"))
    assert told.id.startswith("cert:") and int(told.id[5:], 16) > 0


def test_the_chain_verifies_with_openssl_for_the_uses_that_were_asked(tmp_path: Path) -> None:
    now_s = datetime.now(UTC).timestamp()
    ca = make_ca("local", now_s=now_s)
    made = issue(ca, WHO, now_s=now_s)
    (tmp_path / "ca.pem").write_bytes(ca.certificate)
    (tmp_path / "leaf.pem").write_bytes(made.certificate)

    def verify(purpose: str) -> bool:
        words = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem"]
        return (
            subprocess.run([*words, "leaf.pem"], cwd=tmp_path, capture_output=True).returncode == 0
        )

    assert verify("sslclient") and not verify("sslserver")


def test_the_key_is_not_in_the_repr() -> None:
    assert "PRIVATE" not in repr(CA)


def test_a_certificate_is_not_valid_before_nor_after_nor_longer_than_its_authority() -> None:
    made = issue(CA, WHO, now_s=NOW_S, valid_s=60).certificate
    with pytest.raises(Unauthenticated, match="ended 1 s ago"):
        proved(made, NOW_S + 61)
    with pytest.raises(Unauthenticated, match="holds only in"):
        proved(made, NOW_S - BACKDATED_S - 1)
    short = make_ca("local", now_s=NOW_S, valid_s=100)
    assert read(issue(short, WHO, now_s=NOW_S).certificate).expires_s == NOW_S + 100
    with pytest.raises(BadRequest, match="expired"):
        issue(short, WHO, now_s=NOW_S + 100)


LOOKALIKES = [
    "sira://l\u043e\u0441al/lab/agent/a1",  # Cyrillic o and c
    "sira://local/lab/agent/a\u0301",  # NFD
    "sira://local/lab/agent/\u00e1",  # NFC
    "sira://local/lab/agent/a1\n",
    "sira://local/lab/agent/a1\x00",
    "sira://local/lab/agent/a1 ",
    "sira://local/lab/agent/*",
    "sira://local/*/agent/a1",
    "sira://local/lab/agent/",
    "sira://local/lab/agent/a1/",
    "sira://local/lab/../system/user/root",
    "sira://local/lab/agent/a1?x",
    "sira://local/lab/agent/%61",
    "SIRA://local/lab/agent/a1",
    "siras://local/lab/agent/a1",
    "sira://local/lab/daemon/a1",
    "spiffe://local/lab/agent/a1",
    "",
    "sira://local/lab/agent/" + "a" * 129,
]


@pytest.mark.parametrize("text", LOOKALIKES)
def test_a_uri_that_only_looks_like_a_principal_is_none(text: str) -> None:
    try:
        data = forged(uri(text))
    except ValueError:  # the library does not write it: then its bytes are put in by hand
        plain = forged(uri("sira://local/lab/agent/PLACEHOLDER"))
        hostile = text.encode().ljust(34, b"z")
        assert len(hostile) == 34, text
        data = plain.replace(b"sira://local/lab/agent/PLACEHOLDER", hostile)
    with pytest.raises(Unauthenticated):
        proved(data)


def test_exactly_one_uri_of_this_cluster_counts() -> None:
    good, other = uri(str(WHO)), uri("sira://local/system/user/root")
    assert proved(forged(x509.DNSName("a"), good)) == WHO
    for names in ((), (x509.DNSName("sira://local/lab/agent/a1"),), (good, other), (good, good)):
        with pytest.raises(Unauthenticated, match="URIs"):
            proved(forged(*names))
    with pytest.raises(Unauthenticated, match="of cluster 'other'"):
        proved(forged(uri("sira://other/lab/agent/a1")))
    with pytest.raises(Unauthenticated, match="authority"):
        proved(forged(good, ca=True))


def test_a_certificate_cut_anywhere_is_none() -> None:
    der = forged(uri(str(WHO)))
    pem = issue(CA, WHO, now_s=NOW_S).certificate
    for data in (der, pem[: pem.rindex(b"-----END")]):
        for cut in range(0, len(data), 7):
            with pytest.raises(Unauthenticated):
                proved(data[:cut])
    with pytest.raises(Unauthenticated, match="longer"):
        proved(der * 1_000)
    with pytest.raises(Unauthenticated):
        proved(b"")


@pytest.mark.parametrize(
    "words",
    [
        {"dns": ["a b"]},
        {"dns": ["-x"]},
        {"dns": ["a\n"]},
        {"dns": ["bücher.example"]},
        {"dns": ["*"]},
        {"ips": ["127.0.0.1.5"]},
        {"ips": [f"10.0.0.{i}" for i in range(101)]},
        {"server": True},
        {"client": False},
        {"valid_s": 0.0},
        {"valid_s": -1.0},
    ],
)
def test_what_cannot_be_issued_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        issue(CA, WHO, now_s=NOW_S, **words)  # type: ignore[arg-type]


def test_an_authority_is_a_certificate_with_its_own_key() -> None:
    leaf = issue(CA, WHO, now_s=NOW_S)
    other = make_ca("local", now_s=NOW_S)
    for wrong in (leaf, Pair(CA.certificate, other.key), Pair(b"", b""), Pair(CA.key, CA.key)):
        with pytest.raises(BadSetting) as caught:
            issue(wrong, WHO, now_s=NOW_S)
        assert "PRIVATE" not in str(caught.value)
