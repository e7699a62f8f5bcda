"""What fits a request: found by labels and names, judged once, and like a look at everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sira.registry.directory import Entry
from sira.registry.discovery import Filter, Place, Seen, named
from sira.registry.fitting import Fitting, Shelf
from sira.registry.health import Status
from sira.v1 import registry_pb2

LABELS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), max_size=3)
AGENTS = st.lists(st.tuples(LABELS, st.booleans(), st.booleans()), max_size=12)


def _entry(number: int, labels: dict[str, str], names: tuple[str, ...] = ("a", "b")) -> Entry:
    agent = registry_pb2.Agent()
    agent.registration.name = f"n{number}"
    agent.registration.labels.update(labels)
    for name in names:
        topic = f"agents.n{number}.{name}"
        agent.registration.capabilities.add(name=name, text="does", topic=topic)
    return Entry.of(agent.SerializeToString(), 1)


def _filter(
    wanted: dict[str, str],
    down: set[str] = frozenset(),
    denied: set[str] = frozenset(),  # type: ignore[assignment]
) -> tuple[Filter, list[str]]:
    asked: list[str] = []

    def health(entry: Entry) -> tuple[Status, str]:
        asked.append(entry.name)
        return (Status.DOWN if entry.name in down else Status.UP, "")

    seen = Seen(
        health, lambda _: registry_pb2.AgentState(), lambda topic: topic.split(".")[1] not in denied
    )
    return Filter(registry_pb2.DiscoverRequest(text="does", labels=wanted, k=2), seen), asked


@given(AGENTS, LABELS, st.sets(st.integers(0, 11)))
def test_it_holds_what_a_look_at_each_finds(
    agents: list[tuple[dict[str, str], bool, bool]], wanted: dict[str, str], gone: set[int]
) -> None:
    shelf, entries = Shelf(), list[Entry]()
    for number, (labels, _, _) in enumerate(agents):
        entries.append(_entry(number, labels))
        for index in range(2):
            shelf.put(Place(entries[-1], index))
    for number in gone & set(range(len(agents))):
        for index in range(2):
            shelf.remove(Place(entries[number], index).key)
    down = {f"n{i}" for i, (_, is_down, _) in enumerate(agents) if is_down}
    denied = {f"n{i}" for i, (_, _, is_denied) in enumerate(agents) if is_denied}
    filter_, _ = _filter(wanted, down, denied)
    fitting = Fitting(shelf, filter_)
    due = {
        key for key, place in shelf.places.items()
        if filter_.shows(place) and filter_.denies(place) is None
    }  # fmt: skip
    assert set(fitting) == due and len(fitting) >= len(due)
    assert {key for key in shelf.places if key in fitting} == due
    assert "nobody/a" not in fitting
    left = [entry.name for number, entry in enumerate(entries) if number not in gone]
    assert [place.entry.name for place in shelf.named("b")] == left


def test_each_is_judged_once_and_only_where_its_labels_are_right() -> None:
    shelf = Shelf()
    for number in range(6):
        shelf.put(Place(_entry(number, {"zone": str(number % 3)}, ("a",)), 0))
    filter_, asked = _filter({"zone": "1"})
    fitting = Fitting(shelf, filter_)
    assert len(fitting) == 2 and not asked
    for _ in range(3):
        assert [key for key in shelf.places if key in fitting] == ["n1/a", "n4/a"]
    assert asked == ["n1", "n4"]


def test_no_more_of_one_name_are_looked_at_than_it_takes() -> None:
    shelf = Shelf()
    for number in range(50):
        shelf.put(Place(_entry(number, {}, ("a",)), 0))
    filter_, asked = _filter({}, down={"n0"})
    found = named(shelf.named("a"), filter_)
    assert [match.key for match in found.answer.matches] == ["n1/a", "n2/a"]
    assert [match.key for match, _ in found.denied] == ["n0/a"] and asked == ["n0", "n1", "n2"]
    assert named(shelf.named("none"), filter_).answer.no_match
