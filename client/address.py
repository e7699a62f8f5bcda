"""Where nodes are: URLs in, `host:port` out."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from sira.kernel.errors import BadRequest

URL_DEFAULT = "sira://127.0.0.1:7700"
_PORT_DEFAULT = 7700


_SCHEMES = {"sira": False, "siras": True}  # whether there is TLS


def addresses(url: str | None) -> tuple[list[str], bool]:
    """Return the `host:port` of each node that `url` names, in order, and whether they speak TLS.

    Args:
        url: "sira://host:port" (plain) or "siras://host:port" (TLS), or several joined by commas;
            None: `SIRA_URL`, else the local node.
    Raises:
        BadRequest: a URL that is none, or some with TLS and some without.
    """
    text = url or os.environ.get("SIRA_URL") or URL_DEFAULT
    found = [_address(part.strip()) for part in text.split(",") if part.strip()]
    if not found:
        raise BadRequest(f"no address in {text!r}", help="write sira://host:7700")
    if len({tls for _, tls in found}) > 1:
        raise BadRequest(f"{text!r}: some with TLS and some without: which is safe?")
    return [address for address, _ in found], found[0][1]


def _address(url: str) -> tuple[str, bool]:
    split = urlsplit(url if "://" in url else f"sira://{url}")
    try:
        host, port = split.hostname, split.port or _PORT_DEFAULT
    except ValueError:
        host = None
    if split.scheme not in _SCHEMES or not host or split.path not in ("", "/") or split.query:
        raise BadRequest(f"{url!r} is not the address of a node", help="write sira://host:7700")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return address, _SCHEMES[split.scheme]
