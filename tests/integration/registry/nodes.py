"""A node in this process with tables and a registry, and plain gRPC clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from sira.consensus.part import TablesPart
from sira.consensus.tables import Tables
from sira.kernel.logs import Logs
from sira.kernel.node import Node
from sira.kernel.settings import load
from sira.registry.part import Registry
from sira.v1 import registry_pb2, registry_pb2_grpc

WATCHDOG_S = 60.0
SENT = {"in_flight": 1}


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test under a watchdog."""

    async def guarded() -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    asyncio.run(guarded())


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds; the watchdog ends it."""
    while not condition():  # noqa: ASYNC110  there is no event for what others do
        await asyncio.sleep(0.005)


@dataclass
class Running:
    """A node and what it is made of."""

    node: Node
    tables: Tables
    registry: Registry

    def status(self, name: str, tenant: str = "default") -> int:
        """Return what is thought of an agent; 0: it is not known."""
        vital = self.registry.feed.of(tenant).live.get(name)
        return 0 if vital is None else int(vital.status)


@asynccontextmanager
async def running(folder: Path, **flags: object) -> AsyncIterator[Running]:
    """Run a node whose tables lie in `folder`."""
    flags = {"listen": "127.0.0.1:0", "node_name": "n1", "data_dir": str(folder)} | flags
    settings = load(flags=flags, environ={})
    tables, logs = TablesPart(), Logs(node="n1", level="error")
    registry = Registry(tables)
    node = Node(settings, logs=logs, holds_folder=True, parts=(tables, registry))
    await node.start()
    try:
        yield Running(node, tables.tables, registry)
    finally:
        await node.stop()


@asynccontextmanager
async def connected(node: Node) -> AsyncIterator[Any]:
    """Connect as any gRPC client would."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        yield registry_pb2_grpc.RegistryStub(channel)


def registration(
    name: str, *texts: str, instance: str = "", **fields: Any
) -> registry_pb2.Registration:
    """Make a registration with capabilities of these texts."""
    capabilities = [registry_pb2.Capability(text=text) for text in texts]
    return registry_pb2.Registration(
        name=name, capabilities=capabilities, instance=instance, **fields
    )


async def register(stub: Any, *asked: registry_pb2.Registration) -> list[registry_pb2.Registered]:
    """Register; none may be refused."""
    answer = await stub.Register(registry_pb2.RegisterRequest(registrations=asked))
    for each in answer.results:
        assert not each.HasField("error"), each.error
    return list(answer.results)
