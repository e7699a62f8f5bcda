"""Leading at the bells for one message, in one call: who else is thought of, and who ends it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest

from sira import _native
from sira.kernel.errors import BadRequest

from .link_harness import Link, bound
from .route_harness import TOPIC, Routed

WATCHDOG_S = 120.0
REPLIES = "_reply.0123456789abcdef0123456789abcdef"


def heard(*links: Link) -> _native.ShmBells:
    bells = _native.ShmBells(spin_us_max=0)
    for link in links:
        bells.add(link.reader)
    return bells


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class Led:
    """Another thread leads, until the end of the block."""

    def __init__(self, bells: _native.ShmBells) -> None:
        self._bells, self._begun, self._over = bells, threading.Event(), threading.Event()

    def _lead(self) -> None:
        assert self._bells.lead()
        self._begun.set()
        self._over.wait(WATCHDOG_S)
        self._bells.leave()

    def __enter__(self) -> None:
        self._thread = in_thread(self._lead)
        assert self._begun.wait(WATCHDOG_S)

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(WATCHDOG_S)


def leads(bells: _native.ShmBells, turns: int = 0) -> None:
    """Wait until a thread leads that has not had its turn yet."""
    until_s = time.monotonic() + WATCHDOG_S
    while not (bells.is_led and bells.turns > turns):
        assert time.monotonic() < until_s
        time.sleep(0.0001)


# ---- next ----------------------------------------------------------------------------------------


def test_the_next_message_is_waited_for_by_who_leads_meanwhile() -> None:
    link, box = bound()
    bells = heard(link)
    got: list[_native.Message | None] = []
    thread = in_thread(lambda: got.append(bells.next(box, -1.0)))
    leads(bells)
    assert not bells.lead()
    assert bells.next(box, 0.0) is None
    link.send("x")
    thread.join(WATCHDOG_S)
    assert [message and message.text for message in got] == ["x"]
    assert (bells.is_led, bells.turns) == (False, 1)
    link.send("y")
    found = bells.next(box, 0.0)
    assert found is not None
    assert found.text == "y"


@pytest.mark.parametrize("why", ["watched", "closed", "followed", "over"])
def test_where_others_are_to_be_thought_of_nobody_waits_here(why: str) -> None:
    link, box = bound()
    bells = heard(link)
    link.send("x")
    if why == "followed":
        bells.followers = {"who": None}
    elif why == "over":
        box.over = True
    elif why == "closed":
        bells.close()
    else:
        bells.is_watched = True
    turns = bells.turns
    assert bells.next(box, -1.0) is None
    assert (bells.turns, bells.is_led) == (turns + (why == "over"), False)
    if why == "followed":
        bells.followers = {}
        assert bells.next(box, -1.0) is not None


def test_one_thread_leads_and_what_interrupts_it_may_wait_on_top_of_it() -> None:
    link, box = bound()
    bells = heard(link)
    link.send("x", "y")
    with Led(bells):
        assert not bells.lead()
        assert bells.next(box, -1.0) is None
        bells.close()
        assert bells.fileno() >= 0
    assert bells.fileno() == -1
    bells = heard(link)
    assert bells.lead()
    assert bells.next(box, -1.0) is not None
    assert bells.is_led
    assert bells.lead()
    bells.leave()
    assert bells.is_led
    bells.leave()
    assert not bells.is_led


def test_others_who_wait_are_told_when_it_ends() -> None:
    link, box = bound()
    bells = heard(link)
    told: list[bool] = []
    bells.left = lambda: told.append(bells.is_led)
    bells.waiting = {}
    link.send("a", "b", "c")
    assert bells.next(box, 0.0) is not None
    assert told == []
    bells.waiting[b"id"] = None
    assert bells.next(box, 0.0) is not None
    assert told == [False]


def test_a_message_that_is_here_already_is_taken_and_rings_for_nobody() -> None:
    link, box = bound()
    bells = heard(link)
    link.send("a", "b")
    assert bells.next(box, -1.0) is not None  # looks at the link, and finds both
    before = bells.turns
    found = bells.next(box, -1.0)
    assert found is not None
    assert (found.text, bells.turns) == ("b", before + 1)


def test_nobody_sleeps_through_what_is_said_and_then_woken() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    _, box = bound()
    for _ in range(300):
        bells = heard()
        box.over = False
        thread = in_thread(lambda bells=bells: bells.next(box, -1.0))  # type: ignore[misc]
        for _ in range(rng.randrange(60)):
            pass
        if rng.random() < 0.3:
            leads(bells)
        box.over = True
        bells.wake()
        thread.join(WATCHDOG_S)
        assert not thread.is_alive()


def test_wake_is_for_another_thread_that_leads() -> None:
    link, box = bound()
    bells = heard(link)
    bells.wake()  # nobody leads
    assert bells.lead()
    bells.wake()  # who leads looks by itself
    bells.leave()
    started_s = time.monotonic()
    assert bells.next(box, 0.05) is None
    assert time.monotonic() - started_s > 0.04  # no ring was left over
    thread = in_thread(lambda: bells.next(box, -1.0))
    leads(bells, bells.turns - 1)
    bells.wake()
    thread.join(WATCHDOG_S)
    assert not thread.is_alive()


def test_a_handler_of_signals_is_called_when_nobody_leads() -> None:
    link, box = bound()
    bells = heard(link)
    saw: list[bool] = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        saw.append(bells.is_led)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        main = threading.main_thread().ident
        assert main is not None

        def interrupt() -> None:
            leads(bells)
            while not saw:
                signal.pthread_kill(main, signal.SIGUSR1)
                time.sleep(0.01)

        thread = in_thread(interrupt)
        assert bells.next(box, WATCHDOG_S) is None
        thread.join(WATCHDOG_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert saw
    assert not any(saw)


def test_the_descriptors_go_with_the_last_who_leads() -> None:
    link, box = bound()
    bells = heard(link)
    number = bells.fileno()
    thread = in_thread(lambda: bells.next(box, -1.0))
    leads(bells)
    os.fstat(number)
    bells.close()
    thread.join(WATCHDOG_S)
    assert not thread.is_alive()
    assert bells.fileno() == -1
    bells.close()
    bells.kick()
    bells.wake()
    assert bells.next(box, -1.0) is None


def test_a_child_does_not_wait_at_its_parents_bells() -> None:
    link, box = bound()
    bells = heard(link)
    link.send("x")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if bells.next(box, -1.0) is None else 1)
    assert os.waitpid(pid, 0)[1] == 0


# ---- ask -----------------------------------------------------------------------------------------


class Pending:
    """What `waiting` holds, as far as it is looked at."""

    answer: object = None
    error: object = None


class Asking:
    """A live route to one reader, and the link that replies come by."""

    def __init__(self) -> None:
        self.routed = Routed()
        self.there, self.cell = self.routed.live()
        self.back, self.box = bound(REPLIES)
        self.bells = heard(self.back)
        self.bells.waiting = self.waiting = {}  # type: dict[bytes, object]
        self.id = _native.new_id()
        self.pending = Pending()

    def ask(
        self, timeout_s: float | None = None, topic: str = TOPIC, pending: object = None
    ) -> object:
        who = self.pending if pending is None else pending
        return self.bells.ask(
            self.routed.outbox, topic, b"?", self.id, self.box, REPLIES, timeout_s, who
        )

    def answer(self, body: str, message_id: bytes, kind: int = 1) -> None:
        self.back.send(body, topic=REPLIES, stream_id=message_id, reply_kind=kind)


def test_a_request_is_posted_and_its_reply_waited_for() -> None:
    asking = Asking()
    seen: list[object] = []

    def answer() -> None:
        while (message := asking.there.take(asking.cell)) is None:
            time.sleep(0.0001)
        seen.extend([message.id_bytes, message.reply_to, dict(asking.waiting)])
        asking.answer("!", message.id_bytes)

    thread = in_thread(answer)
    reply = asking.ask()
    thread.join(WATCHDOG_S)
    assert isinstance(reply, _native.Message)
    assert reply.text == "!"
    assert seen == [asking.id, REPLIES, {asking.id: asking.pending}]
    assert asking.waiting == {}
    assert not asking.bells.is_led


@pytest.mark.parametrize("what", ["nothing", "a reply to another", "a part", "an error"])
def test_what_is_not_its_reply_leaves_it_waiting(what: str) -> None:
    asking = Asking()
    if what == "a reply to another":
        asking.answer("other", _native.new_id())
    elif what != "nothing":
        asking.answer("other", asking.id, kind={"a part": 2, "an error": 4}[what])
    found = asking.ask(0.01)
    assert isinstance(found, list)
    assert [message.text for message in found] == ["other"] * (what != "nothing")
    assert asking.waiting == {asking.id: asking.pending}
    counts, _ = asking.there.node.counts()
    assert counts[asking.cell][0] == 1  # posted


def test_what_cannot_go_past_the_node_is_not_asked_and_does_not_wait() -> None:
    asking = Asking()
    assert asking.ask(topic="lab.elsewhere") is None
    assert asking.waiting == {}
    asking.bells.is_watched = True
    assert asking.ask() is None
    asking.bells.is_watched = False
    assert asking.waiting == {}
    with pytest.raises(BadRequest):
        asking.bells.ask(
            asking.routed.outbox, TOPIC, object(), asking.id, asking.box, REPLIES, None, "who"  # type: ignore[arg-type]
        )  # fmt: skip
    assert (asking.waiting, asking.bells.is_led) == ({}, False)
    assert asking.there.texts(asking.cell) == []


def test_what_is_asked_while_another_thread_leads_waits_by_the_long_way() -> None:
    asking = Asking()
    with Led(asking.bells):
        assert asking.ask() == []
    assert asking.waiting == {asking.id: asking.pending}
    assert asking.there.texts(asking.cell) == ["?"]


def test_nobody_leads_while_a_request_waits_for_room() -> None:
    asking = Asking()
    routed = Routed()
    link, cell = routed.live(window=1)
    assert routed.outbox.ask(TOPIC, b"1", _native.new_id(), REPLIES, None)
    got: list[object] = []
    thread = in_thread(
        lambda: got.append(
            asking.bells.ask(
                routed.outbox, TOPIC, b"2" * 256, asking.id, asking.box, REPLIES, 0.5, Pending()
            )
        )
    )
    until_s = time.monotonic() + WATCHDOG_S
    while asking.id not in asking.waiting and thread.is_alive():
        assert time.monotonic() < until_s
    assert asking.bells.lead() or not thread.is_alive()
    asking.bells.leave()
    assert link.texts(cell)[0] == "1"  # makes room
    thread.join(WATCHDOG_S)
    assert got in ([[]], [None])  # posted, and its time is over; or the room came too late
    assert (asking.id in asking.waiting) == (got == [[]])


@pytest.mark.parametrize("name", ["answer", "error"])
def test_what_has_its_answer_or_its_error_before_it_waits_does_not_wait(name: str) -> None:
    """The loop, another thread or a handler of signals gave it while it waited for room."""
    asking, pending = Asking(), Pending()
    setattr(pending, name, "here")
    assert asking.ask(pending=pending) == []
    assert asking.waiting == {asking.id: pending}


def test_a_message_that_nobody_was_told_of_is_not_slept_through() -> None:
    link, box = bound()
    bells = heard(link)
    link.send("x", "y")
    assert bells.next(box, 0.0) is not None  # "y" is known now, and its bell is heard
    assert bells.lead()
    found = bells.take(box, -1.0)
    assert isinstance(found, _native.Message)
    assert found.text == "y"


def test_who_comes_to_closed_bells_does_not_wait() -> None:
    link, box = bound()
    bells = heard(link)
    bells.close()
    assert bells.lead()
    assert bells.take(box, -1.0) == []
    assert bells.wait(-1.0) == []
    bells.leave()


def test_both_ends_are_checked() -> None:
    bells = heard()
    for call in (
        lambda: bells.next("x", 1.0),  # type: ignore[arg-type]
        lambda: bells.next(),  # type: ignore[call-arg]
        lambda: bells.ask(),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError):
            call()


# ---- reply ---------------------------------------------------------------------------------------


def test_a_reply_is_waited_for_later_and_not_where_it_is_here_already() -> None:
    asking, pending = Asking(), Pending()
    asking.waiting[asking.id] = pending
    assert asking.bells.reply(asking.id, asking.box, 0.01, pending) == []
    assert asking.waiting == {asking.id: pending}
    asking.answer("!", asking.id)
    found = asking.bells.reply(asking.id, asking.box, WATCHDOG_S, pending)
    assert isinstance(found, _native.Message)
    assert (found.text, asking.waiting) == ("!", {})
    assert pending.answer is found
    pending.answer = None
    for name in ("answer", "error"):
        setattr(pending, name, "here")
        assert asking.bells.reply(asking.id, asking.box, WATCHDOG_S, pending) == []
        setattr(pending, name, None)
    with Led(asking.bells):
        assert asking.bells.reply(asking.id, asking.box, WATCHDOG_S, pending) is None
    with pytest.raises(AttributeError):
        asking.bells.reply(asking.id, asking.box, WATCHDOG_S, object())
    with pytest.raises(TypeError):
        asking.bells.reply(b"short", asking.box, WATCHDOG_S, pending)
    assert not asking.bells.is_led
