"""A port for who must know it before it is bound."""

from __future__ import annotations

import random
import socket

# Below what systems give to outgoing connections (Linux: from 32,768): one of those would take the
# port in the moment between our look and its use. Two who look at once rarely draw the same.
_FIRST, _LAST = 12_000, 32_000


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens."""
    while True:
        port = random.SystemRandom().randint(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
