"""What the supervisor decides, with times and luck written down: no process, no clock."""

from __future__ import annotations

import random
import signal
from dataclasses import replace

import pytest

from sira.kernel.supervisor.pure import (
    NODE,
    Asked,
    Child,
    Command,
    Died,
    Event,
    Finish,
    Passed,
    Phase,
    Rules,
    Send,
    Served,
    Start,
    State,
    Tell,
    due_ns,
    step,
    wait_s,
)

RULES = Rules(wait_s_min=0.1, wait_s_max=30.0, drain_s=40.0, hurry_s=5.0)
S = 1_000_000_000


def alone() -> State:
    return State(RULES, {NODE: Child(NODE)})


def with_service(restart: str = "always") -> State:
    return State(RULES, {NODE: Child(NODE), "echo": Child("echo", restart=restart)})


def after(state: State, *events: Event) -> tuple[State, list[Command]]:
    """The state after some events, and the commands of the last."""
    commands: list[Command] = []
    for event in events:
        state, commands = step(state, event)
    return state, commands


def serving(state: State) -> State:
    """All children started and serving at time 0."""
    state, _ = step(state, Passed(0))
    for name in state.children:
        state, _ = step(state, Served(name, 0))
    return state


def test_the_node_starts_first_and_services_when_it_serves() -> None:
    state, commands = step(with_service(), Passed(0))
    assert commands == [Start(NODE)]
    _, commands = step(state, Served(NODE, S))
    assert commands == [Start("echo")]


def test_a_crash_loop_backs_off_to_the_longest_wait_and_stays_there() -> None:
    state, now_ns, waits = serving(alone()), 0, []
    for _ in range(14):
        state, _ = step(state, Died(NODE, -signal.SIGKILL, now_ns, luck=1.0))
        due = due_ns(state)
        assert due is not None
        waits.append((due - now_ns) / S)
        state, commands = step(state, Passed(due - 1))
        assert commands == []  # not a nanosecond early
        state, commands = step(state, Passed(due))
        assert commands == [Start(NODE)]
        now_ns = due + S
    assert waits[:9] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6])
    assert waits[9:] == [30.0] * 5


def test_half_of_a_wait_is_chance() -> None:
    for failures in range(1, 100):
        longest = wait_s(failures, 1.0, RULES)
        assert wait_s(failures, 0.0, RULES) == longest / 2
        assert longest / 2 <= wait_s(failures, 0.37, RULES) <= longest <= RULES.wait_s_max


@pytest.mark.parametrize(("lived_s", "failures"), [(29, 4), (30, 1)])
def test_who_served_long_enough_begins_anew(lived_s: int, failures: int) -> None:
    state = serving(alone())
    state = replace(state, children={NODE: replace(state.children[NODE], failures=3)})
    state, _ = step(state, Died(NODE, 1, lived_s * S, luck=0.5))
    assert state.children[NODE].failures == failures


def test_a_node_that_never_served_and_says_so_ends_all_with_its_exit_code() -> None:
    state, _ = step(alone(), Passed(0))
    _, commands = step(state, Died(NODE, 3, S, luck=0.5))
    assert commands == [Finish(3)]


def test_a_node_that_is_killed_before_it_served_is_started_again() -> None:
    state, _ = step(alone(), Passed(0))
    state, commands = step(state, Died(NODE, -signal.SIGKILL, S, luck=0.5))
    assert [type(each) for each in commands] == [Tell]
    assert due_ns(state) is not None


def test_a_node_that_has_served_is_not_given_up_for_a_file_that_is_wrong_now() -> None:
    state, commands = step(serving(alone()), Died(NODE, 3, S, luck=0.5))
    assert due_ns(state) is not None and Finish(3) not in commands


def test_a_service_that_cannot_start_is_left_out_and_the_bus_stays() -> None:
    state, _ = after(with_service(), Passed(0), Served(NODE, 0))
    state, commands = step(state, Died("echo", 3, S, luck=0.5))
    assert [type(each) for each in commands] == [Tell]
    assert state.children["echo"].phase is Phase.GONE and due_ns(state) is None


def required() -> State:
    return State(RULES, {NODE: Child(NODE), "http": Child("http", required=True)})


def test_what_was_asked_for_and_cannot_start_ends_all_in_order() -> None:
    state, _ = after(required(), Passed(0), Served(NODE, 0))
    state, commands = step(state, Died("http", 3, S, luck=0.5))
    assert commands == [Send(NODE, signal.SIGTERM), Send(NODE, signal.SIGCONT)]
    state, commands = step(state, Died(NODE, 0, 2 * S, luck=0.5))
    assert commands == [Finish(3)]


