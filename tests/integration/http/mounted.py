"""A tiny application, as a service would bring one."""

from __future__ import annotations

import json
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Say who calls and what came."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    said = {"who": scope["sira.principal"], "path": scope["path"], "body": body.decode()}
    start = {"type": "http.response.start", "status": 200, "headers": [(b"x-tiny", b"yes")]}
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})
