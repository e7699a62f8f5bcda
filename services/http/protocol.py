"""A connection with a clock: uvicorn's HTTP/1.1, which knows only how long one may be idle.

At any time a connection is in one phase, and each but `busy` lasts a limited time, whatever
trickles in. When it is over the connection is closed: nothing is kept for who dribbles.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sira.kernel.logs import Logs
from sira.kernel.settings import Settings
from sira.services.http.problems import MEDIA_TYPE, HttpError, document

_KEEP_S = 1e9  # uvicorn's own timer of idle connections: ours is the one that holds


class Phase(Enum):
    """What a connection is waited for."""

    HEAD = "the rest of a call's headers"
    BODY = "the rest of its body"
    IDLE = "the next call"
    BUSY = "our answer"


@dataclass(frozen=True, slots=True)
class Clock:
    """How long a phase may last, s."""

    head_s: float
    body_s: float
    idle_s: float
    write_s: float

    @classmethod
    def of(cls, settings: Settings) -> Clock:
        """Return what the settings say."""
        return cls(
            settings.http_header_s, settings.http_body_s, settings.http_idle_s,
            settings.http_write_s,
        )  # fmt: skip

    def limit_s(self, phase: Phase) -> float | None:
        """Return how long a phase may last; None: as long as our answer takes."""
        limits = {Phase.HEAD: self.head_s, Phase.BODY: self.body_s, Phase.IDLE: self.idle_s}
        return limits.get(phase)


def phase_of(connection: h11.Connection, *, fresh: bool) -> Phase:
    """Return the phase; `fresh`: no call has begun on this connection."""
    if connection.their_state is h11.IDLE:
        return Phase.HEAD if fresh or connection.trailing_data[0] else Phase.IDLE
    return Phase.BODY if connection.their_state is h11.SEND_BODY else Phase.BUSY


class _Said(logging.Handler):
    """What uvicorn says: faults are ours to tell, what strangers do wrong is nobody's news."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno < logging.ERROR:
            self._logs.debug("http", "protocol", text)
            return
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self._logs.error("http", "fault", text, traceback=trace)


def tell(logs: Logs) -> None:
    """Have what uvicorn and asyncio say stand in our log, instead of on stderr in its own words."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [_Said(logs)]
        logger.propagate = False


def config(app: Any, settings: Settings) -> Config:
    """Return what uvicorn's protocol reads of its configuration."""
    made = Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", interface="asgi3",
        proxy_headers=False, server_header=False, date_header=False, http="h11",
        timeout_keep_alive=round(_KEEP_S),
        h11_max_incomplete_event_size=settings.http_header_bytes_max,
    )  # fmt: skip
    made.load()
    return made


def factory(config: Config, state: ServerState, settings: Settings) -> Callable[[], Connection]:
    """Return what makes the protocol of each connection."""
    clock, most = Clock.of(settings), settings.http_connections_max
    return lambda: Connection(config, state, clock=clock, connections_max=most)


class Connection(H11Protocol):
    """One connection."""

    def __init__(
        self, config: Config, state: ServerState, *, clock: Clock, connections_max: int
    ) -> None:
        """Wait for `connection_made`."""
        super().__init__(config, state, {})
        self._clock, self._connections_max = clock, connections_max
        self._phase: Phase | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or close at once when there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._connections_max:
            transport.abort()
            return
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go."""
        for timer in (self._timer, self._writing):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; only a phase that ends moves its clock."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Go on to the next call."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Begin to wait for who does not read."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self._clock.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Somebody reads."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def send_400_response(self, msg: str) -> None:
        """Say that the bytes are no HTTP."""
        self._last_words(HttpError(400, msg))

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        phase = phase_of(self.conn, fresh=self.cycle is None)
        if phase is self._phase and phase is not Phase.BUSY:
            return
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
        limit_s = self._clock.limit_s(phase)
        self._timer = None if limit_s is None else self.loop.call_later(limit_s, self._late, phase)

    def _late(self, phase: Phase) -> None:
        self._timer = None
        if phase is Phase.IDLE:
            self.transport.close()
        else:
            self._last_words(HttpError(408, f"{phase.value} did not come in time"))

    def _last_words(self, error: HttpError) -> None:
        """Say why, unless an answer has begun, and close."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = json.dumps(document(error)).encode()
            title = document(error)["title"]
            head = (
                f"HTTP/1.1 {error.status} {title}\r\nContent-Type: {MEDIA_TYPE}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            if self.cycle is not None:
                self.cycle.disconnected = True  # what its handler still says goes nowhere
        self.transport.close()
        if self.transport.get_write_buffer_size():  # and who does not read that, either
            self.loop.call_later(self._clock.write_s, self.transport.abort)
