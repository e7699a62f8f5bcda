"""Who is alive, in memory: status and load of each agent, and who is told when that changes.

Belongs to the node's loop. The clock is given with each call; `tick` is called every second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from sira.registry import health
from sira.registry.health import Heard, Rules, Status, Vital
from sira.v1 import registry_pb2

TICK_MS = 1_000
K = TypeVar("K", bound=Hashable)


class Live(Generic[K]):
    """The vital signs of agents, by key. `changed(key, before)` is called after a status changes.

    `before` is None when the agent came, and its status is told by `status` then.

    Attributes:
        untold: who other nodes are to be told of, oldest first; with `shares` alone.
    """

    def __init__(
        self,
        rules: Rules,
        now_ms: int,
        *,
        changed: Callable[[K, Status | None], None],
        shares: bool = False,
    ) -> None:
        """Begin with nobody. `shares`: other nodes are told of those that beat here."""
        self.rules, self.shares = rules, shares
        self.untold: OrderedDict[K, None] = OrderedDict()
        # Those that other nodes tell of, by node: they are lost together. When they were told of
        # last, oldest first.
        self._homes: dict[str, OrderedDict[K, int]] = {}
        self._clock = Heard(now_ms, step_ms=TICK_MS)
        self._changed = changed
        self._vitals: dict[K, Vital] = {}
        # Those that are not down, by the last beat: a tick looks at those alone that are late,
        self._beating: OrderedDict[K, None] = OrderedDict()
        self._uneasy: dict[K, None] = {}  # and at those that are suspect, draining or damped.
        self._down: dict[K, None] = {}

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._vitals)

    def get(self, key: K) -> Vital | None:
        """Return what is known of one; None: nothing."""
        return self._vitals.get(key)

    def __iter__(self) -> Iterator[K]:
        """Yield all that are known; others may come meanwhile."""
        return iter(list(self._vitals))

    def begin(self, key: K, now_ms: int, generation: int = 0, *, is_ours: bool = True) -> None:
        """Take a registration of one who is alive now; `is_ours`: it has come to this node."""
        before = self._vitals.get(key)
        status = None if before is None else before.status
        if before is not None:
            self._is_here(key, before)
        self._vitals[key] = vital = health.begun(self._clock.now(now_ms), self.rules, before)
        vital.generation, vital.is_ours = generation, is_ours
        self._note(key, vital)
        self._beating.move_to_end(key)
        self._tell(key, vital)
        if vital.status is not status:
            self._changed(key, status)

    def expect(self, key: K, now_ms: int, generation: int = 0) -> None:
        """Take one who was registered before this node started, and may be alive: suspect."""
        vital = health.begun(self._clock.now(now_ms), self.rules)
        vital.generation = generation
        health.lose(
            vital, vital.beaten_ms, self.rules, reason="not heard since the node started",
            is_gone=False,
        )  # fmt: skip
        self._vitals[key] = vital
        self._note(key, vital)
        self._changed(key, None)

    def beat(self, key: K, beat: registry_pb2.Beat, now_ms: int) -> bool:
        """Take a beat; False: nobody of that key is known."""
        vital = self._vitals.get(key)
        if vital is None:
            return False
        before = vital.status
        if vital.home:
            self._is_here(key, vital)
        vital.generation = beat.generation or vital.generation
        changed = health.beat(
            vital, self._clock.now(now_ms), self.rules, in_flight=beat.in_flight,
            waiting=beat.waiting, lag_ms=beat.lag_ms, draining=beat.draining,
        )  # fmt: skip
        self._note(key, vital)
        self._beating.move_to_end(key)
        self._tell(key, vital)
        if changed:
            self._changed(key, before)
        return True

    def lose(self, key: K, now_ms: int, *, reason: str, is_gone: bool) -> None:
        """Take note that the connection by which one beat has ended."""
        vital = self._vitals.get(key)
        if vital is None or vital.home:  # it has gone to another node, and beats there
            return
        self._lost(key, vital, now_ms, reason=reason, is_gone=is_gone)

    def _lost(self, key: K, vital: Vital, now_ms: int, *, reason: str, is_gone: bool) -> None:
        before = vital.status
        changed = health.lose(
            vital, self._clock.now(now_ms), self.rules, reason=reason, is_gone=is_gone
        )
        self._note(key, vital)
        self._tell(key, vital)
        if changed:
            self._changed(key, before)

    def forget(self, key: K) -> None:
        """Know one no more."""
        vital = self._vitals.get(key)
        if vital is not None:
            self._is_here(key, vital)
        self.untold.pop(key, None)
        for each in (self._vitals, self._beating, self._uneasy, self._down):
            each.pop(key, None)

    def tick(self, now_ms: int) -> None:
        """Judge those whose status may have changed by time alone."""
        heard_ms = self._clock.tick(now_ms)
        late: list[K] = []
        for key in self._beating:
            if heard_ms - self._vitals[key].beaten_ms < self.rules.patience_ms:
                break
            late.append(key)
        for key in dict.fromkeys((*late, *self._uneasy)):
            vital = self._vitals[key]
            before = vital.status
            changed = health.judge(vital, heard_ms, self.rules)
            self._note(key, vital)
            if changed:
                self._tell(key, vital)
                self._changed(key, before)

    # ---- other nodes -----------------------------------------------------------------------------

    def hear(
        self, key: K, home: str, generation: int, state: registry_pb2.AgentState, now_ms: int
    ) -> bool:
        """Take what another node thinks of an agent that beats there; False: it is not believed.

        Of two nodes that tell of one agent, that one is believed which has heard the newer
        instance of it, or has heard it later. What is heard here counts as long as it comes.
        """
        vital, heard_ms = self._vitals.get(key), self._clock.now(now_ms)
        if vital is None or generation < vital.generation or not 1 <= state.status <= len(Status):
            return False
        if generation == vital.generation and vital.home != home:
            newer_ms = heard_ms - state.beat_age_ms - vital.beaten_ms
            beats_here = vital.is_ours and not vital.lost
            if newer_ms < (self.rules.patience_ms if beats_here else 0):
                return False
        before = vital.status
        self._is_here(key, vital)
        self._homes.setdefault(home, OrderedDict())[key] = heard_ms
        vital.generation = generation
        changed = health.tell(
            vital, heard_ms, self.rules, home=home, status=Status(state.status),
            reason=state.reason, age_ms=state.beat_age_ms, in_flight=state.in_flight,
            waiting=state.waiting, lag_ms=state.lag_ms,
        )  # fmt: skip
        self.untold.pop(key, None)
        self._note(key, vital)
        if vital.status is not Status.DOWN:
            self._beating.move_to_end(key)
        if changed:
            self._changed(key, before)
        return True

    def lose_home(self, home: str, now_ms: int, *, reason: str, is_cut: bool) -> Iterator[None]:
        """Suspect all that a node tells of: it is heard no more. A step for each of them.

        Args:
            is_cut: it is this node that hears nobody: they are not down after their lease either.
        """
        for key in list(self._homes.get(home, ())):
            vital = self._vitals.get(key)
            if vital is not None and vital.home == home:
                vital.is_cut = is_cut
                self._lost(key, vital, now_ms, reason=reason, is_gone=False)
                yield

    def lose_untold(self, home: str, now_ms: int, *, since_ms: int, reason: str) -> Iterator[None]:
        """Suspect those of a node that it has told nothing of for so long, though it is heard."""
        heard_ms = self._clock.now(now_ms)
        while of_home := self._homes.get(home):
            key, told_ms = next(iter(of_home.items()))
            if heard_ms - told_ms < since_ms:
                return
            of_home[key] = heard_ms  # it is looked at again when it is as late again
            of_home.move_to_end(key)
            self._lost(key, self._vitals[key], now_ms, reason=reason, is_gone=False)
            yield

    def tell_again(self, key: K) -> None:
        """Have other nodes told of one, if it is this node that does."""
        vital = self._vitals.get(key)
        if vital is not None:
            self._tell(key, vital)

    def _is_here(self, key: K, vital: Vital) -> None:
        """Another node tells of it no more, or another one than before."""
        if vital.home:
            of_home = self._homes[vital.home]
            of_home.pop(key, None)
            if not of_home:
                del self._homes[vital.home]

    def _tell(self, key: K, vital: Vital) -> None:
        if self.shares and vital.is_ours:
            self.untold[key] = None

    # ----------------------------------------------------------------------------------------------

    def down(self, *, for_ms: int, now_ms: int) -> Iterator[K]:
        """Yield those that have been down for so long."""
        heard_ms = self._clock.now(now_ms)
        for key in list(self._down):
            if heard_ms - self._vitals[key].since_ms >= for_ms:
                yield key

    def state(self, key: K, now_ms: int) -> registry_pb2.AgentState:
        """Return what is known of one, as it is told."""
        vital, state = self._vitals.get(key), registry_pb2.AgentState()
        if vital is None:
            state.status, state.reason = registry_pb2.AGENT_STATUS_DOWN, "unknown"
        else:
            self.describe(vital, state, now_ms)
        return state

    def describe(self, vital: Vital, state: registry_pb2.AgentState, now_ms: int) -> None:
        """Put what is known of one into an empty state."""
        heard_ms = self._clock.now(now_ms)
        state.status = int(vital.status)  # type: ignore[assignment]  # the same numbers
        state.since_ms = heard_ms - vital.since_ms
        state.beat_age_ms = heard_ms - vital.beaten_ms
        # Of most of them none of these has to be said.
        if vital.reason:
            state.reason = vital.reason
        if vital.in_flight:
            state.in_flight = vital.in_flight
        if vital.waiting:
            state.waiting = vital.waiting
        if vital.lag_ms:
            state.lag_ms = vital.lag_ms

    def _note(self, key: K, vital: Vital) -> None:
        """Keep it where the next tick looks for it."""
        if vital.status is Status.DOWN:
            self._down[key] = None
            self._beating.pop(key, None)
            self._uneasy.pop(key, None)
            return
        self._down.pop(key, None)
        self._beating.setdefault(key, None)
        if vital.status is Status.UP and not vital.is_damped:
            self._uneasy.pop(key, None)
        else:
            self._uneasy[key] = None