def test_what_was_asked_for_and_has_served_is_started_again_whatever_it_says() -> None:
    state, commands = step(serving(required()), Died("http", 3, S, luck=0.5))
    assert [type(each) for each in commands] == [Tell] and due_ns(state) is not None


@pytest.mark.parametrize(
    ("restart", "exit_", "again"),
    [("always", 0, True), ("always", 1, True), ("failed", 0, False), ("failed", 1, True),
     ("failed", -9, True), ("never", 1, False)],
)  # fmt: skip
def test_a_service_is_started_again_as_it_asked_for(restart: str, exit_: int, again: bool) -> None:
    state, _ = step(serving(with_service(restart)), Died("echo", exit_, S, luck=0.5))
    assert (due_ns(state) is not None) is again


def test_an_end_and_the_next_start_are_told_with_why() -> None:
    state, (ended,) = step(serving(alone()), Died(NODE, -signal.SIGKILL, S, luck=0.5))
    fields = {"child": NODE, "reason": "SIGKILL", "exit": -9}
    assert ended == Tell("sira.child.ended", {**fields, "restarts": 0})
    _, (started,) = after(state, Passed(2 * S), Served(NODE, 2 * S))
    assert started == Tell("sira.child.started", {**fields, "restarts": 1})


def test_the_first_signal_drains_and_the_end_comes_with_the_last_child() -> None:
    state, commands = step(serving(with_service()), Asked(S))
    asked = [(c.name, c.number) for c in commands if isinstance(c, Send)]
    assert asked == [(n, s) for n in (NODE, "echo") for s in (signal.SIGTERM, signal.SIGCONT)]
    state, commands = step(state, Died("echo", 0, 2 * S, luck=0.5))
    assert commands == []
    assert step(state, Died(NODE, 0, 2 * S, luck=0.5))[1] == [Finish(0)]
    # One that dies on the way is not started again, and the end was no orderly one.
    assert step(state, Died(NODE, -signal.SIGSEGV, 2 * S, luck=0.5))[1] == [Finish(1)]


def test_a_child_that_hears_no_signal_is_killed_when_its_time_is_over() -> None:
    state, _ = step(serving(alone()), Asked(0))
    assert due_ns(state) == 40 * S
    state, _ = step(state, Asked(S))
    assert due_ns(state) == 6 * S
    state, commands = step(state, Passed(6 * S))
    assert commands == [Send(NODE, signal.SIGKILL)]
    assert step(state, Died(NODE, -signal.SIGKILL, 6 * S, luck=0.5))[1] == [Finish(1)]


def test_a_signal_while_the_node_is_down_ends_at_once() -> None:
    state, _ = step(serving(alone()), Died(NODE, -9, S, luck=0.5))
    assert step(state, Asked(S))[1] == [Finish(0)]


def test_a_signal_before_the_node_serves_is_an_orderly_end() -> None:
    state, _ = after(alone(), Passed(0), Asked(1))
    assert step(state, Died(NODE, -signal.SIGTERM, 2, luck=0.5))[1] == [Finish(0)]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_no_child_runs_twice_and_an_asked_end_comes(seed: int) -> None:
    """Random walk; what runs is kept here, from the commands alone."""
    rng = random.Random(seed)
    names = [NODE, "echo", "gate"]
    state = State(RULES, {name: Child(name) for name in names})
    running: set[str] = set()
    now_ns, finished, asked = 0, False, False

    def apply(event: Event) -> None:
        nonlocal state, finished
        state, commands = step(state, event)
        for command in commands:
            match command:
                case Start(name):
                    assert name not in running and not asked
                    running.add(name)
                case Send(name, _):
                    assert name in running
                case Finish():
                    assert not running
                    finished = True
                case Tell(_, fields):
                    assert fields["child"] in names

    apply(Passed(0))
    for _ in range(300):
        now_ns += rng.randrange(2 * S)
        match rng.randrange(4):
            case 0 if running:
                apply(Served(rng.choice(sorted(running)), now_ns))
            case 1 if running:
                name = rng.choice(sorted(running))
                running.discard(name)
                apply(Died(name, rng.choice([0, 1, 3, -9]), now_ns, rng.random()))
            case 2 if rng.random() < 0.02:
                asked = True
                apply(Asked(now_ns))
            case _:
                apply(Passed(now_ns))
        if finished:
            return
    asked = True
    apply(Asked(now_ns))
    apply(Passed(now_ns + 41 * S))
    for name in sorted(running):
        running.discard(name)
        apply(Died(name, -9, now_ns + 42 * S, rng.random()))
    assert finished
