"""The middle of a node without sockets, threads or clocks: who publishes where, and who gets it.

`Bus` decides; the data plane (`_native.Hub`) remembers and obeys; `edge/` and `node.py` hold the
sockets and the time. Every call that depends on time takes `now_ns` (CLOCK_MONOTONIC, ns), so that
a run can be replayed. All of it belongs to one thread.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import sira.kernel.binding  # noqa: F401  ties the C core to its errors
from sira import _native
from sira.kernel import errors
from sira.kernel.access import Access
from sira.kernel.admission.admission import Admission
from sira.kernel.admission.limits import OF_SETTINGS, Limit
from sira.kernel.authorize import Allow
from sira.kernel.clients import Client, Clients, Hello
from sira.kernel.errors import (
    ContractMismatch,
    Denied,
    NodeDraining,
    NoMatch,
    QuotaExceeded,
    Revoked,
    SiraError,
)
from sira.kernel.events import Events, Field, Kind
from sira.kernel.identity import Principal
from sira.kernel.opening import check_open
from sira.kernel.settings import SCHEMA, Settings
from sira.kernel.streams import OPENED, PublishStream, SubscribeStream
from sira.kernel.subscriptions import (
    OVERFLOW_NAMES,
    QueueGroup,
    Subscription,
    SubscriptionTable,
)
from sira.kernel.topic_table import TopicTable
from sira.kernel.topics import NODE_PREFIX, REPLY_PREFIX, RESERVED, first_token, is_pattern
from sira.kernel.topics import check_reply_topic as _check_reply_topic
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2, message_pb2, tensor_pb2

Admit = Callable[[int, int], None]
_EPOCH_BYTES = 16
_RIGHTS = frozenset({"DENIED", "REVOKED", "UNAUTHENTICATED"})  # refusals of a right
_SUBSCRIPTIONS_A_STEP = 200  # looked at in one go when rules change: about a millisecond


class Bus:
    """Topics, clients, subscriptions and the rules between them, of one tenant and node life.

    Each tenant of a node has one: nothing in it can name what is in another.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tenant: str = "default",
        access: Access | None = None,
        epoch: bytes = b"",
        tell: Callable[[str, Mapping[str, Field]], None] | None = None,
        clock_ns: Callable[[], int] = _native.now_ns,
        soon: Callable[[Callable[[], None]], object],
        log: Callable[[Kind, Mapping[str, Field]], None] | None = None,
    ) -> None:
        """Begin empty.

        Args:
            settings: limits in force.
            tenant: whose it is.
            access: the rules that the doors apply; None: all is allowed.
            epoch: of the node's life; empty: a new one.
            tell: gets each fact, for those who watch the whole node.
            clock_ns: CLOCK_MONOTONIC, ns; for facts and limits. Data-plane calls get `now_ns`.
            soon: runs a function after the current call has left the data plane
                (`loop.call_soon`).
            log: gets each fact of `sira.>`, listened to or not.
        """
        self.settings = settings
        self.tenant = tenant
        self.access = access or Access()
        self.epoch = epoch or os.urandom(_EPOCH_BYTES)
        self.draining = False
        self._tapped: set[str] = set()  # taps that rules have named; a policy has at most 64
        self._dropped_told: dict[str, int] = {}
        self.refusals: Counter[tuple[str, str]] = Counter()  # by action and code
        self._soon, self._clock_ns = soon, clock_ns
        self.hub = _native.Hub(
            message_bytes_max=settings.message_bytes_max,
            queue_messages_max=settings.queue_messages_max,
            queue_bytes_max=settings.queue_bytes_max,
            stall_ns=round(settings.stall_s * 1e9),
            block_ns=round(settings.publish_block_s * 1e9),
            transfer_window_bytes=settings.transfer_window_bytes,
            transfers_per_stream_max=settings.transfers_per_stream_max,
            encode_error=errors.encode,
        )
        self.clients = Clients(settings)
        self.subscriptions = SubscriptionTable()
        self.admission = Admission(_limits(settings), clock_ns, self._limit_reached)
        self.topics = TopicTable(
            self.hub,
            settings,
            self.subscriptions,
            lambda: self.events,
            lambda number: self.clients.numbered(number) is not None,
            self.admission,
        )
        self.events = Events(
            tenant=tenant,
            listened=self.subscriptions.heard,
            publish=self._publish_fact,
            clock_ns=clock_ns,
            wake=self._flush_soon,
            log=log,
            tell=tell,
            per_s_max=settings.events_per_s_max,
            queue_max=settings.events_queue_max,
        )
        self.node = Client(
            number=0,
            id="0" * 32,
            principal=Principal(settings.cluster_name, tenant, "node", settings.node_name),
            peer="",
            connected_ns=clock_ns(),
            history=_native.History(messages_max=1),
        )
        self.self = Credential(self.node.principal, "node")  # what the node itself acts with
        self._facts = _native.Ingress(
            self.hub,
            client=0,
            stamp=self.node.stamp,
            resolve=partial(self.resolve, self.node, self.self),
            wake=lambda: None,
        )

    # ---- clients ---------------------------------------------------------------------------------

    def join(self, hello: Hello, principal: Principal, peer: str, now_ns: int) -> Client:
        """Return the client of a new stream.

        Raises:
            NodeDraining: the node takes nothing new.
            Denied, QuotaExceeded: see `Clients.join`.
        """
        if self.draining:
            raise NodeDraining(retry_after_ms=1_000)
        client, new = self.clients.join(hello, principal, peer, now_ns)
        if new:
            try:
                self.admission.take("connections", principal)
            except QuotaExceeded:
                self.clients.leave(client, now_ns)
                raise
            self.events.emit(
                "sira.client.connected", client=client.id, principal=str(principal), peer=peer
            )
        return client

    def open_publish(
        self,
        client: Client,
        who: Credential,
        *,
        wake: Callable[[], None],
        hello: Hello,
        now_ns: int,
    ) -> PublishStream:
        """Open a Publish stream.

        Where `hello` says that messages at its start were sent before, the stream that they were
        sent on is lost: what is left of it is ended, or it could still take them a second time.

        Args:
            client: as `join` gave it.
            who: what the stream acts with.
            wake: told when there are receipts.
            hello: says how many messages at the start were sent before.
            now_ns: CLOCK_MONOTONIC.
        """
        count = hello.resume_messages
        known = (
            client.publish_streams > 0
            and hello.resume_epoch == self.epoch
            and count <= self.settings.retry_messages_max
        )
        lost = list(client.publishes) if count else []
        client.publish_streams += 1
        stream = PublishStream(
            self,
            client,
            who,
            wake=wake,
            resume=count if known else 0,
            unknown=0 if known else count,
            link=hello.link,
            waits=hello.waits,
        )
        client.publishes[stream] = None
        for older in lost:  # last: a client without a stream is gone
            older.supersede(now_ns)
        return stream

    def open_subscribe(
        self, client: Client, who: Credential, *, wake: Callable[[], None], link: str = ""
    ) -> SubscribeStream:
        """Open a Subscribe stream; `wake` is told when there is something to send."""
        stream = SubscribeStream(self, client, who, wake=wake, link=link)
        client.subscribes[stream] = None
        return stream

    def left(self, client: Client, now_ns: int) -> None:
        """Note that a stream of a client ended; with its last one the client is gone."""
        if client.stream_count or self.clients.numbered(client.number) is not client:
            return
        self.clients.leave(client, now_ns)
        self.admission.give("connections", client.principal)
        self.topics.drop_owned(client.number)
        self.events.emit(
            "sira.client.gone",
            client=client.id,
            principal=str(client.principal),
            reason="NODE_DRAINING" if self.draining else "PEER_LOST",
        )

    # ---- publishing ------------------------------------------------------------------------------

    def resolve(
        self, client: Client, who: Credential, name: str, admit: Admit | None = None
    ) -> _native.Route:
        """Return where a client's messages on a topic go. Requires: a well-formed name.

        Raises:
            NodeDraining, Denied, BadRequest, QuotaExceeded: the refusal.
        """
        try:
            return self._route(client, who, name, admit)
        except SiraError as error:
            self.refused(client.principal, "publish", name, error)
            raise

    def _route(
        self, client: Client, who: Credential, name: str, admit: Admit | None
    ) -> _native.Route:
        head = first_token(name)
        if self.draining and head not in (REPLY_PREFIX, NODE_PREFIX):
            raise NodeDraining(retry_after_ms=1_000)
        obligations: tuple[tuple[str, str], ...] = ()
        if head != REPLY_PREFIX and client is not self.node:  # who knows a reply topic was asked
            obligations = self.access.may(who, "publish", name).obligations
        if head == NODE_PREFIX and client is not self.node:
            raise Denied(f"only the node publishes under {head}.", details={"topic": name})
        if head in RESERVED or (head.startswith("_") and head != REPLY_PREFIX):
            raise Denied(f"names under {head!r} are reserved", details={"topic": name})
        if head == REPLY_PREFIX:
            _check_reply_topic(name)
            if not self.subscriptions.heard(name):
                self.topics.lost_replies().count_refused("NO_MATCH")
                raise NoMatch("whoever asked is gone", details={"topic": name})
        topic = self.topics.ensure(name, client.principal)
        targets = self.subscriptions.targets(name, partial(self._may_read, topic))
        own = client is self.node
        buckets = () if own else self.admission.for_route(client.principal, name)
        for kind, value in obligations:
            if kind == "rate":
                buckets = (*buckets, self.admission.obliged(client.principal, float(value)))
            elif kind == "tap":
                targets += self._taps(name, value, targets)
        return _native.Route(topic, targets, admit=admit, buckets=buckets)

    def _taps(
        self, name: str, tap: str, targets: list[_native.Sub | _native.Group]
    ) -> list[_native.Sub | _native.Group]:
        """Return who gets a copy of each message because a rule says so: room is waited for there.

        Raises:
            Denied: nobody listens who would miss nothing.
        """
        self._tapped.add(tap)
        found: list[_native.Sub | _native.Group] = []
        there = False
        for listener in self.subscriptions.match(tap):
            members = listener.members if isinstance(listener, QueueGroup) else (listener,)
            waits = all(each.overflow == bus_pb2.OVERFLOW_BLOCK for each in members)
            reads = all(
                isinstance(self.access.decide(each.stream.credential, "subscribe", tap), Allow)
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

    def _may_read(self, topic: _native.HubTopic, subscription: Subscription) -> bool:
        """Ask for one match: may it be read, and do both sides mean the same tensors?"""
        who = subscription.stream.credential
        if subscription.client is self.node or first_token(topic.name) == REPLY_PREFIX:
            pass  # the node's own for a unary call, or private to whom it answers
        elif not isinstance(self.access.decide(who, "subscribe", topic.name), Allow):
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
        self._soon(partial(self._end, subscription, error))
        return False

    # ---- subscribing -----------------------------------------------------------------------------

    def open_subscription(
        self, stream: SubscribeStream, request: bus_pb2.Open, now_ns: int
    ) -> Subscription:
        """Make a subscription live: every message taken after this call matches it.

        Raises:
            SiraError: the refusal; nothing was opened.
        """
        client, pattern = stream.client, request.pattern
        wanted = check_open(self, stream, request)
        group = (
            self.subscriptions.group(request.group, pattern, client.principal.tenant)
            if request.group
            else None
        )
        first_of_group = group is None or not group.members
        sub = stream.egress.open(
            request.subscription,
            pattern=pattern,
            group=group.native if group else None,
            overflow=wanted.overflow,
            window_messages=wanted.window_messages,
            window_bytes=wanted.window_bytes,
        )
        subscription = Subscription(
            request.subscription, pattern, client, stream, wanted.overflow, sub, group,
            wanted.contract,
        )  # fmt: skip
        for older in wanted.replaced:
            older.stream.end(older, Revoked("the client subscribed again"), now_ns)
        stream.subscriptions[subscription.number] = subscription
        client.subscription_count += 1
        self.subscriptions.add(subscription)
        self._touch(pattern)
        opened = bus_pb2.Opened(
            subscription=subscription.number, cut=wanted.cut, readable=wanted.readable
        )
        stream.egress.control(OPENED, opened.SerializeToString())
        if first_of_group:
            self._deliver_retained(subscription, now_ns)
        if client is not self.node:
            self.events.emit(
                "sira.subscription.opened",
                client=client.id,
                pattern=pattern,
                group=subscription.group_name,
                overflow=OVERFLOW_NAMES[wanted.overflow],
            )
        return subscription

    def close_subscription(self, subscription: Subscription, now_ns: int, *, reason: str) -> None:
        """Let a subscription match no more; what is unread is dropped with `reason`."""
        stream, client = subscription.stream, subscription.client
        del stream.subscriptions[subscription.number]
        client.subscription_count -= 1
        client.delivered_before += subscription.sub.delivered
        self.subscriptions.remove(subscription)
        self._touch(subscription.pattern)
        stream.egress.close_sub(subscription.sub, now_ns, reason=reason)
        if first_token(subscription.pattern) == REPLY_PREFIX:
            self.topics.forget_reply(subscription.pattern)
        if client is not self.node:
            self.events.emit(
                "sira.subscription.ended",
                client=client.id,
                pattern=subscription.pattern,
                group=subscription.group_name,
                reason=reason,
            )

    def _deliver_retained(self, subscription: Subscription, now_ns: int) -> None:
        pattern = subscription.pattern
        if is_pattern(pattern):
            topics = [t for t in self.topics.retained() if _native.topic_match(pattern, t.name)]
        else:
            exact = self.hub.topic(pattern)
            topics = [exact] if exact is not None else []
        for topic in topics:
            if topic.has_retained and self._may_read(topic, subscription):
                subscription.sub.deliver_retained(topic, now_ns)

    def _touch(self, pattern: str) -> None:
        """Let publishers ask anew where their messages go."""
        if is_pattern(pattern) or pattern in self._tapped:
            self.hub.touch()
            return
        self.hub.touch(pattern)

    def _end(self, subscription: Subscription, error: SiraError) -> None:
        if subscription.stream.subscriptions.get(subscription.number) is subscription:
            subscription.stream.end(subscription, error, self._clock_ns())

    # ---- rules -----------------------------------------------------------------------------------

    def may(self, who: Credential, action: str, resource: str) -> None:
        """Ask the rules in force.

        Raises:
            Denied, Revoked, Unauthenticated: they say no.
        """
        self.access.may(who, action, resource)

    def rules_changed(self) -> Iterator[None]:
        """Bring what is open in line with rules that have changed: yields after each small step.

        Publishers ask anew with their next message, each match included: before the first step is
        over nothing more is delivered that is not allowed. Then subscriptions that may read nothing
        end, one by one (`REVOKED`).
        """
        self._tapped.clear()
        self.hub.touch()
        for index, subscription in enumerate(list(self.subscriptions), 1):
            who, pattern = subscription.stream.credential, subscription.pattern
            private = subscription.client is self.node or first_token(pattern) == REPLY_PREFIX
            refusal = None if private else self.access.reads(who, pattern)
            if refusal is not None:
                text = f"{who.principal} may no longer read {pattern}: {refusal.reason}"
                details = {"pattern": pattern, "rule": refusal.reason}
                self._end(subscription, Revoked(text, details=details))
            if index % _SUBSCRIPTIONS_A_STEP == 0:
                yield

    def set_limits(self, limits: tuple[Limit, ...]) -> None:
        """Put other limits in force, beside those of the settings."""
        self.admission.change((*_limits(self.settings), *limits))
        self.hub.touch()

    def drain(self) -> None:
        """Take nothing new from now on; replies to requests under way still pass."""
        self.events.emit(
            "sira.node.draining", node=self.settings.node_name, drain_s=self.settings.drain_s
        )
        self.draining = True
        self.hub.touch()

    # ---- time and facts --------------------------------------------------------------------------

    def tick(self, now_ns: int) -> bool:
        """Let time pass: expire, time out, mark stalls, drop what is idle.

        Returns:
            Whether there is more to do at once.
        """
        for event, sub in self.hub.tick(now_ns):
            client = self.clients.numbered(sub.client)
            self.events.emit(
                "sira.stalled" if event == "stalled" else "sira.resumed",
                client=client.id if client else "",
                pattern=sub.pattern,
                group=sub.group.name if sub.group else "",
            )
        self._tell_drops()
        self.clients.forget(now_ns)
        return self.topics.step(now_ns)

    def refused(
        self,
        principal: Principal,
        action: str,
        resource: str,
        error: SiraError,
        *,
        intent: str = "",
    ) -> None:
        """Count and tell that something was refused; a missing right stands on the audit, too."""
        # A code that is none of ours came out of a reply: peers must not name our counters.
        self.refusals[action, "OTHER" if type(error) is SiraError else error.code] += 1
        setting = error.details.get("setting", "")
        limit = getattr(self.settings, setting) if setting in SCHEMA else None
        if error.code == "QUOTA_EXCEEDED" and isinstance(limit, int | float):
            self.events.emit("sira.limit", setting=setting, value=limit, principal=str(principal))
        self.events.emit(
            "sira.refused",
            principal=str(principal),
            action=action,
            resource=resource[:255],
            reason=error.code,
        )
        if error.code in _RIGHTS:
            self.audit(
                principal,
                action,
                resource,
                intent=intent,
                result=error.code,
                rule=error.details.get("rule", ""),
            )

    def audit(
        self,
        principal: Principal,
        action: str,
        resource: str,
        *,
        intent: str = "",
        result: str = "ok",
        rule: str = "",
    ) -> None:
        """Let `sira.audit` say who did what, or tried to."""
        self.events.emit(
            "sira.audit",
            principal=str(principal),
            action=action,
            resource=resource[:255],
            intent=intent,
            result=result,
            rule=rule[:255],
        )

    def _tell_drops(self) -> None:
        """Tell how many deliveries were dropped since the last time, by reason."""
        dropped = self.hub.dropped
        for reason, count in dropped.items():
            since = count - self._dropped_told.get(reason, 0)
            if since:
                self.events.emit("sira.dropped", reason=reason, count=since)
        self._dropped_told = dropped

    def tell_config(self, setting: str, value: str) -> None:
        """Say that something that holds for all was changed by the node's operator."""
        self.events.emit(
            "sira.config", setting=setting, value=value, principal=str(self.node.principal)
        )

    def _limit_reached(self, limit: Limit, key: str) -> None:
        self.events.emit("sira.limit", setting=limit.name, value=limit.value, principal=key)

    def _flush_soon(self) -> None:
        self._soon(self.events.flush)

    def _publish_fact(self, topic: str, body: bytes) -> None:
        """Publish one fact. A subscriber without room misses it; the node never waits."""
        message = message_pb2.Message(
            id=_native.new_id(),
            topic=topic,
            content_type="application/json",
            time_ns=time.time_ns(),
            source=self.settings.node_name,
        )
        message.tensors.add(dtype=tensor_pb2.DTYPE_UTF8, shape=[len(body)], data=body)
        item = bus_pb2.Item(message=message, quiet=True, wait_ms=0)
        now_ns = self._clock_ns()
        self._facts.feed(bus_pb2.Frame(items=[item]).SerializeToString(), now_ns)
        while self._facts.next_frame(now_ns) is not None:
            pass  # a refusal of a fact has nobody to hear it


def _limits(settings: Settings) -> tuple[Limit, ...]:
    """Return the limits that the settings ask for; by default none."""
    messages, bytes_ = settings.principal_messages_per_s_max, settings.principal_bytes_per_s_max
    if not messages and not bytes_:
        return ()
    return (Limit(OF_SETTINGS, "principal", messages_per_s=messages, bytes_per_s=bytes_),)
