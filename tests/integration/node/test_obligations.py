"""What a rule asks beside its yes: a copy for a tap, a rate, a path."""

from __future__ import annotations

import pytest

from sira.kernel.errors import BadSetting
from sira.kernel.node import Node
from sira.kernel.policy import rules
from sira.v1 import bus_pb2

from .plain import Plain, data_of, in_force, message, session

TAPPED = rules.parse("""
format = "sira-policy 1"
default = "allow"
[[rule]]
name = "watched"
effect = "allow"
principals = ["*"]
actions = ["publish"]
topics = ["lab.cam.>"]
tap = "lab.audit"
""")
RATED = rules.parse("""
format = "sira-policy 1"
default = "allow"
[[rule]]
name = "slow"
effect = "allow"
principals = ["*"]
actions = ["publish"]
topics = ["lab.cam.>"]
rate = 2
path = "node"
""")


def test_a_tap_gets_every_message_and_without_it_none_passes() -> None:
    async def work(node: Node, plain: Plain) -> None:
        await in_force(node, TAPPED)
        pub = plain.publishing()
        (refused,) = await pub.publish(message("lab.cam.a"))
        assert refused.error.code == "DENIED" and refused.error.details["tap"] == "lab.audit"
        (free,) = await pub.publish(message("lab.other"))
        assert not free.HasField("error")

        leaky = plain.subscribing()
        await leaky.send(
            bus_pb2.Item(
                open=bus_pb2.Open(
                    subscription=1, pattern="lab.audit", overflow=bus_pb2.OVERFLOW_DROP
                )
            )
        )
        await leaky.item()
        (refused,) = await pub.publish(message("lab.cam.a"))
        assert refused.error.code == "DENIED", "a tap that may drop has gaps"

        tap, reader = plain.subscribing(), plain.subscribing()
        await tap.opened(1, "lab.audit")
        await reader.opened(1, "lab.cam.>")
        receipts = await pub.publish(*(message("lab.cam.a", bytes([n])) for n in range(5)))
        assert [each.matched for each in receipts] == [2] * 5
        for listener in (tap, reader):
            got = [await listener.next() for _ in range(5)]
            assert [data_of(each) for each in got] == [bytes([n]) for n in range(5)]
            assert {each.topic for each in got} == {"lab.cam.a"}
        rows = await plain.ledger()
        assert rows["lab.cam.a"].owed == 10

        tap.call.cancel()
        while True:
            (receipt,) = await pub.publish(message("lab.cam.a"))
            if receipt.HasField("error"):
                break
        assert receipt.error.code == "DENIED", "the tap is gone: nothing passes"

    session(work)


def test_a_tap_that_listens_to_the_topic_itself_gets_one_copy() -> None:
    async def work(node: Node, plain: Plain) -> None:
        await in_force(node, TAPPED)
        tap = plain.subscribing()
        await tap.opened(1, "lab.>")
        (receipt,) = await plain.publishing().publish(message("lab.cam.a"))
        assert receipt.matched == 1

    session(work)


def test_the_rate_of_a_rule_holds_for_each_principal() -> None:
    async def work(node: Node, plain: Plain) -> None:
        await in_force(node, RATED)
        receipts = await plain.publishing().publish(*(message("lab.cam.a") for _ in range(5)))
        codes = [each.error.code for each in receipts]
        assert codes[:2] == ["", ""] and codes[2:] == ["RATE_LIMITED"] * 3
        assert all(each.error.retry_after_ms > 0 for each in receipts[2:])
        (free,) = await plain.publishing().publish(message("lab.other"))
        assert not free.HasField("error")

    session(work)


@pytest.mark.parametrize("obligation", ['tap = "a.b"', "rate = 5", 'path = "node"'])
def test_an_obligation_of_a_rule_that_lets_nobody_publish_is_refused(obligation: str) -> None:
    with pytest.raises(BadSetting, match="publish"):
        rules.parse(
            'format = "sira-policy 1"\ndefault = "deny"\n[[rule]]\nname = "r"\neffect = "allow"\n'
            f'principals = ["*"]\nactions = ["subscribe"]\ntopics = ["a.>"]\n{obligation}\n'
        )
