"""Plans that are carried out first, always: each kind of trouble, and what once went wrong."""

from __future__ import annotations

from collections.abc import Callable

from sira.v1 import bus_pb2, kernel_pb2
from tests.soak import http2

from .plans import METHODS, Call, Http, Known, Plan, Wire

CALL_S = 0.3  # streams that nobody ends last so long


def _shows(known: Known, who: str = "good") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {known.shown[who]}"),)


def _call(method: str, *messages: bytes, who: str = "good") -> Callable[[Known], Plan]:
    return lambda known: Call(method, _shows(known, who), messages, CALL_S, None)


def _http(*pieces: bytes, leave: str = "rest") -> Callable[[Known], Plan]:
    """Bytes in which BEARER stands for the attacker's token."""
    return lambda known: Http(
        tuple(each.replace(b"BEARER", f"Bearer {known.shown['good']}".encode()) for each in pieces),
        leave,
    )


def _opening(pattern: str, **more: str) -> bytes:
    opening = bus_pb2.Open(subscription=1, pattern=pattern, **more)  # type: ignore[arg-type]
    return bus_pb2.Frame(items=[bus_pb2.Item(open=opening)]).SerializeToString()


def _as_another(known: Known) -> Plan:
    """The attacker's token with the id of a client of somebody else."""
    metadata = (*_shows(known), ("sira-client", known.ids[0].hex()))
    return Call("/sira.v1.Bus/Subscribe", metadata, (_opening("secret.>"),), CALL_S, None)


def _two_tokens(known: Known) -> Plan:
    """Two authorization fields: the first one good, the second a claim to be somebody else."""
    fields = [(b"authorization", f"Bearer {known.shown[who]}".encode())
              for who in ("good", "foreign root")]  # fmt: skip
    block = http2.call("/sira.v1.Kernel/Stats", *fields)
    data = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, block)
    return Wire(data + http2.frame(http2.DATA, http2.END_STREAM, 1, b"\0\0\0\0\0"))


def _path_that_is_no_text(_: Known) -> Plan:
    """Ended the gRPC server of grpcio 1.84 and 1.85, by anybody."""
    block = http2.call("/").replace(b"\x01/", b"\x03/\xff\xfe")
    data = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, block)
    return Wire(data + http2.frame(http2.DATA, http2.END_STREAM, 1, b"\0\0\0\0\0"))


_HOST = b"Host: 127.0.0.1\r\nAuthorization: BEARER\r\n"
CORPUS: tuple[Callable[[Known], Plan], ...] = (
    *(_call(name) for name in METHODS),
    *(_call(name, b"") for name in METHODS),
    *(_call(name, b"\xff" * 40) for name in METHODS),
    *(_call("/sira.v1.Kernel/Stats", b"", who=who)
      for who in ("expired", "foreign root", "foreign cluster", "alg none", "cut")),
    *(_call("/sira.v1.Bus/Subscribe", _opening(pattern))
      for pattern in ("secret.>", "secret.box", ">", "*.*", "*.box", "sira.>")),
    _call("/sira.v1.Bus/Subscribe", _opening("fuzz.a", group="\0")),
    _call("/sira.v1.Kernel/Ledger",
          kernel_pb2.LedgerRequest(pattern="secret.>").SerializeToString()),
    _call("/sira.v1.Bus/ListTopics", bus_pb2.ListTopicsRequest().SerializeToString()),
    _as_another,
    _two_tokens,
    _path_that_is_no_text,
    # Left before the body had come: was a traceback in the log, and counted as a fault of ours.
    _http(b"POST /v1/publish/fuzz.a HTTP/1.1\r\n" + _HOST + b"Content-Length: 60000\r\n\r\nabc",
          leave="early"),
    _http(b"NO HTTP AT ALL\r\n\r\n"),
    _http(b"GET /v1/subscribe/secret.%3E HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _http(b"GET /v1/subscribe/secret.box HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _http(b"GET /metrics HTTP/1.1\r\n" + _HOST + b"\r\n"),
    _http(b"GET /v1/subscribe/fuzz.%3E HTTP/1.1\r\n" + _HOST + b"\r\n", leave="early"),
    _http((b"GET /healthz HTTP/1.1\r\n" + _HOST + b"\r\n") * 20),
    _http(b"POST /v1/publish/fuzz.a HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\n"
          b"Content-Length: 60000\r\n\r\n" + b"[" * 60_000),
    _http(b"POST /v1/publish/fuzz.a HTTP/1.1\r\n" + _HOST, b"Content-Type: application/x-npy\r\n"
          b"Transfer-Encoding: chunked\r\n\r\n6\r\n\x93NUMPY\r\n", b"2\r\n\x01\x00\r\n0\r\n\r\n"),
)  # fmt: skip
