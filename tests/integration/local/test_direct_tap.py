"""Rules put on, and taken off, a flow past the node under load: nothing is lost or out of order."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import sira
from sira.kernel.authorize import Allow, Deny, Readable
from sira.kernel.identity import Principal
from sira.kernel.node import Node

from .raw import run, running, until, url_of

pytestmark = pytest.mark.integration
TOPICS = ("cam.a", "cam.b")
TAP = "audit.cam"
ROUNDS = 4
EACH = 150  # messages, of each publisher, on each side of a change


class Rules:
    """Obliges whoever publishes on `cam`."""

    def __init__(self, *obliged: tuple[str, str]) -> None:
        self._obliged = obliged

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        del principal, context
        return Allow(self._obliged if action == "publish" and resource in TOPICS else ())

    def readable(self, principal: Principal, pattern: str) -> Readable:
        del principal
        return Readable((pattern,))


class Publisher(threading.Thread):
    """Publishes 0, 1, 2, … on one topic, as fast as it can; every third lies in a chunk."""

    def __init__(self, url: str, topic: str) -> None:
        super().__init__(daemon=True)
        self._url, self._topic = url, topic
        self.begun = self.done = self.past = 0
        self.stop = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with sira.connect_sync(self._url) as bus:
                while not self.stop.is_set():
                    number = self.begun
                    self.begun += 1
                    body = {"n": np.int64(number), "x": np.full(1 + number % 3 // 2 * 999, number)}
                    lanes = bus.publish(self._topic, body, timeout_s=30).lanes
                    self.past += lanes == ["shm"] and not number % 3
                    self.done += 1
        except BaseException as error:
            self.error = error
            raise


async def record_of(messages: sira.Subscription, into: dict[str, list[int]]) -> None:
    async for message in messages:
        number = int(message["n"])
        assert (message["x"] == number).all()
        into[message.topic].append(number)


async def go_on(publishers: list[Publisher], *, past: bool) -> None:
    """Wait until each has sent so many more; past the node as far as they say so."""
    before = [(each.done, each.past) for each in publishers]

    def went() -> bool:
        for each, (done, went_past) in zip(publishers, before, strict=True):
            assert each.error is None, each.error
            if each.done < done + EACH or (past and each.past < went_past + EACH // 5):
                return False
        return True

    await until(went)


async def oblige(node: Node, *obliged: tuple[str, str]) -> None:
    node.access.change(policy=Rules(*obliged))
    await node.recheck()


@pytest.mark.parametrize("beside", [(), (("path", "node"),), (("rate", "100000"),)])
def test_a_tap_records_what_the_subscribers_get_message_for_message(
    tmp_path: Path, beside: tuple[tuple[str, str], ...]
) -> None:
    async def work() -> None:
        got: list[dict[str, list[int]]] = [{t: [] for t in TOPICS} for _ in range(3)]
        record: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        spans: list[tuple[list[int], list[int]]] = []
        async with (
            running(tmp_path) as node,
            sira.connect(url_of(node)) as one,
            sira.connect(url_of(node)) as other,
            one.subscribe("cam.*") as first,
            other.subscribe("cam.*") as second,
            other.subscribe("cam.*", group="g") as member,
            one.subscribe(TAP) as tap,
        ):
            taking = [
                asyncio.create_task(record_of(messages, into))
                for messages, into in [
                    *zip((first, second, member), got, strict=True),
                    (tap, record),
                ]
            ]
            publishers = [Publisher(url_of(node), topic) for topic in TOPICS]
            for each in publishers:
                each.start()
            try:
                for _ in range(ROUNDS):
                    await go_on(publishers, past=True)
                    await oblige(node, ("tap", TAP), *beside)
                    begin = [each.begun for each in publishers]  # these, and all later ones
                    await go_on(publishers, past=False)
                    end = [each.done for each in publishers]  # all before these
                    await oblige(node)
                    spans.append((begin, end))
                await go_on(publishers, past=True)
            finally:
                for each in publishers:
                    each.stop.set()
                await until(lambda: not any(each.is_alive() for each in publishers))
            sent = [each.begun for each in publishers]
            await until(
                lambda: all(
                    len(into[topic]) >= count
                    for into in got
                    for topic, count in zip(TOPICS, sent, strict=True)
                )
            )
            for topic, count in zip(TOPICS, sent, strict=True):
                for into in got:
                    assert into[topic] == list(range(count)), "each gets all, once and in order"
            await until(lambda: tap.depth == 0)
            for each in taking:
                each.cancel()
            assert (await other.ledger("cam.*")).balanced
        for index, topic in enumerate(TOPICS):
            found = record[topic]
            assert found == sorted(set(found)), "the tap gets each once, in the order of the others"
            for begin, end in spans:
                whole = set(range(begin[index], end[index]))
                assert whole and whole <= set(found), "no gap while the rule is in force"
            # What else it has was under way as the rule came or went: next to that.
            runs = 1 + sum(b != a + 1 for a, b in itertools.pairwise(found))
            assert runs <= ROUNDS

    run(work)
