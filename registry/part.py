"""The registry as a part of a node: made of the node's tables and settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sira.consensus.part import TablesPart
from sira.kernel.errors import QuotaExceeded
from sira.kernel.methods import Method, TopicClass
from sira.kernel.parts import Host
from sira.kernel.settings import Settings
from sira.registry.directory import Entry
from sira.registry.embed.hashed import HashedEmbedder
from sira.registry.embed.interface import Embedder
from sira.registry.embed.onnx_model import OnnxEmbedder
from sira.registry.feed import Feed
from sira.registry.health import Rules, Status
from sira.registry.index.edge import Edge
from sira.registry.index.exact import Exact
from sira.registry.index.interface import Collection, Index
from sira.registry.index.mirrored import Mirrored
from sira.registry.learning.stored import Trained
from sira.registry.learning.trainer import Trainer
from sira.registry.learning.when import Past
from sira.registry.learning.when import Rules as LearningRules
from sira.registry.records import TOPIC_PREFIX
from sira.registry.search import TAGS, Search
from sira.registry.service import RegistryService

if TYPE_CHECKING:
    from sira.registry.redis_live import RedisLive

INDEX_FOLDER = "index"
INDEX_DIMS = 512
# Environment of the node: a secret is no setting.
API_KEY = "QDRANT_API_KEY"
PASSWORD = "REDIS_PASSWORD"


class Registry:
    """Registrations, who is alive, and finding them."""

    def __init__(self, tables: TablesPart) -> None:
        """Use tables that are started before this is."""
        self._tables = tables
        self._service = RegistryService()
        self._host: Host | None = None
        # Only names candidates: what they score is worked out of all features.
        self._near: Embedder = HashedEmbedder(INDEX_DIMS)
        self._model: Embedder | None = None
        self._index: Index | None = None
        self._feed: Feed | None = None
        self._trainer: Trainer | None = None
        self._redis: RedisLive | None = None

    @property
    def trainer(self) -> Trainer | None:
        """What learns from examples; None: the node keeps nothing, or was told not to."""
        return self._trainer

    @property
    def feed(self) -> Feed:
        """What is known of agents. Requires: started."""
        assert self._feed is not None, "started"
        return self._feed

    def methods(self) -> Iterable[Method]:
        """Return the entries for the node's table."""
        return self._service.methods()

    def topic_classes(self) -> Iterable[TopicClass]:
        """Return where agents are asked."""
        summary = "agents.NAME.CAPABILITY: where a registered agent is asked"
        return (TopicClass(f"{TOPIC_PREFIX}.>", "user", summary),)

    async def start(self, host: Host) -> None:
        """Take what the tables hold, before the node listens.

        Raises:
            BadSetting, Unsupported: the embedder cannot be used.
            SiraError: a row that this node does not understand.
        """
        self._host = host
        if host.settings.embedder_dir:
            # In a thread: a model of 90 MB takes 0.1 s, and others start meanwhile.
            self._model = await asyncio.to_thread(OnnxEmbedder, host.settings.embedder_dir)
            self._near = self._model
        collection = Collection("agents", self._near.name, self._near.dims, TAGS)
        if host.settings.qdrant_url:
            self._index = _mirrored(collection, host.settings.qdrant_url)
        elif host.folder is None:
            self._index = Exact(collection)
        else:
            least = host.settings.index_graph_min
            self._index = Edge(collection, host.folder / INDEX_FOLDER, graph_min=least)
        tables = self._tables.tables
        self._feed = Feed(
            tables,
            rules_of(host.settings),
            forget_s=host.settings.agent_forget_s,
            clock_ns=host.clock_ns,
            make_search=self._search,
            told=self._told,
            shares=bool(host.settings.redis_url),
        )
        if host.folder is not None and host.settings.learn_interval_s:
            self._trainer = self._make_trainer(host, host.folder, self._feed)
        trainer = self._trainer
        host.count("registry_trained_total", lambda: trainer.trained if trainer else 0)
        host.count("registry_untrained_total", lambda: trainer.failed if trainer else 0)
        self._service.begin(tables, self._feed, agents_max=host.settings.agents_max)
        await self._feed.start()
        if self._trainer is not None:
            await self._trainer.start()
        if host.settings.redis_url:
            self._redis = self._shared(host, self._feed)
            self._redis.start()

    def tick(self) -> None:
        """Judge all on a clock that was moved by hand."""
        if self._feed is not None:
            self._feed.judge()

    async def stop(self) -> None:
        """End."""
        if self._trainer is not None:
            await self._trainer.stop()
        if self._redis is not None:
            await self._redis.stop()
        if self._feed is not None:
            await self._feed.stop()
        if self._index is not None:
            await self._index.close()

    def _search(self, tenant: str) -> Search:
        assert self._index is not None, "started"

        def moved(kind: str) -> None:
            if self._trainer is not None:
                self._trainer.moved(tenant, kind)

        return Search(tenant, near=self._near, index=self._index, model=self._model, moved=moved)

    def _make_trainer(self, host: Host, folder: Path, feed: Feed) -> Trainer:
        settings = host.settings
        return Trainer(
            folder,
            self._tables.tables,
            LearningRules(settings.learn_interval_s, settings.learn_examples_min),
            limit_s=settings.learn_s_max,
            node=settings.node_name,
            model_dir=settings.embedder_dir,
            embedder=self._model.name if self._model is not None else "",
            search_of=lambda tenant: feed.of(tenant).search,
            told=_TrainingTold(host),
        )

    def _shared(self, host: Host, feed: Feed) -> RedisLive:
        # Here, for who uses it: redis-py takes a fifth of a second to load.
        from sira.registry.redis_live import RedisLive
        from sira.registry.sharing import Sharing

        settings = host.settings
        sharing = Sharing(settings.node_name, feed.rules, feed.lives, feed.now_ms)

        def said(word: str, text: str) -> None:
            host.limp("redis", bool(word))
            if word:
                host.logs.warning("registry", "redis", f"live state is not shared: {text}")
                host.say("sira.live.unshared", reason=word)
            else:
                host.say("sira.live.shared")

        redis = RedisLive(
            sharing, settings.redis_url, cluster=settings.cluster_name,
            password=os.environ.get(PASSWORD) or None, said=said,
        )  # fmt: skip
        counts = sharing.counts
        host.limp("redis", True)  # until it has been reached
        host.count("live_shared", lambda: redis.is_well)
        host.count("live_nodes", lambda: sum(h.is_believed for h in sharing.homes.values()))
        host.count("live_failures_total", lambda: redis.failures)
        host.count("live_flushes_total", lambda: redis.flushes)
        host.count("live_told_total", lambda: counts.told)
        host.count("live_heard_total", lambda: counts.heard)
        host.count("live_garbled_total", lambda: counts.garbled)
        return redis

    def _told(self, tenant: str, entry: Entry, status: Status | None, reason: str) -> None:
        assert self._host is not None, "started"
        try:
            events = self._host.bus_of(tenant).events
        except QuotaExceeded:  # a tenant that nobody has come from since the start
            return
        about: dict[str, Any] = {
            "agent": entry.name,
            "kind": entry.registration.kind,
            "generation": entry.agent.generation,
        }
        if status is None:
            events.emit("sira.agent.removed", **about)
            return
        events.emit(
            "sira.agent.changed", status=status.name.lower(), reason=reason,
            principal=entry.agent.principal, **about,
        )  # fmt: skip


