"""The last messages of `latest` topics, for a subscription that has just been opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel.subscriptions import Subscription
from sira.kernel.topics import is_pattern

if TYPE_CHECKING:
    from sira.kernel.bus import Bus

_TOPICS_A_SLICE = 200  # about 10 µs each when all match


def deliver(bus: Bus, subscription: Subscription, now_ns: int) -> Iterator[None]:
    """Owe a subscription what its pattern's topics have kept; in slices when they are many.

    A message that is taken between two slices reaches the subscription by itself: of what is kept
    only that is owed which was there when this began. Where a member of a group has gone, another
    one is owed the rest.
    """
    pattern, order_max = subscription.pattern, bus.hub.order
    if not is_pattern(pattern):
        exact = bus.hub.topic(pattern)
        topics = [exact] if exact is not None else []
    else:
        topics = bus.topics.retained()
    reader = subscription
    for index, topic in enumerate(topics, 1):
        matches = topic.has_retained and _native.topic_match(pattern, topic.name)
        if matches and bus.routes.may_read(topic, reader):
            reader.sub.deliver_retained(topic, now_ns, order_max)
        if index % _TOPICS_A_SLICE == 0:
            yield
            now_ns = bus.now_ns()
            heir = _reader(subscription)
            if heir is None:
                return
            reader = heir


def _reader(subscription: Subscription) -> Subscription | None:
    """Return the subscription, or who takes its place; None: nobody."""
    if subscription.stream.subscriptions.get(subscription.number) is subscription:
        return subscription
    group = subscription.group
    return next(iter(group.members), None) if group is not None else None
