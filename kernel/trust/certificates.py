"""Certificates of a cluster: one authority, and a principal in each certificate it issues.

ECDSA on P-256 throughout: Ed25519 certificates fail gRPC's handshake (no common signature
algorithm). Who a certificate speaks for is its one URI among the alternative names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sira.kernel.errors import BadRequest, BadSetting, SiraError, Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.trust.credential import Credential

CA_VALID_S = 10 * 365 * 86_400.0
LEAF_VALID_S = 365 * 86_400.0
BACKDATED_S = 600.0  # clocks of the machines that look at it may be so much behind
CERTIFICATE_BYTES_MAX = 64 << 10  # of one PEM or DER that a peer shows
_NAMES_MAX = 100
_PEM_BEGIN = b"-----BEGIN "
_DNS = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*")


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """A certificate and its private key, both PEM. Has no repr: the key is a secret."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says.

    Attributes:
        id: what revokes it, `cert:<serial, hex>`.
        uris, dns, ips: its alternative names.
        issuer, subject: common names, for people.
        begins_s, expires_s: wall clock, s since 1970.
        authority: it may sign others.
    """

    id: str
    uris: tuple[str, ...]
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    issuer: str
    subject: str
    begins_s: float
    expires_s: float
    authority: bool


def make_ca(cluster: str, *, now_s: float, valid_s: float = CA_VALID_S) -> Pair:
    """Return a new authority that signs itself.

    Args:
        cluster: whose authority it is; told in its name.
        now_s: wall clock, s since 1970. It is valid from BACKDATED_S before that.
        valid_s: how long it is valid, in s.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Sira CA of {cluster}")
    built = (
        _builder(name, name, key.public_key(), now_s=now_s, valid_s=valid_s)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(built.public_bytes(Encoding.PEM), _key_pem(key))


def issue(
    ca: Pair,
    principal: Principal,
    *,
    now_s: float,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    server: bool = False,
    client: bool = True,
    valid_s: float = LEAF_VALID_S,
) -> Pair:
    """Return a certificate of a principal, signed by the authority, and its new key.

    Args:
        ca: the authority.
        principal: for whom it speaks.
        now_s: wall clock, s since 1970. It is valid from BACKDATED_S before that.
        dns, ips: names and addresses under which it may serve.
        server, client: what it may be used as.
        valid_s: how long it is valid, in s; never longer than the authority.

    Raises:
        BadRequest: a name or address that is none, too many, no use at all, or no time left.
        BadSetting: the authority's files are none, or do not belong together.
    """
    if not (server or client):
        raise BadRequest("a certificate must be for a server, a client, or both")
    if server and not dns and not ips:
        raise BadRequest("a server's certificate needs the names or addresses it is reached under")
    if len(dns) + len(ips) > _NAMES_MAX:
        raise BadRequest(f"a certificate has at most {_NAMES_MAX} names and addresses")
    signer, signer_key = _authority(ca)
    ends_s = signer.not_valid_after_utc.timestamp()
    if now_s >= ends_s:
        raise BadRequest("the authority has expired: nothing it signs would be believed")
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(principal))]
    names += [x509.DNSName(_checked_dns(name)) for name in dict.fromkeys(dns)]
    names += [x509.IPAddress(_checked_ip(address)) for address in dict.fromkeys(ips)]
    built = (
        _builder(
            _name(principal.name),
            signer.subject,
            key.public_key(),
            now_s=now_s,
            valid_s=min(valid_s, ends_s - now_s),
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()),
            critical=False,
        )
        .sign(signer_key, hashes.SHA256())
    )
    return Pair(built.public_bytes(Encoding.PEM), _key_pem(key))


def read(data: bytes) -> Certificate:
    """Return what a certificate (PEM or DER) says; of a PEM chain, its first.

    Raises:
        Unauthenticated: too long, or no certificate.
    """
    return _read(parsed(data))


