"""local1000: 1,000 local clients with 10 topics each, linked past the node, then silent.

Each topic is one client's own and has one publisher: ten publishers share the clients, so each
client has one link, with a cell for each of its topics. What is measured: connecting, one client
after the other; memory of the node and of the links; CPU of all while nothing is sent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benches.harness import BenchError, Case, Figures, Participant, Process, Stage, pids
from benches.local_systems import SIRA_DIRECT
from benches.rows.idle import allow_files
from benches.systems import System, case

SUMMARY = "1,000 local clients with 10 topics each, linked past the node, then silent"
PROCESSES = 20
PUBLISHERS = 10
TOPICS = 10
FILES_A_LINK = 8
"""A node makes links for an eighth of the files it may open."""
FILES_MORE = 1_000
ROUNDS_MAX = 30
"""Messages a topic until all go past the node; each that does not asks for its route again."""
QUIET_S = 2.0
"""After the last message, before silence is measured."""


def groups(quick: bool) -> list[list[Case]]:
    """One group of one case."""
    params = {
        "message_bytes": 256,
        "clients": 1_000,
        "processes": PROCESSES,
        "publishers": PUBLISHERS,
        "topics": TOPICS,
        "idle_s": 5.0 if quick else 60.0,
    }
    return [[case("local1000", SIRA_DIRECT, params, measure)]]


def own_bytes(processes: Iterable[Process]) -> int:
    """Memory that lies in no file (`Anonymous` in smaps), of processes and their children."""
    files = [Path(f"/proc/{pid}/smaps_rollup") for each in processes for pid in pids(each)]
    found = [re.search(r"^Anonymous: *(\d+) kB$", each.read_text(), re.MULTILINE) for each in files]
    return sum(int(each[1]) * 1024 for each in found if each is not None)


def links_of(node: Process) -> tuple[int, int]:
    """How many links the node holds, and the bytes of their pages that somebody touched."""
    count = held_bytes = 0
    for file in [each for pid in pids(node) for each in Path(f"/proc/{pid}/fd").iterdir()]:
        try:
            if str(file.readlink()).startswith("/memfd:sira-link"):
                held_bytes += file.stat().st_blocks * 512
                count += 1
        except FileNotFoundError:  # closed meanwhile
            continue
    return count, held_bytes


def _round(stage: Stage, publishers: list[Participant], *, last: bool) -> tuple[int, int, float]:
    """Have a message posted on each topic: past the node, in all, seconds of the slowest."""
    for each in publishers:
        each.say("round", last=last)
    told = stage.hear_all(publishers, "posted")
    past, sent = (sum(each[name] for each in told) for name in ("past", "sent"))
    return past, sent, max(each["seconds"] for each in told)


def measure(system: System, params: dict[str, Any]) -> Figures:
    """Connect all, post until all goes past the node, be silent, post once more and count."""
    clients, topics, idle_s = params["clients"], params["topics"], params["idle_s"]
    allow_files(FILES_A_LINK * clients + FILES_MORE)
    with Stage(timeout_s=240) as stage:
        url, node = system.listen(stage)
        assert node is not None, "sira has a node"
        shared, each = {**params, "url": url}, clients // params["processes"]
        crowds = [
            stage.participant(
                "benches.local_side:crowd", {**shared, "first": i * each, "clients": each}
            )
            for i in range(params["processes"])
        ]
        count = params["publishers"]
        publishers = [
            stage.participant(
                "benches.local_side:publisher",
                {**shared, "clients": list(range(i, clients, count))},
            )
            for i in range(count)
        ]
        watcher = stage.participant("benches.door_side:watcher", shared)
        stage.hear_all([*crowds, *publishers, watcher], "ready")

        node_bytes = [own_bytes([node])]
        crowd_bytes = [own_bytes(crowds)]
        connect_ns, subscribe_ns, first_ns = list[int](), list[int](), list[int]()
        connect_cpu_ns = list[int]()
        for member in crowds:  # one after the other: else they would measure each other
            member.say("connect")
            (told,) = stage.hear_all([member], "subscribed")
            connect_ns += told["connect_ns"]
            connect_cpu_ns += told["connect_cpu_ns"]
            subscribe_ns += told["subscribe_ns"]
            first_ns.append(told["first_ns"])
        _, sent, _ = _round(stage, publishers, last=False)  # makes the topics known
        node_bytes.append(own_bytes([node]))
        crowd_bytes.append(own_bytes(crowds))

        began_s, rounds, past = time.monotonic(), 0, 0
        while past < sent:
            if rounds == ROUNDS_MAX:
                raise BenchError(f"{past} of {sent} messages went past the node at the end")
            past, sent, _ = _round(stage, publishers, last=False)
            rounds += 1
        linked_s = time.monotonic() - began_s
        time.sleep(QUIET_S)  # silence is what is measured from here on
        links, link_bytes = links_of(node)
        node_bytes.append(own_bytes([node]))
        crowd_bytes.append(own_bytes(crowds))
        kinds = {"node": [node], "clients": crowds, "publishers": publishers}
        cpu_s = {kind: stage.cpu_s(members) for kind, members in kinds.items()}
        idle_began_s = time.monotonic()
        time.sleep(idle_s)
        cpu_s = {kind: stage.cpu_s(members) - cpu_s[kind] for kind, members in kinds.items()}
        idle_s = time.monotonic() - idle_began_s

        watcher.say("count")
        (counted,) = stage.hear_all([watcher], "counted")
        last_past, _, _ = _round(stage, publishers, last=True)
        for member in crowds:
            member.say("take")
        taken = sum(told["messages"] for told in stage.hear_all(crowds, "taken"))
    check(
        links=(links, clients),
        subscriptions=(counted["subscriptions"], clients * topics),
        messages=(taken, (rounds + 2) * sent),
        past_the_node_after_silence=(last_past, sent),
    )
    node_link_bytes = node_bytes[2] - node_bytes[1]
    return {
        **_percentiles("connect_ms", connect_ns),
        **_percentiles("connect_cpu_ms", connect_cpu_ns),
        **_percentiles("subscribe_ms", subscribe_ns),
        **_percentiles("first_connect_ms", first_ns),
        "linked_s": linked_s,
        "links_seen": links,
        "rounds": rounds,
        "kib_per_link": (link_bytes + node_link_bytes) / links / 1024,
        "kib_per_link_shared": link_bytes / links / 1024,
        "node_kib_per_client": (node_bytes[1] - node_bytes[0]) / clients / 1024,
        "client_kib": (crowd_bytes[1] - crowd_bytes[0]) / clients / 1024,
        "client_kib_linked": (crowd_bytes[2] - crowd_bytes[0]) / clients / 1024,
        **{f"idle_{kind}_cpu_percent": 100 * used / idle_s for kind, used in cpu_s.items()},
        "idle_cpu_percent": 100 * sum(cpu_s.values()) / idle_s,
    }


def _percentiles(name: str, samples_ns: list[int]) -> Figures:
    p50, p99 = np.percentile(np.asarray(samples_ns, np.float64) / 1e6, [50, 99])
    return {f"{name}_p50": float(p50), f"{name}_p99": float(p99)}


def check(**found_and_due: tuple[float, float]) -> None:
    """Compare what was found with what is due.

    Raises:
        BenchError: they differ, and in what.
    """
    wrong = [
        f"{name.replace('_', ' ')}: {found:g}, not {due:g}"
        for name, (found, due) in found_and_due.items()
        if found != due
    ]
    if wrong:
        raise BenchError("; ".join(wrong))
