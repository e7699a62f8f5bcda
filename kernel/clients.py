"""Clients of one node: which streams belong together, and what outlives a lost connection.

A client names itself by the metadata `sira-client` (32 hex digits, chosen by it); without, each
stream is a client of its own. It is gone when its last stream ends. Its receipts linger, so that it
can come back and ask again (`sira-resume`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel.errors import BadRequest, Denied, QuotaExceeded
from sira.kernel.identity import Principal
from sira.kernel.settings import Settings
from sira.v1 import message_pb2

if TYPE_CHECKING:
    from sira.kernel.streams import PublishStream, SubscribeStream

CLIENT_KEY = "sira-client"
RESUME_KEY = "sira-resume"
LINK_KEY = "sira-link"
LIMITS_KEY = "sira-limits"
LIMITS_WAIT = "wait"
_LINK_CHARS_MAX = 64
_ID_CHARS = 32
_RESUME_DIGITS_MAX = 12


@dataclass(slots=True, eq=False)
class Client:
    """One client with at least one stream, or the node itself (number 0)."""

    number: int
    id: str
    principal: Principal
    peer: str
    connected_ns: int
    history: _native.History
    named: bool = False  # it chose its id, so it can come back with it
    publish_streams: int = 0  # opened so far with this history
    publishes: dict[PublishStream, None] = field(default_factory=dict)
    subscribes: dict[SubscribeStream, None] = field(default_factory=dict)
    subscription_count: int = 0
    published_before: int = 0  # on streams that have ended
    delivered_before: int = 0

    @property
    def stream_count(self) -> int:
        """Streams open now."""
        return len(self.publishes) + len(self.subscribes)

    @property
    def stamp(self) -> bytes:
        """Encoded fields that the node adds to each message of this client."""
        principal = self.principal
        return message_pb2.Message(
            principal=str(principal), tenant=principal.tenant, attempt=1
        ).SerializeToString()


@dataclass(frozen=True, slots=True)
class _Lingering:
    """Receipts of a client that has no stream, for its retries."""

    since_ns: int
    principal: Principal
    history: _native.History
    publish_streams: int


@dataclass(frozen=True, slots=True)
class Hello:
    """What a call says about its client: its id ("": none), and what it wants to resume.

    Attributes:
        link: the same on a Publish and a Subscribe stream that take each other's items; "": none.
        waits: on a Publish stream: what a limit refuses for the moment waits on the node.
    """

    id: str = ""
    resume_epoch: bytes = b""
    resume_messages: int = 0
    link: str = ""
    waits: bool = False

    @classmethod
    def read(cls, metadata: Mapping[str, str | bytes]) -> Hello:
        """Read the metadata of a call.

        Raises:
            BadRequest: `sira-client` is not 32 lower-case hex digits, or `sira-resume` is not
                `<epoch, hex>:<messages>`, or `sira-link` is too long, or `sira-limits` is not
                `wait`.
        """
        return cls(_client_id(metadata), *_resume(metadata), _link(metadata), _waits(metadata))


def _waits(metadata: Mapping[str, str | bytes]) -> bool:
    value = metadata.get(LIMITS_KEY)
    if value not in (None, LIMITS_WAIT):
        raise BadRequest(
            f"metadata {LIMITS_KEY} is {LIMITS_WAIT!r} or not there", details={"field": LIMITS_KEY}
        )
    return value is not None


def _client_id(metadata: Mapping[str, str | bytes]) -> str:
    value = metadata.get(CLIENT_KEY, "")
    if value == "":
        return ""
    if (
        not isinstance(value, str)
        or len(value) != _ID_CHARS
        or set(value) - set("0123456789abcdef")
    ):
        raise BadRequest(
            f"metadata {CLIENT_KEY} is not {_ID_CHARS} lower-case hex digits",
            details={"field": CLIENT_KEY},
        )
    return value


def _link(metadata: Mapping[str, str | bytes]) -> str:
    value = metadata.get(LINK_KEY, "")
    if not isinstance(value, str) or len(value) > _LINK_CHARS_MAX:
        raise BadRequest(
            f"metadata {LINK_KEY} is not text of at most {_LINK_CHARS_MAX} characters",
            details={"field": LINK_KEY},
        )
    return value


def _resume(metadata: Mapping[str, str | bytes]) -> tuple[bytes, int]:
    value = metadata.get(RESUME_KEY)
    if value is None:
        return b"", 0
    try:
        epoch, _, count = str(value).partition(":")
        if not count.isascii() or not count.isdigit() or len(count) > _RESUME_DIGITS_MAX:
            raise ValueError(count)
        return bytes.fromhex(epoch), int(count)
    except ValueError:
        raise BadRequest(
            f"metadata {RESUME_KEY} is not <epoch, hex>:<messages>", details={"field": RESUME_KEY}
        ) from None


class Clients:
    """All clients with a stream, and the receipts of those that lost theirs a moment ago."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_id: dict[str, Client] = {}
        self._by_number: dict[int, Client] = {}
        self._lingering: OrderedDict[str, _Lingering] = OrderedDict()
        self._last_number = 0

    def __len__(self) -> int:
        """Return how many clients have a stream."""
        return len(self._by_id)

    def __iter__(self) -> Iterator[Client]:
        """Yield the clients with a stream."""
        return iter(self._by_id.values())

    def get(self, client_id: str) -> Client | None:
        """Return the client of an id; None: it has no stream."""
        return self._by_id.get(client_id)

    def numbered(self, number: int) -> Client | None:
        """Return the client of a number; None: it is gone."""
        return self._by_number.get(number)

    def join(
        self, hello: Hello, principal: Principal, peer: str, now_ns: int
    ) -> tuple[Client, bool]:
        """Return the client that a new stream belongs to, and whether it is new.

        Raises:
            Denied: another principal has a client of this id.
            QuotaExceeded: clients_max or streams_per_client_max.
        """
        client = self._by_id.get(hello.id) if hello.id else None
        if client is not None:
            if client.principal != principal:
                raise Denied("another principal has a client of this id", details={"field": "id"})
            if client.stream_count >= self._settings.streams_per_client_max:
                raise _quota("streams_per_client_max", self._settings.streams_per_client_max)
            return client, False
        if len(self._by_id) >= self._settings.clients_max:
            raise _quota("clients_max", self._settings.clients_max)
        self._last_number += 1
        client_id = hello.id or _native.new_id().hex()
        kept = self._lingering.pop(client_id, None)
        if kept is None or kept.principal != principal:
            kept = _Lingering(now_ns, principal, self._new_history(), 0)
        client = Client(
            self._last_number,
            client_id,
            principal,
            peer,
            now_ns,
            kept.history,
            named=bool(hello.id),
            publish_streams=kept.publish_streams,
        )
        self._by_id[client_id] = self._by_number[client.number] = client
        return client, True

    @property
    def lingering(self) -> int:
        """How many lost clients may still come back for their receipts."""
        return len(self._lingering)

    def leave(self, client: Client, now_ns: int) -> None:
        """Forget a client whose last stream ended; its receipts linger for `retry_window_s`."""
        assert client.stream_count == 0, client.id
        del self._by_id[client.id], self._by_number[client.number]
        if client.named and client.publish_streams:
            self._lingering[client.id] = _Lingering(
                now_ns, client.principal, client.history, client.publish_streams
            )
        self.forget(now_ns)

    def forget(self, now_ns: int) -> None:
        """Forget receipts that lingered long enough, or that are too many."""
        oldest_ns = now_ns - round(self._settings.retry_window_s * 1e9)
        while self._lingering:
            client_id, kept = next(iter(self._lingering.items()))
            if kept.since_ns > oldest_ns and len(self._lingering) <= self._settings.clients_max:
                return
            del self._lingering[client_id]

    def _new_history(self) -> _native.History:
        return _native.History(
            messages_max=self._settings.retry_messages_max,
            window_ns=round(self._settings.retry_window_s * 1e9),
        )


def _quota(setting: str, limit: int) -> QuotaExceeded:
    return QuotaExceeded(f"{setting} = {limit} is reached", details={"setting": setting})
