"""The topics of a node: made when used or declared, dropped when deleted, ownerless or idle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice

from sira import _native
from sira.kernel import declaring
from sira.kernel.admission.admission import Admission
from sira.kernel.errors import Conflict, NotFound, PeerLost, QuotaExceeded
from sira.kernel.events import Events
from sira.kernel.identity import Principal
from sira.kernel.settings import Settings
from sira.kernel.subscriptions import SubscriptionTable
from sira.kernel.topics import (
    NODE_PREFIX,
    OTHER_CLASS,
    REPLY_CLASS,
    REPLY_PREFIX,
    Declaration,
    Declarations,
    first_token,
    is_pattern,
)
from sira.v1 import bus_pb2

# Replies to requesters that are gone are refused, and counted on this one topic: made-up names
# must take no memory. No client can use its name.
LOST_REPLIES = "_reply.lost"
_STEP_TOPICS = 50  # in one step: dropping one and making it anew takes up to 40 µs


@dataclass(slots=True)
class _Use:
    """When a topic that nobody declared was last seen in use, and which classes it was told of."""

    published: int
    since_ns: int
    classes: int


class TopicTable:
    """All topics of a node, and what holds for each."""

    def __init__(
        self,
        hub: _native.Hub,
        settings: Settings,
        subscriptions: SubscriptionTable,
        events: Events,
        owner_lives: Callable[[int], bool],
        admission: Admission,
    ) -> None:
        """Begin empty.

        `owner_lives` tells whether the client of a number still has a stream; `admission` whether
        somebody may have one more topic.
        """
        self.declarations = Declarations()
        self._hub, self._settings, self._subscriptions = hub, settings, subscriptions
        self._events, self._owner_lives = events, owner_lives
        self._implicit: dict[str, _Use] = {}
        self._admission = admission
        self._holders: dict[str, Principal] = {}  # whose limits count a topic or a class
        self._retained: dict[str, _native.HubTopic] = {}
        self._doomed: deque[Iterator[str]] = deque()  # names of clients that are gone
        self._sweep: _native.RowWalk | None = None
        self._next_sweep_ns = 0
        self._classes = 0  # grows with every class that comes or goes
        self._behind: _native.RowWalk | None = None  # topics that have still to follow

    def __len__(self) -> int:
        """Return how many topics there are, declared or in use."""
        return len(self._implicit) + len(self.declarations)

    # ---- in use ----------------------------------------------------------------------------------

    def ensure(self, name: str, by: Principal) -> _native.HubTopic:
        """Return the topic of a checked name, made for `by` if it is not there.

        Raises:
            QuotaExceeded: topics_max, or a limit on topics of `by`.
        """
        topic = self._hub.topic(name)
        if topic is not None:
            return self._follow(name, topic)
        head = first_token(name)
        if head != NODE_PREFIX:  # there are few, and they tell of the limit
            self._check_room()
        if head not in (NODE_PREFIX, REPLY_PREFIX):  # a reply's goes with whoever asked
            self._charge(name, by)
        topic = self._declare(name)
        self._implicit[name] = _Use(0, 0, self._classes)
        self._note_retained(topic)
        return topic

    def lost_replies(self) -> _native.HubTopic:
        """Return the topic on which replies to nobody are counted."""
        return self._hub.topic(LOST_REPLIES) or self._hub.declare(LOST_REPLIES, group=REPLY_CLASS)

    def retained(self) -> list[_native.HubTopic]:
        """Return the topics that keep their last message."""
        return list(self._retained.values())

    @property
    def retained_count(self) -> int:
        """How many topics keep their last message."""
        return len(self._retained)

    def forget_reply(self, name: str) -> None:
        """Drop a private reply topic with its subscriber."""
        if self._implicit.pop(name, None) is not None:
            self._hub.drop(name)

    # ---- declared --------------------------------------------------------------------------------

    def creating(
        self, request: bus_pb2.CreateTopicRequest, *, owner: int, by: Principal
    ) -> Generator[None, None, Declaration]:
        """Declare a topic, or a class of topics by a pattern; the same again changes nothing.

        It yields between slices, where very many subscriptions expect tensors, and returns what is
        declared.

        Args:
            request: as it came.
            owner: number of the client that it dies with; 0: it stays.
            by: whose limits count it, and who `sira.topic.created` says it was.

        Raises:
            BadTopic, BadRequest, Denied, Unsupported: see `declaring.asked`.
            Conflict: declared otherwise, or owned by another client.
            ContractMismatch: a subscription that is there expects other tensors.
            QuotaExceeded: topics_max, topics_owned_per_client_max, a limit on topics of `by`.
            PeerLost: the owner went meanwhile.
        """
        declaration = declaring.asked(request, owner=owner)
        if (existing := self._existing(declaration)) is not None:
            return existing
        yield from declaring.compare(self._subscriptions, declaration)
        if (existing := self._existing(declaration)) is not None:  # declared meanwhile
            return existing
        if owner and not self._owner_lives(owner):
            raise PeerLost("the client that the topic was to die with is gone")
        name = declaration.name
        self._check_owned(owner)
        if name not in self._implicit:
            self._check_room()
        self._charge(name, by)
        self.declarations.add(declaration)
        self._apply(name)
        self._events.emit(
            "sira.topic.created",
            topic=name,
            kind="latest" if declaration.retain else "volatile",
            owned=bool(owner),
            principal=str(by),
        )
        return declaration

    def _existing(self, declaration: Declaration) -> Declaration | None:
        """Return the same declaration if it is there.

        Raises:
            Conflict: declared otherwise, or owned by another client.
        """
        name = declaration.name
        existing = self.declarations.get(name)
        if existing is not None and existing.owner and not self._owner_lives(existing.owner):
            self._drop(name, "PEER_LOST")  # its turn had not come yet
            return None
        if existing is None or existing.same_as(declaration):
            return existing
        raise Conflict(f"{name!r} is declared otherwise", details={"topic": name})

    def delete(self, name: str) -> None:
        """Forget a declaration or a topic in use; its counts are folded into its class.

        Raises:
            NotFound: there is no such topic or class.
        """
        if not self._drop(name, "DELETED"):
            raise NotFound(f"there is no topic or class {name!r}", details={"topic": name})

    def drop_owned(self, owner: int) -> None:
        """Let the topics of a client that is gone be dropped, some at each step."""
        self._doomed.append(iter(self.declarations.owned_by(owner)))

    # ---- time ------------------------------------------------------------------------------------

    def step(self, now_ns: int) -> bool:
        """Do a little of what waits: drop topics without owner, forget idle ones.

        Returns:
            Whether there is more to do at once.
        """
        if self._doomed:
            self._drop_doomed(self._doomed[0])
            return True
        if self._behind is not None:
            for name in self._behind.topics(_STEP_TOPICS):
                topic = self._hub.topic(name)
                if topic is not None:
                    self._follow(name, topic)
            if self._behind.done:
                self._behind = None
            return True
        idle_ns = round(self._settings.topic_idle_s * 1e9)
        if self._sweep is None and now_ns >= self._next_sweep_ns:
            self._sweep = self._hub.walk()
            self._next_sweep_ns = now_ns + idle_ns // 4
        if self._sweep is not None:
            for name in self._sweep.topics(_STEP_TOPICS):
                self._look(name, now_ns, idle_ns)
            if self._sweep.done:
                self._sweep = None
        return self._sweep is not None

    # ---- for people ------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return all names: topics in use, declared topics and classes, names listened to.

        One may come twice.
        """
        names = list(self._implicit)
        names += self.declarations.names()
        names += self._subscriptions.exact_names()
        return names

    def describe(self, name: str) -> bus_pb2.Topic:
        """Return what is known of one name."""
        said = self.declarations.get(name)
        holds = said or self.declarations.effective(name)
        topic = None if is_pattern(name) else self._hub.topic(name)
        class_row = "" if is_pattern(name) else self.declarations.class_row(name)
        return bus_pb2.Topic(
            name=name,
            kind=bus_pb2.TOPIC_KIND_LATEST if holds.retain else bus_pb2.TOPIC_KIND_VOLATILE,
            contract=holds.contract_texts,
            owned=bool(holds.owner),
            class_name="" if class_row == OTHER_CLASS else class_row,
            declared=said is not None,
            published=topic.published if topic else 0,
            subscriptions=0 if is_pattern(name) else len(self._subscriptions.match(name)),
        )

    # ---- inside ----------------------------------------------------------------------------------

    def _apply(self, name: str) -> None:
        """Bring the data plane in line with what is declared now under a name or a pattern."""
        if is_pattern(name):
            # Each topic follows before its next message, the others step by step.
            self._classes += 1
            self._behind = self._hub.walk()
            self._hub.touch()
            return
        self._implicit.pop(name, None)
        existing = self._hub.topic(name)
        if existing is None:
            self._note_retained(self._declare(name))
        else:
            self._align(existing)

    def _declare(self, name: str) -> _native.HubTopic:
        said = self.declarations.effective(name)
        return self._hub.declare(
            name,
            retain=said.retain,
            contract=said.contract,
            owner=said.owner,
            group=self.declarations.class_row(name),
        )

    def _follow(self, name: str, topic: _native.HubTopic) -> _native.HubTopic:
        """Return the topic in line with the classes of now."""
        use = self._implicit.get(name)
        if use is None:
            return self._align(topic)
        if use.classes != self._classes:
            use.classes = self._classes
            return self._align(topic)
        return topic

    def _align(self, topic: _native.HubTopic) -> _native.HubTopic:
        """Bring a topic in use in line with what is declared now, and return what it is then."""
        name, said = topic.name, self.declarations.effective(topic.name)
        other_class = topic.group != self.declarations.class_row(name)
        same = (topic.retain, topic.contract, topic.owner) == (
            said.retain,
            said.contract,
            said.owner,
        )
        if same and not other_class:
            return topic
        less = (
            (topic.contract is not None and said.contract is None)
            or (topic.owner != 0 and said.owner == 0)
            or (topic.has_retained and not said.retain)
        )
        if other_class or less:  # a new row in the other class; what was counted stays in the old
            self._hub.drop(name)
        topic = self._declare(name)
        self._note_retained(topic)
        self._hub.touch(name)
        return topic

    def _note_retained(self, topic: _native.HubTopic) -> None:
        if topic.retain:
            self._retained[topic.name] = topic
        else:
            self._retained.pop(topic.name, None)

    def _drop(self, name: str, reason: str) -> bool:
        said = self.declarations.remove(name)
        if said is not None:
            self._events.emit("sira.topic.dropped", topic=name, reason=reason)
        if is_pattern(name):
            if said is not None:
                self._discharge(name)
                self._apply(name)
            return said is not None
        used = self._implicit.pop(name, None)
        self._retained.pop(name, None)
        self._discharge(name)
        if self._hub.topic(name) is not None:
            self._hub.drop(name)
        return said is not None or used is not None

    def _drop_doomed(self, names: Iterator[str]) -> None:
        count = 0
        for name in islice(names, _STEP_TOPICS):
            count += 1
            said = self.declarations.get(name)
            if said is not None and said.owner and not self._owner_lives(said.owner):
                self._drop(name, "PEER_LOST")
        if count < _STEP_TOPICS:
            self._doomed.popleft()

    def _look(self, name: str, now_ns: int, idle_ns: int) -> None:
        """Forget a topic that nobody declared when it has been idle for so long."""
        use, topic = self._implicit.get(name), self._hub.topic(name)
        if use is None or topic is None:
            return
        if topic.published != use.published or use.since_ns == 0:
            use.published, use.since_ns = topic.published, now_ns
        elif now_ns - use.since_ns >= idle_ns and not topic.has_retained:
            self._drop(name, "IDLE")

    def _charge(self, name: str, by: Principal) -> None:
        """Count a topic or a class, unless somebody has it counted already.

        Raises:
            QuotaExceeded: a limit on topics of `by`.
        """
        if name not in self._holders:
            self._admission.take("topics", by)
            self._holders[name] = by

    def _discharge(self, name: str) -> None:
        holder = self._holders.pop(name, None)
        if holder is not None:
            self._admission.give("topics", holder)

    def _check_room(self) -> None:
        if len(self) >= self._settings.topics_max:
            limit = self._settings.topics_max
            raise QuotaExceeded(
                f"topics_max = {limit} is reached", details={"setting": "topics_max"}
            )

    def _check_owned(self, owner: int) -> None:
        limit = self._settings.topics_owned_per_client_max
        if owner and self.declarations.owned_count(owner) >= limit:
            raise QuotaExceeded(
                f"topics_owned_per_client_max = {limit} is reached",
                details={"setting": "topics_owned_per_client_max"},
            )
