"""Entries that come and go, and how well each fits a request: parts, their mix, the evidence."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sira.kernel.errors import BadRequest
from sira.registry.embed import features
from sira.registry.embed.interface import F32, Embedder, require_same
from sira.registry.lexical import Bm25
from sira.registry.rank import mix
from sira.registry.rank.compare import Compared, Weighed, nearest
from sira.registry.rank.entries import Entry, Held, hold, weighed
from sira.registry.rank.head import Head

# So many entries or fewer are all scored; of more, these many of BM25 and those an index named.
SCORED_ALL_MAX = 256
SCORED_LEXICAL = 128
# Examples are compared one by one for the best so many; the others cannot come first any more.
NEAR_CANDIDATES = 24


@dataclass(frozen=True, slots=True)
class Query:
    """A request, made ready: words and features, and a vector of the model where there is one."""

    text: str
    stems: tuple[str, ...]
    places: NDArray[np.int32]
    values: F32
    vector: F32 | None


@dataclass(frozen=True, slots=True)
class _Columns:
    """Candidates side by side: what each part added, and what it found."""

    words: Bm25
    query: Query
    added: Mapping[str, F32]
    raw: Mapping[str, F32]


class Scored:
    """One candidate. Many are scored and few are told of: what is told is made when it is read.

    Attributes:
        score: sum of `parts` and `shift`, in standard deviations over the candidates.
        shift: of feedback, within its bounds.
        example: its nearest example; "": its own text was nearest, or none was compared.
        example_likeness: cosine of that, by features or by the model, whichever is more.
    """

    __slots__ = ("_at", "_columns", "_parts", "example", "example_likeness", "held", "score",
                 "shift")  # fmt: skip

    def __init__(
        self, held: Held, score: float, shift: float, near: tuple[float, str], *,
        columns: _Columns, at: int,
    ) -> None:  # fmt: skip
        """Take the candidate of row `at`."""
        self.held, self.score, self.shift = held, score, shift
        self.example_likeness, self.example = near
        self._columns, self._at = columns, at
        self._parts: dict[str, float] | None = None

    @property
    def key(self) -> str:
        """Of its entry."""
        return self.held.entry.key

    @property
    def parts(self) -> Mapping[str, float]:
        """Return part -> what it added."""
        if self._parts is None:
            self._parts = {part: float(row[self._at]) for part, row in self._columns.added.items()}
        return self._parts

    def most(self, part: str, others: Sequence[Scored]) -> float:
        """Return the most that a part added to any of some others of its ranking."""
        row = self._columns.added.get(part)
        return 0.0 if row is None else float(row[[each._at for each in others]].max())

    @property
    def raw(self) -> Mapping[str, float]:
        """Return part -> what it found, before it was weighed: BM25, cosines."""
        found = {part: float(row[self._at]) for part, row in self._columns.raw.items()}
        return {part: value for part, value in found.items() if not math.isnan(value)}

    @property
    def shared(self) -> tuple[str, ...]:
        """Return stems that it shares with the request, rarest first; none once it is removed."""
        return tuple(self._columns.words.shared(self.key, self._columns.query.stems)[:5])


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates, best first, and which share of the request's words the best one has."""

    query: Query
    scored: tuple[Scored, ...]
    considered: int  # candidates before the list was cut; without one, entries that were allowed
    coverage: float  # 0 to 1, words weighed by rarity
    model: str  # embedder whose vectors were compared; "" for none
    head: str  # digest of the head; "" for none


