"""What the supervisor decides: who is started when, who is signalled, how it all ends.

A pure function `step(state, event) -> (state, commands)`. It holds no clock (events carry
`now_ns`), no process and no random number (an end carries `luck`).

The wait before a restart doubles from `wait_s_min` to `wait_s_max`; half of it is chance, so that
what died together does not come back together. A child that served for `wait_s_max` begins anew.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

NODE = "node"
EXIT_OK, EXIT_CUT_SHORT, EXIT_CANNOT_START = 0, 1, 3
_DOUBLINGS_MAX = 32  # far past any wait_s_max; keeps the power small


class Phase(Enum):
    """Where a child stands."""

    WAITING = "not running; to be started at `due_ns`"
    STARTING = "started, has not said that it serves"
    SERVING = "has said that it serves"
    GONE = "ended, and is not started again"


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits.

    Attributes:
        wait_s_min, wait_s_max: first and longest wait before a restart, s.
        drain_s: how long a child may take to end in order, s; then it is killed.
        hurry_s: the same after a second signal.
    """

    wait_s_min: float
    wait_s_max: float
    drain_s: float
    hurry_s: float


@dataclass(frozen=True, slots=True)
class Child:
    """One child.

    Attributes:
        restart: `always`; `failed`: unless it ended with 0; `never`.
        due_ns: when to start it. Means something while WAITING.
        since_ns: when it said that it serves. Means something while SERVING.
        failures: ends in a row, none after a life of `wait_s_max`.
        starts: how often it was started.
        served: it has served in some life.
        required: one that says it cannot start, before it ever served, ends all in order.
        last: how its last life ended: reason for people, exit code (negative: a signal).
    """

    name: str
    restart: str = "always"
    phase: Phase = Phase.WAITING
    due_ns: int = 0
    since_ns: int = 0
    failures: int = 0
    starts: int = 0
    served: bool = False
    required: bool = False
    last: tuple[str, int] = ("", 0)

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.phase in (Phase.STARTING, Phase.SERVING)


@dataclass(frozen=True, slots=True)
class State:
    """All children by name, and how far the end has come.

    Attributes:
        asked: signals that asked for the end.
        kill_ns: when children that still run are killed; 0: not at all.
        exit_code: what the supervisor will end with.
    """

    rules: Rules
    children: dict[str, Child]
    asked: int = 0
    kill_ns: int = 0
    exit_code: int = EXIT_OK


# ---- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passed:
    """Time has passed; also the first event of all."""

    now_ns: int


@dataclass(frozen=True, slots=True)
class Served:
    """A child said that it serves."""

    name: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class Died:
    """A child's process has ended; `luck` is a random number in [0, 1)."""

    name: str
    exit: int
    now_ns: int
    luck: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A signal asked for the end."""

    now_ns: int


Event = Passed | Served | Died | Asked


# ---- commands ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start the process of a child."""

    name: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signal to a child."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Say a fact: `sira.child.started` or `sira.child.ended`."""

    topic: str
    fields: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """All is over: end with this exit code."""

    exit_code: int


Command = Start | Send | Tell | Finish


def step(state: State, event: Event) -> tuple[State, list[Command]]:
    """Decide what follows from one event."""
    match event:
        case Passed():
            state, commands = _passed(state, event.now_ns)
        case Served():
            state, commands = _served(state, event)
        case Died():
            state, commands = _died(state, event)
        case Asked():
            state, commands = _asked(state, event.now_ns)
    if state.asked and not any(each.running for each in state.children.values()):
        commands = [*commands, Finish(state.exit_code)]
    return state, commands


def due_ns(state: State) -> int | None:
    """Return when `Passed` is next wanted; None: not before something happens."""
    times = [state.kill_ns] if state.kill_ns else []
    times += [each.due_ns for each in _startable(state)]
    return min(times, default=None)


def wait_s(failures: int, luck: float, rules: Rules) -> float:
    """Return how long to wait before the restart after so many ends in a row, s."""
    longest_s: float = rules.wait_s_min * 2 ** min(failures - 1, _DOUBLINGS_MAX)
    return min(longest_s, rules.wait_s_max) * (0.5 + luck / 2)


def _startable(state: State) -> Iterator[Child]:
    """Yield children that only wait for their time. The others wait for the node to have served."""
    if state.asked:
        return
    node_served = state.children[NODE].served
    for each in state.children.values():
        if each.phase is Phase.WAITING and (each.name == NODE or node_served):
            yield each


