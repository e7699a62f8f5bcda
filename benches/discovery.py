"""discovery: does a request find the agent that should take it? Accuracy, not speed.

`python -m benches.discovery --data DIR [--onnx DIR] [--sets toole,sealtools] [--k 0,5,20,all]`

DIR holds `toole/` and `sealtools/`, each with `agents.jsonl` and `queries.jsonl` (id, description,
params; q, labels, split), or is named by SIRA_DISCOVERY_DATA. Examples come from toole's `pool`
alone, scores from `test` (k = 0: from all queries, for nothing is learned). What decides between
one answer, a shortlist and none is learned from the examples, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benches import machine
from benches.harness import ROOT
from sira.registry.embed import features
from sira.registry.embed.interface import F32, Embedder
from sira.registry.embed.onnx_model import OnnxEmbedder
from sira.registry.rank.answer import answer
from sira.registry.rank.calibrate import DEFAULT, DEFAULT_WITH_EXAMPLES, Calibration
from sira.registry.rank.entries import Entry, texts_to_embed
from sira.registry.rank.learn import learn
from sira.registry.rank.ranker import Ranker

TOOLE, SEALTOOLS = "toole", "sealtools"
# (set, k, with a model): least top-1 and top-5 in percent, of the registry's issue. 95 % precision
# of single answers at a coverage: without a model, k = 20 and the whole pool.
GOALS = {
    (TOOLE, "0", False): (44.0, 64.0), (TOOLE, "20", False): (74.0, 92.0),
    (TOOLE, "all", False): (85.0, 96.0), (TOOLE, "0", True): (58.0, 80.0),
    (TOOLE, "20", True): (80.0, 95.0), (TOOLE, "all", True): (88.0, 97.5),
    (SEALTOOLS, "0", False): (94.0, 98.8), (SEALTOOLS, "0", True): (94.0, 98.8),
}  # fmt: skip
COVERAGE_GOALS = {"20": 60.0, "all": 82.0}
_FOUND = 64  # entries that an index of vectors would name


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a data set."""

    text: str
    labels: frozenset[str]
    split: str


class Remembered:
    """An embedder that embeds each text once, and keeps what it made in a file."""

    def __init__(self, inner: Embedder, file: Path | None) -> None:
        self._inner, self._file = inner, file
        self.name, self.dims = inner.name, inner.dims
        self._known: dict[str, F32] = {}
        self._is_kept = True
        if file is not None and file.exists():
            with np.load(file) as read:
                if str(read["name"]) == self.name:
                    self._known = dict(zip(read["digests"].tolist(), read["vectors"], strict=True))

    def embed(self, texts: Sequence[str]) -> F32:
        """Return f32[len(texts), dims]."""
        digests = [_digest(text) for text in texts]
        new = {d: t for d, t in zip(digests, texts, strict=True) if d not in self._known}
        if new:
            self._is_kept = False
            self._known.update(zip(new, self._inner.embed(list(new.values())), strict=True))
        return np.stack([self._known[digest] for digest in digests])

    def keep(self) -> None:
        """Write what is known."""
        if self._file is not None and not self._is_kept:
            digests, vectors = np.array(list(self._known)), np.stack(list(self._known.values()))
            np.savez(self._file, name=self.name, digests=digests, vectors=vectors)


def load(folder: Path) -> tuple[list[Entry], list[Asked]]:
    """Read a set: entries without examples, and requests."""
    entries = [
        Entry(each["id"], each["id"], each["description"], each.get("params", {}))
        for each in _lines(folder / "agents.jsonl")
    ]
    asked = [
        Asked(each["q"], frozenset(each["labels"]), each["split"])
        for each in _lines(folder / "queries.jsonl")
    ]
    return entries, asked


def with_examples(
    entries: Sequence[Entry], asked: Sequence[Asked], k: int | None, seed: int
) -> list[Entry]:
    """Give each entry k requests of `pool` (None: all), drawn by `seed`."""
    pool = [each for each in asked if each.split == "pool"]
    order = np.random.default_rng(seed).permutation(len(pool))
    drawn: dict[str, list[str]] = {entry.key: [] for entry in entries}
    for i in order:
        for label in sorted(pool[i].labels):
            if k is None or len(drawn[label]) < k:
                drawn[label].append(pool[i].text)
    return [
        Entry(entry.key, entry.name, entry.text, entry.params, tuple(drawn[entry.key]))
        for entry in entries
    ]


def measure(
    entries: Sequence[Entry], asked: Sequence[Asked], model: Remembered | None, *, with_head: bool
) -> dict[str, float]:
    """Rank all requests; percentages, and CPU ms a request without embedding."""
    start_s = time.process_time()
    ranker = Ranker(model)
    for entry in entries:
        ranker.put(entry)
    put_ms = (time.process_time() - start_s) * 1e3 / max(len(entries), 1)
    calibration: Calibration = DEFAULT_WITH_EXAMPLES if entries[0].examples else DEFAULT
    start_s = time.process_time()
    if with_head:
        learned = learn(entries, model)
        ranker.use_head(learned.head)
        calibration = learned.calibration
    learn_s = time.process_time() - start_s
    found = _Index(entries, model) if model is not None else None
    first, five, alone, alone_right, short, short_right, nothing, lost = 0, 0, 0, 0, 0, 0, 0, 0
    spent_ns = 0
    for each in asked:
        near = found.near(each.text) if found else ()
        start_ns = time.process_time_ns()
        ranking = ranker.rank(ranker.query(each.text), found=near)
        given = answer(ranking, calibration)
        spent_ns += time.process_time_ns() - start_ns
        keys = [scored.key for scored in ranking.scored[:5]]
        right = keys[0] in each.labels
        in_five = not each.labels.isdisjoint(keys)
        first, five = first + right, five + in_five
        nothing += given.no_match
        lost += given.no_match and in_five
        if given.is_shortlist:
            short, short_right = short + 1, short_right + in_five
        elif not given.no_match:
            alone, alone_right = alone + 1, alone_right + right
    count = len(asked)
    return {
        "top1": 100 * first / count,
        "top5": 100 * five / count,
        "answered alone": 100 * alone / count,
        "right of those": 100 * alone_right / max(alone, 1),
        "shortlists": 100 * short / count,
        "holding it": 100 * short_right / max(short, 1),
        "no match": 100 * nothing / count,
        "wrongly": 100 * lost / max(nothing, 1),
        "learn cpu s": learn_s,
        "put cpu ms": put_ms,
        "ask cpu ms": spent_ns / 1e6 / count,
    }


