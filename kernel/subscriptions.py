"""Who listens: the open subscriptions of a node, their queue groups, and whom a name reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel.slices import Arrivals
from sira.kernel.topics import Trie, is_pattern

if TYPE_CHECKING:
    from sira.kernel.clients import Client
    from sira.kernel.direct import Tally
    from sira.kernel.streams import SubscribeStream

OVERFLOW_NAMES = {1: "block", 2: "drop", 3: "latest"}


@dataclass(slots=True, eq=False)
class Subscription:
    """One open subscription.

    Attributes:
        number: chosen by the client, unique in its stream.
        overflow: as in `sira.v1.Overflow`, never unspecified.
        sub: its queue in the data plane.
        window_messages, window_bytes: what it takes unconfirmed.
        direct: what it gets past the node; None: nothing so far.
    """

    number: int
    pattern: str
    client: Client
    stream: SubscribeStream
    overflow: int
    sub: _native.Sub
    group: QueueGroup | None = None
    contract: _native.Contract | None = None
    window_messages: int = 0
    window_bytes: int = 0
    direct: Tally | None = None

    @property
    def pending(self) -> int:
        """Messages that wait for it, on the node and past it."""
        return self.sub.pending + (self.direct.pending if self.direct else 0)

    @property
    def group_name(self) -> str:
        """Name of the queue group; "": none."""
        return self.group.name if self.group else ""


@dataclass(slots=True, eq=False)
class QueueGroup:
    """Members that share the work of one pattern: each message goes to one of them.

    A group is its name, its pattern and its tenant: members with another pattern share work among
    themselves.
    """

    name: str
    pattern: str
    tenant: str
    native: _native.Group
    members: dict[Subscription, None] = field(default_factory=dict)


Listener = Subscription | QueueGroup


def readers(listener: Listener) -> int:
    """Return how many subscriptions this is."""
    return len(listener.members) if isinstance(listener, QueueGroup) else 1


def queue(listener: Listener) -> _native.Sub | _native.Group:
    """Return where its messages wait in the data plane."""
    return listener.native if isinstance(listener, QueueGroup) else listener.sub


def _members(listener: Listener) -> Iterable[Subscription]:
    return listener.members if isinstance(listener, QueueGroup) else (listener,)


class SubscriptionTable:
    """All open subscriptions of a node."""

    def __init__(self) -> None:
        self._trie: Trie[Listener] = Trie()
        self._groups: dict[tuple[str, str, str], QueueGroup] = {}
        self._all: dict[Subscription, None] = {}
        self._contracted: dict[Subscription, None] = {}
        self._contracted_all: tuple[Subscription, ...] | None = None
        self.arrivals: Arrivals[Subscription] = Arrivals()  # those with a contract
        self._exact: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._all)

    def __iter__(self) -> Iterator[Subscription]:
        """Yield all, oldest first."""
        return iter(self._all)

    def group(self, name: str, pattern: str, tenant: str) -> QueueGroup:
        """Return the queue group, made if it is not there; it stays only once it has a member."""
        found = self._groups.get((tenant, name, pattern))
        return found or QueueGroup(name, pattern, tenant, _native.Group(name))

    def add(self, subscription: Subscription) -> None:
        """Make it live: from now on it matches."""
        self._all[subscription] = None
        if subscription.contract is not None:
            self._contracted[subscription] = None
            self._contracted_all = None
            self.arrivals.note(subscription)
        if not is_pattern(subscription.pattern):
            self._exact[subscription.pattern] += 1
        group = subscription.group
        if group is None:
            self._trie.add(subscription.pattern, subscription)
            return
        if not group.members:
            self._groups[group.tenant, group.name, group.pattern] = group
            self._trie.add(group.pattern, group)
        group.members[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        """Let it match no more."""
        del self._all[subscription]
        if subscription.contract is not None:
            del self._contracted[subscription]
            self._contracted_all = None
        if not is_pattern(subscription.pattern):
            self._exact[subscription.pattern] -= 1
            if not self._exact[subscription.pattern]:
                del self._exact[subscription.pattern]
        group = subscription.group
        if group is None:
            self._trie.remove(subscription.pattern, subscription)
            return
        del group.members[subscription]
        if not group.members:
            del self._groups[group.tenant, group.name, group.pattern]
            self._trie.remove(group.pattern, group)

    def match(self, name: str) -> list[Listener]:
        """Return who listens to a name: subscriptions and queue groups."""
        return self._trie.match(name)

    def match_each(self, name: str) -> Iterator[Subscription]:
        """Yield the subscriptions that listen to a name, members of groups one by one."""
        for listener in self._trie.match(name):
            if isinstance(listener, QueueGroup):
                yield from listener.members
            else:
                yield listener

    def match_first(self, name: str, count: int) -> tuple[list[Subscription], list[Listener]]:
        """Return the first so many subscriptions that listen to a name, and all listeners."""
        listeners = self._trie.match(name)
        each = chain.from_iterable(map(_members, islice(listeners, count)))
        return list(islice(each, count)), listeners

    def heard(self, name: str) -> bool:
        """Whether anybody listens to a name."""
        return bool(self._all) and bool(self._trie.match(name))

    def of_pattern(self, pattern: str) -> list[Subscription]:
        """Return the subscriptions that asked for exactly this name."""
        return [s for s in self.match_each(pattern) if s.pattern == pattern]

    def contracted(self) -> tuple[Subscription, ...]:
        """Return the subscriptions that declared a contract; the same tuple until one moves."""
        if self._contracted_all is None:
            self._contracted_all = tuple(self._contracted)
        return self._contracted_all

    def exact_names(self) -> list[str]:
        """Return the names that somebody listens to without a wildcard."""
        return list(self._exact)

    def readers(self, name: str, may_read: Callable[[Subscription], bool]) -> list[Listener]:
        """Return to whom a message of this name goes.

        A group whose members may not all read the name is replaced by one member that may: the data
        plane chooses freely inside a group, and must not choose one that may not.
        """
        found: list[Listener] = []
        for listener in self._trie.match(name):
            if isinstance(listener, Subscription):
                if may_read(listener):
                    found.append(listener)
                continue
            readers = [member for member in listener.members if may_read(member)]
            if len(readers) == len(listener.members):
                found.append(listener)
            elif readers:
                found.append(min(readers, key=lambda member: member.sub.pending))
        return found
