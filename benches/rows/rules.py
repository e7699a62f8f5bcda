"""rules: 256 B one way through nodes with no rules, 10, 10,000, and 10,000 with limits.

The figure is the node's own CPU a message. A route's decision is made when a publisher first uses
a topic and kept: this row says what keeping to it costs each message, not what making it costs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from benches.harness import Case, Figures, Stage
from benches.nodes import start_ruled
from benches.rows import rate
from benches.systems import SIRA, System, case

SUMMARY = "one-way 256 B by rules and limits of the node, and the node's CPU a message"
SETTINGS: dict[str, tuple[int, bool]] = {
    "sira": (0, False),
    "sira-10-rules": (10, False),
    "sira-10k-rules": (10_000, False),
    "sira-10k-limits": (10_000, True),
}
"""By name of the case: how many rules, and whether limits hold for every message."""


def groups(quick: bool) -> list[list[Case]]:
    """One group: the same node by what stands at its door."""
    params = {"message_bytes": 256, "warmup": 2_000, "send_s": 0.7 if quick else 5.0}
    return [
        [
            case(
                "rules",
                replace(SIRA, start=partial(start_ruled, rules=rules, limited=limited)),
                {**params, "rules": rules, "limited": limited},
                measure,
                name=name,
            )
            for name, (rules, limited) in SETTINGS.items()
        ]
    ]


def measure(system: System, params: dict[str, Any]) -> Figures:
    """As `rate256`, after a look whether the rules and limits are in force."""

    def probed(stage: Stage, url: str) -> Figures:
        probe = stage.participant("benches.door_side:probe", {**params, "url": url})
        stage.hear_all([probe], "probed")
        return {}

    return rate.measure(system, params, seen=probed)
