"""The node with all its parts as a process: a child of the supervisor, which starts it by name."""

from __future__ import annotations

from sira.kernel import daemon
from sira.services.node.parts import parts


def main(control_fd: int) -> int:
    """Run the node; see `sira.kernel.daemon.main`."""
    return daemon.main(control_fd, parts)
