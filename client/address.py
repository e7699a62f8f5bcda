"""Where nodes are: URLs in, addresses out.

An address is `host:port`, `unix:/path` of a node's socket, or `fd:/N` of a descriptor that a parent
process has handed over. No host and port looks like the last two.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sira.kernel.errors import BadRequest
from sira.kernel.local.record import SOCKET_NAME
from sira.kernel.settings import default_data_dir

URL_DEFAULT = "sira://127.0.0.1:7700"
FD_VARIABLE = "SIRA_FD"
FD, UNIX = "fd:/", "unix:"
_PORT_DEFAULT = 7700


_SCHEMES = {"sira": False, "siras": True}  # whether there is TLS


def addresses(url: str | None, environ: Mapping[str, str] | None = None) -> tuple[list[str], bool]:
    """Return the address of each node that `url` names, in order, and whether they speak TLS.

    Args:
        url: "sira://host:port" (plain), "siras://host:port" (TLS), "unix:/path" (a node of this
            host), or several joined by commas; None: see `local_addresses`, unless `SIRA_URL` says.
    Raises:
        BadRequest: a URL that is none, or some with TLS and some without.
    """
    environ = os.environ if environ is None else environ
    text = url or environ.get("SIRA_URL")
    if not text:
        return local_addresses(environ), False
    found = [_address(part.strip()) for part in text.split(",") if part.strip()]
    if not found:
        raise BadRequest(f"no address in {text!r}", help="write sira://host:7700")
    if len({tls for _, tls in found}) > 1:
        raise BadRequest(f"{text!r}: some with TLS and some without: which is safe?")
    return [address for address, _ in found], found[0][1]


def local_addresses(environ: Mapping[str, str]) -> list[str]:
    """Return where the node of this host may be, in order.

    That is the descriptor that `SIRA_FD` names, alone; else the socket in the data folder (by
    `SIRA_DATA_DIR`, `SIRA_HOME`, XDG), then the default port of loopback.
    """
    if handed := environ.get(FD_VARIABLE):
        return [FD + handed]
    port = [URL_DEFAULT.removeprefix("sira://")]
    if sys.platform != "linux":
        return port
    folder = environ.get("SIRA_DATA_DIR") or default_data_dir(environ)
    return [f"{UNIX}{Path(folder).absolute() / SOCKET_NAME}", *port]


def is_local(address: str) -> bool:
    """Whether an address is a socket of this host, or a handed descriptor."""
    return address.startswith((f"{UNIX}/", FD))


def url_of(address: str, *, tls: bool = False) -> str:
    """Return the URL that names an address."""
    if is_local(address):
        return address
    return f"{'siras' if tls else 'sira'}://{address}"


def _address(url: str) -> tuple[str, bool]:
    if url.startswith(UNIX):
        return _socket(url), False
    split = urlsplit(url if "://" in url else f"sira://{url}")
    try:
        host, port = split.hostname, split.port or _PORT_DEFAULT
    except ValueError:
        host = None
    if split.scheme not in _SCHEMES or not host or split.path not in ("", "/") or split.query:
        raise BadRequest(f"{url!r} is not the address of a node", help="write sira://host:7700")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return address, _SCHEMES[split.scheme]


def _socket(url: str) -> str:
    path = url.removeprefix(UNIX)
    if path.startswith("//"):
        path = path[2:]
    if not path.startswith("/") or "\0" in path:
        raise BadRequest(f"{url!r} is not the address of a node", help="write unix:/path/sira.sock")
    return UNIX + path
