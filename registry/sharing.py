"""What a node tells other nodes of the life of its agents, and what it makes of what they tell.

Nothing here knows by which way that goes (`redis_live` is one). What is told is a part: up to
`PART_AGENTS` agents of one tenant, each with its name, generation and state, as a `ListAgents`
answer without the rest. Ages are told, no times: nodes need not agree on a clock. A node numbers
its turns; a name of its connection and that number are its pulse, and a pulse that stands still is
a node that is gone.

Belongs to the node's loop. Long work is done in steps, for a `Pace`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from sira.registry.health import Rules
from sira.registry.live import TICK_MS, Live
from sira.v1 import registry_pb2

PART_AGENTS = 500
NODES_MAX = 1_024  # that are followed; more are left out
_STILL_TURNS = 4
_FORGOTTEN_LEASES = 4  # and after so long it is followed no more
_STEP_AGENTS = 16
_REASON_CHARS_MAX = 200
_AGE_MS_MAX = 1 << 40
Part = tuple[str, bytes]  # tenant, ListAgentsResponse


@dataclass(slots=True)
class Home:
    """Another node, as it was heard.

    Attributes:
        life: what it called itself when it connected; "": nothing was heard of it yet.
        pulse: its last turn.
        still_turns: how many of our turns it has not changed in.
        is_believed: its pulse was seen to move: what is read of it is not what a dead one has left.
        is_lost: its agents are not believed to live.
    """

    life: str = ""
    pulse: int = -1
    still_turns: int = 0
    is_believed: bool = False
    is_lost: bool = False


@dataclass(slots=True)
class Counts:
    """Since the start: agents told of, agents heard of, parts and pulses that nobody can read."""

    told: int = 0
    heard: int = 0
    garbled: int = 0


@dataclass(slots=True)
class Sharing:
    """The tenants' vital signs, and the other nodes.

    Attributes:
        node: the name of this one.
        lives: what is known now, by tenant.
        now_ms: the clock by which health is judged.
        homes: other nodes, by name.
        still_turns: of ours in which a pulse has not moved: its node is lost.
    """

    node: str
    rules: Rules
    lives: Callable[[], Mapping[str, Live[str]]]
    now_ms: Callable[[], int]
    homes: dict[str, Home] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    still_turns: int = _STILL_TURNS
    # When each was told of last, in turns, oldest first: who does not beat is told of again.
    _told_at: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)

    @property
    def lease_turns(self) -> int:
        """How many turns are a lease."""
        return -(-self.rules.lease_ms // TICK_MS)

    @property
    def kept_turns(self) -> int:
        """For how many turns what was told is to be kept: all of ours is told again within."""
        return self.lease_turns + _STILL_TURNS

    # ---- telling ---------------------------------------------------------------------------------

    def parts(self, turn: int) -> Iterator[Part | None]:
        """Yield what is to be told in a turn; None: a step was done."""
        again = turn - self.lease_turns
        while self._told_at:
            (tenant, name), told_at = next(iter(self._told_at.items()))
            if told_at > again:
                break
            del self._told_at[tenant, name]
            live = self.lives().get(tenant)
            if live is not None:
                live.tell_again(name)
            yield None
        for tenant, live in list(self.lives().items()):
            left = len(live.untold)  # who comes meanwhile is told in the next turn
            while left > 0:
                part = registry_pb2.ListAgentsResponse()
                while left > 0 and len(part.agents) < PART_AGENTS:
                    count = min(left, _STEP_AGENTS)
                    left -= count
                    self._add(part, tenant, live, turn, count)
                    yield None
                if part.agents:
                    yield tenant, part.SerializeToString()

    def _add(
        self, part: registry_pb2.ListAgentsResponse, tenant: str, live: Live[str], turn: int,
        count: int,
    ) -> None:  # fmt: skip
        """Put up to so many into a part."""
        untold, told_at, now_ms = live.untold, self._told_at, self.now_ms()
        for _ in range(min(count, len(untold))):
            name, _ = untold.popitem(last=False)
            vital = live.get(name)
            if vital is None or not vital.is_ours:
                continue
            agent = part.agents.add(generation=vital.generation)
            agent.registration.name = name
            live.describe(vital, agent.state, now_ms)
            key = (tenant, name)
            told_at[key] = turn
            told_at.move_to_end(key)
            self.counts.told += 1

    def tell_all(self) -> Iterator[None]:
        """Have all be told again: what was told is lost."""
        self._told_at.clear()
        for live in list(self.lives().values()):
            for name in live:
                live.tell_again(name)
                yield

    # ---- hearing ---------------------------------------------------------------------------------

    def hear(self, home: str, part: Part, turn: int) -> Iterator[None]:
        """Take what another node told in its turn. Who is not registered here is passed over."""
        tenant, body = part
        live = self.lives().get(tenant)
        if live is None:
            return
        try:
            agents = registry_pb2.ListAgentsResponse.FromString(body).agents
        except DecodeError:
            self.counts.garbled += 1
            return
        known = self.homes.get(home)
        late_ms = max(0, known.pulse - turn) * TICK_MS if known is not None else 0
        for each in agents:
            state = each.state
            state.beat_age_ms = min(state.beat_age_ms + late_ms, _AGE_MS_MAX)
            state.reason = state.reason[:_REASON_CHARS_MAX]
            self.counts.heard += live.hear(
                each.registration.name, home, each.generation, state, self.now_ms()
            )
            yield

    def pulses(self, told: Mapping[str, tuple[str, int | None]]) -> Iterator[None]:
        """Take the pulses of all nodes in one of our turns: name -> (life, turn).

        A turn of None is a farewell. Who is missing may only have been forgotten: it stands still.
        """
        for name, (life, turn) in told.items():
            if name == self.node or (name not in self.homes and len(self.homes) >= NODES_MAX):
                continue
            home = self.homes.setdefault(name, Home())
            if turn is None:
                home.life = life
                yield from self._lose(name, home, f"its node {name} has gone down")
            elif home.life != life:
                home.life, home.pulse, home.still_turns, home.is_believed = life, turn, 0, False
            elif home.pulse != turn:  # a dead one's does not move
                home.pulse, home.still_turns = turn, 0
                home.is_believed, home.is_lost = True, False
        for name, home in list(self.homes.items()):
            home.still_turns += 1
            if home.still_turns > self.still_turns:
                yield from self._lose(name, home, f"its node {name} is not heard")
            if home.still_turns > self.still_turns + _FORGOTTEN_LEASES * self.lease_turns:
                del self.homes[name]

    def heard_all(self) -> Iterator[None]:
        """Suspect whom a node that is heard tells nothing of any more. After all was read."""
        since_ms = self.kept_turns * TICK_MS
        for name, home in list(self.homes.items()):
            if home.is_believed and not home.is_lost:
                for live in list(self.lives().values()):
                    yield from live.lose_untold(
                        name, self.now_ms(), since_ms=since_ms,
                        reason=f"its node {name} says nothing of it",
                    )  # fmt: skip

    def _lose(self, name: str, home: Home, reason: str) -> Iterator[None]:
        if home.is_lost:
            return
        home.is_lost, home.is_believed = True, False
        yield from self._lose_all(name, reason, is_cut=False)

    def _lose_all(self, home: str, reason: str, *, is_cut: bool) -> Iterator[None]:
        for live in list(self.lives().values()):
            yield from live.lose_home(home, self.now_ms(), reason=reason, is_cut=is_cut)

    def cut(self, reason: str) -> Iterator[None]:
        """Suspect the agents of all other nodes: this one has heard nobody for a lease."""
        for name, home in list(self.homes.items()):
            if not home.is_lost:
                home.is_lost = True
                yield from self._lose_all(name, reason, is_cut=True)

    def joined(self) -> None:
        """Begin to hear anew: what stood still while we heard nobody is blamed on nobody."""
        for home in self.homes.values():
            home.still_turns, home.life = 0, ""
