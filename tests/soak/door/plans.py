"""What one attack sends: a pure function of its seed and of what an attacker may know.

A plan is one of three: a gRPC call as a client would make it, bytes on the gRPC port, bytes on the
HTTP port. Every method comes from the descriptors: one that is new is fuzzed without a line here.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from sira.v1 import bus_pb2, kernel_pb2
from tests.soak import http2

from .shapes import broken, filled

_FILES = (bus_pb2, kernel_pb2, health_pb2, reflection_pb2)
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in (cast("FileDescriptor", each.DESCRIPTOR) for each in _FILES)
    for service in file.services_by_name.values()
    for method in service.methods
}
_STREAMS = ("/sira.v1.Bus/Publish", "/sira.v1.Bus/Subscribe", "/sira.v1.Kernel/Attach")
PATHS = ("/metrics", "/healthz", "/readyz", "/v1/publish/", "/v1/request/", "/v1/subscribe/")
_TARGETS = ("fuzz.a", "fuzz.b", "fuzz.*", "fuzz.>", "secret.box", "secret.>", ">", "sira.>",
            "", "%00", "%2e%2e%2f", "fuzz%2Ea", "%ff%fe", "a" * 3_000,
            "fuzz.a/b", "_reply.0")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """What an attacker knows: credentials by kind, names worth trying, ids that others use."""

    shown: dict[str, str]  # "good" is the attacker's own token
    words: tuple[str, ...]
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A gRPC call: messages up, in one stream; `cancel_after`: given up after so many answers."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    messages: tuple[bytes, ...]
    timeout_s: float
    cancel_after: int | None


@dataclass(frozen=True, slots=True)
class Wire:
    """Bytes at the gRPC port, after the preface."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Http:
    """Bytes at the HTTP port, in pieces; `leave`: rest | early | half, how the attacker goes."""

    pieces: tuple[bytes, ...]
    leave: str


Plan = Call | Wire | Http


def make(seed: int, known: Known) -> Plan:
    """Return the plan of a seed."""
    rng = random.Random(seed)
    ways: tuple[tuple[Callable[[random.Random, Known], Plan], int], ...] = (
        (_stream, 4), (_unary, 4), (_wire, 2), (_http, 4)
    )  # fmt: skip
    (way,) = rng.choices([way for way, _ in ways], [weight for _, weight in ways])
    return way(rng, known)


# ---- who -----------------------------------------------------------------------------------------


def _authorization(rng: random.Random, known: Known) -> str:
    """Return what is shown: mostly the attacker's own token, so that it gets past the door."""
    if rng.random() < 0.75:
        return f"Bearer {known.shown['good']}"
    value = f"Bearer {rng.choice(list(known.shown.values()))}"
    match rng.randrange(6):
        case 0:
            return value.replace(
                "Bearer", rng.choice(["bearer", "BEARER", "Basic", "", "Bearer\t"])
            )
        case 1:
            return value[: rng.randrange(len(value))]
        case 2:
            at = rng.randrange(len(value))
            return value[:at] + rng.choice("Aa0_-=.~ ,") + value[at + 1 :]
        case 3:
            return value + rng.choice([" ", "=", "A" * 9_000, ", " + value])
        case _:
            return value


def _metadata(rng: random.Random, known: Known) -> tuple[tuple[str, str | bytes], ...]:
    """Return metadata that a client library lets through."""
    made: list[tuple[str, str | bytes]] = []
    if rng.random() < 0.95:
        made.append(("authorization", _authorization(rng, known)))
    odd: dict[str, Sequence[str]] = {
        "sira-client": [rng.randbytes(16).hex(), "x", "AB" * 16, *(i.hex() for i in known.ids)],
        "sira-resume": ["zz:1", f"{rng.randbytes(16).hex()}:7", "ab:-1", "ab", f"ab:{'9' * 40}"],
        "sira-link": ["a", "b" * 65, "", rng.randbytes(8).hex()],
        "sira-intent": [rng.randbytes(16).hex(), "g" * 32, ""],
        "traceparent": [f"00-{rng.randbytes(16).hex()}-{rng.randbytes(8).hex()}-01", "00-0-0-0",
                        "ff-" + "0" * 80, "00-" + "g" * 32 + "-" + "0" * 16 + "-01", "-" * 55],
        "tracestate": ["a=b", "=" * 600, ",".join(f"k{i}=v" for i in range(40))],
        "baggage": ["a=b;c", "%" * 100],
        "x-forwarded-for": ["10.0.0.1"],
        "authorization": ["", f"Bearer {known.shown['good']}"],
    }  # fmt: skip
    for _ in range(rng.choice([0, 0, 0, 0, 1, 2, 6])):
        if rng.random() < 0.2:
            key = rng.choice(["x-bin", "sira-client-bin", "authorization-bin", "traceparent-bin"])
            made.append((key, rng.randbytes(rng.choice([0, 1, 16, 300]))))
        else:
            key = rng.choice(list(odd))
            made.append((key, rng.choice(odd[key])))
    return tuple(made)


