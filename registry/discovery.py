"""What a request demands besides its words, and the answer made of what was found. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sira import _native
from sira.registry.directory import Entry
from sira.registry.health import Status
from sira.registry.rank import answer as ranked
from sira.registry.records import AGENT
from sira.registry.versions import Range, parse_range
from sira.v1 import registry_pb2

K_DEFAULT, K_MAX = 5, 100
RUNNERS_UP_MAX = 5
_OFFERED = (Status.UP, Status.SUSPECT)
_ORDER = {Status.UP: 0, Status.SUSPECT: 1, Status.DRAINING: 2, Status.DOWN: 3}
Denied = tuple[str, str]  # which part of the request, and why


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of agents beside the table.

    Attributes:
        health: what is thought of one now, and why.
        state: the same as it is told.
        may_call: whether the caller may publish on a topic. What may not be called is left out:
            its name is nobody's business.
    """

    health: Callable[[Entry], tuple[Status, str]]
    state: Callable[[Entry], registry_pb2.AgentState]
    may_call: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Place:
    """One capability of one agent.

    Attributes:
        key: by which the search knows it.
        topic: where it is asked.
    """

    entry: Entry
    index: int
    key: str = field(init=False, repr=False)
    topic: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Read once what each search that comes by looks at."""
        object.__setattr__(self, "key", key_of(self.entry.name, self.capability.name))
        object.__setattr__(self, "topic", self.capability.topic)

    @property
    def capability(self) -> registry_pb2.Capability:
        """As it was registered."""
        return self.entry.registration.capabilities[self.index]


def key_of(agent: str, capability: str) -> str:
    """Return the key of a capability; the capability's name has no `/`."""
    return f"{agent}/{capability}"


class Filter:
    """What a request demands."""

    def __init__(self, request: registry_pb2.DiscoverRequest, seen: Seen) -> None:
        """Compile it.

        Raises:
            BadRequest, SiraError: a contract or range of versions that cannot be.
        """
        self.kind = request.kind or AGENT
        self.k = min(request.k or K_DEFAULT, K_MAX)
        self.labels = dict(request.labels)
        self._exclude = frozenset(request.exclude)
        self._any_status = request.any_status
        self._range: Range | None = parse_range(request.version) if request.version else None
        self._takes = _native.Contract(dict(request.takes)) if request.takes else None
        self._seen = seen

    def shows(self, place: Place) -> bool:
        """Whether the caller may know of it at all."""
        return place.entry.name not in self._exclude and self._seen.may_call(place.topic)

    def denies(self, place: Place) -> Denied | None:
        """Say which part of the request a capability does not meet, and why; None: it does."""
        entry = place.entry
        if self.labels and not entry.has_labels(self.labels):
            wanted = ", ".join(f"{key}={value}" for key, value in self.labels.items())
            return "labels", f"it has not all of {wanted}"
        if self._range is not None and (entry.version is None or entry.version not in self._range):
            return "version", f"its version is {entry.registration.version or 'not said'}"
        status, why = self._seen.health(entry)
        if not self._any_status and status not in _OFFERED:
            return "health", f"it is {status.name.lower()}: {why}"
        takes = entry.fits[place.index].takes
        if self._takes is not None and takes is not None:
            difference = takes.unify(self._takes)
            if difference is not None:
                return "contract", difference
        return None


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a version gets of the calls of its capability. `range`: "": it is in none."""

    range: str
    weight: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found for a request.

    Attributes:
        answer: made of those that fit.
        places: key -> capability, of all in `answer` and `denied`.
        denied: matches that do not fit, best first, and why.
        weighed: key -> what it gets, where the configuration says so.
    """

    answer: ranked.Answer
    places: dict[str, Place]
    denied: list[tuple[ranked.Match, Denied]]
    weighed: dict[str, Weighed] = field(default_factory=dict)


def respond(found: Found, seen: Seen, k: int) -> registry_pb2.DiscoverResponse:
    """Write the answer, at most `k`: of equal capabilities those first that are well."""
    answer = found.answer
    response = registry_pb2.DiscoverResponse(
        no_match=answer.no_match, reason=answer.reason, is_shortlist=answer.is_shortlist
    )
    groups: dict[int, int] = {}
    sure: dict[int, float] = {}  # that it is this capability, whoever of its twins takes it
    for each in (*answer.matches, *answer.runners_up):
        groups.setdefault(each.twin, len(groups))
        sure[each.twin] = max(sure.get(each.twin, 0.0), each.confidence)

    def order(match: ranked.Match) -> tuple[int, int]:
        status, _ = seen.health(found.places[match.key].entry)
        return groups[match.twin], _ORDER[status]

    def tell(match: ranked.Match, confidence: float) -> registry_pb2.Match:
        told = _told(match, confidence, found.places[match.key], seen)
        share = found.weighed.get(match.key)
        if share is not None:
            told.weighed.range, told.weighed.weight = share.range, share.weight
        return told

    ordered = sorted(answer.matches, key=order)
    response.matches.extend(tell(each, sure[each.twin]) for each in ordered[:k])
    for each, (part, why) in found.denied[:RUNNERS_UP_MAX]:
        told = tell(each, each.confidence)
        told.reasons.add(part=part, text=why)
        response.runners_up.append(told)
    others = (*ordered[k:], *answer.runners_up)[: RUNNERS_UP_MAX - len(response.runners_up)]
    response.runners_up.extend(tell(each, sure[each.twin]) for each in others)
    return response


def named(places: Iterable[Place], filter_: Filter) -> Found:
    """Find capabilities that have exactly the name asked for: the first that fit, none better.

    Args:
        places: that have it; no more are looked at than it takes.
    """
    matches, denied = list[ranked.Match](), list[tuple[ranked.Match, Denied]]()
    by_key: dict[str, Place] = {}
    reason = (ranked.Reason("name", 1.0, "it has the name"),)
    twins: dict[str, int] = {}
    for place in places:
        if len(matches) == filter_.k:
            break
        if not filter_.shows(place):
            continue
        twin = twins.setdefault(place.capability.text, len(twins) + 1)
        match = ranked.Match(place.key, 1.0, 1.0, reason, twin)
        by_key[place.key] = place
        why = filter_.denies(place)
        if why is None:
            matches.append(match)
        elif len(denied) < RUNNERS_UP_MAX:
            denied.append((match, why))
    nothing = "" if matches else "no capability of that name fits"
    answer = ranked.Answer(tuple(matches), (), not matches, False, nothing)
    return Found(answer, by_key, denied)


def _told(match: ranked.Match, confidence: float, place: Place, seen: Seen) -> registry_pb2.Match:
    registration, capability = place.entry.registration, place.capability
    told = registry_pb2.Match(
        agent=registration.name,
        kind=registration.kind,
        capability=capability.name,
        topic=capability.topic,
        score=match.score,
        confidence=confidence,
        state=seen.state(place.entry),
        version=registration.version,
        generation=place.entry.agent.generation,
        twin=match.twin,
        max_in_flight=registration.max_in_flight,
        effects=capability.effects,
    )
    for each in match.reasons:
        told.reasons.add(part=each.part, value=each.value, text=each.text)
    status, why = seen.health(place.entry)
    if status is Status.SUSPECT:
        told.reasons.add(part="health", text=f"suspect: {why}")
    return told
