"""A right that shrinks takes along what waits on the node, and leaves what may still be read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sira.kernel.identity import Principal
from sira.kernel.node import Node
from sira.kernel.policy import rules
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2

from .plain import Plain, data_of, in_force, message, session, until

OPEN = 'format = "sira-policy 1"\ndefault = "allow"\n'
NARROWED = f"""{OPEN}
[[rule]]
name = "secret-now"
effect = "deny"
principals = ["*"]
actions = ["subscribe"]
topics = ["lab.secret.>"]
"""
BOB_IS_CUT = f"""{OPEN}
[[rule]]
name = "bob-is-cut"
effect = "deny"
principals = ["sira://*/t0/user/bob"]
actions = ["subscribe"]
topics = ["lab.secret.>"]
"""
ANN_IS_OUT = """
[[rule]]
name = "ann-is-out"
effect = "deny"
principals = ["sira://*/t0/user/ann"]
actions = ["subscribe"]
topics = [">"]
"""
SECRET, SHOWN = "lab.secret.a", "lab.shown"


def narrowing(
    tmp_path: Path,
    work: Callable[[Node, Plain, Callable[[], Awaitable[None]]], Awaitable[None]],
    **flags: object,
) -> None:
    """Run `work` with a node whose policy file it can change while all goes on."""
    file = tmp_path / "rules.toml"
    file.write_text(OPEN)

    async def with_file(node: Node, plain: Plain) -> None:
        async def narrow() -> None:
            version = node.access.version
            file.write_text(NARROWED)
            await until(lambda: node.access.version > version)

        await work(node, plain, narrow)

    session(with_file, policy=str(file), reload_s=0.02, **flags)


async def withheld(plain: Plain, count: int) -> None:
    """Wait until so many deliveries of SECRET are dropped, and compare the rest of its row."""

    async def dropped() -> bool:
        row = (await plain.ledger(SECRET))[SECRET]
        return sum(row.dropped.values()) >= count

    await until(dropped)
    row = (await plain.ledger(SECRET))[SECRET]
    assert dict(row.dropped) == {"REVOKED": count} and row.pending == 0


@pytest.mark.parametrize("group", ["", "workers"])
def test_what_waits_of_a_topic_that_is_denied_now_is_never_delivered(
    tmp_path: Path, group: str
) -> None:
    async def work(node: Node, plain: Plain, narrow: Callable[[], Awaitable[None]]) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "lab.>", window_messages=1, group=group)
        await pub.publish(message(SHOWN, b"0"))
        for number in range(1, 7):
            await pub.publish(message(SECRET if number % 2 else SHOWN, b"%d" % number))
        await narrow()
        await withheld(plain, 3)
        assert [data_of(await sub.next()) for _ in range(4)] == [b"0", b"2", b"4", b"6"]
        hidden, shown = await pub.publish(message(SECRET), message(SHOWN, b"7"))
        assert (hidden.matched, shown.matched) == (0, 1)
        assert data_of(await sub.next()) == b"7"
        assert node.bus.subscriptions.heard(SHOWN)

    narrowing(tmp_path, work)


def test_what_a_topic_keeps_and_a_new_subscription_waits_for_is_withheld(tmp_path: Path) -> None:
    async def work(node: Node, plain: Plain, narrow: Callable[[], Awaitable[None]]) -> None:
        del node
        await plain.create(SECRET, kind=bus_pb2.TOPIC_KIND_LATEST)
        sub, pub = plain.subscribing(), plain.publishing()
        await pub.publish(message(SECRET, b"kept"))
        await sub.opened(1, SHOWN, window_messages=1)
        await sub.opened(2, "lab.secret.*", window_messages=1)
        assert data_of(await sub.next(confirm=False)) == b"kept"
        await pub.publish(message(SECRET, b"newer"))
        await sub.opened(3, "lab.>", window_messages=1)
        assert data_of(await sub.next(confirm=False)) == b"newer"
        await pub.publish(message(SECRET, b"newest"))
        await narrow()

        # Subscription 2 may read nothing any more and ends; what it was sent is dropped with it.
        ended = await sub.item()
        assert ended.ended.subscription == 2 and ended.ended.error.code == "REVOKED"
        await sub.credit(3)
        await pub.publish(message(SHOWN, b"shown"))
        got = {data_of(await sub.next()), data_of(await sub.next())}
        assert got == {b"shown"}, "subscriptions 1 and 3, and nothing of what waited"
        row = (await plain.ledger(SECRET))[SECRET]
        assert row.dropped["REVOKED"] == 4 and row.retained == 1

    narrowing(tmp_path, work)


def test_who_waited_for_room_beside_it_goes_on_and_reaches_who_may_read(tmp_path: Path) -> None:
    async def work(node: Node, plain: Plain, narrow: Callable[[], Awaitable[None]]) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "lab.>", window_messages=1)
        await pub.publish(message(SHOWN, b"sent"))
        await pub.publish(message(SECRET), message(SECRET))
        parks = (message(SECRET, b"parked"), message(SHOWN, b"parked too"))
        await pub.send(*(bus_pb2.Item(message=each, wait_ms=600_000) for each in parks))
        await until(lambda: node.bus.hub.stats["parked"] == 2)
        await narrow()
        receipts = {item.receipt.id: item.receipt for item in await pub.items(2)}
        assert [receipts[each.id].matched for each in parks] == [0, 1]
        assert [data_of(await sub.next()) for _ in range(2)] == [b"sent", b"parked too"]
        row = (await plain.ledger(SECRET))[SECRET]
        assert dict(row.dropped) == {"REVOKED": 2, "NO_MATCH": 1}

    narrowing(tmp_path, work, queue_messages_max=2)


def test_a_large_message_that_has_begun_ends_in_the_middle(tmp_path: Path) -> None:
    async def work(node: Node, plain: Plain, narrow: Callable[[], Awaitable[None]]) -> None:
        sub, pub = plain.subscribing(), plain.publishing()
        await sub.opened(1, "lab.>")
        whole = message(SECRET, bytes(2000))
        head = message(SECRET, b"")
        head.id = whole.id
        head.tensors[0].shape[0] = 2000
        head.tensors[0].data_bytes = 2000
        part = bus_pb2.Chunk(message_id=head.id, data=bytes(1000))
        await pub.send(bus_pb2.Item(head=head), bus_pb2.Item(chunk=part))
        assert (await sub.item()).head.id == head.id
        assert len((await sub.item()).chunk.data) == 1000
        await narrow()
        ended = await sub.item()
        assert ended.abort.message_id == head.id and ended.abort.error.code == "REVOKED"
        await withheld(plain, 1)
        rest = bus_pb2.Chunk(message_id=head.id, offset=1000, data=bytes(1000))
        await pub.send(bus_pb2.Item(chunk=rest))
        (answer,) = await pub.items(1)
        assert not answer.receipt.HasField("error")
        await sub.credit(1)
        await pub.publish(message(SHOWN, b"goes on"))
        assert data_of(await sub.next()) == b"goes on"
        await until(lambda: node.bus.hub.stats["transfers"] == 0)

    narrowing(tmp_path, work)


@pytest.mark.parametrize("how", ["closes", "dies", "is denied all"])
def test_what_a_member_of_a_group_leaves_goes_to_no_member_that_may_not_read_it(how: str) -> None:
    async def work(node: Node, plain: Plain) -> None:
        node.door._identify = lambda _, metadata: Credential(
            Principal("local", "t0", "user", str(metadata.get("test-user"))), "token"
        )
        await in_force(node, rules.parse(BOB_IS_CUT))
        ann, bob = plain.subscribing(("test-user", "ann")), plain.subscribing(("test-user", "bob"))
        pub = plain.publishing(("test-user", "cal"))
        await ann.opened(1, "lab.>", group="workers", window_messages=1)
        await pub.publish(message(SHOWN, b"0"))
        assert data_of(await ann.next(confirm=False)) == b"0"
        for number in range(1, 5):
            await pub.publish(message(SECRET if number % 2 else SHOWN, b"%d" % number))
        await bob.opened(1, "lab.>", group="workers", window_messages=1)
        if how == "closes":
            await ann.send(bus_pb2.Item(close=bus_pb2.Close(subscription=1)))
        elif how == "dies":
            ann.call.cancel()
        else:
            await in_force(node, rules.parse(BOB_IS_CUT + ANN_IS_OUT))
        assert [data_of(await bob.next()) for _ in range(2)] == [b"2", b"4"]
        (hidden,) = await pub.publish(message(SECRET))
        assert hidden.matched == 0
        row = node.worlds.of("t0").bus.hub.row(SECRET)
        reason = {"closes": "UNSUBSCRIBED", "dies": "PEER_LOST"}.get(how, "REVOKED")
        assert row is not None and row["dropped"] == {reason: 2, "NO_MATCH": 1}

    session(work)
