"""What is told of all agents: `List`, and `Watch` from a snapshot or a revision on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sira.kernel.authorize import Allow
from sira.kernel.edge.door import Call
from sira.registry.directory import Directory, Entry, Removed, Watcher
from sira.registry.feed import Agents, Feed
from sira.registry.records import TOPIC_PREFIX
from sira.v1 import registry_pb2

_PAGE, _PAGE_MAX = 1_000, 5_000
_ROWS_A_STEP = 100
_REVISIONS_EVERY_S = 0.02


async def list_agents(
    feed: Feed, call: Call, request: registry_pb2.ListAgentsRequest
) -> registry_pb2.ListAgentsResponse:
    """Return a page of registrations, by name, of those that the caller may see."""
    agents = feed.of(call.principal.tenant)
    limit = min(request.limit or _PAGE, _PAGE_MAX)
    response = registry_pb2.ListAgentsResponse(revision=feed.revision)
    entries = agents.directory.sorted_after(request.page_token)
    for index, entry in enumerate(entries, 1):
        if _is_asked_for(entry, request) and _may_see(call, entry):
            if len(response.agents) == limit:
                response.next_page_token = response.agents[-1].registration.name
                break
            response.agents.append(_told(feed, agents, entry))
        if index % _ROWS_A_STEP == 0:
            await asyncio.sleep(0)
    return response


async def watch(feed: Feed, call: Call, request: registry_pb2.RegistryWatchRequest) -> None:
    """Tell what there is, or has changed since, then every change, until the call ends."""
    agents = feed.of(call.principal.tenant)
    woken = asyncio.Event()
    watcher = Watcher(woken.set)
    agents.directory.watch(watcher)
    try:
        if request.revisions_only:
            await _tell_revisions(call, agents.directory, watcher, woken)
        telling = _Telling(feed, call, agents, request.kind)
        await telling.begin(request.since)
        while True:
            await woken.wait()
            woken.clear()
            revision, changed = feed.revision, watcher.take()
            news = [removed or agents.directory.get(name) for name, removed in changed.items()]
            await telling.tell(news, revision)
    finally:
        agents.directory.unwatch(watcher)


class _Telling:
    """One watch: what is said, and from which revision it can be taken up again.

    One step of the tables may change several entries, and of an entry that changed twice only the
    newer is told, before others that changed in between: so the revision of an entry is none to go
    on from. The watch can be taken up at `reached` until all that there was to tell is told.
    """

    def __init__(self, feed: Feed, call: Call, agents: Agents, kind: str) -> None:
        self._feed, self._call, self._agents, self._kind = feed, call, agents, kind
        self._reached = 0

    async def begin(self, since: int) -> None:
        """Tell all there is, or what has changed since a revision, then that this was it."""
        revision, directory = self._feed.revision, self._agents.directory
        self._reached = since
        found: Iterable[Entry | Removed] | None = None
        if since:
            found = directory.since(since) if since <= revision else None
            if found is None:
                self._reached = 0
                await self._call.write(registry_pb2.RegistryWatchResponse(restart=True))
        await self.tell(directory if found is None else found, revision)
        await self._call.write(
            registry_pb2.RegistryWatchResponse(revision=revision, snapshot_end=True)
        )

    async def tell(self, news: Iterable[Entry | Removed | None], revision: int) -> None:
        """Say what entries are now, or that they were removed; with that, `revision` is reached."""
        last = None
        for each in news:
            change = None if each is None else self._change_of(each)
            if change is not None:
                if last is not None:
                    await self._call.write(last)
                last = change
                last.revision = self._reached
        self._reached = revision
        if last is not None:
            last.revision = revision
            await self._call.write(last)

    def _change_of(self, each: Entry | Removed) -> registry_pb2.RegistryWatchResponse | None:
        """Return what to say of it; None: it is not for this caller."""
        entry = each.entry if isinstance(each, Removed) else each
        if entry is not None and not _may_see(self._call, entry):
            return None
        if isinstance(each, Removed):
            gone = registry_pb2.Agent(generation=each.generation, revision=each.revision)
            gone.registration.name = each.name
            return registry_pb2.RegistryWatchResponse(removed=gone)
        if self._kind and each.registration.kind != self._kind:
            return None
        return registry_pb2.RegistryWatchResponse(put=_told(self._feed, self._agents, each))


async def _tell_revisions(
    call: Call, directory: Directory, watcher: Watcher, woken: asyncio.Event
) -> None:
    while True:
        watcher.take()
        woken.clear()
        await call.write(
            registry_pb2.RegistryWatchResponse(
                revision=directory.revision, state_version=directory.state_version
            )
        )
        await asyncio.sleep(_REVISIONS_EVERY_S)
        await woken.wait()


def _is_asked_for(entry: Entry, request: registry_pb2.ListAgentsRequest) -> bool:
    return (
        (not request.kind or entry.registration.kind == request.kind)
        and (not request.name or entry.name == request.name)
        and entry.has_labels(request.labels)
    )


def _may_see(call: Call, entry: Entry) -> bool:
    """Whether the caller may know of an agent: its own, one it may call, or by its office."""
    if entry.agent.principal == str(call.principal):
        return True
    decide, who = call.world.bus.access.decide, call.credential
    topics = [each.topic for each in entry.registration.capabilities]
    return any(isinstance(decide(who, "publish", each), Allow) for each in topics) or (
        isinstance(decide(who, "inspect", f"{TOPIC_PREFIX}.{entry.name}"), Allow)
    )


def _told(feed: Feed, agents: Agents, entry: Entry) -> registry_pb2.Agent:
    agent = registry_pb2.Agent()
    agent.CopyFrom(entry.agent)
    agent.state.CopyFrom(agents.live.state(entry.name, feed.now_ms()))
    return agent
