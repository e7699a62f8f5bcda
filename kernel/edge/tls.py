"""The node's certificate and key as gRPC takes them, exchanged without a restart."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sira.kernel.errors import BadSetting
from sira.kernel.settings import Settings
from sira.kernel.trust.authorities import Authorities
from sira.kernel.trust.secrets import read_secret


@dataclass(frozen=True, slots=True)
class Pair:
    """What one TLS handshake is answered with. PEM, checked to belong together.

    Attributes:
        certificates: the node's certificate and what signed it, leaf first.
        key: of that certificate.
        client_ca: authorities of client certificates; empty: none are taken.
        authorities: the same, read.
        expires_s: wall clock, seconds since 1970; when the leaf ends.
    """

    certificates: bytes
    key: bytes
    client_ca: bytes
    authorities: Authorities
    expires_s: float


def read_pair(settings: Settings) -> Pair:
    """Read and check the files that the settings name.

    Raises:
        BadSetting: one cannot be read, is no PEM, others can read the key, or they do not belong
            together. gRPC itself would only fail every handshake.
    """
    certificates = _read(settings, "tls_cert")
    key = read_secret(settings.tls_key)
    client_ca = _read(settings, "tls_client_ca") if settings.tls_client_ca else b""
    try:
        leaf = x509.load_pem_x509_certificates(certificates)[0]
    except ValueError as error:
        raise _bad(settings, "tls_cert", f"holds no certificate: {error}") from None
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise _bad(settings, "tls_key", f"holds no key without a passphrase: {error}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _bad(settings, "tls_key", "is neither ECDSA nor RSA: gRPC takes no other")
    if private.public_key() != leaf.public_key():
        raise _bad(settings, "tls_key", "is not the key of the certificate in tls_cert")
    try:
        authorities = Authorities.from_pem(client_ca)
    except ValueError as error:
        raise _bad(settings, "tls_client_ca", f"holds no certificate: {error}") from None
    return Pair(certificates, key, client_ca, authorities, leaf.not_valid_after_utc.timestamp())


class Handshakes:
    """Answers handshakes with the pair of now. gRPC asks from threads of its own."""

    def __init__(self, pair: Pair) -> None:
        """Begin with `pair`."""
        self._pair = pair

    @property
    def pair(self) -> Pair:
        """The pair of now."""
        return self._pair

    def change(self, pair: Pair) -> None:
        """Answer with another pair from the next handshake on; what is connected stays."""
        self._pair = pair

    def credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """Return what a port is opened with; with `client_certificates` clients must show one."""

        given, lock = self._pair, threading.Lock()

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            with lock:
                if given is self._pair:
                    # Another one at each handshake ends the process: gRPC takes the one before
                    # apart while handshakes in other threads still use it.
                    return None
                given = self._pair
                return _configuration(given, client_certificates)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given, client_certificates),
            changed,  # type: ignore[arg-type]  # None is "as before", says grpcio
            require_client_authentication=client_certificates,
        )


def _configuration(pair: Pair, client_certificates: bool) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pair.key, pair.certificates)],
        root_certificates=pair.client_ca if client_certificates else None,
    )


def _read(settings: Settings, name: str) -> bytes:
    try:
        return Path(getattr(settings, name)).read_bytes()
    except OSError as error:
        raise _bad(settings, name, f"cannot be read: {error.strerror}") from None


def _bad(settings: Settings, name: str, why: str) -> BadSetting:
    return BadSetting(
        f"{name} = {getattr(settings, name)!r} {why}",
        details={"setting": name, "origin": settings.origins.get(name, "default")},
    )
