"""An entry of the search: one capability in words, and what is made of them once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sira._native import Features
from sira.registry.embed import features
from sira.registry.embed.interface import F32, Embedder, unit_rows

# How often a word counts in BM25 by where it stands.
NAME_WEIGHT, TEXT_WEIGHT, PARAM_WEIGHT, EXAMPLE_WEIGHT = 2.0, 2.0, 1.0, 1.0
# Examples of an entry that are compared one by one; all of them count in BM25 and in the head.
NEAR_EXAMPLES_MAX = 64


@dataclass(frozen=True, slots=True)
class Vectors:
    """What an embedder made of `texts_to_embed`: rows of length 1."""

    text: F32  # [dims]
    whole: F32  # [dims]: with the parameters
    examples: F32  # [examples, dims]


@dataclass(frozen=True, slots=True)
class Entry:
    """One capability, as its registration words it.

    Attributes:
        key: unique among the entries.
        name: of the agent and of the capability; words in it count.
        text: what it does.
        params: name of an input -> what it means.
        examples: requests that it should get, those learned from feedback included.
        vectors: by the embedder in use; None: made when the entry is put.
    """

    key: str
    name: str
    text: str
    params: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    vectors: Vectors | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """An entry with all that a query is compared with."""

    entry: Entry
    text: Features  # one row: features of name and text
    whole: Features  # one row: and of the parameters; without any the same object
    # Of up to NEAR_EXAMPLES_MAX examples, then of the text, which is one request, too.
    near: Features
    has_examples: bool
    twin: bytes  # equal for capabilities that say the same
    vectors: Vectors | None
    mean: F32 | None  # [dims]: of the examples' vectors and the text's, length 1


def told(entry: Entry) -> str:
    """Return name and text in one: an entry's shortest description."""
    return f"{entry.name}. {entry.text}"


def texts_to_embed(entry: Entry) -> list[str]:
    """Return what an embedder is given: the text, the text with parameters, each example."""
    return [told(entry), _whole(entry), *entry.examples]


def hold(entry: Entry, embedder: Embedder | None) -> Held:
    """Make once what queries are compared with.

    Args:
        embedder: a model whose vectors are scored beside the features; None: features alone.
    """
    text = features.packed([told(entry)])
    near = text
    if entry.examples:
        near = features.packed([*entry.examples[:NEAR_EXAMPLES_MAX], told(entry)])
    vectors = entry.vectors
    if vectors is None and embedder is not None:
        made = embedder.embed(texts_to_embed(entry))
        vectors = Vectors(made[0], made[1], made[2:])
    mean = None
    if vectors is not None:
        mean = unit_rows(np.vstack([vectors.examples, vectors.text]).mean(0, keepdims=True))[0]
    return Held(
        entry=entry,
        text=text,
        whole=features.packed([_whole(entry)]) if entry.params else text,
        near=near,
        has_examples=bool(entry.examples),
        twin=twin_of(entry),
        vectors=vectors,
        mean=mean,
    )


def _whole(entry: Entry) -> str:
    return " ".join([told(entry), *(f"{name}: {text}." for name, text in entry.params.items())])


def weighed(entry: Entry) -> list[tuple[float, str]]:
    """Return an entry's texts as BM25 takes them, each with what a word of it counts."""
    made = [(NAME_WEIGHT, entry.name), (TEXT_WEIGHT, entry.text)]
    made += [(PARAM_WEIGHT, part) for pair in entry.params.items() for part in pair]
    return made + [(EXAMPLE_WEIGHT, text) for text in entry.examples]


def twin_of(entry: Entry) -> bytes:
    """Digest the words of what an entry says it does; names and examples may differ."""
    said = sorted(features.stems(entry.text))
    said += ["/", *sorted(f"{name} {' '.join(features.stems(t))}" for name, t in
                          entry.params.items())]  # fmt: skip
    return hashlib.blake2b(" ".join(said).encode(), digest_size=8).digest()
