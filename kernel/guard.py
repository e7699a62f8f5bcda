"""What the files say now of who comes in and what they may do: read, watched, put in force.

The driver around pure parts: `policy/` decides, `trust/` proves, `admission/` limits, `Reloader`
looks. Everything takes hold at the start or the node does not start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sira.kernel.access import Access
from sira.kernel.admission import limits as limits_file
from sira.kernel.admission.limits import Limit
from sira.kernel.authorize import Policy
from sira.kernel.edge.tls import Handshakes, Pair, read_pair
from sira.kernel.errors import SiraError
from sira.kernel.identity import Principal
from sira.kernel.local.peer import Peer
from sira.kernel.policy import load as policy_file
from sira.kernel.reload import Reloader
from sira.kernel.settings import Settings
from sira.kernel.toml_table import read_text
from sira.kernel.trust import jwt, revocations, tokens
from sira.kernel.trust.authenticate import CERTIFICATE, Authenticator, Transport
from sira.kernel.trust.authorities import Authorities
from sira.kernel.trust.credential import Credential
from sira.kernel.trust.jwt import JwtVerifier
from sira.kernel.trust.tokens import TokenVerifier

AUTHORIZATION_KEY = "authorization"
_SECURITY, _TLS = "transport_security_type", b"ssl"  # how gRPC names what protects a connection
REVOCATIONS_NAME = "revocations.toml"  # in the data folder, where no other file is named


class Guard:
    """Identifies callers and keeps the rules of a node. Belongs to the node's loop."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        *,
        changed: Callable[[str, str], Awaitable[None]],
        limited: Callable[[tuple[Limit, ...]], None],
        refused: Callable[[str, SiraError], None],
    ) -> None:
        """Read every file that the settings name.

        Args:
            settings: of the node.
            access: where policy and revocations are put in force.
            changed: told the setting and what is in force now; brings what is open in line.
            limited: puts limits in force.
            refused: told what a file has become that cannot be used.

        Raises:
            BadSetting: a file cannot be read or used.
        """
        self._settings, self._access = settings, access
        self._changed, self._limited = changed, limited
        self.reloader = Reloader(every_s=settings.reload_s, refused=refused)
        self._anonymous: Principal | None = None
        if not settings.tls_cert and settings.anonymous == "allow":
            self._anonymous = Principal(settings.cluster_name, "default", "user", "anonymous")
        self.handshakes = self._read_tls()
        self._read_policy()
        self.limits = self._read_limits()
        self._tokens: TokenVerifier | None = None
        self._jwts: JwtVerifier | None = None
        self._read_trust()
        self._believe()

    # ---- who calls -------------------------------------------------------------------------------

    def identify(self, context: Any, metadata: Mapping[str, str | bytes]) -> Credential | None:
        """Return what a call proves; None: it shows nothing and nobody may go without.

        Raises:
            Unauthenticated: what it shows proves nothing.
        """
        shown = metadata.get(AUTHORIZATION_KEY)
        authorization = shown if isinstance(shown, str) else None
        peer: Peer | None = getattr(context, "local_peer", None)
        if peer is not None and authorization is None:
            return self._of_peer(peer)
        connection: Mapping[str, Sequence[bytes]] = context.auth_context()
        transport: Transport = "plain"
        if _TLS in connection.get(_SECURITY, ()):
            transport = "mtls" if connection.get(CERTIFICATE) else "tls"
        alone = authorization is None and transport != "mtls"
        if alone and (transport == "tls" or self._anonymous is None):
            return None
        return self._authenticator.authenticate(connection, authorization, transport=transport)

    def _of_peer(self, peer: Peer) -> Credential | None:
        """Return what the other end of the Unix socket is without a token.

        The node's own user and root are nobody in particular, as on plain loopback; another user is
        the one that the kernel says.
        """
        if peer.handed is not None:
            return peer.handed
        if peer.uid not in (0, os.geteuid()):
            who = Principal(self._settings.cluster_name, "default", "user", f"uid-{peer.uid}")
            return Credential(who, "uid")
        return None if self._anonymous is None else Credential(self._anonymous)

    # ---- files -----------------------------------------------------------------------------------

    def _read_tls(self) -> Handshakes | None:
        settings = self._settings
        if not settings.tls_cert:
            return None
        paths = (settings.tls_cert, settings.tls_key, settings.tls_client_ca)

        async def change(pair: Pair) -> None:
            handshakes.change(pair)
            self._believe()
            await self._changed("tls_cert", f"ends {pair.expires_s:.0f} s after 1970")

        handshakes = Handshakes(
            self.reloader.add(
                "tls_cert", tuple(filter(None, paths)), lambda: read_pair(settings), change
            )
        )
        return handshakes

    def _read_policy(self) -> None:
        value = self._settings.policy
        paths = (value,) if policy_file.is_file(value) else ()

        async def change(policy: Policy) -> None:
            self._access.change(policy=policy)
            await self._changed("policy", getattr(policy, "name", value))

        policy = self.reloader.add("policy", paths, lambda: policy_file.load(value), change)
        self._access.change(policy=policy)

    def _read_limits(self) -> tuple[Limit, ...]:
        path = self._settings.limits_file
        if not path:
            return ()

        async def change(limits: tuple[Limit, ...]) -> None:
            self.limits = limits
            self._limited(limits)
            await self._changed("limits_file", ", ".join(limit.name for limit in limits))

        found: tuple[Limit, ...] = self.reloader.add(
            "limits_file", (path,), lambda: limits_file.parse(read_text(path), file=path), change
        )
        return found

    def _read_trust(self) -> None:
        settings = self._settings
        if settings.token_keys:

            async def new_keys(verifier: TokenVerifier) -> None:
                self._tokens = verifier
                self._believe()
                await self._changed("token_keys", settings.token_keys)

            self._tokens = self.reloader.add(
                "token_keys", (settings.token_keys,),
                lambda: TokenVerifier(
                    tokens.parse_keys_file(read_text(settings.token_keys)),
                    cluster=settings.cluster_name,
                ),
                new_keys,
            )  # fmt: skip
        if settings.jwt_issuers:

            async def new_issuers(verifier: JwtVerifier) -> None:
                self._jwts = verifier
                self._believe()
                await self._changed("jwt_issuers", settings.jwt_issuers)

            self._jwts = self.reloader.add(
                "jwt_issuers", lambda: jwt.files(settings.jwt_issuers),
                lambda: JwtVerifier(
                    jwt.load(settings.jwt_issuers), cluster=settings.cluster_name
                ),
                new_issuers,
            )  # fmt: skip
        path = settings.revocations or str(settings.data_path / REVOCATIONS_NAME)

        async def revoke(ids: frozenset[str]) -> None:
            self._access.change(revoked=ids)
            self._authenticator = self._new_authenticator()
            await self._changed("revocations", f"{len(ids)} ids")

        def read() -> frozenset[str]:
            if not settings.revocations and not Path(path).exists():
                return frozenset()  # nobody has revoked anything yet
            return revocations.load(path)

        ids = self.reloader.add("revocations", (path,), read, revoke)
        self._access.change(revoked=ids)

    @property
    def token_keys(self) -> int:
        """Public keys whose tokens are believed."""
        return len(self._tokens.grounds) if self._tokens is not None else 0

    @property
    def _authorities(self) -> Authorities:
        return self.handshakes.pair.authorities if self.handshakes else Authorities(())

    def _believe(self) -> None:
        """Put keys, issuers and authorities in force, also for what is open."""
        verifiers = (self._tokens, self._jwts, self._authorities)
        grounds = (verifier.grounds for verifier in verifiers if verifier is not None)
        self._access.change(grounds=frozenset[str]().union(*grounds))
        self._authenticator = self._new_authenticator()

    def _new_authenticator(self) -> Authenticator:
        return Authenticator(
            cluster=self._settings.cluster_name,
            tokens=self._tokens,
            jwts=self._jwts,
            authorities=self._authorities,
            revoked=self._access.revoked,
            anonymous=self._anonymous,
            clock_s=time.time,
        )
