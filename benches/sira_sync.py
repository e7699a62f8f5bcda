"""Sira's participants of row `shm` by the synchronous SDK: as `sira_tensors`, without `await`.

Its loop runs on a thread beside the caller's. Tensors have no publisher here: it cannot wait for
one receipt more, so each is published by a call of its own.
"""

from __future__ import annotations

from typing import Any

import sira
from benches import patterns
from benches.exchange import (
    Answers,
    Fill,
    Stamp,
    answer_touched,
    ask_tensors,
    ask_touched,
    held_array,
    leave_when_closed,
    pour_in_place,
)
from benches.link import Link
from benches.sira_tensors import ASKED, BULK, LOOK, TIMEOUT_S, Told, spec, window


def _look(bus: sira.SyncBus, link: Link, tensor: Any) -> None:
    """See `sira_tensors.look`."""
    told = Told(link.params, copies=1)
    for _ in range(link.params["warmup"] + 1):
        told.take(bus.publish(LOOK, {"x": tensor}, timeout_s=TIMEOUT_S))
    told.check()


def bulk_sink(link: Link) -> None:
    """Take tensors, one a message, viewed where the SDK put them."""
    check = patterns.TensorSink(link)
    with (
        sira.connect_sync(link.params["url"]) as bus,
        bus.subscribe(BULK, window_messages=window(link.params)) as messages,
    ):
        link.say("listening")
        for message in messages:
            last = check.take(message["x"])
            del message
            if last:
                break
        link.rest()


def bulk_source(link: Link) -> None:
    """Hand one array in; it is refilled once its receipt is here."""
    told, tensor = Told(link.params), held_array(link)
    with sira.connect_sync(link.params["url"]) as bus:

        def send(fill: Fill) -> None:
            fill(tensor)
            told.take(bus.publish(BULK, {"x": tensor}))

        pour_in_place(link, send)
        told.check()
        link.rest()


def loan_source(link: Link) -> None:
    """Fill loans; each waits for its receipt, while the one before is being read."""
    told, wanted = Told(link.params), spec(link.params)
    with sira.connect_sync(link.params["url"]) as bus:

        def send(fill: Fill) -> None:
            with bus.loan(BULK, wanted) as out:
                fill(out["x"])
            told.take(out.receipt)

        pour_in_place(link, send)
        told.check()
        link.rest()


def sink(link: Link) -> None:
    """Take a numbered one-way flow."""
    with sira.connect_sync(link.params["url"]) as bus, bus.subscribe("bench.flow") as messages:
        link.say("listening")
        patterns.drain(link, lambda: next(messages).bytes)
        link.rest()


def source(link: Link) -> None:
    """Send a numbered one-way flow, one message a call."""
    with (
        sira.connect_sync(link.params["url"]) as bus,
        bus.publisher("bench.flow") as publisher,
    ):
        patterns.pour(link, publisher.send, publisher.flush)
        link.rest()


def echo_server(link: Link) -> None:
    """Reply with the body that came."""
    with sira.connect_sync(link.params["url"]) as bus, bus.subscribe("bench.echo") as messages:
        link.say("listening")
        leave_when_closed(link)
        for message in messages:
            message.reply(message.bytes)


def asker(link: Link) -> None:
    """Ask with `request`, one at a time."""
    with sira.connect_sync(link.params["url"]) as bus:
        patterns.ask_in_turn(
            link, lambda message: bus.request("bench.echo", message, timeout_s=10).bytes
        )
        link.rest()


def tensor_answerer(link: Link) -> None:
    """Sum each request and reply with a tensor of the same size, an array handed in."""
    answers, reply = Answers(), held_array(link)
    with sira.connect_sync(link.params["url"]) as bus, bus.subscribe(ASKED) as messages:
        _look(bus, link, reply)
        link.say("listening")
        leave_when_closed(link)
        for message in messages:
            answers.take(message["x"])(reply)
            message.reply({"x": reply})
            del message


def tensor_asker(link: Link) -> None:
    """Ask with an array of ours, one at a time."""
    tensor = held_array(link)
    with sira.connect_sync(link.params["url"]) as bus:
        _look(bus, link, tensor)

        def ask(fill: Fill) -> Any:
            fill(tensor)
            return bus.request(ASKED, {"x": tensor}, timeout_s=TIMEOUT_S)["x"]

        ask_tensors(link, ask)
        link.rest()


def touched_answerer(link: Link) -> None:
    """Look at both ends of each request where it lies, answer with a few bytes."""
    with sira.connect_sync(link.params["url"]) as bus, bus.subscribe(ASKED) as messages:
        link.say("listening")
        leave_when_closed(link)
        for message in messages:
            answer = answer_touched(message["x"])
            message.reply(answer)
            del message


def touched_asker(link: Link) -> None:
    """Ask with a loan, one at a time, of which both ends are written."""
    spec = {"x": f"u8[{link.params['payload_bytes']}]"}
    with sira.connect_sync(link.params["url"]) as bus:

        def ask(write: Stamp) -> Any:
            with bus.loan(ASKED, spec, request=True, timeout_s=TIMEOUT_S) as out:
                write(out["x"])
            return out.reply().bytes

        ask_touched(link, ask)
        link.rest()
