"""link: two processes on a link of the shared-memory core, beside what they can do without us.

The core alone, as the SDK will use it: no node, no client. Every figure is taken twice: with both
CPUs idle but for the two processes, and with one kept busy, where a wake-up costs another amount.
"""

from __future__ import annotations

from typing import Any

from benches.harness import Case, Figures, Stage
from benches.systems import System, case, no_server

SUMMARY = "the shared-memory core (not wired into the SDK): RTT, one way, fill and read"
MIB = 1 << 20
STATES = ("idle", "busy")


def _system(name: str, label: str, join: str, needs: str) -> System:
    return System(name, label, join, (needs,), no_server)


LINKS = (
    _system("link-blocking", "link, blocking", "benches.shm_side:blocking", "sira"),
    _system("link-adaptive", "link, adaptive", "benches.shm_side:adaptive", "sira"),
    _system("link-spinning", "link, spinning", "benches.shm_side:spinning", "sira"),
)
PIPE = _system("bare-pipe", "shared_memory + pipe", "benches.rivals.bare:pipe", "numpy")
EVENTFD = _system("bare-eventfd", "eventfds, no payload", "benches.rivals.bare:eventfd", "numpy")
ZMQ_IPC = _system("zmq-ipc", "pyzmq ipc", "benches.rivals.bare:zmq_ipc", "zmq")


def groups(quick: bool) -> list[list[Case]]:
    """One group a size: 256 B asked and one way, 16 MiB asked, and three sizes filled and read."""
    seconds = 0.3 if quick else 2.0
    small = {"payload_bytes": 256, "message_bytes": 256, "seconds": seconds, "states": STATES}
    made = [
        [case("link", s, {**small, "phases": ("rtt", "rate")}, measure) for s in (*LINKS, PIPE)]
        + [case("link", EVENTFD, {**small, "phases": ("rtt",)}, measure)]
        + [case("link", ZMQ_IPC, {**small, "phases": ("rtt", "rate")}, measure)]
    ]
    for size_mib in (1, 16, 64):
        size = size_mib * MIB
        params = {
            "payload_bytes": size,
            "message_bytes": size,
            "tensor_bytes": size,
            "seconds": seconds,
            "states": STATES,
            "warmup": 4,
            "count": max(8, (128 if quick else 2048) // size_mib),
            "phases": ("rtt", "fill") if size_mib == 16 else ("fill",),
        }
        made.append([case("link", s, params, measure) for s in (*LINKS, PIPE, ZMQ_IPC)])
    return made


def measure(system: System, params: dict[str, Any]) -> Figures:
    """All phases in one process and the peers that it forks."""
    with Stage(timeout_s=120) as stage:
        told = {**params, "join": system.module, "folder": str(stage.folder)}
        pair = stage.participant("benches.pairs:run", told)
        (done,) = stage.hear_all([pair], "done")
    return {str(name): float(value) for name, value in done["figures"].items()}
