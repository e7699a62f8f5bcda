"""Help for the tests of those who build on Sira. Import it as `sira.testing`.

Owns throw-away nodes (`node`: a real one in a process of its own; `LocalBus`: in this process,
without sockets, with a clock that can be stepped) and the pytest plugin. Refuses to be imported by
Sira itself.
"""

from __future__ import annotations

from sira.testing.clock import Clock
from sira.testing.local import LocalBus, LocalNode
from sira.testing.node import Node, node

__all__ = ["Clock", "LocalBus", "LocalNode", "Node", "node"]
