"""Which authority of the node vouches for a certificate: found again when the file changes.

TLS verifies a certificate once, at the handshake, against the authorities of then, and does not say
which of them it was. So the way from the certificate up is walked here, by signatures alone: what
else makes a chain good, TLS has looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sira.kernel.errors import Unauthenticated
from sira.kernel.trust.certificates import CERTIFICATE_BYTES_MAX, is_authority, parsed

_CHAIN_MAX = 8  # certificates between the one shown and an authority of the file


class Authorities:
    """The authorities of `tls_client_ca`. Immutable; any thread may ask."""

    def __init__(self, certificates: Sequence[x509.Certificate]) -> None:
        """Take what the file holds."""
        self._by_ground = {_ground(each): each for each in certificates}

    @classmethod
    def from_pem(cls, data: bytes) -> Authorities:
        """Read the text of the file; empty: nobody vouches.

        Raises:
            ValueError: it holds no certificate.
        """
        return cls(x509.load_pem_x509_certificates(data) if data else ())

    @property
    def grounds(self) -> frozenset[str]:
        """What credentials can stand on: name and key of each, which a renewal keeps."""
        return frozenset(self._by_ground)

    def ground_of(self, shown: bytes, chain: bytes = b"") -> str:
        """Return the ground of the authority nearest to a certificate.

        Args:
            shown: PEM or DER of the certificate.
            chain: PEM of what the peer has sent along; may begin with the certificate itself.

        Raises:
            Unauthenticated: none of the authorities vouches for it.
        """
        below = parsed(shown)
        between = _parsed_chain(chain)
        for _ in range(_CHAIN_MAX):
            for ground, authority in self._by_ground.items():
                if below == authority or _has_signed(authority, below):
                    return ground
            above = next((each for each in between if _has_signed(each, below)), None)
            if above is None or not is_authority(above):
                break
            between.remove(above)
            below = above
        raise Unauthenticated(
            "no authority in the file of tls_client_ca vouches for the certificate",
            details={"reason": "authority"},
            help="ask the operators of this cluster for a new certificate",
        )


def _parsed_chain(chain: bytes) -> list[x509.Certificate]:
    if not chain or len(chain) > CERTIFICATE_BYTES_MAX:
        return []
    try:
        return x509.load_pem_x509_certificates(chain)[: _CHAIN_MAX + 1]
    except ValueError:
        return []


def _has_signed(above: x509.Certificate, below: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except Exception:  # another name, another key, a kind of signature that is not known
        return False
    return True


def _ground(certificate: x509.Certificate) -> str:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"ca:{hashlib.sha256(certificate.subject.public_bytes() + key).hexdigest()}"
