"""A node with its HTTP listener, and calls as plain as sockets and urllib make them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sira.testing import Node
from tests.integration.ports import free_port

WATCHDOG_S = 60.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """Hold the answer to be this refusal."""
        assert self.status == status, self
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = self.json
        assert (found["status"], found["code"]) == (status, code), found
        assert {"type", "title", "detail", "retry_after_ms"} <= set(found)
        return found


class Http:
    """The listener of a node. `port` stays the same over restarts."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port, self._tls = port, tls

    def connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WATCHDOG_S)
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=WATCHDOG_S, context=self._tls
        )

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Make one call; header names are written with underscores."""
        made = self.connect()
        try:
            shown = {name.replace("_", "-"): value for name, value in headers.items()}
            made.request(method, path, body, shown)
            response = made.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            made.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any, kind: str = "text/plain", **headers: str) -> Answer:
        return self.call("POST", path, body, Content_Type=kind, **headers)

    def raw(self, data: bytes = b"") -> socket.socket:
        """Connect and send bytes."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=WATCHDOG_S)
        made.sendall(data)
        return made

    @contextmanager
    def events(self, pattern: str, query: str = "", **headers: str) -> Iterator[Events]:
        """Listen while inside; returns when the subscription is open."""
        made = self.connect()
        try:
            made.request("GET", f"/v1/subscribe/{pattern}{query}", None, headers)
            response = made.getresponse()
            assert response.status == 200, response.read()
            assert response.getheader("content-type", "").startswith("text/event-stream")
            found = Events(response)
            assert found.next()["event"] == "open"
            yield found
        finally:
            made.close()


class Events:
    """A stream of server-sent events, read strictly."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.comments = 0

    def next(self) -> dict[str, str]:
        """Return the fields of the next event; {} at the end of the stream."""
        found: dict[str, str] = {}
        while line := self._response.readline():
            text = line.decode().rstrip("\r\n")
            if not text and found:
                return found
            if text.startswith(":"):
                self.comments += 1
            elif text:
                name, _, value = text.partition(":")
                assert name in ("id", "event", "data", "retry"), text
                assert name not in found
                found[name] = value.removeprefix(" ")
        return found

    def message(self) -> Any:
        event = self.next()
        assert event["event"] == "message", event
        return json.loads(event["data"])


@contextmanager
def listening(tls: ssl.SSLContext | None = None, **settings: object) -> Iterator[tuple[Node, Http]]:
    """Run a node with its HTTP listener while inside."""
    port = free_port()
    with Node(settings={"http": f"127.0.0.1:{port}", **settings}) as node:
        yield node, Http(port, tls)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value, polled under the watchdog."""
    end_s = time.monotonic() + WATCHDOG_S
    while not (found := condition()):
        assert time.monotonic() < end_s, f"not in {WATCHDOG_S:g} s: {what}"
        time.sleep(0.01)
    return found


def rest(made: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    found = b""
    try:
        while data := made.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found