class _TrainingTold:
    """Says on the bus, and in the log, how trainings end."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def trained(self, made: Trained, took_s: float) -> None:
        self._say(
            made.tenant, "sira.registry.trained", kind=made.kind, version=made.version,
            entries=made.entries, examples=made.examples, held_out=made.held_out,
            right=made.right, took_s=round(took_s, 3),
        )  # fmt: skip

    def failed(self, tenant: str, kind: str, reason: str, past: Past) -> None:
        self._say(tenant, "sira.registry.untrained", kind=kind, reason=reason,
                  failures=past.failures)  # fmt: skip

    def _say(self, tenant: str, topic: str, **about: Any) -> None:
        with contextlib.suppress(QuotaExceeded):
            self._host.bus_of(tenant).events.emit(topic, **about)


def _mirrored(collection: Collection, url: str) -> Index:
    # Here, for who uses it: to load qdrant-client takes as long as all the rest of a node.
    from sira.registry.index.server import Server

    key = os.environ.get(API_KEY) or None
    return Mirrored(collection, lambda: Server.open(collection, url, api_key=key))


def rules_of(settings: Settings) -> Rules:
    """Return the rules of health that the settings ask for."""
    beat_ms = round(settings.agent_beat_s * 1e3)
    suspect_ms = max(beat_ms, round(settings.agent_suspect_s * 1e3))
    return Rules(
        beat_ms=beat_ms,
        suspect_ms=suspect_ms,
        lease_ms=max(suspect_ms, round(settings.agent_lease_s * 1e3)),
        deviation_ms_min=beat_ms / 10,
    )
