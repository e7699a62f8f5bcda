"""Withdrawn rights: subscriptions end, or lose what waits for them and is theirs no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel import listening
from sira.kernel.authorize import Deny
from sira.kernel.errors import Revoked
from sira.kernel.subscriptions import Subscription
from sira.kernel.topics import REPLY_PREFIX, first_token, is_pattern

if TYPE_CHECKING:
    from sira.kernel.bus import Bus

_LOOKS_A_STEP = 200  # subscriptions and topics asked about in one go: about a millisecond
_MESSAGES_A_LOOK = 64  # gone through in a queue in about the time of one question


def bring_in_line(bus: Bus) -> Iterator[None]:
    """End, or narrow, what is open and not allowed any more: yields after each small step.

    A subscription that may read nothing ends (`REVOKED`). One whose pattern may still be read in
    part loses what waits for it of the other topics, counted as dropped for the same reason; each
    topic is asked about once, however many messages of it wait.
    """
    for looks, _ in enumerate(_looks(bus), 1):
        if looks % _LOOKS_A_STEP == 0:
            yield


def _looks(bus: Bus) -> Iterator[None]:
    """Yield after each question, and after what takes as long as one."""
    for client in list(bus.clients):  # first: memory that was shown can be read by itself
        for stream in list(client.subscribes):
            if stream.reader is not None:
                yield from stream.reader.recheck()
            if stream.direct is not None:
                yield from stream.direct.recheck_reads(stream)
        for publisher in list(client.publishes):
            if publisher.direct is not None:
                yield from publisher.direct.recheck_posts(publisher)
    members = []
    for subscription in list(bus.subscriptions):
        who, pattern = subscription.stream.credential, subscription.pattern
        private = subscription.client is bus.node or first_token(pattern) == REPLY_PREFIX
        refusal = None if private else bus.access.reads(who, pattern)
        if refusal is not None:
            text = f"{who.principal} may no longer read {pattern}: {refusal.reason}"
            details = {"pattern": pattern, "rule": refusal.reason}
            listening.end(bus, subscription, Revoked(text, details=details), bus.now_ns())
        elif is_pattern(pattern) and not private:
            if subscription.group is None:
                yield from _narrow(bus, subscription)
            else:
                members.append(subscription)
        yield
    for subscription in members:  # last: until here they may inherit from members that ended
        yield from _narrow(bus, subscription)


def _narrow(bus: Bus, subscription: Subscription) -> Iterator[None]:
    """Drop what waits of topics that this subscription may not read; yields after each question.

    What comes meanwhile was asked about when it came.
    """
    access, who, sub = bus.access, subscription.stream.credential, subscription.sub
    version = access.version
    withheld: set[str] = set()
    for name in sub.waiting_topics():
        if not _native.topic_match(subscription.pattern, name):
            continue  # a copy that a rule (`tap`) sent here: what it needs is the right to the tap
        if isinstance(access.decide(who, "subscribe", name), Deny):
            withheld.add(name)
        yield
    if not withheld or access.version != version:
        return  # rules that came meanwhile are applied by whoever put them in force
    for _ in range(sub.pending // _MESSAGES_A_LOOK):
        yield
    if access.version == version:
        sub.withhold(withheld, bus.now_ns())