# ---- gRPC ----------------------------------------------------------------------------------------


def _stream(rng: random.Random, known: Known) -> Call:
    """One of the streams of frames: sound items first, so that there is a state to disturb."""
    name = rng.choice(_STREAMS)
    method = METHODS[name]
    messages: list[bytes] = []
    if name == "/sira.v1.Bus/Subscribe" and rng.random() < 0.8:
        pattern = rng.choice(["fuzz.>", "fuzz.a", "fuzz.*", ">", "secret.>", *known.words])
        opening = bus_pb2.Open(subscription=1, pattern=pattern)
        messages.append(bus_pb2.Frame(items=[bus_pb2.Item(open=opening)]).SerializeToString())
    for _ in range(rng.choice([1, 2, 5, 20])):
        if name == "/sira.v1.Bus/Publish" and rng.random() < 0.7:
            message = _sound(rng, known)
            made: Any = bus_pb2.Frame(items=_items(rng, message))
        else:
            made = filled(rng, method.input_type, known.words, known.ids)
        messages.append(broken(rng, made.SerializeToString()))
    return Call(
        name, _metadata(rng, known), tuple(messages), rng.choice([0.05, 0.2, 0.5]),
        rng.choice([None, None, 0, 1, 3]),
    )  # fmt: skip


def _sound(rng: random.Random, known: Known) -> Any:
    """A message that could be accepted, with one field or two of it odd."""
    message: Any = filled(
        rng, METHODS["/sira.v1.Bus/Request"].input_type, known.words, known.ids
    )  # fmt: skip
    message.id = rng.randbytes(16)
    message.topic = rng.choice(["fuzz.a", "fuzz.b", "fuzz.a.b", "secret.box"])
    message.priority = rng.randrange(8)
    message.ttl_ns = rng.choice([0, 0, 50_000_000])
    for name in ("principal", "tenant", "offset", "attempt", "expect", "fence"):
        if rng.random() < 0.95:
            message.ClearField(name)
    del message.tensors[:]
    for index in range(rng.randrange(3)):
        data = rng.randbytes(rng.choice([0, 1, 8, 64, 4_096]))
        shape = rng.choice([[len(data)], [len(data), 1], [1, len(data)], [2**63], [1] * 65])
        message.tensors.add(
            name=f"t{index}", dtype=rng.choice([2, 2, 2, 99]), shape=shape, data=data
        )
    return message


def _items(rng: random.Random, message: Any) -> list[bus_pb2.Item]:
    """The message as it is, or as head and chunks that fit, overlap, leave gaps or go on."""
    if rng.random() < 0.5 or not message.tensors:
        return [bus_pb2.Item(message=message, quiet=rng.random() < 0.2)] * rng.choice([1, 1, 3])
    head = type(message)()
    head.CopyFrom(message)
    chunks = []
    for index, tensor in enumerate(head.tensors):
        tensor.data_bytes = rng.choice([len(tensor.data), len(tensor.data), 10 << 30, 2**64 - 1])
        for offset in range(0, len(tensor.data), 1_000):
            chunk = bus_pb2.Chunk(
                message_id=message.id, tensor=rng.choice([index, index, index, 7]),
                offset=rng.choice([offset, offset, offset, 2**64 - 1]),
                data=tensor.data[offset : offset + 1_000],
            )  # fmt: skip
            chunks.append(bus_pb2.Item(chunk=chunk))
        tensor.ClearField("data")
    if rng.random() < 0.3:
        chunks.append(bus_pb2.Item(abort=bus_pb2.Abort(message_id=message.id)))
    if rng.random() < 0.2:
        rng.shuffle(chunks)
    return [bus_pb2.Item(head=head), *chunks]


