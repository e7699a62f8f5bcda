"""What every HTTP call passes first, and what a connection is waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import pytest

from sira.kernel.errors import BadSetting
from sira.services.http import mounts
from sira.services.http.limits import Limits
from sira.services.http.protocol import Phase, phase_of


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def call(limits: Limits, *parts: bytes, **headers: str) -> int:
    """Make one call; return the status of the answer."""
    shown = {"host": "127.0.0.1:80", **headers}
    scope = {
        "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"",
        "headers": [(n.replace("_", "-").encode(), v.encode()) for n, v in shown.items()],
    }  # fmt: skip
    waiting = list(parts or (b"",))
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(limits(scope, receive, send))
    return int(said[0]["status"])


def limits(**more: Any) -> Limits:
    given = {"header_bytes_max": 1_000, "body_bytes_max": 100, "held_bytes_max": 1_000}
    return Limits(reads_all, **{**given, "local": True, **more})


@pytest.mark.parametrize(("host", "local", "status"), [
    ("127.0.0.1:8080", True, 200), ("localhost:8080", True, 200), ("[::1]:8080", True, 200),
    ("[::1]", True, 200), ("127.0.0.1", True, 200), ("LOCALHOST", True, 200),
    ("evil.example:8080", True, 403), ("", True, 403), ("localhost.evil.example", True, 403),
    ("evil.example", False, 200),
])  # fmt: skip
def test_a_local_listener_takes_only_an_address_for_a_host(
    host: str, local: bool, status: int
) -> None:
    assert call(limits(local=local), host=host) == status


@pytest.mark.parametrize(("headers", "status"), [
    ({"origin": "http://127.0.0.1:80"}, 200), ({"origin": "http://127.0.0.1:81"}, 403),
    ({"origin": "null"}, 403), ({"content_length": "101"}, 413), ({"content_length": "x"}, 413),
    ({"content_length": "9" * 400}, 413), ({"x": "y" * 1_000}, 431),
    ({"content_length": "1", "transfer_encoding": "chunked"}, 400),
])  # fmt: skip
def test_heads_that_are_refused(headers: dict[str, str], status: int) -> None:
    assert call(limits(), **headers) == status


def test_what_a_body_held_is_given_back_however_the_call_ends() -> None:
    guard = limits()
    assert call(guard, b"x" * 60, b"y" * 40) == 200
    assert guard.held_bytes == 0
    with pytest.raises(Exception, match="over 100 bytes"):
        call(guard, b"x" * 60, b"y" * 41)
    assert guard.held_bytes == 0


def test_the_phase_of_a_connection_follows_what_has_come() -> None:
    made = h11.Connection(h11.SERVER)
    assert phase_of(made, fresh=True) is Phase.HEAD
    made.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\n")
    assert made.next_event() is h11.NEED_DATA and phase_of(made, fresh=True) is Phase.HEAD
    made.receive_data(b"Content-Length: 2\r\n\r\n")
    assert isinstance(made.next_event(), h11.Request) and phase_of(made, fresh=False) is Phase.BODY
    made.receive_data(b"ab")
    made.next_event()
    assert isinstance(made.next_event(), h11.EndOfMessage)
    assert phase_of(made, fresh=False) is Phase.BUSY
    made.send(h11.Response(status_code=204, headers=[]))
    made.send(h11.EndOfMessage())
    made.start_next_cycle()
    assert phase_of(made, fresh=False) is Phase.IDLE
    made.receive_data(b"G")
    made.next_event()
    assert phase_of(made, fresh=False) is Phase.HEAD


@pytest.mark.parametrize("text", [
    "/a", "a=json:loads", "/a/=json:loads", "/metrics=json:loads", "/v1/x=json:loads",
    "/a=json:nothing", "/a=json:__name__", "/a=no_such_module:app", "/a=json:loads,/a=json:dumps",
])  # fmt: skip
def test_a_mount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="http_mounts"):
        mounts.load(text)


def test_mounts_are_imported_by_name() -> None:
    import json

    assert mounts.load(" /a=json:loads, /b/c=json:dumps,") == {"/a": json.loads, "/b/c": json.dumps}
