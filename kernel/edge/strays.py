"""Bytes of a connection that are part of no call: floods of settings, pings, frames of no stream.

gRPC answers such frames by itself and never tells. So what came on a connection, by the count of
TCP, is set against what calls have taken from it. `Strays` decides and is pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sira.kernel.edge.open_sockets import Peer, parse

_SAVED_S = 1.0  # so much of what a second allows may come at once
_FRAME_BYTES = 256  # around each message: headers of HTTP/2, gRPC and TLS, updates of windows
_STEP = 16  # connections that are judged in one go
_TIMES = 2  # what a message takes on the wire, at most, beside that


@dataclass(slots=True, eq=False)
class Traffic:
    """What calls have taken from one connection. Counted by who serves them.

    Attributes:
        calls_now: under way.
        requests: messages of callers that have come whole.
        is_empty: a call is over, and there was none by then.
        explained_bytes: that calls took, or would have taken, had they gone on.
        answers_now: calls under way that owe their caller an end; a call that only tells what
            changes, for as long as somebody listens, does not.
        answered_s: when the last of these was over.
        since_s: it stands since then, or longer.
        name: gRPC's, of the peer; "": no call has come.
        walk: the last one that has seen it.
    """

    since_s: float
    name: str = ""
    walk: int = 0
    calls_now: int = 0
    requests: int = 0
    is_empty: bool = False
    explained_bytes: int = 0
    answers_now: int = 0
    answered_s: float = -math.inf
    _received_bytes: int = 0
    _received_explained: int = 0  # explained_bytes when that was counted
    _stray_bytes: float = 0.0
    _at_s: float = -1.0
    _is_past: bool = False

    def take(self, message_bytes: int) -> None:
        """Count a message that a call has read."""
        self.requests += 1
        self.explained_bytes += _TIMES * message_bytes + _FRAME_BYTES

    def is_flood(
        self, received_bytes: int, now_s: float, *, per_s_max: float, call_bytes_max: int
    ) -> bool:
        """Whether too much has come that no call took, now and when it was asked before.

        Twice, because calls that have come may not have begun: a node that is held up for a moment
        has begun them when it is asked again.

        Args:
            received_bytes: by the connection, since it began.
            now_s: monotonic clock, seconds.
            per_s_max: allowed each second.
            call_bytes_max: what one call may have under way and unread.
        """
        if received_bytes < self._received_bytes:  # another connection, from the same port
            self._received_bytes, self._stray_bytes = 0, 0.0
            self._at_s, self.since_s, self._is_past = -1.0, now_s, False
        new = received_bytes - self._received_bytes
        taken = self.explained_bytes - self._received_explained
        past_s = now_s - (self.since_s if self._at_s < 0 else self._at_s)
        self._stray_bytes = max(0.0, self._stray_bytes + new - taken - per_s_max * past_s)
        self._received_bytes, self._received_explained = received_bytes, self.explained_bytes
        self._at_s = now_s
        was_past = self._is_past
        self._is_past = self._stray_bytes > per_s_max * _SAVED_S + self.calls_now * call_bytes_max
        return was_past and self._is_past


class Strays:
    """The traffic of each connection of a node, as long as it stands."""

    def __init__(self, *, per_s_max: float, call_bytes_max: int, is_looked_at: bool = True) -> None:
        """Count nothing yet.

        Args:
            per_s_max: bytes a second that may come on a connection beside those of calls; 0: any.
            call_bytes_max: what one call may have under way and unread.
            is_looked_at: `look` will be called; else nothing is remembered, or it would be for
                ever.
        """
        self._per_s_max, self._call_bytes_max = per_s_max, call_bytes_max
        self._is_looked_at = is_looked_at
        self._by_peer: dict[Peer, Traffic] = {}
        self._by_name: dict[str, Traffic] = {}
        self._elsewhere = Traffic(0.0, is_empty=True)  # all that nobody looks at; never told
        self._walks = 0

    def __len__(self) -> int:
        """Return how many connections are remembered."""
        return len(self._by_peer)

    def begin(self, name: str, now_s: float, *, owes: bool) -> Traffic:
        """Count a call that begins; the caller counts what it takes, and calls `end` with it.

        Args:
            name: gRPC's, of the peer.
            now_s: monotonic clock, seconds.
            owes: it counts among `answers_now`.
        """
        traffic = self._by_name.get(name)
        if traffic is None:
            traffic = self._elsewhere
            is_tcp = self._is_looked_at and name.startswith("ipv")
            if is_tcp and (peer := parse(name)) is not None:
                traffic = self._of(peer, now_s)
                traffic.name = name
                self._by_name[name] = traffic
        traffic.calls_now += 1
        traffic.answers_now += owes
        return traffic

    def end(self, traffic: Traffic, now_s: float, *, owes: bool) -> bool:
        """Count a call that is over: what it has left unread was honest, too.

        Args:
            traffic: what `begin` returned.
            now_s, owes: see there.

        Returns:
            Whether no request had ever come on its connection; once for each connection.
        """
        traffic.calls_now -= 1
        if owes:
            traffic.answers_now -= 1
            traffic.answered_s = now_s
        traffic.explained_bytes += self._call_bytes_max
        if traffic.requests or traffic.is_empty:
            return False
        traffic.is_empty = True
        return True

    def is_owed(self, peer: Peer, since_s: float) -> bool:
        """Whether a connection has a call to be answered, or had one since then (monotonic)."""
        traffic = self._by_peer.get(peer)
        return traffic is not None and (traffic.answers_now > 0 or traffic.answered_s >= since_s)

    def look(self, received: Mapping[Peer, int | None], now_s: float) -> Iterator[Peer | None]:
        """Yield the connections that send too much beside calls; forget those that are gone.

        None in between, often: others may be let go on.

        Args:
            received: of each connection that stands, bytes since it began; None: not counted now.
            now_s: monotonic clock, seconds.
        """
        if not self._is_looked_at:
            return
        self._walks += 1
        for index, (peer, received_bytes) in enumerate(received.items(), 1):
            traffic = self._of(peer, now_s)
            if (
                received_bytes is not None
                and self._per_s_max
                and traffic.is_flood(
                    received_bytes,
                    now_s,
                    per_s_max=self._per_s_max,
                    call_bytes_max=self._call_bytes_max,
                )
            ):
                yield peer
            if index % _STEP == 0:
                yield None
        for index, peer in enumerate(list(self._by_peer), 1):
            traffic = self._by_peer[peer]
            if traffic.walk < self._walks - 1 and not traffic.calls_now:
                del self._by_peer[peer]
                self._by_name.pop(traffic.name, None)
            if index % _STEP == 0:
                yield None

    def _of(self, peer: Peer, now_s: float) -> Traffic:
        traffic = self._by_peer.get(peer)
        if traffic is None:
            traffic = self._by_peer[peer] = Traffic(now_s)
        traffic.walk = self._walks
        return traffic
