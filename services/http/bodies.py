"""From an HTTP body to a message's, and back. Pure."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from sira import _native
from sira.kernel.errors import BadRequest
from sira.services.http.problems import HttpError
from sira.services.http.tensors import from_json, from_npy, to_json, to_npy

JSON, NPY = "application/json", "application/x-npy"
TEXT, BYTES = "text/plain", "application/octet-stream"
TEXT_UTF8 = "text/plain; charset=utf-8"
TAKEN = (JSON, NPY, TEXT, BYTES)
HEADER_PREFIX = "sira-header-"
_TOKEN_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_NAME_CHARS_MAX = 256
# Each value becomes an object while nothing else runs: 15 MiB of `[],` took 1.7 s and 450 MiB.
_JSON_VALUES_MAX = 250_000


@dataclass(frozen=True, slots=True)
class Body:
    """What a request says: the body of the message, and its content type ("": tensors)."""

    body: Any
    content_type: str


def read(content_type: str, data: bytes, *, name: str = "x", plain: bool = False) -> Body:
    """Return the body that came.

    Args:
        content_type: header of that name; "" is bytes.
        name: of the one tensor of .npy.
        plain: JSON is passed on as it is, whatever it looks like.
    Raises:
        HttpError: 415, a content type that is not taken.
        BadRequest: the body is not what its type says.
    """
    media, charset = _media(content_type)
    if media == JSON:
        return _json(data, plain=plain)
    if media == NPY:
        if not name or len(name) > _NAME_CHARS_MAX:
            raise BadRequest("`name` of the tensor is empty or too long", details={"field": "name"})
        return Body({name: from_npy(data)}, "")
    if media == TEXT:
        if charset not in ("utf-8", "us-ascii"):
            raise HttpError(415, f"charset {charset[:40]!r} is not taken", help="send UTF-8")
        return Body(_utf8(data), TEXT_UTF8)
    if media in (BYTES, ""):
        return Body(data, BYTES)
    raise HttpError(415, f"{media[:80]!r} is not taken", help=f"one of {', '.join(TAKEN)}")


def write(message: _native.Message, accept: str) -> tuple[bytes, str]:
    """Return a message's body as HTTP carries it, and the content type.

    Without a wish: tensors as JSON, text and bytes as they are. A content type that a browser would
    run is not passed on; a stranger chose it.

    Raises:
        HttpError: 406, the body cannot be said in a type that is accepted.
    """
    own = _own_type(message)
    for wish in [own, *TAKEN]:
        if _accepts(accept, wish):
            data = _as(message, wish, own)
            if data is not None:
                return data, TEXT_UTF8 if wish == TEXT else wish
    raise HttpError(406, f"the reply is {own}, and nothing that `Accept` names can carry it")


def event(message: _native.Message) -> str:
    """Return a message as the data of a server-sent event: one line of JSON."""
    found: dict[str, Any] = {"topic": message.topic, "id": message.id}
    for key in ("source", "principal", "type", "content_type", "key", "traceparent", "reply_to"):
        if value := getattr(message, key):
            found[key] = value
    if message.priority:
        found["priority"] = message.priority
    if headers := message.headers:
        found["headers"] = headers
    found["time_ns"] = message.time_ns
    if len(message):
        found["tensors"] = {name: to_json(array) for name, array in message.items()}
        return json.dumps(found)
    data = bytes(message.bytes)
    try:
        found["text"] = data.decode()
    except UnicodeDecodeError:
        found["base64"] = base64.b64encode(data).decode()
    return json.dumps(found)


def headers_in(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Return the message headers of a request; values are percent-encoded UTF-8."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if key.lower().startswith(HEADER_PREFIX):
            name = key[len(HEADER_PREFIX) :].lower()
            try:
                text = unquote(value, errors="strict")
                text.encode()
            except UnicodeError:
                raise BadRequest(f"header {key[:80]} is not percent-encoded UTF-8") from None
            if not name or name in found:
                raise BadRequest(f"header {key[:80]} has no name, or comes twice")
            found[name] = text
    return found


def headers_out(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a reply as HTTP can carry them; other names stay behind."""
    return {
        f"Sira-Header-{name}": quote(value, safe=" !#$&'()*+,/:;=?@[]~")
        for name, value in headers.items()
        if name and set(name.lower()) <= _TOKEN_CHARS
    }


def _json(data: bytes, *, plain: bool) -> Body:
    text = _utf8(data)
    if sum(map(data.count, (b",", b"[", b"{"))) > _JSON_VALUES_MAX:
        raise BadRequest(
            f"JSON of more than {_JSON_VALUES_MAX} values is not taken",
            help=f"send arrays as {NPY}, or as tensors with base64",
        )
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {str(error)[:200]}") from None
    looks = isinstance(value, dict) and any(
        isinstance(each, dict) and "dtype" in each for each in value.values()
    )
    if plain or not looks:
        return Body(text, JSON)
    return Body({name: from_json(name, entry) for name, entry in value.items()}, "")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 at byte {error.start}") from None


def _media(content_type: str) -> tuple[str, str]:
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charset = "utf-8"
    for each in parameters:
        key, _, value = each.partition("=")
        if key.strip() == "charset":
            charset = value.strip().strip('"')
    return media, charset


def _own_type(message: _native.Message) -> str:
    """Return the type that says a body as it is."""
    if len(message):
        return JSON
    media = _media(message.content_type)[0]
    return media if media in (JSON, TEXT) else BYTES


def _as(message: _native.Message, wish: str, own: str) -> bytes | None:
    if len(message):  # tensors
        if wish == JSON:
            return json.dumps({name: to_json(array) for name, array in message.items()}).encode()
        if wish == NPY and len(message) == 1:
            return to_npy(message.values()[0])
        return None
    if wish in (own, BYTES):
        return bytes(message.bytes)
    data = bytes(message.bytes)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if wish == TEXT:
        return data
    return json.dumps(text).encode() if wish == JSON and own == TEXT else None


def _accepts(accept: str, media: str) -> bool:
    """Whether `Accept` takes a type; weights other than 0 do not matter."""
    if not accept.strip():
        return True
    major = media.partition("/")[0]
    for each in accept.lower().split(","):
        wanted, *parameters = (part.strip() for part in each.split(";"))
        if wanted in (media, f"{major}/*", "*/*"):
            return not any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00") for p in parameters)
    return False
