"""How calls have ended, by agent and capability, for the registry to rank by.

A success costs one addition; what has come together leaves in one message every few seconds, and
soon where something failed. Nothing is sent for a single call, and nothing waits for the sending.
"""

from __future__ import annotations

from sira.kernel.errors import SiraError
from sira.v1 import registry_pb2

WORKED, FAILED, LATE, NOBODYS = "worked", "failed", "late", ""
# Who is given less time than this says nothing by not answering in it.
PATIENCE_S = 1.0
# Of all errors these speak against the agent. Every other one is the caller's own (BAD_REQUEST,
# DENIED, CONTRACT_MISMATCH, ...), the node's (QUEUE_FULL, NODE_DRAINING, ...), nobody's, or the
# agent's answer.
_FAILED = frozenset({"HANDLER_FAILED", "PEER_LOST"})
TALLIES_MAX = 4_096
REPORTED_MAX = 256


def kind_of(error: BaseException | None, given_s: float | None) -> str:
    """Return what the end of a try says of the agent: WORKED, FAILED, LATE, or NOBODYS.

    Args:
        error: what the try ended with; None: an answer.
        given_s: how long the agent was given; None: for ever.
    """
    if error is None:
        return WORKED
    if not isinstance(error, SiraError):  # cancelled, or a mistake of the caller's own code
        return NOBODYS
    if error.code in _FAILED:
        return FAILED
    if error.code == "TIMEOUT" and (given_s is None or given_s >= PATIENCE_S):
        return LATE
    return NOBODYS


class Tally:
    """Ends of calls of one capability since they were told last.

    Threads count without a lock: of two that do so at once one may be lost.
    """

    __slots__ = ("agent", "capability", "failed", "late", "worked")

    def __init__(self, agent: str, capability: str) -> None:
        """Begin with none."""
        self.agent, self.capability = agent, capability
        self.worked = self.failed = self.late = 0

    def note(self, error: BaseException, given_s: float | None) -> bool:
        """Count one that ended with an error; return whether that speaks against the agent."""
        kind = kind_of(error, given_s)
        if kind == FAILED:
            self.failed += 1
        elif kind == LATE:
            self.late += 1
        return kind in (FAILED, LATE)

    def take(self) -> registry_pb2.Outcomes | None:
        """Return what is to be told, and forget it; None: nothing is."""
        worked, failed, late = self.worked, self.failed, self.late
        if not (worked or failed or late):
            return None
        self.worked -= worked
        self.failed -= failed
        self.late -= late
        return registry_pb2.Outcomes(
            agent=self.agent, capability=self.capability, worked=worked, failed=failed, late=late
        )


class Tallies:
    """Those of all capabilities that a connection has called, the latest TALLIES_MAX."""

    def __init__(self) -> None:
        """Begin with none."""
        self._tallies: dict[tuple[str, str], Tally] = {}

    def of(self, agent: str, capability: str) -> Tally:
        """Return that of a capability."""
        found = self._tallies.get((agent, capability))
        if found is None:
            if len(self._tallies) >= TALLIES_MAX:
                del self._tallies[next(iter(self._tallies))]  # the oldest, with what it had counted
            found = self._tallies[agent, capability] = Tally(agent, capability)
        return found

    def take(self) -> list[registry_pb2.ReportRequest]:
        """Return what is to be told, in messages of at most REPORTED_MAX, and forget it."""
        told = [each for tally in self._tallies.values() if (each := tally.take()) is not None]
        return [
            registry_pb2.ReportRequest(outcomes=told[start : start + REPORTED_MAX])
            for start in range(0, len(told), REPORTED_MAX)
        ]
