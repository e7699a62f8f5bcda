"""The systems compared: what each needs, how its server is started, where its participants live."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benches.harness import Case, Figures, Process, Stage, free_port

NATS_PAYLOAD_BYTES_MAX = 8 << 20


def tcp_address(_stage: Stage, port: int) -> str:
    """Loopback."""
    return f"127.0.0.1:{port}"


@dataclass(frozen=True)
class System:
    """One way to move messages."""

    name: str
    label: str
    module: str
    needs: tuple[str, ...]
    start: Callable[[Stage, int], Process | None]
    binary: Callable[[], str | None] = lambda: "none needed"
    binary_name: str = ""
    address: Callable[[Stage, int], str] = tcp_address
    """Where the participants go, given the port that the server listens on."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Roles that another function of the module plays."""

    def missing(self) -> str:
        """Name what is not installed; empty when all is there."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if not absent and self.binary() is None:
            absent.append(self.binary_name)
        return ", ".join(absent)

    def entry(self, role: str) -> str:
        """Where the participant of this `role` begins."""
        return f"{self.module}:{self.roles.get(role, role)}"

    def listen(self, stage: Stage) -> tuple[str, Process | None]:
        """Start the server between the two ends, if any; its address, else one to listen on."""
        port = free_port()
        server = self.start(stage, port)
        return self.address(stage, port), server


def no_server(_stage: Stage, _port: int) -> None:
    """One of the two ends listens itself."""


def _start_nats(stage: Stage, port: int) -> Process:
    config = stage.folder / "nats.conf"
    config.write_text(
        f"listen: 127.0.0.1:{port}\nmax_payload: {NATS_PAYLOAD_BYTES_MAX}\nmax_connections: 4096\n"
    )
    binary = shutil.which("nats-server")
    assert binary is not None  # `missing` looked
    return stage.server("nats-server", [binary, "-c", str(config)], port=port, env={})


def _start_redis(stage: Stage, port: int) -> Process:
    binary = shutil.which("redis-server")
    assert binary is not None  # `missing` looked
    options = {
        "--bind": "127.0.0.1",
        "--port": str(port),
        "--save": "",
        "--appendonly": "no",
        "--dir": str(stage.folder),
        # Pub/sub has no back-pressure: the producers keep a window of their own (README.md).
        "--client-output-buffer-limit": "pubsub 0 0 0",
    }
    argv = [binary, *(word for pair in options.items() for word in pair)]
    return stage.server("redis-server", argv, port=port, env={})


def sira_binary() -> str | None:
    """The `sira` command beside this Python, else on the path."""
    beside = Path(sys.executable).with_name("sira")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("sira")


def start_node(stage: Stage, port: int, *flags: str) -> Process:
    """Start a node of ours on loopback; `flags` are further ones of `sira up`."""
    binary = sira_binary()
    assert binary is not None  # `missing` looked
    home = stage.folder / "sira"
    home.mkdir(exist_ok=True)
    argv = [binary, "up", "--listen", f"127.0.0.1:{port}", "--data-dir", str(home / "data"), *flags]
    return stage.server("sira", argv, port=port, env={"SIRA_HOME": str(home)})


def socket_of(stage: Stage, _port: int = 0) -> str:
    """Where the node of this measurement is reached without a port."""
    return f"unix:{stage.folder / 'sira' / 'data' / 'sira.sock'}"


GRPC = System(
    "grpc", "raw grpcio aio, bidi", "benches.rivals.grpc_raw", ("grpc", "uvloop"), no_server
)
SIRA = System(
    "sira", "sira, its node", "benches.sira_side", ("sira",), start_node, sira_binary, "sira"
)
SIRA_SOCKET = replace(
    SIRA, name="sira-socket", label="sira, its node by Unix socket", address=socket_of
)
ZMQ = System("zmq", "pyzmq tcp", "benches.rivals.zmq_tcp", ("zmq",), no_server)
NATS = System(
    "nats",
    "nats-py, nats-server",
    "benches.rivals.nats_server",
    ("nats", "uvloop"),
    _start_nats,
    lambda: shutil.which("nats-server"),
    "nats-server",
)
REDIS = System(
    "redis",
    "redis-py, pub/sub",
    "benches.rivals.redis_pubsub",
    ("redis", "uvloop"),
    _start_redis,
    lambda: shutil.which("redis-server"),
    "redis-server",
)
ALL = (SIRA, GRPC, ZMQ, NATS, REDIS)


def case(
    row: str,
    system: System,
    params: dict[str, Any],
    measure: Callable[[System, dict[str, Any]], Figures],
    *,
    name: str = "",
) -> Case:
    """One case of `row`; when something is not installed it says so and is still listed."""
    missing = system.missing()
    run = None if missing else partial(measure, system, params)
    return Case(row, name or system.name, params, run, missing)
