"""Subscriptions made live and ended: what changes for the node when somebody listens, or stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sira import _native
from sira.kernel import retained
from sira.kernel.authorize import Deny, Readable
from sira.kernel.errors import Revoked, SiraError
from sira.kernel.opening import check_contract, check_open
from sira.kernel.slices import at_once
from sira.kernel.subscriptions import OVERFLOW_NAMES, Subscription
from sira.kernel.topics import REPLY_PREFIX, first_token, is_pattern
from sira.v1 import bus_pb2

if TYPE_CHECKING:
    from sira.kernel.bus import Bus
    from sira.kernel.streams import SubscribeStream

OPENED = 9  # field number of the oneof in Item


def open_now(bus: Bus, stream: SubscribeStream, request: bus_pb2.Open, now_ns: int) -> Subscription:
    """Make a subscription live: every message taken after this call matches it.

    Raises:
        SiraError: the refusal; nothing was opened.
    """
    contract = at_once(check_contract(bus, stream, request))
    return make_live(bus, stream, request, contract, now_ns)


def make_live(
    bus: Bus,
    stream: SubscribeStream,
    request: bus_pb2.Open,
    contract: _native.Contract | None,
    now_ns: int,
) -> Subscription:
    """Open a subscription whose contract was checked. See `open_now`."""
    client, pattern = stream.client, request.pattern
    wanted = check_open(bus, stream, request)
    group = (
        bus.subscriptions.group(request.group, pattern, client.principal.tenant)
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
        contract, window_messages=wanted.window_messages, window_bytes=wanted.window_bytes,
    )  # fmt: skip
    for older in wanted.replaced:
        older.stream.end(older, Revoked("the client subscribed again"), now_ns)
    stream.subscriptions[subscription.number] = subscription
    client.subscription_count += 1
    bus.subscriptions.add(subscription)
    bus.routes.touch(pattern)
    opened = bus_pb2.Opened(
        subscription=subscription.number, cut=wanted.cut, readable=wanted.readable
    )
    stream.egress.control(OPENED, opened.SerializeToString())
    if first_of_group:
        bus.slices.run(retained.deliver(bus, subscription, now_ns))
    if client is not bus.node:
        bus.events.emit(
            "sira.subscription.opened",
            client=client.id,
            pattern=pattern,
            group=subscription.group_name,
            overflow=OVERFLOW_NAMES[wanted.overflow],
        )
    return subscription


def close(bus: Bus, subscription: Subscription, now_ns: int, *, reason: str) -> None:
    """Let a subscription match no more; what is unread is dropped with `reason`."""
    stream, client = subscription.stream, subscription.client
    del stream.subscriptions[subscription.number]
    client.subscription_count -= not stream.closing
    bus.subscriptions.remove(subscription)
    bus.routes.touch(subscription.pattern)
    if subscription.direct is not None and stream.direct is not None:
        stream.direct.subscription_over(subscription, reason)
    client.delivered_before += subscription.sub.delivered
    _keep_from_heirs(bus, subscription, now_ns, reason)
    stream.egress.close_sub(subscription.sub, now_ns, reason=reason)
    if first_token(subscription.pattern) == REPLY_PREFIX:
        bus.topics.forget_reply(subscription.pattern)
    if client is not bus.node:
        bus.events.emit(
            "sira.subscription.ended",
            client=client.id,
            pattern=subscription.pattern,
            group=subscription.group_name,
            reason=reason,
        )


def _keep_from_heirs(bus: Bus, subscription: Subscription, now_ns: int, reason: str) -> None:
    """Drop what waits and may not be read by each member of the group that is left.

    The data plane gives the rest to any of them, as it does with a new message: see `targets`.
    """
    pattern, group, access = subscription.pattern, subscription.group, bus.access
    if group is None or first_token(pattern) == REPLY_PREFIX:
        return
    sub, whole = subscription.sub, Readable((pattern,))
    members = (each.stream.credential for each in group.members if each.client is not bus.node)
    heirs = {  # most groups act with one credential
        (who.principal, who.ids, who.grounds, who.expires_s, id(who.scope)): who for who in members
    }
    exact = not is_pattern(pattern)
    cut = [who for who in heirs.values() if exact or access.readable(who, pattern) != whole]
    if cut:
        kept = {
            name
            for name in sub.waiting_topics()
            if any(isinstance(access.decide(who, "subscribe", name), Deny) for who in cut)
        }
        sub.withhold(kept, now_ns, reason=reason)


def end(bus: Bus, subscription: Subscription, error: SiraError, now_ns: int) -> None:
    """End a subscription and tell why, unless it has ended meanwhile."""
    if subscription.stream.subscriptions.get(subscription.number) is subscription:
        subscription.stream.end(subscription, error, now_ns)
