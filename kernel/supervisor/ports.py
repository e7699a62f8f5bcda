"""Ports that stay ours over a restart of the child that listens on them.

A socket that is bound and does not listen keeps the port: with SO_REUSEADDR on both, the child
binds and listens beside it, while the kernel gives the port to no connection as its own end. (A
client that tries a dead port of the ephemeral range again and again would else, sooner or later,
connect to itself, and the port were taken.)
"""

from __future__ import annotations

import socket

_REUSE = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


class Ports:
    """The reserved ones; gone with the process."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def reserve(self, address: str) -> str:
        """Reserve HOST:PORT; port 0 becomes a free one.

        Returns:
            The address with its port. It is the same, and nothing is reserved, where it is none,
            cannot be resolved or is taken: the child that wants to listen says so better.
        """
        host, _, text = address.rpartition(":")
        if not text.isascii() or not text.isdigit():
            return address
        port = int(text)
        try:
            found = socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, OverflowError):
            return address
        for family, _, _, _, where in found:
            held = self._bind(family, (where[0], port, *where[2:]))
            if held is not None:
                port = held.getsockname()[1]
        return f"{host}:{port}"

    def close(self) -> None:
        """Let go of all."""
        for each in self._held:
            each.close()
        self._held.clear()

    def _bind(self, family: int, where: tuple[object, ...]) -> socket.socket | None:
        made = socket.socket(family, socket.SOCK_STREAM)  # close-on-exec: no child holds it
        try:
            made.setsockopt(*_REUSE)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(where)
        except (OSError, OverflowError):
            made.close()
            return None
        self._held.append(made)
        return made
