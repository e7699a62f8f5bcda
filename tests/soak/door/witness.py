"""Who stands beside an attack and must not notice: over gRPC in two tenants, and over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

import sira

from .stage import NEIGHBOUR, WITNESS, Stage

FLOW, BOX, HTTP_FLOW = "secret.flow", "secret.box", "secret.http"
PAUSE_S = 0.02  # witnesses look, they do not load
WAIT_S = 60.0


@dataclass
class Witnesses:
    """What they saw."""

    buses: tuple[sira.SyncBus, sira.SyncBus]
    messages: int = 0
    problems: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def client_ids(self) -> tuple[bytes, ...]:
        """The ids of the clients of both tenants, as an attacker might have learned them."""
        found = [each.id for bus in self.buses for each in bus.stats().clients]
        return tuple(bytes.fromhex(each) for each in found)

    def balanced(self) -> bool:
        """Whether the ledgers of both tenants balance."""
        return all(bus.ledger().balanced for bus in self.buses)


@contextmanager
def watching(stage: Stage) -> Iterator[Witnesses]:
    """Have all three at work while inside."""
    with ExitStack() as exits:
        ours = exits.enter_context(stage.connect(WITNESS))
        theirs = exits.enter_context(stage.connect(NEIGHBOUR))
        seen = Witnesses((ours, theirs))
        for bus in seen.buses:
            bus.topics.create(BOX, kind="latest")
            bus.publish(BOX, {"x": _secret(stage)}, headers={"key": stage.canary.decode()})
            # A name of the other tenant is a secret, too.
        theirs.topics.create(f"secret.{stage.canary.decode()}")
        begun = [threading.Event() for _ in range(3)]
        works: list[Callable[[], None]] = [
            lambda: _echo(ours, stage, seen, begun[0]),
            lambda: _echo(theirs, stage, seen, begun[1]),
            lambda: _http(stage, seen, begun[2]),
        ]
        threads = [threading.Thread(target=_noting, args=(each, seen)) for each in works]
        for each in threads:
            each.start()
        try:
            for event in begun:
                if not event.wait(WAIT_S):
                    seen.problems.append("a witness did not begin")
            yield seen
        finally:
            seen.stop.set()
            for each in threads:
                each.join(2 * WAIT_S)
                if each.is_alive():
                    seen.problems.append("a witness hangs")


def _noting(work: Callable[[], None], seen: Witnesses) -> None:
    try:
        work()
    except Exception as error:
        seen.problems.append(f"a witness failed: {error!r}"[:500])


def _secret(stage: Stage) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(stage.canary * 4, np.uint8)


def _echo(bus: sira.SyncBus, stage: Stage, seen: Witnesses, begun: threading.Event) -> None:
    """Send messages to oneself; each comes back as it was sent, in order, and alone."""
    secret, number = _secret(stage), 0
    with bus.subscribe(FLOW) as messages:
        begun.set()
        while not seen.stop.wait(PAUSE_S):
            number += 1
            sent = {"n": np.int64(number), "x": secret}
            receipt = bus.publish(
                FLOW, sent, headers={"key": stage.canary.decode()}, timeout_s=WAIT_S
            )
            got = messages.next(timeout_s=WAIT_S)
            same = int(got["n"]) == number and np.array_equal(got["x"], secret)
            if receipt.matched != 1 or not same or got.headers["key"].encode() != stage.canary:
                seen.problems.append(f"message {number} of a witness changed, or was another's")
            seen.messages += 1


def _http(stage: Stage, seen: Witnesses, begun: threading.Event) -> None:
    """The same through the HTTP listener: posted, and heard as an event."""
    header = {"Authorization": f"Bearer {stage.keys.token(WITNESS)}"}
    context, number = stage.client_context(), 0

    def connected() -> http.client.HTTPConnection:
        if context is None:
            return http.client.HTTPConnection("127.0.0.1", stage.http_port, timeout=WAIT_S)
        return http.client.HTTPSConnection(
            "127.0.0.1", stage.http_port, timeout=WAIT_S, context=context
        )

    listening = connected()
    listening.request("GET", f"/v1/subscribe/{HTTP_FLOW}", headers=header)
    events = listening.getresponse()
    assert events.status == 200, events.read()
    posting = connected()
    try:
        while not seen.stop.wait(PAUSE_S):
            number += 1
            text = f"{number} {stage.canary.decode()}"
            posting.request("POST", f"/v1/publish/{HTTP_FLOW}", text,
                            header | {"Content-Type": "text/plain"})  # fmt: skip
            answer = posting.getresponse()
            receipt = json.loads(answer.read())
            if answer.status != 200 or receipt["matched"] != 1:
                seen.problems.append(f"a witness over HTTP got {answer.status}: {receipt}")
                return
            if (heard := _next_text(events)) != text:
                seen.problems.append(f"a witness over HTTP heard {heard!r} for {text!r}")
                return
            begun.set()
            seen.messages += 1
    finally:
        posting.close()
        listening.close()


def _next_text(events: http.client.HTTPResponse) -> str:
    """The text of the next message; "" at the end of the stream."""
    kind = ""
    while raw := events.readline():
        name, _, value = raw.decode().rstrip("\r\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data" and kind == "message":
            return str(json.loads(value)["text"])
        elif name == "data" and kind != "open":
            return f"{kind}: {value}"
    return ""
