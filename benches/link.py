"""The line between the coordinator and one participant: JSON lines over a socket pair."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any


class Quit(Exception):
    """The coordinator closed the line: the measurement is over."""


class Link:
    """The participant's end. Everything it says or hears is one JSON object on one line."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb")
        self.params: dict[str, Any] = {}

    def say(self, event: str, **fields: Any) -> None:
        """Tell the coordinator; blocks only if it has stopped reading."""
        line = json.dumps({"event": event, **fields}).encode() + b"\n"
        self._sock.sendall(line)

    def hear(self, event: str) -> dict[str, Any]:
        """Block until the coordinator says `event`.

        Raises:
            Quit: the line was closed instead.
        """
        line = self._reader.readline()
        if not line:
            raise Quit
        message: dict[str, Any] = json.loads(line)
        assert message["event"] == event, (message, event)  # both ends are ours
        return message

    async def heard(self, event: str) -> dict[str, Any]:
        """Wait as `hear` does, on a thread, so that the event loop keeps running."""
        return await asyncio.to_thread(self.hear, event)

    def rest(self) -> None:
        """Stay alive, so that memory and CPU can still be read, until the line is closed.

        Raises:
            Quit: always, in the end.
        """
        while True:
            self.hear("never")

    async def rested(self) -> None:
        """Do as `rest`, with the event loop running."""
        await asyncio.to_thread(self.rest)
