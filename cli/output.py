"""What a verb says: lines for people, or one JSON envelope a line for programs.

With --json, standard output carries nothing but envelopes: `v`, `type`, `seq`, `time`, `data`. The
last one is a `result` or an `error`, and there is exactly one of these. Everything else (progress
of people's runs, logs) goes to standard error.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

ENVELOPE_VERSION = 1

EXIT_OK = 0
EXIT_UNACCOUNTED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
EXIT_PIPE_CLOSED = 141
EXIT_INTERRUPTED = 130


@dataclass
class Result:
    """How a verb ended: what `result` carries, and the exit code."""

    data: dict[str, Any] = field(default_factory=dict)
    exit_code: int = EXIT_OK


class CliError(Exception):
    """An error of one line: what happened, why, and what to do."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        help: str = "",  # noqa: A002 - the word of sira.v1.Error
        exit_code: int = EXIT_REFUSED,
        retryable: bool = False,
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.help = code, message, help
        self.exit_code, self.retryable, self.details = exit_code, retryable, dict(details or {})


class UsageError(CliError):
    """The arguments do not make sense; nothing was done."""

    def __init__(self, message: str, *, help: str = "") -> None:  # noqa: A002
        super().__init__("USAGE", message, help=help, exit_code=EXIT_USAGE)


def plain(value: Any) -> Any:
    """Make `value` fit for strict JSON: NumPy scalars become numbers, NaN and infinities text."""
    numpy = sys.modules.get("numpy")  # not loaded: then this is none of its scalars
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def printable(text: str) -> str:
    """Return `text` without characters that could steer the reader's terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


class Output:
    """Standard output of one verb. Safe to use from several threads."""

    def __init__(self, verb: str, *, as_json: bool, stream: TextIO | None = None) -> None:
        self.verb, self.as_json = verb, as_json
        self.ended = False
        self._stream = sys.stdout if stream is None else stream
        self._lock = threading.Lock()
        self._seq = 0
        self._progress_columns = 0

    # ---- for programs ---------------------------------------------------------------------------
    def start(self, **data: Any) -> None:
        """Say what was begun; the first envelope."""
        self._envelope("start", data)

    def item(self, data: Mapping[str, Any], human: str | None = None) -> None:
        """One of many: a message, a row. `human` is its line for people."""
        if self.as_json:
            self._envelope("item", data)
        elif human is not None:
            self.text(human)

    def result(self, data: Mapping[str, Any]) -> None:
        """End well. For people the verb has said it all by itself."""
        self._end("result", data)

    def error(self, error: CliError) -> None:
        """End badly: one line."""
        data = {
            "code": error.code,
            "message": error.message,
            "retryable": error.retryable,
            "details": error.details,
            "help": error.help,
            "exit_code": error.exit_code,
        }
        if self.ended:
            return
        if not self.as_json:
            self._clear_progress()
            line = f"sira {self.verb}: {error.message} [{error.code}]".replace("sira : ", "sira: ")
            print(printable(f"{line}; {error.help}" if error.help else line), file=sys.stderr)
        self._end("error", data)

    def warning(self, message: str, **data: Any) -> None:
        """Something the reader should know, and the verb goes on."""
        if self.as_json:
            self._envelope("warning", {"message": message, **data})
        else:
            self._clear_progress()
            print(f"sira {self.verb}: {message}", file=sys.stderr)

    def progress(self, message: str, *, done: float | None = None) -> None:
        """Say how far long work is, `done` from 0 to 1; on a terminal it stays on one line."""
        if self.as_json:
            self._envelope("progress", {"message": message, "done": done})
            return
        share = "" if done is None else f"{min(max(done, 0.0), 1.0):4.0%} "
        if sys.stderr.isatty():
            text = f"{share}{message}"[:100]
            sys.stderr.write("\r" + text.ljust(self._progress_columns))
            self._progress_columns = len(text)
            sys.stderr.flush()
        else:
            print(f"{share}{message}", file=sys.stderr)

    # ---- for people -----------------------------------------------------------------------------
    def text(self, text: str) -> None:
        """Print for people; with --json nothing."""
        if self.as_json:
            return
        self._clear_progress()
        with self._lock:
            self._stream.write(text + "\n")
            self._stream.flush()

    def show(self, renderable: RenderableType) -> None:
        """Print a table for people; with --json nothing. Piped, it is as wide as it needs to be."""
        if self.as_json:
            return
        from rich.console import Console

        self._clear_progress()
        with self._lock:
            width = None if self._stream.isatty() else 160
            Console(file=self._stream, width=width, highlight=False, soft_wrap=True).print(
                renderable
            )
            self._stream.flush()

    # ---- inside ---------------------------------------------------------------------------------
    def _end(self, kind: str, data: Mapping[str, Any]) -> None:
        with self._lock:
            if self.ended:
                return
        self._clear_progress()
        self._envelope(kind, data)
        self.ended = True

    def _envelope(self, kind: str, data: Mapping[str, Any]) -> None:
        if not self.as_json:
            return
        with self._lock:
            if self.ended:
                return
            line = {
                "v": ENVELOPE_VERSION,
                "type": kind,
                "seq": self._seq,
                "time": time.time(),
                "data": plain(data),
            }
            self._seq += 1
            self._stream.write(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")
            self._stream.flush()

    def _clear_progress(self) -> None:
        if self._progress_columns:
            sys.stderr.write("\r" + " " * self._progress_columns + "\r")
            sys.stderr.flush()
            self._progress_columns = 0


def bytes_text(count: float) -> str:
    """`count` bytes for people: 640 B, 1.5 KiB, 64 MiB."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while abs(count) >= 1024 and unit != "TiB":
        count, unit = count / 1024, next(units)
    return f"{count:.0f} {unit}" if unit == "B" or count == int(count) else f"{count:.1f} {unit}"


def duration_text(duration_ns: float) -> str:
    """`duration_ns` for people: 250 us, 1.20 ms, 3.5 s, 2 h 05 min."""
    if duration_ns < 1e6:
        return f"{duration_ns / 1e3:.0f} us"
    if duration_ns < 1e9:
        return f"{duration_ns / 1e6:.2f} ms"
    seconds = duration_ns / 1e9
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, _ = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