class Ranker:
    """The entries of a search, ready to be asked. One thread at a time."""

    def __init__(self, model: Embedder | None = None) -> None:
        """Make an empty one.

        Args:
            model: an embedder whose vectors are scored beside hashed features, which always are.
        """
        self._model = model
        self._held: dict[str, Held] = {}
        self._words = Bm25()
        self._weighed = Weighed()
        self._head: Head | None = None
        self._head_rows: dict[str, int] = {}
        self._all: Compared | None = None

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._held)

    def __contains__(self, key: str) -> bool:
        """Whether an entry is held."""
        return key in self._held

    def put(self, entry: Entry) -> Held:
        """Hold an entry, in place of the one of the same key; return what was made of it.

        Raises:
            BadRequest: its vectors have other dims than the model's.
        """
        if self._model is not None and entry.vectors is not None:
            require_same(self._model, name=self._model.name, dims=entry.vectors.text.shape[-1])
        held = hold(entry, self._model)
        self.remove(entry.key)
        self._held[entry.key] = held
        self._words.add(entry.key, weighed(entry))
        self._weighed.count(held, 1)
        self._all = None
        return held

    def remove(self, key: str) -> bool:
        """Forget an entry; return whether there was one."""
        held = self._held.pop(key, None)
        if held is None:
            return False
        self._words.remove(key)
        self._weighed.count(held, -1)
        self._all = None
        return True

    def use_head(self, head: Head | None) -> None:
        """Score with a head from now on, or with none. It need not know every entry."""
        self._head = head
        self._head_rows = {key: i for i, key in enumerate(head.keys)} if head else {}

    def entries(self) -> list[Entry]:
        """Return what is held, in no order: what a head is trained from."""
        return [held.entry for held in self._held.values()]

    def query(
        self, text: str = "", *, vector: F32 | None = None, embedder: str | None = None
    ) -> Query:
        """Make a request ready.

        Args:
            text: in words; "" where a vector is all there is.
            vector: f32[dims] of length 1; None: made of the text where there is a model.
            embedder: whose vector it is, `ID/VERSION`.
        Raises:
            BadRequest: a vector of another embedder, or where no model is in use.
        """
        if vector is not None:
            if self._model is None:
                raise BadRequest(
                    "vectors are not compared here: no model is in use",
                    help="send the text, or name a model directory in the settings",
                    details={"field": "vector"},
                )
            require_same(self._model, name=embedder or "", dims=vector.shape[-1])
        elif self._model is not None and text:
            vector = self._model.embed([text])[0]
        places, values = features.features(text)
        return Query(text, tuple(features.stems(text)), places, values, vector)

    def rank(
        self,
        query: Query,
        *,
        among: Collection[str] | None = None,
        found: Iterable[str] = (),
        shifts: Mapping[str, float] | None = None,
        count: int = 10,
    ) -> Ranking:
        """Score candidates, best first; equal ones in the order of their keys.

        Args:
            among: keys that may be answered; None: all. Past SCORED_ALL_MAX only its `in` is used.
            found: keys that an index of vectors found near; only matter past SCORED_ALL_MAX.
            shifts: key -> what feedback adds, bounded by whoever made it.
            count: of candidates wanted.
        """
        lexical = self._words.scores(query.text)
        keys = self._candidates(lexical, among, found)
        if not keys or (not len(query.places) and query.vector is None):
            count = len(self._held) if among is None else len(among)
            return Ranking(query, (), count, 0.0, self._model.name if self._model else "", "")
        compared = self._compared(keys)
        raw = self._parts(query, keys, compared, lexical)
        have_examples = compared.have_examples
        standard = {part: mix.standard(values) for part, values in raw.items()}
        first = mix.mixed(standard, mix.weights(standard, have_examples=have_examples))
        order = np.argsort(-_sum(first), kind="stable")
        chosen = order[:NEAR_CANDIDATES]
        of_chosen = [self._held[keys[i]] for i in chosen.tolist()]
        near = nearest(query, of_chosen, self._weighed, have_examples=have_examples)
        for part, values in near.parts.items():
            raw[part] = np.full(len(keys), np.nan, np.float32)
            raw[part][chosen] = values
            standard[part] = mix.standard(raw[part])
        likeness = dict(zip(chosen.tolist(), near.best, strict=True))
        added = first
        if have_examples:
            added = mix.mixed(standard, mix.weights(standard, have_examples=have_examples))
        shift = np.zeros(len(keys), np.float32)
        if shifts:
            known = [(i, key) for i, key in enumerate(keys) if key in shifts]
            shift[[i for i, _ in known]] = [shifts[key] for _, key in known]
        score = _sum(added) + shift
        score[order[NEAR_CANDIDATES:]] -= _BEHIND
        best = np.argsort(-score, kind="stable")[:count]
        columns = _Columns(self._words, query, added, raw)
        scored = tuple(
            Scored(
                self._held[keys[i]],
                float(score[i]),
                float(shift[i]),
                likeness.get(i, (0.0, "")),
                columns=columns,
                at=i,
            )
            for i in best.tolist()
        )
        return Ranking(
            query=query,
            scored=scored,
            considered=len(keys),
            coverage=self._coverage(query, scored[0].key),
            model=self._model.name if self._model else "",
            head=self._head.digest if self._head else "",
        )

    def _candidates(
        self, lexical: F32, among: Collection[str] | None, found: Iterable[str]
    ) -> list[str]:
        """Return keys to score, sorted."""
        if among is None and len(self._held) <= SCORED_ALL_MAX:
            return sorted(self._held)
        if among is not None and len(among) <= SCORED_ALL_MAX:
            return sorted(key for key in among if key in self._held)
        if among is None:
            chosen = set(self._words.top(lexical, SCORED_LEXICAL))
        else:
            best = self._words.best(lexical, 4 * SCORED_LEXICAL)
            chosen = set(islice((key for key in best if key in among), SCORED_LEXICAL))
        chosen.update(key for key in found if key in self._held and (among is None or key in among))
        return sorted(chosen)

    def _compared(self, keys: Sequence[str]) -> Compared:
        """Return candidates side by side; kept while all entries are candidates."""
        if len(keys) < len(self._held):
            return Compared([self._held[key] for key in keys], self._weighed)
        if self._all is None:
            self._all = Compared([self._held[key] for key in keys], self._weighed)
        return self._all

    def _parts(
        self, query: Query, keys: Sequence[str], compared: Compared, lexical: F32
    ) -> dict[str, F32]:
        raw: dict[str, F32] = {}
        if len(query.places):
            raw[mix.LEXICAL] = lexical[self._words.slots(keys)]
            raw[mix.FEATURES] = compared.features(query)
            if self._head is not None:
                rows = np.array([self._head_rows.get(key, -1) for key in keys])
                raw[mix.HEAD] = self._head.scores(query.places, query.values, rows)
        if query.vector is not None:
            raw.update(compared.model(query.vector))
        return raw

    def _coverage(self, query: Query, key: str) -> float:
        """Return which share of the request's words an entry has, a word unheard of as the rarest.

        0 where the request has no words.
        """
        stems = set(query.stems)
        if not stems:
            return 0.0
        rarest = float(np.log1p((len(self._held) + 0.5) / 0.5))
        weight = {stem: self._words.rarity(stem) or rarest for stem in stems}
        return sum(weight[stem] for stem in self._words.shared(key, stems)) / sum(weight.values())


def _sum(parts: Mapping[str, F32]) -> F32:
    first, *others = parts.values()
    total = first.copy()
    for each in others:
        total += each
    return total


# Candidates whose examples were not compared stay behind those whose were.
_BEHIND = np.float32(10)
