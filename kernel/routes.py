"""Where messages on a topic go: whom a publish reaches, and which limits it meets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel import listening
from sira.kernel.authorize import Allow
from sira.kernel.clients import Client
from sira.kernel.direct import obliges
from sira.kernel.errors import ContractMismatch, Denied, NodeDraining, NoMatch, SiraError
from sira.kernel.subscriptions import Listener, QueueGroup, Subscription, queue
from sira.kernel.topics import (
    NODE_PREFIX,
    REPLY_PREFIX,
    RESERVED,
    check_reply_topic,
    first_token,
    is_pattern,
)
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2

if TYPE_CHECKING:
    from sira.kernel.bus import Bus

Admit = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a publisher's messages on a topic go, and what they must pass.

    Attributes:
        taps: patterns whose listeners get a copy of each message.
        obliged: rules ask for something that the node does.
    """

    topic: _native.HubTopic
    listeners: list[Listener]
    buckets: tuple[_native.Bucket, ...]
    taps: tuple[str, ...]
    obliged: bool


class Routes:
    """Answers the data plane, which remembers the answer until it is touched."""

    def __init__(self, bus: Bus) -> None:
        """Begin without taps."""
        self._bus = bus
        self._tapped: set[str] = set()  # taps that rules have named; a policy has at most 64

    def resolve(
        self, client: Client, who: Credential, name: str, admit: Admit | None = None
    ) -> _native.Route:
        """Return where a client's messages on a topic go. Requires: a well-formed name.

        Raises:
            NodeDraining, Denied, BadRequest, QuotaExceeded: the refusal.
        """
        try:
            plan = self.plan(client, who, name)
            targets = [queue(each) for each in plan.listeners]
            for tap in plan.taps:
                targets += self._taps(name, tap, targets)
        except SiraError as error:
            if isinstance(error, NoMatch):  # of a reply; on other topics it is the data plane's
                self._bus.topics.lost_replies().count_refused("NO_MATCH")
            self._bus.refused(client.principal, "publish", name, error)
            raise
        return _native.Route(plan.topic, targets, admit=admit, buckets=plan.buckets)

    def plan(self, client: Client, who: Credential, name: str) -> Plan:
        """Return whom a client's messages on a topic reach, and by which rules.

        Raises:
            NodeDraining, Denied, BadRequest, QuotaExceeded: the refusal. NoMatch: of a reply that
                nobody waits for.
        """
        bus = self._bus
        head = first_token(name)
        if bus.draining and head not in (REPLY_PREFIX, NODE_PREFIX):
            raise NodeDraining(retry_after_ms=1_000)
        obligations: tuple[tuple[str, str], ...] = ()
        if head != REPLY_PREFIX and client is not bus.node:  # who knows a reply topic was asked
            obligations = bus.access.may(who, "publish", name).obligations
        if head == NODE_PREFIX and client is not bus.node:
            raise Denied(f"only the node publishes under {head}.", details={"topic": name})
        if head in RESERVED or (head.startswith("_") and head != REPLY_PREFIX):
            raise Denied(f"names under {head!r} are reserved", details={"topic": name})
        if head == REPLY_PREFIX:
            check_reply_topic(name)
            if not bus.subscriptions.heard(name):
                raise NoMatch("whoever asked is gone", details={"topic": name})
        topic = bus.topics.ensure(name, client.principal)
        listeners = bus.subscriptions.readers(name, partial(self.may_read, topic))
        own = client is bus.node
        buckets = () if own else bus.admission.for_route(client.principal, name)
        taps = []
        for kind, value in obligations:
            if kind == "rate":
                buckets = (*buckets, bus.admission.obliged(client.principal, float(value)))
            elif kind == "tap":
                taps.append(value)
        return Plan(topic, listeners, tuple(buckets), tuple(taps), obliged=obliges(obligations))

    def _taps(
        self, name: str, tap: str, targets: list[_native.Sub | _native.Group]
    ) -> list[_native.Sub | _native.Group]:
        """Return who gets a copy of each message because a rule says so: room is waited for there.

        Raises:
            Denied: nobody listens who would miss nothing.
        """
        bus = self._bus
        self._tapped.add(tap)
        found: list[_native.Sub | _native.Group] = []
        there = False
        for listener in bus.subscriptions.match(tap):
            members = listener.members if isinstance(listener, QueueGroup) else (listener,)
            waits = all(each.overflow == bus_pb2.OVERFLOW_BLOCK for each in members)
            reads = all(
                isinstance(bus.access.decide(each.stream.credential, "subscribe", tap), Allow)
                for each in members
            )
            if waits and reads:
                there = True
                queue = listener.native if isinstance(listener, QueueGroup) else listener.sub
                if queue not in targets:
                    found.append(queue)
        if not there:
            raise Denied(
                f"a rule lets messages on {name!r} through only with a copy to {tap!r}, and nobody "
                "listens there with overflow=block",
                details={"topic": name, "tap": tap},
                retryable=True,
            )
        return found

    def may_read(self, topic: _native.HubTopic, subscription: Subscription) -> bool:
        """Ask for one match: may it be read, and do both sides mean the same tensors?"""
        bus, who = self._bus, subscription.stream.credential
        if subscription.client is bus.node or first_token(topic.name) == REPLY_PREFIX:
            pass  # the node's own for a unary call, or private to whom it answers
        elif not isinstance(bus.access.decide(who, "subscribe", topic.name), Allow):
            return False
        if topic.contract is None or subscription.contract is None:
            return True
        difference = topic.contract.unify(subscription.contract)
        if difference is None:
            return True
        error = ContractMismatch(
            f"{topic.name!r} and the subscription to {subscription.pattern!r} differ:\n"
            f"{difference}",
            details={"topic": topic.name, "pattern": subscription.pattern},
        )
        bus.soon(lambda: listening.end(bus, subscription, error, bus.now_ns()))
        return False

    def touch(self, pattern: str) -> None:
        """Let publishers ask anew where their messages go: listeners of a pattern have changed."""
        if is_pattern(pattern) or pattern in self._tapped:
            self._bus.hub.touch()
            return
        self._bus.hub.touch(pattern)

    def touch_all(self) -> None:
        """Let all publishers ask anew: the rules have changed."""
        self._tapped.clear()
        self._bus.hub.touch()
