"""Which authority vouches for a certificate, directly or through others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sira.kernel.errors import Unauthenticated
from sira.kernel.trust.authorities import Authorities

NOW = datetime(2030, 1, 1, tzinfo=UTC)
Made = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def made(
    name: str, by: Made | None = None, *, ca: bool = True, key: Made | None = None, days: int = 1
) -> Made:
    own = key[1] if key else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by[0].subject if by else subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(by[1] if by else own, hashes.SHA256())
    )
    return built, own


def pem(*each: Made) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate, _ in each)


ROOT, OTHER = made("root"), made("other")
BETWEEN = made("between", ROOT)
LEAF, DEEP = made("leaf", ROOT, ca=False), made("deep", BETWEEN, ca=False)


def test_the_authority_that_signed_is_the_ground_whichever_others_there_are() -> None:
    alone, both = Authorities.from_pem(pem(ROOT)), Authorities.from_pem(pem(OTHER, ROOT))
    assert alone.ground_of(pem(LEAF)) == both.ground_of(pem(LEAF)) in alone.grounds
    assert len(both.grounds) == 2
    for nobody in (Authorities.from_pem(pem(OTHER)), Authorities.from_pem(b"")):
        with pytest.raises(Unauthenticated, match="vouches"):
            nobody.ground_of(pem(LEAF))


def test_an_authority_renewed_with_its_key_is_the_same_ground_and_one_of_its_name_is_not() -> None:
    renewed, namesake = made("root", key=ROOT, days=9), made("root")
    assert Authorities.from_pem(pem(renewed)).grounds == Authorities.from_pem(pem(ROOT)).grounds
    assert Authorities.from_pem(pem(renewed)).ground_of(pem(LEAF))
    with pytest.raises(Unauthenticated):
        Authorities.from_pem(pem(namesake)).ground_of(pem(LEAF))


def test_a_chain_leads_up_to_the_nearest_authority_of_the_file() -> None:
    root = Authorities.from_pem(pem(ROOT))
    for chain in (pem(BETWEEN), pem(DEEP, BETWEEN), pem(OTHER, BETWEEN, ROOT)):
        assert root.ground_of(pem(DEEP), chain) in root.grounds
    both = Authorities.from_pem(pem(ROOT, BETWEEN))
    between = Authorities.from_pem(pem(BETWEEN))
    assert both.ground_of(pem(DEEP), pem(BETWEEN)) in between.grounds
    for chain in (b"", pem(OTHER), b"nonsense", pem(BETWEEN) * 200, pem(DEEP)):
        with pytest.raises(Unauthenticated):
            root.ground_of(pem(DEEP), chain)


def test_what_is_no_authority_leads_nowhere_and_a_long_chain_ends() -> None:
    forged = made("forged", LEAF, ca=False)  # signed with the key of a client
    with pytest.raises(Unauthenticated):
        Authorities.from_pem(pem(ROOT)).ground_of(pem(forged), pem(LEAF))
    links = [ROOT]
    for number in range(10):
        links.append(made(f"link {number}", links[-1]))
    leaf = made("end", links[-1], ca=False)
    with pytest.raises(Unauthenticated):
        Authorities.from_pem(pem(ROOT)).ground_of(pem(leaf), pem(*reversed(links[1:])))
    near = made("near", links[5], ca=False)
    assert Authorities.from_pem(pem(ROOT)).ground_of(pem(near), pem(*links[1:6]))
