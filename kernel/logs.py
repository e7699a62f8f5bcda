"""JSON log lines with fixed fields, written by a thread of their own: the loop never waits.

Fields of every line: time, level, component, event, node, tenant, principal, agent, intent,
correlation, process, trace_id, span_id; then `message` and what else the event brings. One that
does not apply is "".
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

FIELDS = (
    "time", "level", "component", "event", "node", "tenant", "principal", "agent", "intent",
    "correlation", "process", "trace_id", "span_id",
)  # fmt: skip
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_CLOSE_S = 2.0


class Logs:
    """Writes lines to a stream; when its reader is slow, lines are counted and not kept."""

    def __init__(
        self, *, node: str, level: str = "info", queue_max: int = 10_000, out: IO[str] | None = None
    ) -> None:
        """Begin; the thread starts with the first line.

        Args:
            node: name of the node, in every line.
            level: least severe that is written: debug, info, warning, error.
            queue_max: lines that may wait.
            out: where lines go; None: stderr.
        """
        self._node, self._threshold = node, LEVELS[level]
        self._out = out
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(queue_max)
        self._thread: threading.Thread | None = None
        self.dropped = 0
        self.written = 0

    def debug(self, component: str, event: str, message: str = "", **fields: Any) -> None:
        """Say what only its developers want to know."""
        self.write("debug", component, event, message, fields)

    def info(self, component: str, event: str, message: str = "", **fields: Any) -> None:
        """Say what happened."""
        self.write("info", component, event, message, fields)

    def warning(self, component: str, event: str, message: str = "", **fields: Any) -> None:
        """Say what somebody should look at."""
        self.write("warning", component, event, message, fields)

    def error(self, component: str, event: str, message: str = "", **fields: Any) -> None:
        """Say what went wrong."""
        self.write("error", component, event, message, fields)

    def close(self) -> None:
        """Write what waits and end the thread; a reader that never reads is not waited for."""
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=_CLOSE_S)
            except queue.Full:
                return
            self._thread.join(_CLOSE_S)
            self._thread = None

    def write(
        self, level: str, component: str, event: str, message: str, fields: Mapping[str, Any]
    ) -> None:
        """Write one line of a level that is known only now."""
        if LEVELS[level] < self._threshold:
            return
        try:
            self._queue.put_nowait(line(self._node, level, component, event, message, fields))
        except queue.Full:
            self.dropped += 1
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sira-logs", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        """Write lines until told to end."""
        told = 0
        while (each := self._queue.get()) is not None:
            out = self._out or sys.stderr
            if self.dropped > told:
                each["lines_lost"] = self.dropped - told
                told = self.dropped
            try:
                out.write(json.dumps(each, default=str) + "\n")
                if self._queue.empty():
                    out.flush()
                self.written += 1
            except (OSError, ValueError):  # nobody reads, or the stream is closed
                self.dropped += 1


def line(
    node: str, level: str, component: str, event: str, message: str, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return one line: all `FIELDS`, the message, and what the event brings."""
    made: dict[str, Any] = dict.fromkeys(FIELDS, "")
    made.update(
        time=_timestamp(time.time_ns()),
        level=level,
        component=component,
        event=event,
        node=node,
        process=str(os.getpid()),
    )
    made["message"] = message
    made.update(fields)
    return made


def _timestamp(time_ns: int) -> str:
    """Return RFC 3339 in UTC with microseconds."""
    whole, ns = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{ns // 1_000:06d}Z"
