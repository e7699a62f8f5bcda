"""Declared topics over a restart: a row each, declared again before the node listens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sira.consensus.part import TablesPart
from sira.kernel.errors import SiraError
from sira.kernel.identity import Principal
from sira.kernel.methods import Method, TopicClass
from sira.kernel.parts import Host
from sira.kernel.slices import at_once
from sira.v1 import bus_pb2, tables_pb2

TABLE = "topics"
_TOPICS_A_STEP = 50


class TopicsPart:
    """Keeps what is declared and dies with nobody."""

    def __init__(self, tables: TablesPart) -> None:
        """Keep it in `tables`, which start before this."""
        self._part = tables

    def methods(self) -> Iterable[Method]:
        """Return none: topics are declared by `Bus`."""
        return ()

    def topic_classes(self) -> Iterable[TopicClass]:
        """Return none."""
        return ()

    async def start(self, host: Host) -> None:
        """Declare what is kept, and keep what is declared from now on.

        What a smaller limit does not let in any more is told and left out, and kept all the same.
        """
        for at, row in enumerate(self._part.tables.scan(TABLE), 1):
            kept = tables_pb2.KeptTopic.FromString(row.value)
            tenant = row.key.partition("/")[0]
            try:
                topics = host.bus_of(tenant).topics
                by = Principal.parse(kept.principal)
                at_once(topics.creating(kept.topic, owner=0, by=by))
            except SiraError as error:
                host.logs.warning(
                    "tables", "topic_left_out", f"{kept.topic.name}: {error}", tenant=tenant
                )
            if at % _TOPICS_A_STEP == 0:
                await asyncio.sleep(0)
        host.keep_topics(self)

    def tick(self) -> None:
        """Nothing here depends on time."""

    async def stop(self) -> None:
        """Nothing is left to end."""

    async def keep(self, tenant: str, request: bus_pb2.CreateTopicRequest, by: Principal) -> None:
        """Return when the declaration is on disk."""
        kept = tables_pb2.KeptTopic(topic=request, principal=str(by))
        key = f"{tenant}/{request.name}"
        await self._part.tables.transact(puts=[(TABLE, key, kept.SerializeToString())])

    async def forget(self, tenant: str, name: str) -> None:
        """Return when it is gone from disk."""
        await self._part.tables.transact(deletes=[(TABLE, f"{tenant}/{name}")])