def _unary(rng: random.Random, known: Known) -> Call:
    """Any method of any service; sometimes no request, or several."""
    name = rng.choice(list(METHODS))
    made = [
        broken(
            rng, filled(rng, METHODS[name].input_type, known.words, known.ids).SerializeToString()
        )
        for _ in range(rng.choice([1, 1, 1, 1, 0, 2]))
    ]
    if rng.random() < 0.1:
        name = rng.choice(
            [name + "x", name[1:], "/", "//", name.lower(), "/a/b/c", "/" + "s" * 900]
        )
        name = name if name.startswith("/") else "/" + name
    return Call(
        name, _metadata(rng, known), tuple(made), rng.choice([0.05, 0.3, 0.6]),
        rng.choice([None, None, None, 0]),
    )  # fmt: skip


def _wire(rng: random.Random, known: Known) -> Wire:
    """HTTP/2 by hand: header fields and values that no client library would send."""
    name = rng.choice(list(METHODS))
    fields = [
        (b"authorization", _authorization(rng, known).encode()),
        *((key.encode(), value if isinstance(value, bytes) else value.encode())
          for key, value in _metadata(rng, known)),
    ]  # fmt: skip
    odd = [
        (b"Authorization", b"Bearer x"), (b"grpc-timeout", b"99999999999H"),
        (b"grpc-timeout", b"-1S"),
        (b"grpc-encoding", b"gzip"), (b"grpc-encoding", b"\xff"), (b"content-length", b"-5"),
        (b"sira-client", b"\x00" * 32), (b"traceparent", b"\xff" * 55), (b"x-\x00", b"\r\n: y"),
        (b"", b"empty"), (b":path", b"/second"), (b"authorization", b"\xe4\xf6" * 20),
        (b"x-bin", b"not base64!"), (b"te", b"nothing"), (b"connection", b"close"),
    ]  # fmt: skip
    for _ in range(rng.randrange(3)):
        fields.insert(rng.randrange(len(fields) + 1), rng.choice(odd))
    block = broken(rng, http2.call(name, *fields), times=rng.choice([0, 0, 1, 2]))
    body = filled(rng, METHODS[name].input_type, known.words, known.ids).SerializeToString()
    body = broken(rng, body)[:60_000]
    # gRPC's own prefix: whether it is compressed, and its length; neither need be true.
    size = rng.choice([len(body), len(body), len(body), 0, len(body) + 1, 2**32 - 1])
    message = struct.pack("!BI", rng.choice([0, 0, 0, 1, 255]), size) + body
    ended = http2.END_STREAM if rng.random() < 0.7 else 0
    data = [
        http2.frame(http2.SETTINGS, http2.ACK, 0),
        http2.frame(http2.HEADERS, http2.END_HEADERS, 1, block),
        http2.frame(http2.DATA, ended, 1, message[:16_000]),
    ]
    if rng.random() < 0.3:
        kind = rng.randrange(12)
        data.append(
            http2.frame(kind, rng.randrange(256), rng.choice([0, 1, 2, 3]), rng.randbytes(9))
        )
    whole = b"".join(data)
    return Wire(broken(rng, whole, times=rng.choice([0, 0, 0, 1])))


# ---- HTTP ----------------------------------------------------------------------------------------


def _http(rng: random.Random, known: Known) -> Http:
    """One call or a few in one go, whole or in pieces."""
    whole = b"".join(_request(rng, known) for _ in range(rng.choice([1, 1, 1, 2, 4])))
    whole = broken(rng, whole, times=rng.choice([0, 0, 0, 1, 2]))
    pieces = [whole]
    if rng.random() < 0.3:
        cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(3))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return Http(
        tuple(each for each in pieces if each), rng.choice(["rest", "rest", "early", "half"])
    )


