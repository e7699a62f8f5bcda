"""The search of one tenant: capabilities in, answers with reasons out.

Ranking is the ranker's (`rank`), what fits is the filter's (`discovery`). An index of vectors names
candidates where there are more than are all scored. Agents of each kind are ranked apart: which
kind is wanted is known, and words are as rare as they are among their like.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from sira.kernel.errors import BadRequest
from sira.registry.directory import Entry
from sira.registry.discovery import RUNNERS_UP_MAX, Denied, Filter, Found, Place, key_of, named
from sira.registry.embed.features import unpacked
from sira.registry.embed.hashed import HashedEmbedder
from sira.registry.embed.interface import F32, Embedder
from sira.registry.fitting import Fitting, Shelf
from sira.registry.index.interface import Index, Point
from sira.registry.learning.stored import Trained
from sira.registry.rank import entries as ranked
from sira.registry.rank.answer import Match, answer
from sira.registry.rank.calibrate import DEFAULT, DEFAULT_WITH_EXAMPLES
from sira.registry.rank.feedback import Record, Shift, learned_examples, shift
from sira.registry.rank.ranker import SCORED_ALL_MAX, Query, Ranker, Scored
from sira.registry.records import decoded
from sira.v1 import registry_pb2

# Looked at of a ranking before what does not fit is left out; more only where too few do.
_LOOKED_AT = 64
_NEAR, _NEAR_MAX = 64, 1_024  # that an index names; more where labels leave few of them
_INDEXED_EXAMPLES = 8
TAGS = ("tenant", "kind")


@dataclass(slots=True)
class _Kind:
    """Agents of one kind."""

    ranker: Ranker
    shelf: Shelf = field(default_factory=Shelf)
    trained: Trained | None = None


class Search:
    """Capabilities of the agents of one tenant. Belongs to the node's loop."""

    def __init__(
        self,
        tenant: str,
        *,
        near: Embedder,
        index: Index,
        model: Embedder | None = None,
        moved: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin empty.

        Args:
            near: makes the vectors that `index` compares; the model, where there is one.
            index: of all tenants.
            model: an embedder whose vectors are scored, too.
            moved: told of each kind whose examples may have changed.
        """
        self._moved = moved
        self._tenant, self._near, self._index, self._model = tenant, near, index, model
        self._kinds: dict[str, _Kind] = {}
        self._kind_of: dict[str, str] = {}  # agent -> kind
        # Tuples: lists of so many would be looked at by each full turn of the garbage collector,
        # which holds the loop meanwhile.
        self._keys_of: dict[str, tuple[str, ...]] = {}  # agent -> keys of its capabilities
        self._keys: dict[int, str] = {}  # id of a point -> key
        self._points: dict[str, tuple[int, ...]] = {}  # key -> ids of its points
        self._records: dict[str, Record] = {}

    @property
    def embedder(self) -> str:
        """Whose vectors a request may bring."""
        return self._model.name if self._model is not None else ""

    # ---- what there is ---------------------------------------------------------------------------

    async def put(self, entry: Entry) -> None:
        """Take an agent, in the place of what had its name."""
        await self.remove(entry.name)
        kind = entry.registration.kind
        of = self._of(kind)
        self._kind_of[entry.name] = kind
        points = list[Point]()
        self._keys_of[entry.name] = ()
        for index, capability in enumerate(entry.registration.capabilities):
            place = Place(entry, index)
            key = place.key
            of.shelf.put(place)
            self._keys_of[entry.name] += (key,)
            held = of.ranker.put(await self._ranked(key, entry, capability))
            points += self._made_points(key, kind, held)
        await self._index.upsert(points)
        self._moved(kind)

    async def remove(self, name: str) -> None:
        """Forget an agent."""
        kind = self._kind_of.pop(name, None)
        if kind is None:
            return
        of, gone = self._kinds[kind], list[int]()
        for key in self._keys_of.pop(name):
            of.shelf.remove(key)
            of.ranker.remove(key)
            gone += self._points.pop(key, ())
        for each in gone:
            del self._keys[each]
        await self._index.delete(gone)
        self._moved(kind)

    async def _ranked(
        self, key: str, entry: Entry, capability: registry_pb2.Capability
    ) -> ranked.Entry:
        made = ranked.Entry(
            key=key,
            name=f"{entry.name} {capability.name}",
            text=f"{capability.text} {entry.registration.description}".strip(),
            params=dict(capability.params),
            examples=tuple(capability.examples),
        )
        if self._model is None:
            return made
        own = _own_vector(capability, self._model)
        vectors = await asyncio.to_thread(self._model.embed, ranked.texts_to_embed(made))
        if own is not None:
            vectors[0] = vectors[1] = own
        return replace(made, vectors=ranked.Vectors(vectors[0], vectors[1], vectors[2:]))

    def _made_points(self, key: str, kind: str, held: ranked.Held) -> list[Point]:
        vectors, entry = held.vectors, held.entry
        if vectors is not None:
            rows = np.vstack([vectors.text, vectors.examples[:_INDEXED_EXAMPLES]])
        elif isinstance(self._near, HashedEmbedder):  # its features were made for the ranking
            examples = range(min(len(entry.examples), _INDEXED_EXAMPLES, len(held.near) - 1))
            known = [unpacked(held.text, 0), *(unpacked(held.near, i) for i in examples)]
            rows = self._near.embed_features(known)
        else:
            rows = self._near.embed([ranked.told(entry), *entry.examples[:_INDEXED_EXAMPLES]])
        ids = [self._id(key, number) for number in range(len(rows))]
        self._points[key] = tuple(ids)
        tags = {"tenant": self._tenant, "kind": kind}
        return [Point(id_, row, tags) for id_, row in zip(ids, rows, strict=True)]

    def _id(self, key: str, number: int) -> int:
        """Return a number that no other point has: the same one on every node, as a rule."""
        salt = 0
        while True:
            text = f"{self._tenant}\0{key}\0{number}\0{salt}".encode()
            made = int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1 or 1
            if self._keys.setdefault(made, key) == key:
                return made
            salt += 1

    def _of(self, kind: str) -> _Kind:
        """Return what there is of a kind."""
        of = self._kinds.get(kind)
        if of is None:
            of = self._kinds[kind] = _Kind(Ranker(self._model))
        return of

    # ---- what is learned -------------------------------------------------------------------------

    def use(self, trained: Trained) -> None:
        """Rank and judge by what was learned of a kind from now on."""
        of = self._of(trained.kind)
        of.trained = trained
        of.ranker.use_head(trained.head)

    def trained(self, kind: str) -> Trained | None:
        """Return what is used of a kind; None: nothing was learned."""
        of = self._kinds.get(kind)
        return of.trained if of is not None else None

    def all_trained(self) -> list[Trained]:
        """Return what is used, by kind."""
        return [of.trained for _, of in sorted(self._kinds.items()) if of.trained is not None]

    def may_teach(self, kind: str) -> bool:
        """Whether there may be something to learn from: examples, or outcomes."""
        of = self._kinds.get(kind)
        return bool(self._records) or (of is not None and of.shelf.with_examples > 0)

    def lessons(self, kind: str) -> list[tuple[ranked.Entry, tuple[str, ...]]]:
        """Return what can be learned from: entries, each with requests that a person liked."""
        of = self._kinds.get(kind)
        found = []
        for entry in of.ranker.entries() if of is not None else ():
            record = self._records.get(entry.key)
            found.append((entry, learned_examples(record) if record is not None else ()))
        return found

    # ---- feedback --------------------------------------------------------------------------------

    def learned(self, agent: str, capability: str, record: Record | None) -> None:
        """Take what outcomes have taught of a capability; None: nothing, or it was reset."""
        if record is None:
            self._records.pop(key_of(agent, capability), None)
        else:
            self._records[key_of(agent, capability)] = record
        kind = self._kind_of.get(agent)
        if kind is not None:
            self._moved(kind)

    def shift(self, agent: str, capability: str, query: str) -> Shift:
        """Return by how much a capability's score is shifted for a request."""
        record = self._records.get(key_of(agent, capability))
        return shift(record, query) if record is not None else Shift()

    # ---- finding ---------------------------------------------------------------------------------

    async def find(self, request: registry_pb2.DiscoverRequest, wanted: Filter) -> Found:
        """Find capabilities.

        Raises:
            BadRequest: nothing to search by, or a vector of another embedder.
        """
        of = self._kinds.get(wanted.kind)
        kind = request.WhichOneof("query")
        if kind is None:
            raise BadRequest("what is looked for?", help="text, capability or vector")
        if kind == "capability":
            return named(of.shelf.named(request.capability) if of is not None else (), wanted)
        ranker = of.ranker if of is not None else Ranker(self._model)
        query = await self._query(ranker, request)
        shelf = of.shelf if of is not None else Shelf()
        places = shelf.places
        fitting = Fitting(shelf, wanted)
        wider = _NEAR
        if not query.text:  # the index alone names candidates: enough of them must fit
            wider = min(_NEAR_MAX, _NEAR * -(-len(places) // max(len(fitting), 1)))
        near = await self._named_by_index(query, ranker, wanted.kind, wider)
        shifts = _Shifts(self._records, query.text)
        totals = _Totals(shifts)
        ranking = ranker.rank(query, found=near, shifts=totals, count=_LOOKED_AT)
        fits, denied = list[Scored](), list[tuple[Scored, Denied]]()
        for each in ranking.scored:
            place = places[each.key]
            why = wanted.denies(place)
            if why is not None and len(denied) == RUNNERS_UP_MAX:
                continue
            if not wanted.shows(place):
                continue
            if why is None:
                fits.append(each)
            else:
                denied.append((each, why))
        if len(fits) <= wanted.k and ranking.considered > len(ranking.scored):
            again = ranker.rank(query, among=fitting, found=near, shifts=totals, count=_LOOKED_AT)
            fits, ranking = list(again.scored), again if again.scored else ranking
        has_examples = any(each.held.has_examples for each in fits)
        calibration = DEFAULT_WITH_EXAMPLES if has_examples else DEFAULT
        if has_examples and of is not None and of.trained is not None:
            calibration = of.trained.calibration
        made = answer(replace(ranking, scored=tuple(fits)), calibration, k=wanted.k, shifts=shifts)
        if not fits and denied:
            made = replace(made, reason=f"what comes nearest does not fit: {denied[0][1][1]}")
        why_not = [(Match(each.key, each.score, 0.0, (), 0), why) for each, why in denied]
        return Found(made, places, why_not)

    def named(self, kind: str, capability: str) -> list[Place]:
        """Return the capabilities of one name, of agents of a kind."""
        of = self._kinds.get(kind)
        return list(of.shelf.named(capability)) if of is not None else []

    async def _query(self, ranker: Ranker, request: registry_pb2.DiscoverRequest) -> Query:
        if request.HasField("vector"):
            vector = decoded(request.vector)
            return ranker.query(vector=vector, embedder=request.vector.embedder)
        if self._model is None:
            return ranker.query(request.text)
        # In a thread: a model takes some ms, and lets others run meanwhile.
        (made,) = await asyncio.to_thread(self._model.embed, [request.text])
        return ranker.query(request.text, vector=made, embedder=self._model.name)

    async def _named_by_index(
        self, query: Query, ranker: Ranker, kind: str, count: int
    ) -> list[str]:
        if len(ranker) <= SCORED_ALL_MAX:
            return []
        vector = query.vector
        if vector is None and isinstance(self._near, HashedEmbedder):
            vector = self._near.embed_features([(query.places, query.values)])[0]
        elif vector is None:
            vector = self._near.embed([query.text])[0]
        where = {"tenant": self._tenant, "kind": kind}
        hits = await self._index.search(vector, count, where=where)
        keys = [self._keys.get(hit.id) for hit in hits]
        return [key for key in keys if key is not None]


class _Shifts(Mapping[str, Shift]):
    """Shifts of those that outcomes have taught something of, worked out for who is looked at."""

    def __init__(self, records: Mapping[str, Record], query: str) -> None:
        self._records, self._query = records, query
        self._known: dict[str, Shift] = {}

    def __getitem__(self, key: str) -> Shift:
        made = self._known.get(key)
        if made is None:
            made = self._known[key] = shift(self._records[key], self._query)
        return made

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


class _Totals(Mapping[str, float]):
    """What is added to scores."""

    def __init__(self, shifts: _Shifts) -> None:
        self._shifts = shifts

    def __getitem__(self, key: str) -> float:
        return self._shifts[key].total

    def __contains__(self, key: object) -> bool:
        return key in self._shifts

    def __iter__(self) -> Iterator[str]:
        return iter(self._shifts)

    def __len__(self) -> int:
        return len(self._shifts)


def _own_vector(capability: registry_pb2.Capability, model: Embedder) -> F32 | None:
    for each in capability.vectors:
        if each.embedder == model.name and each.dims == model.dims:
            return decoded(each)
    return None
