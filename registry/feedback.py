"""What outcomes have taught, as rows of the table `feedback`: one for each capability. Pure."""

from __future__ import annotations

import json

from sira.kernel.errors import BadRequest
from sira.registry.rank.feedback import WEIGHTS, Outcome, Record, after
from sira.v1 import registry_pb2

TABLE = "feedback"
_FORMAT = 1


def key_of(tenant: str, agent: str, capability: str) -> str:
    """Return the key of a capability's row."""
    return f"{tenant}/{agent}/{capability}"


def split(key: str) -> tuple[str, str, str]:
    """Return tenant, agent and capability of a row's key; names of agents may have a `/`."""
    tenant, _, rest = key.partition("/")
    agent, _, capability = rest.rpartition("/")
    return tenant, agent, capability


def encode(record: Record) -> bytes:
    """Return a record as its row holds it."""
    said = {
        "v": _FORMAT,
        "good": record.good,
        "bad": record.bad,
        "remembered": [list(each) for each in record.remembered],
        "worked": record.worked,
        "failed": record.failed,
        "generation": record.generation,
    }
    return json.dumps(said).encode()


def decode(value: bytes) -> Record:
    """Return the record of a row; one of a newer format says nothing that this node can use."""
    said = json.loads(value)
    if said.get("v") != _FORMAT:
        return Record()
    remembered = tuple((str(text), float(weight)) for text, weight in said["remembered"])
    return Record(
        float(said["good"]),
        float(said["bad"]),
        remembered,
        worked=float(said.get("worked", 0)),
        failed=float(said.get("failed", 0)),
        generation=int(said.get("generation", 0)),
    )


def after_outcome(record: Record, request: registry_pb2.RateRequest) -> Record:
    """Return what is known after one more outcome.

    Raises:
        BadRequest: an outcome that nobody knows.
    """
    if request.outcome not in WEIGHTS:
        raise BadRequest(
            f"{request.outcome[:40]!r} is no outcome", help="error, timeout, or left out",
            details={"field": "outcome"},
        )  # fmt: skip
    return after(record, Outcome(request.ok, request.query, request.outcome))
