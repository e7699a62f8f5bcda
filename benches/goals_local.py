"""Goals of the rows about processes of one host: link, shm, local1000."""

from __future__ import annotations

from benches.figure import Figure, Goal
from benches.placement import APART, PLACEMENTS

RIVALS = ("zmq-ipc", "iceoryx2", "zenoh", "flight")
"""They sleep until something comes, as we do where we block or are on an event loop."""


def _linked(system: str, name: str, size_mib: int | None = None) -> Figure:
    return Figure("link", system, name, size_mib)


def _local(system: str, name: str, size_mib: int | None = None) -> Figure:
    return Figure("shm", system, name, size_mib)


def _asked(system: str, placement: str) -> Figure:
    """256 B there and back."""
    return Figure("shm", system, "rtt_us_p50", placement=placement)


def _lent(system: str, size_mib: int, placement: str) -> Figure:
    """A loan there, a few bytes back."""
    return Figure("shm", system, "touched_us_p50", size_mib, placement)


LOCAL_GOALS = (
    *(
        Goal(
            f"link, RTT p50 {wait}, {size}, {state}, of the bare pipe's",
            _linked(f"link-{wait}", f"{state}_us_p50", size_mib),
            _linked("bare-pipe", f"{state}_us_p50", size_mib),
            limit,
            False,
        )
        for wait, limit in (("blocking", 1.4), ("adaptive", 0.7))
        for size, size_mib in (("256 B", None), ("16 MiB", 16))
        for state in ("idle", "busy")
    ),
    *(
        Goal(
            f"link, RTT p50 spinning, {size}, idle, µs",
            _linked("link-spinning", "idle_us_p50", size_mib),
            None,
            6,
            False,
        )
        for size, size_mib in (("256 B", None), ("16 MiB", 16))
    ),
    Goal(
        "link, RTT p50 blocking, 256 B, idle, of pyzmq ipc's",
        _linked("link-blocking", "idle_us_p50"),
        _linked("zmq-ipc", "idle_us_p50"),
        1,
        False,
    ),
    Goal(
        "link, one way, 256 B, idle, messages/s",
        _linked("link-adaptive", "idle_messages_per_s"),
        None,
        400_000,
    ),
    *(
        Goal(
            f"link, one way, 256 B, idle, of {theirs}'s",
            _linked("link-adaptive", "idle_messages_per_s"),
            _linked(theirs, "idle_messages_per_s"),
            1,
        )
        for theirs in ("bare-pipe", "zmq-ipc")
    ),
    *(
        Goal(
            f"link, filled and read, {size_mib} MiB, idle, of the bare pipe's",
            _linked("link-adaptive", "idle_gb_per_s", size_mib),
            _linked("bare-pipe", "idle_gb_per_s", size_mib),
            0.9,
        )
        for size_mib in (1, 16, 64)
    ),
    Goal(
        "shm, a loan filled and read, 1 MiB, GB/s",
        _local("sira-loan", "gb_per_s", 1),
        None,
        10,
    ),
    *(
        Goal(
            f"shm, {what} filled and read, {size_mib} MiB, of {theirs}'s",
            _local(ours, "gb_per_s", size_mib),
            _local(theirs, "gb_per_s", size_mib),
            limit,
        )
        for what, ours, theirs, limit in (
            ("a loan past the node", "sira-direct-loan", "bare", 0.9),
            ("a loan past the node, asyncio,", "sira-direct-loan-asyncio", "bare", 0.9),
            ("an array past the node, asyncio,", "sira-direct", "bare-copied", 0.9),
            ("a loan", "sira-loan", "bare", 0.9),
            ("a loan", "sira-loan", "iceoryx2", 0.9),
            ("an array", "sira-shm", "sira-socket", 1.5),
            ("an array", "sira-shm", "sira-grpc", 3),
            ("an array", "sira-shm", "zmq-ipc", 1),
            ("an array", "sira-shm", "zenoh", 1),
            ("an array", "sira-shm", "flight", 1),
        )
        for size_mib in (1, 16, 64, 256)
    ),
    *(
        Goal(
            f"shm, a loan, {size_mib} MiB, CPU a GB, of bare's",
            _local("sira-loan", "cpu_s_per_gb", size_mib),
            _local("bare", "cpu_s_per_gb", size_mib),
            1.2,
            False,
        )
        for size_mib in (1, 16, 64, 256)
    ),
    *(
        Goal(
            f"shm, RTT {name}, 16 MiB, of {theirs}'s",
            _local("sira-shm", f"rtt_us_{name}", 16),
            _local(theirs, f"rtt_us_{name}", 16),
            limit,
            False,
        )
        for theirs, limit in (("bare", 1.5), ("sira-socket", 0.7), ("zmq-ipc", 1.0))
        for name in ("p50", "p99")
    ),
    *(
        Goal(
            f"shm, RTT 256 B, {placement}, {wait}, of bare's",
            _asked(ours, placement),
            _asked("bare", placement),
            limit,
            False,
        )
        for placement in PLACEMENTS
        for wait, ours, limit in (
            ("blocking", "sira-direct-blocking", 1.4),
            ("adaptive", "sira-direct-sync", 0.7),
        )
    ),
    Goal(
        f"shm, RTT 256 B, {APART}, spinning, µs",
        _asked("sira-direct-spinning", APART),
        None,
        6,
        False,
    ),
    *(
        Goal(
            f"shm, RTT 256 B, {placement}, asyncio, µs more than bare's",
            _asked("sira-direct", placement),
            _asked("bare", placement),
            50,
            False,
            difference=True,
        )
        for placement in PLACEMENTS
    ),
    *(
        Goal(
            f"shm, RTT 256 B, {placement}, {wait}, of {theirs}'s",
            _asked(ours, placement),
            _asked(theirs, placement),
            1,
            False,
        )
        for placement in PLACEMENTS
        for wait, ours in (("blocking", "sira-direct-blocking"), ("asyncio", "sira-direct"))
        for theirs in RIVALS
    ),
    *(
        Goal(
            f"shm, RTT of a loan, {placement}, {wait}, {size_mib} MiB, of bare's",
            _lent(ours, size_mib, placement),
            _lent("bare", size_mib, placement),
            limit,
            False,
        )
        for placement in PLACEMENTS
        for size_mib in (1, 16, 1024)
        for wait, ours, limit in (
            ("blocking", "sira-direct-loan-blocking", 1.4),
            ("adaptive", "sira-direct-loan", 0.7),
        )
    ),
    *(
        Goal(
            f"shm, RTT of a loan, {placement}, asyncio, {size_mib} MiB, µs more than bare's",
            _lent("sira-direct-loan-asyncio", size_mib, placement),
            _lent("bare", size_mib, placement),
            50,
            False,
            difference=True,
        )
        for placement in PLACEMENTS
        for size_mib in (1, 16, 1024)
    ),
    *(
        Goal(
            f"shm, RTT of an array, {size_mib} MiB, of {theirs}'s",
            _local("sira-direct-sync", "rtt_us_p50", size_mib),
            _local(theirs, "rtt_us_p50", size_mib),
            1.4,
            False,
        )
        for size_mib in (1, 16, 1024)
        for theirs in ("bare-copied", "bare")
    ),
    *(
        Goal(
            f"shm, an array past the node, {size_mib} MiB, of {theirs}'s",
            _local("sira-direct-sync", "gb_per_s", size_mib),
            _local(theirs, "gb_per_s", size_mib),
            0.9,
        )
        for size_mib in (1, 16, 64, 256)
        for theirs in ("bare-copied", "bare")
    ),
    *(
        Goal(f"shm, 256 B one way, {what}, messages/s", _local(ours, "messages_per_s"), None, limit)
        for what, ours, limit in (
            ("sync", "sira-direct-sync", 400_000),
            ("asyncio", "sira-direct", 200_000),
        )
    ),
    *(
        Goal(
            f"shm, 256 B one way, sync, of {theirs}'s",
            _local("sira-direct-sync", "messages_per_s"),
            _local(theirs, "messages_per_s"),
            1,
        )
        for theirs in ("bare", "zmq-ipc", "zenoh", "iceoryx2")
    ),
    *(
        Goal(
            f"shm, {what} of 16 MiB to four, of {theirs}'s",
            _local(ours, "fan_gb_per_s", 16),
            _local(theirs, "fan_gb_per_s", 16),
            0.9,
        )
        for what, ours, theirs in (
            ("a loan past the node", "sira-direct-loan", "bare"),
            ("a loan past the node, asyncio,", "sira-direct-loan-asyncio", "bare"),
            ("an array past the node", "sira-direct-sync", "bare-copied"),
            ("an array past the node, asyncio,", "sira-direct", "bare-copied"),
            ("a loan", "sira-loan", "bare"),
        )
    ),
    *(
        Goal(title, Figure("local1000", "sira-direct", name), None, limit, False)
        for title, name, limit in (
            ("1,000 local clients, connect p50, ms", "connect_ms_p50", 5),
            ("1,000 local clients, connect p99, ms", "connect_ms_p99", 5),
            ("1,000 local clients, KiB a link", "kib_per_link", 64),
            ("1,000 local clients, idle CPU of the node, %", "idle_node_cpu_percent", 1),
            ("1,000 local clients, idle CPU of all, %", "idle_cpu_percent", 1),
        )
    ),
)