def _request(rng: random.Random, known: Known) -> bytes:
    method = rng.choice(["GET", "POST", "POST", "POST", "GET", "HEAD", "PUT", "OPTIONS", "X" * 80])
    path = rng.choice(PATHS)
    if path.startswith("/v1/"):
        path += rng.choice([*_TARGETS, "fuzz.a", "fuzz.a", *map(_quoted, known.words)])
        method = rng.choice([method, "GET" if "subscribe" in path else "POST"])
    if rng.random() < 0.05:
        path = rng.choice(
            ["/", "//", "/v1", "/v1/publish/", "*", "http://x/", "/%", "/..;/metrics"]
        )
    path += _query(rng, method, path)
    kind, body = _body(rng)
    headers = [("Host", rng.choice(["127.0.0.1"] * 8 + ["evil.example", "", "a b"]))]
    if rng.random() < 0.95:
        headers.append(("Authorization", _authorization(rng, known)))
    odd = [
        ("Sira-Header-X", "%ff"), ("Sira-Header-Y", "ok"), ("Sira-Header-", "x"),
        ("X", "y" * 9_000),
        ("Accept", rng.choice(["*/*", "application/x-npy", "a/b;q=0", "," * 50, "text/html"])),
        ("Origin", "http://evil.example"), ("traceparent", "00-" + "z" * 50),
        ("Expect", "100-continue"),
        ("Transfer-Encoding", "gzip"), ("Content-Length", "7"), ("Upgrade", "h2c"),
        ("Connection", "close"), ("Range", "bytes=0-9999999999"), ("Last-Event-ID", "\0"),
        ("X-Forwarded-For", "127.0.0.1"), ("Content-Encoding", "gzip"), (" folded", "x"),
    ]  # fmt: skip
    headers += [rng.choice(odd) for _ in range(rng.choice([0, 0, 1, 3]))]
    if method != "GET" or rng.random() < 0.1:
        headers.append(("Content-Type", kind))
        body, framing = _framed(rng, body)
        headers.append(framing)
    else:
        body = b""
    head = f"{method} {path} HTTP/{rng.choice(['1.1'] * 9 + ['1.0', '2.0', '9'])}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    return head.encode("latin-1", "replace") + body


def _quoted(word: str) -> str:
    from urllib.parse import quote

    return quote(word[:500], safe=".*>")


def _query(rng: random.Random, method: str, path: str) -> str:
    pairs = ["timeout_s=0.1"] if "/request/" in path else []
    odd = ["ttl_s=0.1", "ttl_s=nan", "timeout_s=-1", "timeout_s=1e999", "priority=9", "priority=3",
           "name=" + "n" * 300, "plain=1", "plain=2", "grade=disk", "grade=consumed", "key=k",
           "type=t", "overflow=latest", "overflow=x", "group=g", "group=%00", "zz=1",
           "%ff=%ff"]  # fmt: skip
    pairs += [rng.choice(odd) for _ in range(rng.choice([0, 0, 0, 1, 2]))]
    return "?" + "&".join(pairs) if pairs else ""


def _body(rng: random.Random) -> tuple[str, bytes]:
    """Return a content type and a body of that type or nearly."""
    array = np.arange(rng.randrange(20), dtype=rng.choice(["f4", "u1", "i8", "c8", ">f4"]))
    match rng.randrange(6):
        case 0:
            file = io.BytesIO()
            np.save(file, array)
            return "application/x-npy", broken(rng, file.getvalue())
        case 1:
            odd = rng.choice([b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n", b"(" * 900])
            head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(odd)) + odd
            return "application/x-npy", head + rng.randbytes(8)
        case 2:
            entry = {
                "dtype": rng.choice(["f32", "u8", "bool", "i4", "f99", 7]),
                "shape": rng.choice([[array.size], [2**62, 4], [-1], [1] * 40, "x", []]),
                "data": base64.b64encode(array.real.astype("f4").tobytes()).decode()
                + rng.choice(["", "", "=", "é"]),
            }
            return "application/json", broken(rng, json.dumps({"x": entry}).encode())
        case 3:
            text = rng.choice(
                [b"[" * 60_000, b'{"a":' * 5_000, b"1" * 5_000, b'"\\ud800"', b"NaN", b""]
            )
            return "application/json", text
        case 4:
            kind = rng.choice(["text/plain", "text/plain; charset=utf-16", "text/html", "x", ""])
            return kind, rng.choice([b"hello", b"\xff\xfe", b"", rng.randbytes(20_000)])
        case _:
            return "application/octet-stream", rng.randbytes(rng.choice([0, 1, 5_000]))


def _framed(rng: random.Random, body: bytes) -> tuple[bytes, tuple[str, str]]:
    """Return the body as it goes out, and the header that says how long it is: nearly always so."""
    if rng.random() < 0.7:
        size = rng.choice([len(body)] * 9 + [len(body) + 5, max(0, len(body) - 3), 10**18])
        return body, ("Content-Length", str(size))
    out, at = bytearray(), 0
    while at < len(body):
        size = rng.choice([1, 7, 4_096, len(body)])
        part = body[at : at + size]
        out += b"%x%s\r\n" % (len(part), rng.choice([b"", b"", b"; a=b"])) + part + b"\r\n"
        at += size
    return bytes(out) + b"0\r\n\r\n", ("Transfer-Encoding", "chunked")