def principal_of_certificate(data: bytes, *, cluster: str, now_s: float) -> Credential:
    """Return what a certificate proves that TLS has verified against the cluster's authority.

    Args:
        data: PEM or DER; of a PEM chain the first counts.
        cluster: the node's own.
        now_s: wall clock, s since 1970.

    Raises:
        Unauthenticated: it is none, is not valid now, may sign others, or does not have exactly
            one URI, that of a principal of this cluster, byte for byte as we write it.
    """
    found = read(data)
    if found.authority:
        raise Unauthenticated("the certificate is an authority's, which speaks for nobody")
    if now_s >= found.expires_s:
        raise Unauthenticated(
            f"the certificate ended {now_s - found.expires_s:.0f} s ago",
            details={"reason": "expired"},
        )
    if now_s < found.begins_s:
        raise Unauthenticated(f"the certificate holds only in {found.begins_s - now_s:.0f} s")
    if len(found.uris) != 1:
        raise Unauthenticated(
            f"the certificate has {len(found.uris)} URIs, and must have the one of its principal"
        )
    try:
        principal = Principal.parse(found.uris[0])
    except SiraError as error:
        raise Unauthenticated(f"the certificate's URI is no principal: {error}") from None
    if principal.cluster != cluster:
        raise Unauthenticated(
            f"the certificate is of cluster {principal.cluster!r}, this is {cluster!r}"
        )
    return Credential(principal, "certificate", (found.id,), found.expires_s)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    now_s: float,
    valid_s: float,
) -> x509.CertificateBuilder:
    if not 0 < valid_s <= 100 * 365 * 86_400:
        raise BadRequest(f"a certificate cannot be valid for {valid_s} s")
    now = datetime.fromtimestamp(int(now_s), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=BACKDATED_S))
        .not_valid_after(now + timedelta(seconds=max(1, int(valid_s))))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])  # 64: X.520's limit


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _checked_dns(name: str) -> str:
    if len(name) > 253 or not _DNS.fullmatch(name):
        raise BadRequest(f"{name[:80]!r} is no DNS name")
    return name


def _checked_ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        raise BadRequest(f"{address[:80]!r} is no IP address") from None


def _authority(ca: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(ca.certificate)
        key = load_pem_private_key(ca.key, None)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except Exception:  # ValueError, TypeError, UnsupportedAlgorithm, ExtensionNotFound
        raise BadSetting("the authority's certificate or key cannot be read") from None
    if not constraints.ca or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadSetting("what is given as the authority is none, or not on an elliptic curve")
    if key.public_key() != certificate.public_key():
        raise BadSetting("the authority's key is not that of its certificate")
    return certificate, key


def parsed(data: bytes) -> x509.Certificate:
    """Return the certificate in PEM or DER; of a PEM chain, its first.

    Raises:
        Unauthenticated: too long, or none.
    """
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise Unauthenticated(f"the certificate is longer than {CERTIFICATE_BYTES_MAX} bytes")
    try:
        if data.lstrip().startswith(_PEM_BEGIN):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except Exception:  # ValueError, and what else strange DER makes the parser say
        raise Unauthenticated("what is shown is no certificate, or a part of one") from None


def _read(certificate: x509.Certificate) -> Certificate:
    try:
        return Certificate(
            f"cert:{certificate.serial_number:x}",
            *_alternative_names(certificate),
            _common_name(certificate.issuer),
            _common_name(certificate.subject),
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
            is_authority(certificate),
        )
    except Exception:  # an extension that is twice there, or is not what its number says
        raise Unauthenticated("the certificate has parts that cannot be read") from None


def _alternative_names(
    certificate: x509.Certificate,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), (), ()
    return (
        tuple(found.get_values_for_type(x509.UniformResourceIdentifier)),
        tuple(found.get_values_for_type(x509.DNSName)),
        tuple(str(address) for address in found.get_values_for_type(x509.IPAddress)),
    )


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether a certificate may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()
