"""The two files of learning: what a child is given, and what it gives back. Pure.

Given: for each entry `<QII` (its mark, bytes of the text, rows of vectors), a JSON list of key,
name, text, parameters and examples, f32[rows, dims]. Given back: MAGIC, a BLAKE2b digest of all
that follows, lengths; a JSON object, the marks of what it was learned from, the head's bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from sira.kernel.errors import BadRequest
from sira.registry.embed.interface import Embedder
from sira.registry.rank.calibrate import Calibration
from sira.registry.rank.entries import Entry, Vectors
from sira.registry.rank.head import Head

MAGIC = b"SIRALRN2"
_DIGEST_BYTES = 32
_LENGTHS = struct.Struct("<QQQ")  # of the JSON text, the marks, the head
_GIVEN = struct.Struct("<QII")
_MARK_BYTES = 8
_WHOLE = 2  # vectors of an entry before those of its examples


@dataclass(frozen=True, slots=True)
class Made:
    """One entry made ready for the child.

    Attributes:
        record: its bytes.
        mark: a digest of what is learned from: equal for equal words.
        examples: how many.
    """

    record: bytes
    mark: int
    examples: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What was learned of one kind of agents of a tenant.

    Attributes:
        held_out, right: so many examples were kept back while its worth was found, and of these so
            large a share was answered right, 0 to 1.
        entries, examples: it was learned from.
        marks: of those entries -> examples of each.
        embedder: whose vectors were used beside the words; "": none.
        trained_ns: when, wall clock, ns since 1970.
        took_ms: of CPU.
    """

    tenant: str
    kind: str
    head: Head
    calibration: Calibration
    held_out: int
    right: float
    entries: int
    examples: int
    marks: dict[int, int]
    embedder: str
    trained_ns: int
    took_ms: int

    @property
    def version(self) -> str:
        """Digest of what was learned; reasons name it by its first eight digits."""
        return self.head.digest


def changed(now: dict[int, int], before: dict[int, int]) -> int:
    """Return of how many examples the entries are new, other or gone; each entry counts once."""
    return sum(max(1, count) for mark, count in now.items() if mark not in before) + sum(
        max(1, count) for mark, count in before.items() if mark not in now
    )


def made(entry: Entry, liked: Sequence[str]) -> Made:
    """Make an entry ready. `liked`: requests that a person said it served well."""
    first: dict[str, int] = {}  # each request once, with the row of its vector
    for row, example in enumerate(entry.examples):
        first.setdefault(example, row)
    examples = list(dict.fromkeys((*first, *liked)))
    said = [entry.key, entry.name, entry.text, dict(sorted(entry.params.items())), examples]
    text = json.dumps(said, ensure_ascii=False).encode()
    mark = int.from_bytes(blake2b(text, digest_size=_MARK_BYTES).digest(), "little")
    rows, vectors = np.zeros((0, 0), "<f4"), entry.vectors
    if vectors is not None:
        kept = vectors.examples[list(first.values())]
        rows = np.vstack([vectors.text, vectors.whole, kept]).astype("<f4")
    record = _GIVEN.pack(mark, len(text), len(rows)) + text + rows.tobytes()
    return Made(record, mark, len(examples))


def given(data: bytes, model: Embedder | None) -> Iterator[tuple[int, Entry]]:
    """Yield the entries of a file that `made` filled, each with its mark.

    Args:
        model: whose vectors it has; makes those of liked requests, which it has not.
    """
    at = 0
    while at < len(data):
        mark, length, count = _GIVEN.unpack_from(data, at)
        at += _GIVEN.size
        key, name, text, params, examples = json.loads(data[at : at + length])
        at += length
        vectors = None
        if model is not None and count:
            rows = np.frombuffer(data, "<f4", count * model.dims, at).reshape(count, -1)
            at += rows.nbytes
            late = examples[count - _WHOLE :]
            if late:
                rows = np.vstack([rows, model.embed(late)])
            vectors = Vectors(rows[0], rows[1], rows[_WHOLE:])
        yield mark, Entry(key, name, text, params, tuple(examples), vectors)


def to_bytes(trained: Trained) -> bytes:
    """Return what was learned as a file."""
    calibration = trained.calibration
    said = {
        "tenant": trained.tenant,
        "kind": trained.kind,
        "embedder": trained.embedder,
        "held_out": trained.held_out,
        "right": trained.right,
        "entries": trained.entries,
        "examples": trained.examples,
        "trained_ns": trained.trained_ns,
        "took_ms": trained.took_ms,
        "weights": list(calibration.weights),
        "bias": calibration.bias,
        "answer_from": calibration.answer_from,
        "nothing_below": calibration.nothing_below,
        "fitted_on": calibration.fitted_on,
        "here": list(calibration.here[0]),
        "here_bias": calibration.here[1],
        "here_from": calibration.here_from,
    }
    text, head = json.dumps(said).encode(), trained.head.to_bytes()
    marks = np.array(sorted(trained.marks.items()), "<u8").reshape(-1, 2).tobytes()
    body = _LENGTHS.pack(len(text), len(marks), len(head)) + text + marks + head
    return MAGIC + blake2b(body, digest_size=_DIGEST_BYTES).digest() + body


def from_bytes(data: bytes) -> Trained:
    """Read what `to_bytes` wrote.

    Raises:
        BadRequest: torn, changed, of another version, or no such file.
    """
    start = len(MAGIC) + _DIGEST_BYTES
    body = memoryview(data)[start:]
    if data[: len(MAGIC)] != MAGIC or len(body) < _LENGTHS.size:
        raise BadRequest("it is no file of what was learned, or of another version")
    if blake2b(body, digest_size=_DIGEST_BYTES).digest() != data[len(MAGIC) : start]:
        raise BadRequest("its digest does not hold: it is torn or was changed")
    lengths = _LENGTHS.unpack_from(body)
    parts, at = list[memoryview](), _LENGTHS.size
    for length in lengths:
        parts.append(body[at : at + length])
        at += length
    text, marks, head = parts
    try:
        return _read(json.loads(bytes(text)), marks, head)
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"what was learned cannot be read: {error}") from error


def _read(said: dict[str, Any], marks: memoryview, head: memoryview) -> Trained:
    pairs = np.frombuffer(marks, "<u8").reshape(-1, 2)
    calibration = Calibration(
        weights=tuple(float(each) for each in said["weights"]),
        bias=float(said["bias"]),
        answer_from=float(said["answer_from"]),
        nothing_below=float(said["nothing_below"]),
        fitted_on=int(said["fitted_on"]),
        here=(tuple(float(each) for each in said["here"]), float(said["here_bias"])),
        here_from=float(said["here_from"]),
    )
    return Trained(
        tenant=str(said["tenant"]),
        kind=str(said["kind"]),
        head=Head.from_bytes(head),
        calibration=calibration,
        held_out=int(said["held_out"]),
        right=float(said["right"]),
        entries=int(said["entries"]),
        examples=int(said["examples"]),
        marks=dict(pairs.tolist()),
        embedder=str(said["embedder"]),
        trained_ns=int(said["trained_ns"]),
        took_ms=int(said["took_ms"]),
    )
