"""Callers who mean no good, or read nothing: each is refused or cut off, others do not notice."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

import sira
from sira.testing import Node

from .calls import WATCHDOG_S, Http, listening, rest, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LIMITS = {
    "http_header_s": 0.4, "http_body_s": 0.5, "http_idle_s": 0.4, "http_write_s": 0.5,
    "http_body_bytes_max": 100_000, "http_held_bytes_max": 150_000, "http_connections_max": 12,
    "http_header_bytes_max": 8_192, "http_streams_per_principal_max": 2, "stall_s": 0.2,
}  # fmt: skip
POST = b"POST /v1/publish/lab.x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"


@pytest.fixture(scope="module")
def node_and_http() -> Iterator[tuple[Node, Http]]:
    with listening(**LIMITS) as both:
        yield both


@pytest.fixture
def http(node_and_http: tuple[Node, Http]) -> Iterator[Http]:
    found = node_and_http[1]
    yield found
    answer = until(lambda: (a := _tried(found)) is not None and a, "others are served")
    assert answer.status == 200


def _tried(http: Http) -> object:
    try:
        return http.post("/v1/publish/lab.after", "x")
    except OSError:  # all connections are in use, until the last test's are closed
        return None


def dribbled(made: socket.socket, data: bytes) -> bytes:
    """Send a byte every 20 ms until the other side closes; return what it said."""
    made.settimeout(0.02)
    said = b""
    end_s = time.monotonic() + WATCHDOG_S
    for at in range(1 << 20):
        assert time.monotonic() < end_s, "the connection is still open"
        try:
            made.send(data[at % len(data) :][:1])
            more = made.recv(65_536)
            if not more:
                return said
            said += more
        except TimeoutError:
            continue
        except OSError:
            return said
    return said


def test_headers_that_dribble_close_the_connection(http: Http) -> None:
    with http.raw(b"GET /healthz HTTP/1.1\r\n") as made:
        assert b"408 Request Timeout" in dribbled(made, b"X-A: b\r\n")


def test_headers_of_a_second_call_that_dribble_close_it_too(http: Http) -> None:
    with http.raw(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as made:
        assert b"200 OK" in made.recv(65_536)
        assert b"408 Request Timeout" in dribbled(made, b"X-A: b\r\n")


def test_who_says_nothing_is_closed(http: Http) -> None:
    with http.raw() as made:
        assert b"408" in rest(made)
    with http.raw(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as made:
        assert rest(made).startswith(b"HTTP/1.1 200 OK")  # and then the idle connection ends


@pytest.mark.parametrize("head", [b"Content-Length: 5000\r\n\r\n"])
def test_a_body_that_dribbles_closes_the_connection(http: Http, head: bytes) -> None:
    with http.raw(POST + head) as made:
        assert b"408 Request Timeout" in dribbled(made, b"a")


def test_a_body_in_chunks_that_dribbles_closes_the_connection(http: Http) -> None:
    with http.raw(POST + b"Transfer-Encoding: chunked\r\n\r\n") as made:
        assert b"408 Request Timeout" in dribbled(made, b"1\r\na\r\n")


def test_a_body_that_nobody_waits_for_is_not_waited_for(http: Http) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n"
    with http.raw(head) as made:
        said = dribbled(made, b"a")
    assert b"200 OK" in said and b"connection: close" in said


def test_a_body_over_the_limit_is_refused_by_its_announced_length(http: Http) -> None:
    with http.raw(POST + b"Content-Length: 100001\r\n\r\n") as made:
        said = rest(made)
    assert b"413" in said and b"MESSAGE_TOO_LARGE" in said and b"connection: close" in said


def test_a_body_over_the_limit_is_refused_where_no_length_is_announced(http: Http) -> None:
    with http.raw(POST + b"Transfer-Encoding: chunked\r\n\r\n") as made:
        try:
            for _ in range(20):
                made.sendall(b"2710\r\n" + bytes(10_000) + b"\r\n")
        except OSError:
            pass  # it is closed already: the answer may be lost with what was still under way
        said = rest(made)
    assert not said or b"MESSAGE_TOO_LARGE" in said


def test_all_bodies_together_have_a_limit(http: Http) -> None:
    with http.raw(POST + b"Content-Length: 99000\r\n\r\n") as one:
        one.sendall(bytes(90_000))
        answer = until(
            lambda: (a := http.post("/v1/publish/lab.x", b"x" * 90_000)).status != 200 and a,
            "the second is refused",
        )
        answer.problem(429, "QUOTA_EXCEEDED")
        assert answer.headers["retry-after"] == "1"
    until(lambda: http.post("/v1/publish/lab.x", b"x" * 90_000).status == 200, "room again")


def test_ten_thousand_bytes_of_headers_are_refused(http: Http) -> None:
    http.get("/healthz", X_Long="a" * 10_000).problem(431, "BAD_REQUEST")
    with http.raw(b"GET /healthz HTTP/1.1\r\nX-Long: ") as made:
        made.sendall(b"a" * 10_000)  # no end of the line
        assert b"400" in rest(made)


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\n\r\n", b"\r\n\r\n\r\n\r\nGET\r\n\r\n",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    POST + b"Content-Length: -1\r\n\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
])  # fmt: skip
def test_what_is_no_http_ends_its_connection(http: Http, data: bytes) -> None:
    with http.raw(data) as made:
        said = rest(made)
    assert b" 200 " not in said


def test_an_event_stream_that_nobody_reads_is_cut_off(
    http: Http, node_and_http: tuple[Node, Http]
) -> None:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.settimeout(WATCHDOG_S)
    made.connect(("127.0.0.1", http.port))
    made.sendall(b"GET /v1/subscribe/flood.x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    with made, sira.connect_sync(node_and_http[0].url) as bus:
        until(lambda: bus.publish("flood.x", b"x").matched == 1, "it listens")
        x = {"x": np.zeros(60_000, np.uint8)}
        until(lambda: bus.publish("flood.x", x).matched == 0, "it is cut off")


def test_streams_of_one_principal_have_a_limit(http: Http) -> None:
    with http.events("lab.a"), http.events("lab.b"):
        answer = http.get("/v1/subscribe/lab.c")
        answer.problem(429, "QUOTA_EXCEEDED")
    until(lambda: _listens(http), "room again")


def _listens(http: Http) -> bool:
    made = http.connect()
    try:
        made.request("GET", "/v1/subscribe/lab.c")
        return made.getresponse().status == 200
    finally:
        made.close()


def test_connections_over_the_limit_are_closed_unheard(http: Http) -> None:
    held = [http.raw(b"GET /healthz HTTP/1.1\r\n") for _ in range(40)]
    try:
        refused = 0
        for made in held:
            made.setblocking(False)
        until(lambda: _closed(held) >= 40 - int(str(LIMITS["http_connections_max"])), "closed")
        refused = _closed(held)
        assert refused >= 28
    finally:
        for made in held:
            made.close()


def _closed(held: list[socket.socket]) -> int:
    found = 0
    for made in held:
        try:
            found += made.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            continue
        except OSError:
            found += 1
    return found


@pytest.mark.parametrize("headers", [
    {"Origin": "http://stranger.example"}, {"Origin": "null"}, {"Host": "stranger.example:80"},
])  # fmt: skip
def test_a_page_of_a_stranger_may_not_call(http: Http, headers: dict[str, str]) -> None:
    http.post("/v1/publish/lab.x", "x", **headers).problem(403, "DENIED")
    http.get("/v1/subscribe/lab.x", **headers).problem(403, "DENIED")


def test_a_page_of_ours_may(http: Http) -> None:
    answer = http.post("/v1/publish/lab.x", "x", Origin=f"http://127.0.0.1:{http.port}")
    assert answer.status == 200


def test_made_up_tokens_make_no_client_on_the_node(
    http: Http, node_and_http: tuple[Node, Http]
) -> None:
    with sira.connect_sync(node_and_http[0].url) as bus:
        before = len(bus.stats().clients)
        for number in range(20):
            answer = http.post("/v1/publish/lab.x", "x", Authorization=f"Bearer made-up-{number}")
            answer.problem(401, "UNAUTHENTICATED")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert len(bus.stats().clients) <= before + 1
    http.post("/v1/publish/lab.x", "x", Authorization="Basic eDp5").problem(401, "UNAUTHENTICATED")
    http.post("/v1/publish/lab.x", "x", Authorization="Bearer \xe4").problem(400, "BAD_REQUEST")
