"""How a client proves who it is, and knows that the node is the one it means: TLS and tokens.

Each value is taken from the first of: the argument, the environment, none. Files are read again at
each connection, so that a renewed certificate or token holds from the next one on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import grpc.aio

from sira.kernel.errors import BadRequest, SiraError
from sira.kernel.loopback import is_loopback
from sira.kernel.trust.secrets import read_secret, read_secret_text

_TOKEN_CHARS_MAX = 8_192  # of a header; the node takes 16 KiB of all


_Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Security:
    """What a connection shows and demands; see `sira.connect`. Has no repr: a token is a secret.

    Whether there is TLS says the URL: `siras://`. "" says "none, whatever the environment has".

    Attributes:
        token: shown with each call; None: `SIRA_TOKEN`.
        token_file: where it is read from at each connection, a file of mode 0600; None:
            `SIRA_TOKEN_FILE`.
        tls_ca: PEM file of the authorities that may vouch for the node; None: `SIRA_TLS_CA`, else
            those of the system.
        tls_cert, tls_key: PEM files of this client's certificate; None: `SIRA_CLIENT_CERT`
            and `SIRA_CLIENT_KEY` (`SIRA_TLS_CERT` and `SIRA_TLS_KEY` are settings of a node).
        insecure: send a token without TLS beyond this machine.
    """

    token: str | None = None
    token_file: _Path | None = None
    tls_ca: _Path | None = None
    tls_cert: _Path | None = None
    tls_key: _Path | None = None
    insecure: bool = False

    def settled(self, *, tls: bool, environ: Mapping[str, str] | None = None) -> Settled:
        """Return what this and the environment say together.

        Raises:
            BadRequest: a token twice, half of a certificate and its key, certificates without TLS.
        """
        environ = os.environ if environ is None else environ

        def said(value: _Path | None, name: str) -> str:
            return environ.get(name, "") if value is None else os.fspath(value)

        token, token_file = self.token, self.token_file
        if token and token_file:
            raise BadRequest("a token and a file of one: give one of the two")
        if token is None and token_file is None:
            token = environ.get("SIRA_TOKEN", "")
            token_file = "" if token else environ.get("SIRA_TOKEN_FILE", "")
        settled = Settled(
            tls=tls,
            ca=said(self.tls_ca, "SIRA_TLS_CA"),
            cert=said(self.tls_cert, "SIRA_CLIENT_CERT"),
            key=said(self.tls_key, "SIRA_CLIENT_KEY"),
            token=(token or "").strip(),
            token_file=os.fspath(token_file or ""),
            insecure=self.insecure,
        )
        if bool(settled.cert) != bool(settled.key):
            raise BadRequest("a client certificate and its key come together")
        if not tls and (self.tls_ca or self.tls_cert):
            raise BadRequest("certificates need TLS", help="write siras://host:port")
        _check_token(settled.token)
        return settled


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Settled:
    """A `Security` with nothing left to ask; files are named, not read. "": none."""

    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    token: str = ""
    token_file: str = ""
    insecure: bool = False

    def why_not(self, text: str) -> tuple[str, str] | None:
        """Return what became of a handshake and what to do, for what gRPC says of it; None: more.

        gRPC's own words name a line of OpenSSL, and neither the file nor the way out.
        """
        if self.tls and "CERTIFICATE_VERIFY_FAILED" in text:
            who = f"no authority of {self.ca}" if self.ca else "no authority that this system knows"
            return (
                f"{who} vouches for the node's certificate, or it has ended",
                "name the cluster's ca.pem: --tls-ca FILE or SIRA_TLS_CA (tls_ca= in Python)",
            )
        if self.tls and "Hostname Verification Check failed" in text:
            return (
                "the node's certificate is not for the host of the address",
                "connect by a name that it has (`sira tls show`), or issue one with --dns or --ip",
            )
        if self.tls and "WRONG_VERSION_NUMBER" in text:
            return ("the node there speaks no TLS", "connect by sira://, if it should not")
        if not self.tls and ("Socket closed" in text or "Connection reset" in text):
            return text, "is it alive (`sira doctor`)? does it speak TLS alone: siras://?"
        return None

    def channel(self, address: str, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
        """Return a channel to `host:port`.

        Raises:
            BadRequest: a token would be sent where others can read it.
            BadSetting: a file cannot be read, or others can read its secret.
        """
        if self.tls:
            return grpc.aio.secure_channel(address, self._credentials(), options=list(options))
        if (self.token or self.token_file) and not self.insecure and not _is_local(address):
            raise BadRequest(
                f"a token for {address} would be read by everybody on the way",
                help="connect by siras:// (TLS), or say insecure=True",
            )
        return grpc.aio.insecure_channel(address, options=list(options))

    def authorization(self) -> list[tuple[str, str]]:
        """Return the metadata that shows the token; empty: there is none.

        Raises:
            BadSetting: its file cannot be read, or others can read it.
            BadRequest: it is no token.
        """
        token = self.token
        if self.token_file:
            token = read_secret_text(self.token_file).strip()
            _check_token(token)
        return [("authorization", f"Bearer {token}")] if token else []

    def proof(self) -> bytes:
        """Return a digest of what is shown now: another one means that it was renewed.

        Raises:
            BadSetting, BadRequest: a file cannot be read, or holds no token.
        """
        parts = [value.encode() for _, value in self.authorization()]
        if self.tls:
            parts += [_read(path) for path in (self.ca, self.cert) if path]
            parts += [read_secret(self.key)] if self.key else []
        return hashlib.sha256(b"\0".join(parts)).digest()

    def shows_another(self, proof: bytes) -> bool:
        """Return whether something else is shown now than when `proof` was taken."""
        try:
            return self.proof() != proof
        except SiraError:
            return False  # half written, or gone: what cannot be shown is not new

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca) if self.ca else None,
            private_key=read_secret(self.key) if self.key else None,
            certificate_chain=_read(self.cert) if self.cert else None,
        )


def with_token(security: Security | None, token: str | None) -> Security | None:
    """Return `security` with a token that was given beside it.

    Raises:
        BadRequest: it has one, too.
    """
    if token is None:
        return security
    security = security or Security()
    if security.token is not None or security.token_file is not None:
        raise BadRequest("a token twice: beside `security` and in it")
    return replace(security, token=token)


def _check_token(token: str) -> None:
    if len(token) > _TOKEN_CHARS_MAX or not token.isascii() or not all(c > " " for c in token):
        raise BadRequest(f"a token is at most {_TOKEN_CHARS_MAX} printable ASCII characters")


def _is_local(address: str) -> bool:
    """Whether what is sent there stays on this machine."""
    host = address.rpartition(":")[0]
    return not host or is_loopback(host) or address.startswith(("unix:/", "fd:/"))


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> SiraError:
    return BadRequest(f"{path} cannot be read: {error.strerror}", details={"file": path})