def _with(state: State, child: Child) -> State:
    return replace(state, children={**state.children, child.name: child})


def _passed(state: State, now_ns: int) -> tuple[State, list[Command]]:
    commands: list[Command] = []
    for each in list(_startable(state)):
        if each.due_ns <= now_ns:
            commands.append(Start(each.name))
            state = _with(state, replace(each, phase=Phase.STARTING, starts=each.starts + 1))
    if state.kill_ns and state.kill_ns <= now_ns:
        left = [each.name for each in state.children.values() if each.running]
        commands += [Send(name, signal.SIGKILL) for name in left]
        state = replace(state, kill_ns=0, exit_code=EXIT_CUT_SHORT)
    return state, commands


def _served(state: State, event: Served) -> tuple[State, list[Command]]:
    child = state.children[event.name]
    if child.phase is not Phase.STARTING:
        return state, []
    child = replace(child, phase=Phase.SERVING, since_ns=event.now_ns, served=True)
    told = Tell("sira.child.started", _fields(child, *child.last)) if child.starts > 1 else None
    state, commands = _passed(_with(state, child), event.now_ns)  # others waited for the node
    return state, [*([told] if told else []), *commands]


def _died(state: State, event: Died) -> tuple[State, list[Command]]:
    child = state.children[event.name]
    reason = _reason(child, event.exit)
    child = replace(child, last=(reason, event.exit))
    told = Tell("sira.child.ended", _fields(child, reason, event.exit))
    if state.asked:
        state = _with(state, replace(child, phase=Phase.GONE))
        if child.name == NODE and child.served and event.exit != EXIT_OK:
            state = replace(state, exit_code=EXIT_CUT_SHORT)
        return state, []
    if child.name == NODE and not child.served and event.exit > 0:
        # It has never served and says so itself: the same would happen again. Whoever started us
        # is still there to read why.
        state = _with(state, replace(child, phase=Phase.GONE))
        state = replace(state, asked=1, exit_code=event.exit)
        others = [each.name for each in state.children.values() if each.running]
        return state, [Send(name, signal.SIGKILL) for name in others]
    if child.required and not child.served and event.exit == EXIT_CANNOT_START:
        state = _with(state, replace(child, phase=Phase.GONE))
        state, commands = _asked(state, event.now_ns)
        return replace(state, exit_code=event.exit), commands
    if not _restarts(child, event.exit):
        return _with(state, replace(child, phase=Phase.GONE)), [told]
    served_ns = event.now_ns - child.since_ns if child.phase is Phase.SERVING else 0
    steady = served_ns >= state.rules.wait_s_max * 1e9
    failures = 1 if steady else child.failures + 1
    wait_ns = round(wait_s(failures, event.luck, state.rules) * 1e9)
    child = replace(
        child, phase=Phase.WAITING, failures=failures, due_ns=event.now_ns + wait_ns, since_ns=0
    )
    return _with(state, child), [told]


def _restarts(child: Child, exit_: int) -> bool:
    """Whether a child that ended so is started again.

    One that says "cannot start" before it ever served is wrong in itself. Later the same may be a
    file that is being edited, or a port taken for a moment: that must not end what ran well.
    """
    if exit_ == EXIT_CANNOT_START and not child.served:
        return False
    return child.restart == "always" or (child.restart == "failed" and exit_ != EXIT_OK)


def _asked(state: State, now_ns: int) -> tuple[State, list[Command]]:
    rules = state.rules
    state = replace(state, asked=state.asked + 1)
    patience_s = rules.drain_s if state.asked == 1 else rules.hurry_s
    left = [each.name for each in state.children.values() if each.running]
    if state.asked > 1 and left:
        state = replace(state, exit_code=EXIT_CUT_SHORT)
    state = replace(state, kill_ns=now_ns + round(patience_s * 1e9) if left else 0)
    commands: list[Command] = []
    for name in left:
        # A stopped child would not hear it.
        commands += [Send(name, signal.SIGTERM), Send(name, signal.SIGCONT)]
    return state, commands


def _reason(child: Child, exit_: int) -> str:
    before = "" if child.phase is Phase.SERVING else " before it served"
    if exit_ >= 0:
        return f"exit code {exit_}{before}"
    try:
        return signal.Signals(-exit_).name + before
    except ValueError:
        return f"signal {-exit_}{before}"


def _fields(child: Child, reason: str, exit_: int) -> dict[str, str | int]:
    return {
        "child": child.name,
        "reason": reason,
        "exit": exit_,
        "restarts": max(0, child.starts - 1),
    }
