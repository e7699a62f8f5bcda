"""What a node makes of the table `agents`: for each tenant a directory, who is alive, a search.

One task follows the table and takes changes in slices; another judges health each second. Who has
written waits until the feed has reached its revision: so a registration is found once acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from sira.consensus import config
from sira.consensus.tables import Change, Row, Tables, Watch
from sira.kernel.errors import Conflict, SiraError
from sira.kernel.slices import Pace
from sira.registry import feedback
from sira.registry.directory import TABLE, Directory, Entry, key_of, split
from sira.registry.health import Rules, Status
from sira.registry.live import TICK_MS, Live
from sira.registry.outcomes import Outcomes
from sira.registry.rank.feedback import Record
from sira.registry.search import Search
from sira.registry.weights import PREFIX, Weights, read
from sira.v1 import registry_pb2, tables_pb2

_SLICE_S = 0.002
_FORGET_S = 5.0
_TRIES_MAX = 5


@dataclass(frozen=True, slots=True)
class Agents:
    """All of one tenant."""

    directory: Directory
    live: Live[str]
    search: Search
    weights: dict[str, Weights] = field(default_factory=dict)  # capability -> between its versions


class Feed:
    """Belongs to the node's loop."""

    def __init__(
        self,
        tables: Tables,
        rules: Rules,
        *,
        forget_s: float,
        clock_ns: Callable[[], int],
        make_search: Callable[[str], Search],
        told: Callable[[str, Entry, Status | None, str], None],
        shares: bool = False,
    ) -> None:
        """Follow `tables` once started.

        Args:
            rules: of health.
            forget_s: who has been down for so long is taken out of the table.
            clock_ns: by which health is judged; it never jumps.
            make_search: makes that of one tenant.
            told: tenant, agent, what is thought of it now (None: it is registered no more), why.
            shares: other nodes are told who lives here.
        """
        self.rules, self._shares = rules, shares
        self._tables, self._forget_ms = tables, round(forget_s * 1e3)
        self._clock_ns = clock_ns
        self._make_search, self._told = make_search, told
        self._tenants: dict[str, Agents] = {}
        self.outcomes = Outcomes(tables)
        self._revision = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waits = 0
        self._tasks: list[asyncio.Task[None]] = []

    def now_ms(self) -> int:
        """Return the time by which health is judged."""
        return self._clock_ns() // 1_000_000

    def of(self, tenant: str) -> Agents:
        """Return what there is of a tenant."""
        found = self._tenants.get(tenant)
        if found is None:
            directory = Directory(self._revision)

            def changed(name: str, _: Status | None) -> None:
                directory.state_changed(name)
                entry, vital = directory.get(name), live.get(name)
                if entry is not None and vital is not None:
                    self._told(tenant, entry, vital.status, vital.reason)

            live: Live[str] = Live(self.rules, self.now_ms(), changed=changed, shares=self._shares)
            found = self._tenants[tenant] = Agents(directory, live, self._make_search(tenant))
        return found

    def lives(self) -> dict[str, Live[str]]:
        """Return the vital signs of all tenants, by name."""
        return {tenant: agents.live for tenant, agents in self._tenants.items()}

    async def start(self) -> None:
        """Take what the table holds; whoever was registered is suspect until heard."""
        watch = self._tables.watch(TABLE)
        first = await anext(aiter(watch))
        assert first.rows is not None, "a watch without a revision begins with all rows"
        self._revision = first.revision  # what was removed before, no directory knows
        pace = Pace(slice_s=_SLICE_S)
        for row in first.rows:
            await self._put(row)
            self._expect(row)
            await pace.step()
        self._reach(first.revision)
        learned = self._tables.watch(feedback.TABLE)
        settled = self._tables.watch(config.TABLE)
        for row in (await anext(aiter(settled))).rows or ():
            self._weigh(row.key, row)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._follow(watch), name="sira-registry-feed"),
            loop.create_task(self._follow_learned(learned), name="sira-registry-learned"),
            loop.create_task(self._follow_weights(settled), name="sira-registry-weights"),
            loop.create_task(self._tick(), name="sira-registry-tick"),
        ]

    async def stop(self) -> None:
        """Follow no more."""
        await self.outcomes.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def revision(self) -> int:
        """All changes up to it are in the directories of all tenants; later ones may be."""
        return self._revision

    async def reached(self, revision: int) -> None:
        """Wait until all changes up to a revision can be found."""
        if revision > self._revision:
            self._waits += 1
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (revision, self._waits, future))
            await future

    async def rated(self, tenant: str, request: registry_pb2.RateRequest) -> float:
        """Take a word on an answer; return by how much the capability's score is shifted now.

        Raises:
            BadRequest: an outcome that nobody knows. SiraError: it could not be written.
        """
        key = feedback.key_of(tenant, request.agent, request.capability)
        search = self.of(tenant).search
        for _ in range(_TRIES_MAX):
            row = self._tables.get(feedback.TABLE, key)
            before = feedback.decode(row.value) if row is not None else Record()
            at = [(feedback.TABLE, key, row.changed if row is not None else 0)]
            try:
                if request.reset:
                    self.outcomes.forget(key)
                    await self._tables.transact(at, deletes=[(feedback.TABLE, key)])
                    search.learned(request.agent, request.capability, None)
                else:
                    record = feedback.after_outcome(before, request)
                    value = feedback.encode(record)
                    await self._tables.transact(at, puts=[(feedback.TABLE, key, value)])
                    search.learned(request.agent, request.capability, record)
            except Conflict:  # somebody else rated it: after that
                continue
            return search.shift(request.agent, request.capability, request.query).total
        raise Conflict("others rate it all the time", retryable=True)

    # ---- following -------------------------------------------------------------------------------

    async def _follow(self, watch: Watch) -> None:
        pace = Pace(slice_s=_SLICE_S)
        with watch:
            async for update in watch:
                if update.rows is not None:  # it had fallen behind: all there is, anew
                    await self._replace(update.rows, update.revision)
                for change in update.changes:
                    await self._change(change, update.revision)
                    await pace.step()
                self._reach(update.revision)

    async def _follow_learned(self, watch: Watch) -> None:
        with watch:
            async for update in watch:
                for row in update.rows or ():
                    self._learn(row.key, feedback.decode(row.value))
                for change in update.changes:
                    now = change.row
                    self._learn(change.key, None if now is None else feedback.decode(now.value))

    def _learn(self, key: str, record: Record | None) -> None:
        tenant, agent, capability = feedback.split(key)
        self.of(tenant).search.learned(agent, capability, record)

    async def _follow_weights(self, watch: Watch) -> None:
        with watch:
            async for update in watch:
                for row in update.rows or ():
                    self._weigh(row.key, row)
                for change in update.changes:
                    self._weigh(change.key, change.row)

    def _weigh(self, row_key: str, row: Row | None) -> None:
        """Take a key of the configuration, if it is one of weights."""
        tenant, _, key = row_key.partition("/")
        if not key.startswith(PREFIX):
            return
        agents, capability = self.of(tenant), key.removeprefix(PREFIX)
        value = tables_pb2.ConfigVersion.FromString(row.value).value if row is not None else b"{}"
        weights = read(key, value)
        if agents.weights.get(capability) == weights:
            return
        if weights is None:
            del agents.weights[capability]
        else:
            agents.weights[capability] = weights
        agents.directory.rules_changed()

    async def _replace(self, rows: tuple[Row, ...], revision: int) -> None:
        pace = Pace(slice_s=_SLICE_S)
        for row in rows:
            tenant, name = split(row.key)
            known = self.of(tenant).directory.get(name)
            if known is None or known.agent.revision != row.changed:
                await self._put(row)
                self._expect(row)
                await pace.step()
        standing = {row.key for row in rows}
        for tenant, agents in list(self._tenants.items()):
            for entry in agents.directory:
                if key_of(tenant, entry.name) not in standing:
                    await self._remove(tenant, entry.name, revision)
                    await pace.step()

    async def _change(self, change: Change, revision: int) -> None:
        if change.row is not None:
            await self._put(change.row)
            tenant, name = split(change.key)
            agents = self.of(tenant)
            entry = agents.directory.get(name)
            if entry is not None and agents.live.get(name) is None:
                # Whose node this is is known when it has answered, or is beaten at.
                agents.live.begin(name, self.now_ms(), entry.agent.generation, is_ours=False)
        else:
            await self._remove(*split(change.key), revision)

    async def _put(self, row: Row) -> None:
        tenant, _ = split(row.key)
        agents, entry = self.of(tenant), Entry.of(row.value, row.changed)
        await agents.search.put(entry)
        agents.directory.put(entry)

    def _expect(self, row: Row) -> None:
        tenant, name = split(row.key)
        agents = self.of(tenant)
        entry = agents.directory.get(name)
        if entry is not None and agents.live.get(name) is None:
            agents.live.expect(name, self.now_ms(), entry.agent.generation)

    async def _remove(self, tenant: str, name: str, revision: int) -> None:
        agents = self.of(tenant)
        entry = agents.directory.remove(name, revision)
        if entry is None:
            return
        await agents.search.remove(name)
        for each in entry.registration.capabilities:
            self.outcomes.forget(feedback.key_of(tenant, name, each.name))
        agents.live.forget(name)
        self._told(tenant, entry, None, "")

    def _reach(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        while self._waiting and self._waiting[0][0] <= self._revision:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)

    # ---- health ----------------------------------------------------------------------------------

    def judge(self) -> None:
        """Judge those whose status may have changed by time alone."""
        now_ms = self.now_ms()
        for agents in list(self._tenants.values()):
            agents.live.tick(now_ms)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_MS / 1e3)
            self.judge()
            now_ms = self.now_ms()
            for tenant, agents in list(self._tenants.items()):
                for name in list(agents.live.down(for_ms=self._forget_ms, now_ms=now_ms)):
                    await self._forget(tenant, agents, name)

    async def _forget(self, tenant: str, agents: Agents, name: str) -> None:
        """Take one that has been down for long out of the table, unless it has come back."""
        entry = agents.directory.get(name)
        if entry is None:
            return
        key = key_of(tenant, name)
        learned = [
            (feedback.TABLE, feedback.key_of(tenant, name, each.name))
            for each in entry.registration.capabilities
        ]
        with contextlib.suppress(SiraError):  # it came back, or nothing can be written: later
            await self._tables.transact(
                compares=[(TABLE, key, entry.agent.revision)],
                deletes=[(TABLE, key), *learned],
                timeout_s=_FORGET_S,
            )
