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
    """

    def __init__(
        self, rules: Rules, now_ms: int, *, changed: Callable[[K, Status | None], None]
    ) -> None:
        """Begin with nobody."""
        self.rules = rules
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

    def begin(self, key: K, now_ms: int) -> None:
        """Take a registration of one who is alive now."""
        before = self._vitals.get(key)
        status = None if before is None else before.status
        self._vitals[key] = vital = health.begun(self._clock.now(now_ms), self.rules, before)
        self._note(key, vital)
        self._beating.move_to_end(key)
        if vital.status is not status:
            self._changed(key, status)

    def expect(self, key: K, now_ms: int) -> None:
        """Take one who was registered before this node started, and may be alive: suspect."""
        vital = health.begun(self._clock.now(now_ms), self.rules)
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
        changed = health.beat(
            vital, self._clock.now(now_ms), self.rules, in_flight=beat.in_flight,
            waiting=beat.waiting, lag_ms=beat.lag_ms, draining=beat.draining,
        )  # fmt: skip
        self._note(key, vital)
        self._beating.move_to_end(key)
        if changed:
            self._changed(key, before)
        return True

    def lose(self, key: K, now_ms: int, *, reason: str, is_gone: bool) -> None:
        """Take note that the connection by which one beat has ended."""
        vital = self._vitals.get(key)
        if vital is None:
            return
        before = vital.status
        changed = health.lose(
            vital, self._clock.now(now_ms), self.rules, reason=reason, is_gone=is_gone
        )
        self._note(key, vital)
        if changed:
            self._changed(key, before)

    def forget(self, key: K) -> None:
        """Know one no more."""
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
                self._changed(key, before)

    def down(self, *, for_ms: int, now_ms: int) -> Iterator[K]:
        """Yield those that have been down for so long."""
        heard_ms = self._clock.now(now_ms)
        for key in list(self._down):
            if heard_ms - self._vitals[key].since_ms >= for_ms:
                yield key

    def state(self, key: K, now_ms: int) -> registry_pb2.AgentState:
        """Return what is known of one, as it is told."""
        vital, heard_ms = self._vitals.get(key), self._clock.now(now_ms)
        if vital is None:
            return registry_pb2.AgentState(status=registry_pb2.AGENT_STATUS_DOWN, reason="unknown")
        return registry_pb2.AgentState(
            status=int(vital.status),  # type: ignore[arg-type]  # the same numbers
            reason=vital.reason,
            since_ms=heard_ms - vital.since_ms,
            beat_age_ms=heard_ms - vital.beaten_ms,
            in_flight=vital.in_flight,
            waiting=vital.waiting,
            lag_ms=vital.lag_ms,
        )

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
