"""From what a call shows to a `Credential`: a certificate, a token, or nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from sira.kernel.errors import Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.trust.authorities import Authorities
from sira.kernel.trust.blocks import TOKEN_CHARS_MAX
from sira.kernel.trust.certificates import principal_of_certificate
from sira.kernel.trust.credential import Credential
from sira.kernel.trust.jwt import JwtVerifier, looks_like_jwt
from sira.kernel.trust.tokens import TokenVerifier

Transport = Literal["plain", "tls", "mtls"]

CACHE_ENTRIES_MAX = 4_096
CACHE_BYTES_MAX = 16 << 20  # of tokens and certificates; any holder can make many long tokens
CERTIFICATE = "x509_pem_cert"  # gRPC's name for what the peer has shown
CHAIN = "x509_pem_cert_chain"  # and for all that came with it, unverified
_SCHEME = "bearer "


class Authenticator:
    """Tells who a call speaks for. Pure but for the clock and a bounded cache; any thread may ask.

    When keys, issuers, authorities or revocations change, make a new one: nothing is forgotten
    otherwise.

    - A token is believed on any transport and decides who acts. A certificate beside it must be
      good too, and the credential ends with the first of both; either can be revoked.
    - Without a token: on `mtls` the certificate; on `plain` the anonymous principal, if there is
      one; on `tls` nobody.
    """

    def __init__(
        self,
        *,
        cluster: str,
        tokens: TokenVerifier | None,
        jwts: JwtVerifier | None,
        authorities: Authorities,
        revoked: frozenset[str],
        anonymous: Principal | None,
        clock_s: Callable[[], float],
    ) -> None:
        """Take what is believed.

        Args:
            cluster: the node's own; certificates must name it.
            tokens, jwts: who verifies; None: tokens of that kind are refused.
            authorities: who vouches for certificates.
            revoked: ids that prove nothing any more.
            anonymous: who a call without anything speaks for, on a plain listener.
            clock_s: wall clock, s since 1970.
        """
        self._cluster, self._tokens, self._jwts = cluster, tokens, jwts
        self._authorities = authorities
        self._revoked, self._anonymous, self._clock_s = revoked, anonymous, clock_s
        self._anonymous_credential = (
            None if anonymous is None else Credential(anonymous, "anonymous")
        )
        self._known: OrderedDict[tuple[str, bytes, str], Credential] = OrderedDict()
        self._known_bytes = 0
        self._lock = threading.Lock()

    def authenticate(
        self,
        auth_context: Mapping[str, Sequence[bytes]],
        authorization: str | None,
        *,
        transport: Transport,
    ) -> Credential:
        """Return who the call speaks for; 2 us where the same was shown before.

        Args:
            auth_context: what gRPC says about the connection.
            authorization: the metadata of that name; None: there is none.
            transport: the listener's.

        Raises:
            Unauthenticated: why (also: revoked), never with a part of what was shown.
        """
        shown = auth_context.get(CERTIFICATE, ()) if transport == "mtls" else ()
        certificate = shown[0] if shown else b""
        if authorization is None and not certificate:
            if transport == "plain" and self._anonymous_credential is not None:
                return self._anonymous_credential
            raise Unauthenticated(_NOTHING[transport])
        key = (transport, certificate, authorization or "")
        now_s = self._clock_s()
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
        if found is None or now_s >= found.expires_s:
            chain = b"".join(auth_context.get(CHAIN, ()))
            found = self._looked_at(certificate, chain, authorization, transport, now_s)
            self._keep(key, found)
        return found

    def _looked_at(
        self,
        certificate: bytes,
        chain: bytes,
        authorization: str | None,
        transport: Transport,
        now_s: float,
    ) -> Credential:
        if transport == "mtls" and not certificate:
            raise Unauthenticated(_NOTHING["mtls"])
        by_certificate = by_token = None
        if certificate:
            by_certificate = replace(
                principal_of_certificate(certificate, cluster=self._cluster, now_s=now_s),
                grounds=(self._authorities.ground_of(certificate, chain),),
            )
        if authorization is not None:
            by_token = self._by_token(authorization, now_s)
        found = by_token or by_certificate
        assert found is not None  # one of both was there
        if by_token and by_certificate:
            found = replace(
                by_token,
                ids=by_token.ids + by_certificate.ids,
                grounds=by_token.grounds + by_certificate.grounds,
                expires_s=min(by_token.expires_s, by_certificate.expires_s),
            )
        withdrawn = found.revoked_by(self._revoked)
        if withdrawn is not None:
            raise Unauthenticated(
                f"what {found.principal} shows has been revoked",
                details={"reason": "revoked", "id": withdrawn, "principal": str(found.principal)},
                help="ask the operators of this cluster for a new certificate or token",
            )
        return found

    def _by_token(self, authorization: str, now_s: float) -> Credential:
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("`authorization` is not of the form `Bearer TOKEN`")
        token = authorization[len(_SCHEME) :].strip()
        if not token:
            raise Unauthenticated("`authorization` has no token in it")
        if len(token) > TOKEN_CHARS_MAX:
            raise Unauthenticated(f"the token is longer than {TOKEN_CHARS_MAX} characters")
        if looks_like_jwt(token):
            if self._jwts is None:
                raise Unauthenticated("this node believes no JWT: it has no `jwt_issuers`")
            return self._jwts.verify(token, now_s)
        if self._tokens is None:
            raise Unauthenticated("this node believes no token: it has no `token_keys`")
        return self._tokens.verify(token, now_s)

    def _keep(self, key: tuple[str, bytes, str], found: Credential) -> None:
        with self._lock:
            if self._known.pop(key, None) is None:
                self._known_bytes += len(key[1]) + len(key[2])
            self._known[key] = found
            while len(self._known) > CACHE_ENTRIES_MAX or self._known_bytes > CACHE_BYTES_MAX:
                old, _ = self._known.popitem(last=False)
                self._known_bytes -= len(old[1]) + len(old[2])


_NOTHING: Mapping[str, str] = {
    "plain": "this node takes no call without a token",
    "tls": "a token is needed: this listener asks for no certificate",
    "mtls": "a certificate of this cluster is needed",
}
