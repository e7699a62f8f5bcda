"""The directory of one tenant: who is registered, what changed since when. Pure: fed with rows.

The truth is the table `agents`; this is what a node makes of it to answer at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sira.registry.records import Fit, fit_of
from sira.registry.versions import Version
from sira.v1 import registry_pb2

TABLE = "agents"
_REMOVED_MAX = 16_384  # each as it was: some KiB


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One registration as it is kept.

    Attributes:
        agent: registration, generation, revision, principal; no state.
        fits: contracts of its capabilities, compiled, in their order.
        version: None where it has none.
        name: unique in its tenant.
    """

    agent: registry_pb2.Agent
    fits: tuple[Fit, ...]
    version: Version | None
    name: str

    @classmethod
    def of(cls, value: bytes, revision: int) -> Entry:
        """Make it of a row of the table and the revision at which that was changed last."""
        agent = registry_pb2.Agent.FromString(value)
        agent.revision = revision
        registration = agent.registration
        return cls(
            agent,
            tuple(fit_of(each) for each in registration.capabilities),
            Version.parse(registration.version) if registration.version else None,
            registration.name,
        )

    @property
    def registration(self) -> registry_pb2.Registration:
        """What it said of itself."""
        return self.agent.registration

    def has_labels(self, wanted: Mapping[str, str]) -> bool:
        """Whether it has all of these labels."""
        labels = self.agent.registration.labels
        return all([labels.get(key) == value for key, value in wanted.items()])  # a list: faster


def key_of(tenant: str, name: str) -> str:
    """Return the key of an agent's row."""
    return f"{tenant}/{name}"


def split(key: str) -> tuple[str, str]:
    """Return tenant and name of a row's key."""
    tenant, _, name = key.partition("/")
    return tenant, name


@dataclass(frozen=True, slots=True)
class Removed:
    """A registration that is no more.

    Attributes:
        entry: as it was; None: not known.
    """

    revision: int
    name: str
    generation: int
    entry: Entry | None = field(default=None, compare=False, repr=False)


class Watcher:
    """One who follows the directory: what has changed and was not told yet, each name once."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when there is something to tell."""
        self._wake = wake
        self._names: dict[str, Removed | None] = {}
        self.moved = False

    def note(self, name: str, removed: Removed | None) -> None:
        """Take note that an entry or its state has changed, or that it was removed."""
        self._names[name] = removed
        self.moved = True
        self._wake()

    def touch(self) -> None:
        """Take note that something else has changed than an entry."""
        self.moved = True
        self._wake()

    def take(self) -> dict[str, Removed | None]:
        """Return what is to be told, oldest first, and forget it."""
        taken, self._names, self.moved = self._names, {}, False
        return taken


class Directory:
    """Belongs to the node's loop."""

    def __init__(self, revision: int) -> None:
        """Begin empty, at a revision of the tables: what was removed before is not known."""
        self.revision = revision
        self.state_version = 0
        self._entries: dict[str, Entry] = {}
        self._removed: deque[Removed] = deque()
        self._known_since = revision
        self._watchers: dict[Watcher, None] = {}

    def __len__(self) -> int:
        """Return how many are registered."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """Yield all, in the order in which they came; those that come meanwhile are left out."""
        return iter(list(self._entries.values()))

    def get(self, name: str) -> Entry | None:
        """Return one; None: it is not registered."""
        return self._entries.get(name)

    def sorted_after(self, name: str) -> Iterator[Entry]:
        """Yield those whose names stand after one, in order of names."""
        for each in sorted(key for key in self._entries if key > name):
            entry = self._entries.get(each)
            if entry is not None:
                yield entry

    def put(self, entry: Entry) -> None:
        """Take what the table holds now."""
        self._entries[entry.name] = entry
        self.revision = max(self.revision, entry.agent.revision)
        self._tell(entry.name, None)

    def remove(self, name: str, revision: int) -> Entry | None:
        """Take note that the table holds it no more; return what it was."""
        self.revision = max(self.revision, revision)
        entry = self._entries.pop(name, None)
        if entry is None:
            return None
        gone = Removed(revision, name, entry.agent.generation, entry)
        self._removed.append(gone)
        if len(self._removed) > _REMOVED_MAX:
            self._known_since = self._removed.popleft().revision
        self._tell(name, gone)
        return entry

    def state_changed(self, name: str) -> None:
        """Take note that what is thought of one has changed."""
        self.state_version += 1
        if name in self._entries:
            self._tell(name, None)

    def rules_changed(self) -> None:
        """Take note that other answers are given, though no entry has changed."""
        self.state_version += 1
        for watcher in self._watchers:
            watcher.touch()

    def watch(self, watcher: Watcher) -> None:
        """Have a watcher told of each change from now on."""
        self._watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """Tell it no more."""
        self._watchers.pop(watcher, None)

    def since(self, revision: int) -> list[Entry | Removed] | None:
        """Return what changed after a revision, in that order; None: that is too long ago."""
        if revision < self._known_since:
            return None
        changed: list[tuple[int, Entry | Removed]] = [
            (each.agent.revision, each)
            for each in self._entries.values()
            if each.agent.revision > revision
        ]
        changed += [(each.revision, each) for each in self._removed if each.revision > revision]
        return [each for _, each in sorted(changed, key=lambda pair: pair[0])]

    def _tell(self, name: str, removed: Removed | None) -> None:
        for watcher in self._watchers:
            watcher.note(name, removed)
