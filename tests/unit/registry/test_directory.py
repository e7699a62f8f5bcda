"""Whoever follows a directory, from any revision on, ends with what is in it."""

from __future__ import annotations

import random
import secrets

from sira.registry import directory as module
from sira.registry.directory import Directory, Entry, Removed, Watcher, key_of, split
from sira.v1 import registry_pb2


def entry(name: str, revision: int, **fields: object) -> Entry:
    agent = registry_pb2.Agent(generation=revision, principal="sira://c/t/agent/a")
    agent.registration.CopyFrom(registry_pb2.Registration(name=name, **fields))  # type: ignore[arg-type]
    return Entry.of(agent.SerializeToString(), revision)


def followed(seen: dict[str, int], told: list[Entry | Removed]) -> dict[str, int]:
    """Return what one knows who knew `seen` and was told this."""
    known = dict(seen)
    for each in told:
        if isinstance(each, Removed):
            known.pop(each.name, None)
        else:
            known[each.name] = each.agent.revision
    return known


def test_changes_since_any_revision_lead_to_what_is_there() -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    directory, was = Directory(0), {0: dict[str, int]()}
    for revision in range(1, 300):
        name = f"a{rng.randrange(20)}"
        if rng.random() < 0.4:
            directory.remove(name, revision)
        else:
            directory.put(entry(name, revision))
        was[revision] = {each.name: each.agent.revision for each in directory}
    for revision, seen in was.items():
        if revision > directory.revision:
            continue
        told = directory.since(revision)
        assert told is not None
        assert followed(seen, told) == was[299], (seed, revision)
        revisions = [
            each.revision if isinstance(each, Removed) else each.agent.revision for each in told
        ]
        assert revisions == sorted(revisions) and all(each > revision for each in revisions)


def test_what_is_too_long_ago_begins_anew_and_nothing_has_changed_since_later() -> None:
    directory = Directory(10)
    directory.put(entry("a", 11))
    assert directory.since(9) is None
    assert directory.since(11) == [] == directory.since(12)  # of the tables, which others change
    for revision in range(12, 12 + module._REMOVED_MAX + 5):
        directory._removed.append(Removed(revision, "x", revision))
    directory.put(entry("y", 100_000))
    directory.remove("y", 100_001)
    assert directory.since(11) is None, "a removal after it is not known any more"


def test_a_watcher_is_told_each_name_once_with_its_last_state() -> None:
    directory, woken = Directory(0), [0]

    def wake() -> None:
        woken[0] += 1

    watcher = Watcher(wake)
    directory.watch(watcher)
    directory.put(entry("a", 1))
    directory.put(entry("b", 2))
    directory.put(entry("a", 3))
    directory.remove("b", 4)
    directory.state_changed("a")
    directory.state_changed("nobody")
    told = watcher.take()
    assert list(told) == ["a", "b"]
    assert told["a"] is None and told["b"] == Removed(4, "b", 2)
    assert woken[0] == 5 and not watcher.moved
    directory.unwatch(watcher)
    directory.put(entry("c", 5))
    assert watcher.take() == {}


def test_labels_versions_and_keys() -> None:
    one = entry("a/b", 1, labels={"ward": "3", "x": ""}, version="1.2.0")
    assert one.has_labels({}) and one.has_labels({"ward": "3"})
    assert not one.has_labels({"ward": "4"}) and not one.has_labels({"y": ""})
    assert one.version is not None and one.version.minor == 2
    assert split(key_of("tenant", "a/b")) == ("tenant", "a/b")
    assert [each.name for each in _sorted(Directory(0))] == ["a", "b", "c"]


def _sorted(directory: Directory) -> list[Entry]:
    for revision, name in enumerate(("c", "a", "b"), 1):
        directory.put(entry(name, revision))
    assert [each.name for each in directory.sorted_after("a")] == ["b", "c"]
    return list(directory.sorted_after(""))