class _Index:
    """Exact nearest entries by a model's vectors, as an index would find them."""

    def __init__(self, entries: Sequence[Entry], model: Remembered) -> None:
        self._keys = [entry.key for entry in entries]
        self._model = model
        texts = [texts_to_embed(entry)[:2] for entry in entries]
        self._text, self._whole = (model.embed([pair[i] for pair in texts]) for i in (0, 1))

    def near(self, text: str) -> set[str]:
        vector = self._model.embed([text])[0]
        found: set[str] = set()
        for vectors in (self._text, self._whole):
            likeness = vectors @ vector
            found.update(self._keys[i] for i in np.argsort(-likeness)[:_FOUND].tolist())
        return found


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _cases(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for name in arguments.sets.split(","):
        for k in arguments.k.split(",") if name == TOOLE else ["0"]:
            repeats = 1 if k in ("0", "all") else arguments.repeats
            yield from ((name, k, seed) for seed in range(1, repeats + 1))


def _one(
    folder: Path, name: str, k: str, seed: int, model: Remembered | None, limit: int,
    *, absent: bool, foreign: bool,
) -> dict[str, float]:  # fmt: skip
    entries, asked = load(folder / name)
    chosen = [each for each in asked if k == "0" or each.split == "test"]
    if name == SEALTOOLS:
        chosen = [each for each in asked if len(each.labels) == 1]
    if k != "0":
        entries = with_examples(entries, asked, None if k == "all" else int(k), seed)
    if absent:
        gone = {entry.key for entry in entries[::2]}
        entries = [entry for entry in entries if entry.key not in gone]
        chosen = [each for each in chosen if each.labels <= gone]
    if foreign and name == TOOLE:
        chosen = [Asked(each.text, frozenset(), each.split) for each in load(folder / SEALTOOLS)[1]]
    if limit:
        chosen = chosen[:: max(1, len(chosen) // limit)]
    if model is not None:
        model.embed([text for entry in entries for text in texts_to_embed(entry)])
        model.embed([each.text for each in chosen])
        model.keep()
    found = measure(entries, chosen, model, with_head=k != "0")
    return {"agents": len(entries), "requests": len(chosen), **found}


def main() -> int:
    """Print the table and write JSON lines beside the other benches' results."""
    parser = argparse.ArgumentParser(prog="python -m benches.discovery", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("SIRA_DISCOVERY_DATA"))
    parser.add_argument("--onnx", type=Path, help="a model directory, measured beside the default")
    parser.add_argument("--model-only", action="store_true", help="leave the default out")
    parser.add_argument("--vectors", type=Path, help="a file that keeps the model's vectors")
    parser.add_argument("--sets", default=f"{TOOLE},{SEALTOOLS}")
    parser.add_argument("--k", default="0,5,20,all", help="examples an agent, of toole")
    parser.add_argument("--repeats", type=int, default=3, help="draws of the examples, seeds 1..N")
    parser.add_argument("--limit", type=int, default=0, help="about so many requests; 0: all")
    parser.add_argument("--absent", action="store_true", help="ask for every second agent, "
                        "which is left out: all should be `no match`")  # fmt: skip
    parser.add_argument("--foreign", action="store_true", help="ask toole's agents what was asked "
                        "of sealtools': nearly all should be `no match`")  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the data by --data or SIRA_DISCOVERY_DATA")
    models: list[Remembered | None] = [] if arguments.model_only else [None]
    if arguments.onnx is not None:
        models.append(Remembered(OnnxEmbedder(arguments.onnx), arguments.vectors))
    described = machine.describe()
    lines = []
    print(
        f"features version {features.VERSION}, {features.PLACES} places, numpy {np.__version__}; "
        f"commit {described['commit']}"
    )
    for model in models:
        for name, k, seed in _cases(arguments):
            found = _one(
                arguments.data, name, k, seed, model, arguments.limit,
                absent=arguments.absent, foreign=arguments.foreign,
            )  # fmt: skip
            is_goal = not (arguments.absent or arguments.foreign)
            goal = GOALS.get((name, k, model is not None)) if is_goal else None
            embedder = model.name if model else "features alone"
            print(f"{name} k={k} seed={seed} {embedder}")
            print("   " + ", ".join(f"{part} {value:.4g}" for part, value in found.items()))
            if goal:
                print(f"   goal: top1 {goal[0]}, top5 {goal[1]}", end="")
                alone = COVERAGE_GOALS.get(k)
                print(f", answered alone {alone} at 95 right" if alone else "", flush=True)
            lines.append({
                "row": "discovery", "set": name, "k": k, "seed": seed, "embedder": embedder,
                "features": features.VERSION, "limit": arguments.limit,
                "absent": arguments.absent, "foreign": arguments.foreign,
                "figures": found, "goal": goal, "machine": described,
            })  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path = arguments.out / f"{stamp}-{described['commit'] or 'none'}-discovery.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
