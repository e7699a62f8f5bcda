"""One module a row: its parameters, its processes, its figures. Read `rtt.py` first.

A row offers `SUMMARY` and `groups(quick)`: lists of cases, each list measured interleaved.
"""

from __future__ import annotations

from types import ModuleType

from benches.rows import (
    call,
    codec,
    conn,
    crowd,
    fanout,
    greedy,
    idle,
    link,
    local,
    mixed,
    rate,
    recall,
    registry,
    rtt,
    rules,
    shm,
    sweep,
    tls,
)

ROWS: dict[str, ModuleType] = {
    "rtt256": rtt,
    "rate256": rate,
    "fanout100": fanout,
    "sweep": sweep,
    "conn1000": conn,
    "mixed": mixed,
    "codec": codec,
    "tls": tls,
    "rules": rules,
    "greedy": greedy,
    "idle5000": idle,
    "local": local,
    "local1000": crowd,
    "link": link,
    "shm": shm,
    "registry": registry,
    "recall": recall,
    "call": call,
}
