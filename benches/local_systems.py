"""Ways between processes of one host: lanes of our node, and rivals with nothing between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from benches.harness import Process, Stage
from benches.systems import SIRA, System, no_server, socket_of, start_node

SHM_FOLDER = Path("/dev/shm")


LENT_BYTES_MAX = 4 << 30
"""What a participant of ours lends at most: two tensors of the largest size, and one to look at."""
SPIN_US_MAX = 1_000_000


def _start_lane(
    stage: Stage, port: int, *, lane: str, copies: int, shm: str, direct: str, spin_us: int | None
) -> Process:
    """Start a node of ours; receipts must tell this lane and these copies."""
    stage.shared = {"lane": lane, "copies": copies}
    stage.environ = {"SIRA_SHM": shm, "SIRA_DIRECT": direct}
    stage.environ["SIRA_SHM_BYTES_MAX"] = str(LENT_BYTES_MAX)
    if spin_us is not None:
        stage.environ["SIRA_SPIN_US"] = str(spin_us)
    return start_node(stage, port)


def lane_start(
    lane: str,
    *,
    copies: int = 1,
    shm: str = "on",
    direct: str = "off",
    spin_us: int | None = None,
) -> Callable[[Stage, int], Process]:
    """How the node of a lane is started.

    Args:
        shm, direct: whether its participants lend, and pass the node by; on or off.
        spin_us: how long a thread of theirs spins before it sleeps; None: as it is by default.
    """
    return partial(_start_lane, lane=lane, copies=copies, shm=shm, direct=direct, spin_us=spin_us)


TENSORS = replace(SIRA, module="benches.sira_tensors", address=socket_of)
SIRA_SHM = replace(
    TENSORS, name="sira-shm", label="sira by reference, an array handed in", start=lane_start("shm")
)
SIRA_LOAN = replace(
    TENSORS,
    name="sira-loan",
    label="sira by reference, a loan",
    roles={"bulk_source": "loan_source", "tensor_asker": "loan_asker"},
    start=lane_start("shm", copies=0),
)
SIRA_SYNC = replace(
    TENSORS,
    name="sira-shm-sync",
    label="sira by reference, an array handed in, without await",
    module="benches.sira_sync",
    start=lane_start("shm"),
)
SIRA_DIRECT = replace(
    TENSORS,
    name="sira-direct",
    label="sira past the node, an array handed in",
    start=lane_start("shm", direct="on"),
)
SIRA_DIRECT_SYNC = replace(
    SIRA_SYNC,
    name="sira-direct-sync",
    label="sira past the node, an array handed in, without await",
    start=lane_start("shm", direct="on"),
)
SIRA_BLOCKING = replace(
    SIRA_DIRECT_SYNC,
    name="sira-direct-blocking",
    label="sira past the node, without await, sleeping at once",
    start=lane_start("shm", direct="on", spin_us=0),
)
SIRA_SPINNING = replace(
    SIRA_DIRECT_SYNC,
    name="sira-direct-spinning",
    label="sira past the node, without await, never sleeping",
    start=lane_start("shm", direct="on", spin_us=SPIN_US_MAX),
)
SIRA_LENT = replace(
    SIRA_SYNC,
    name="sira-direct-loan",
    label="sira past the node, a loan, without await",
    roles={"bulk_source": "loan_source"},
    start=lane_start("shm", copies=0, direct="on"),
)
SIRA_LENT_BLOCKING = replace(
    SIRA_LENT,
    name="sira-direct-loan-blocking",
    label="sira past the node, a loan, without await, sleeping at once",
    start=lane_start("shm", copies=0, direct="on", spin_us=0),
)
SIRA_LENT_ASYNC = replace(
    TENSORS,
    name="sira-direct-loan-asyncio",
    label="sira past the node, a loan",
    roles={"bulk_source": "loan_source"},
    start=lane_start("shm", copies=0, direct="on"),
)
SIRA_COPIED = replace(
    TENSORS,
    name="sira-socket",
    label="sira, its node by Unix socket, nothing by reference",
    start=lane_start("socket", shm="off"),
)
SIRA_GRPC = replace(
    SIRA,
    name="sira-grpc",
    label="sira, its node by gRPC",
    module="benches.sira_tensors",
    start=lane_start("grpc", shm="off"),
)


def _in_folder(stage: Stage, _port: int) -> str:
    """Where the ends meet: a name of its own in the folder of the measurement."""
    return str(stage.folder / "meet")


def _zmq_address(stage: Stage, _port: int) -> str:
    return f"ipc://{stage.folder / 'meet'}"


def _start_iceoryx(stage: Stage, port: int) -> None:
    """There is no server; what its processes leave in shared memory is removed by its prefix."""
    prefix = f"sira_bench_{port}_"
    stage.shared = {"prefix": prefix}

    def remove() -> None:
        for left in SHM_FOLDER.glob(f"{prefix}*"):
            left.unlink(missing_ok=True)

    stage.at_exit(remove)


def _rival(name: str, label: str, module: str, *needs: str) -> System:
    return System(name, label, f"benches.rivals.{module}", needs, no_server, address=_in_folder)


BARE = _rival("bare", "shared_memory and pipes", "shared_pipe", "numpy")
BARE_COPIED = replace(
    BARE,
    name="bare-copied",
    label="shared_memory and pipes, an array copied in",
    roles={
        "bulk_source": "copied_source",
        "tensor_asker": "copied_asker",
        "tensor_answerer": "copied_answerer",
    },
)
ZMQ_IPC = replace(_rival("zmq-ipc", "pyzmq ipc", "zmq_ipc", "zmq"), address=_zmq_address)
ZENOH = _rival("zenoh", "eclipse-zenoh, its shared memory", "zenoh_shm", "zenoh")
ICEORYX = replace(_rival("iceoryx2", "iceoryx2", "iceoryx", "iceoryx2"), start=_start_iceoryx)
FLIGHT = _rival("flight", "Arrow Flight by Unix socket", "flight", "pyarrow")

PAST_NODE = (SIRA_DIRECT, SIRA_DIRECT_SYNC)
WAITS = (SIRA_BLOCKING, SIRA_SPINNING)
"""Past the node, too; only what waiting changes is measured of them."""
TOUCHED = (SIRA_LENT, SIRA_LENT_BLOCKING, SIRA_LENT_ASYNC)
LENT = (SIRA_LENT, SIRA_LENT_ASYNC)
"""Filled where they are summed, one way; asked they would be answered with an array."""
LANES = (SIRA_LOAN, SIRA_SHM, SIRA_SYNC, *PAST_NODE, SIRA_COPIED, SIRA_GRPC)
RIVALS = (BARE, BARE_COPIED, ZMQ_IPC, ZENOH, ICEORYX, FLIGHT)
