"""By the clock: attackers at both doors, and what held. See the package's docstring."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import sira

from . import plans, stage, witness
from .corpus import CORPUS
from .drive import Attacker, Seen

ATTACKERS = 8  # they mostly wait: for the end of streams that nobody ends
# Caches, interpreters and allocators fill up at first; what grows after this part is looked at.
WARM_UP = 0.25
RSS_MORE_BYTES = 48 << 20
FDS_MORE = 12
_LOOK_S = 2.0
_BITS = 48  # of a plan's seed


@dataclass
class Attack:
    """What was done and seen; the plan of seed N is made again by `--plan N`."""

    transport: str
    seconds: float
    seed: int
    plans: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    bytes_back: int = 0
    witnessed: int = 0
    rss_bytes: dict[str, list[int]] = field(default_factory=dict)  # begin, warm, most, end
    fds: dict[str, list[int]] = field(default_factory=dict)  # begin, end
    grpc_tracebacks: int = 0
    problems: list[str] = field(default_factory=list)


def run(
    seconds: float,
    seed: int,
    *,
    tls: bool,
    tell: Callable[[str], None],
    only: Iterable[int] | None = None,
) -> Attack:
    """Attack a node for so long, beginning with the fixed corpus.

    Args:
        seed: of the first plan; the next ones follow from it.
        tls: both doors over TLS.
        only: seeds of plans to carry out, and no others.
    """
    attack = Attack("tls" if tls else "plain", seconds, seed)
    seen = Seen()
    with (
        tempfile.TemporaryDirectory(prefix="sira-fuzz-") as folder,
        stage.opened(Path(folder), tls=tls) as at,
        witness.watching(at) as beside,
    ):
        known = at.known(beside.client_ids())
        samples = [at.sample()]
        seeds = iter(only) if only is not None else _seeds(seed)
        work = _Work(at, seen, known, seeds, time.monotonic() + seconds, len(CORPUS))
        threads = [threading.Thread(target=work.attack) for _ in range(ATTACKERS)]
        for each in threads:
            each.start()
        try:
            _watch(at, seen, threads, seconds, samples, work, tell)
        finally:
            work.over = True
            for each in threads:
                each.join()
        if not work.over_early:
            _end(at, attack, seen, beside, samples)
        complaints, attack.grpc_tracebacks = at.complaints()
        seen.problems += [f"the log: {each}" for each in complaints]
    attack.problems = [*seen.problems, *beside.problems]
    attack.plans, attack.outcomes = dict(seen.plans), dict(seen.outcomes.most_common())
    attack.bytes_back, attack.witnessed = seen.bytes_back, beside.messages
    if beside.messages < 20:
        attack.problems.append(f"the witnesses got {beside.messages} messages through")
    return attack


def _seeds(seed: int) -> Iterable[int]:
    """The seeds of all plans: the number of the run, then a count."""
    return ((seed << 16) + number & ((1 << _BITS) - 1) for number in itertools.count())


class _Work:
    """What the attackers share."""

    def __init__(
        self, at: stage.Stage, seen: Seen, known: plans.Known, seeds: Iterable[int],
        until_s: float, corpus: int,
    ) -> None:  # fmt: skip
        self._at, self._seen, self._known = at, seen, known
        self._seeds, self._until_s = iter(seeds), until_s
        self._corpus = iter(range(corpus))
        self._lock = threading.Lock()
        self.over = self.over_early = False

    def _next(self) -> tuple[int, plans.Plan] | None:
        with self._lock:
            if self.over or time.monotonic() > self._until_s:
                return None
            index = next(self._corpus, None)
            if index is not None:
                return -1 - index, CORPUS[index](self._known)
            seed = next(self._seeds, None)
        return None if seed is None else (seed, plans.make(seed, self._known))

    def attack(self) -> None:
        """Carry out plans until there are none, or the time is up."""
        attacker = Attacker(self._at, self._seen)
        try:
            while (each := self._next()) is not None:
                seed, plan = each
                try:
                    attacker.carry_out(seed, plan)
                except Exception as error:  # ours, or an answer that nobody foresaw
                    self._seen.wrong(seed, f"the attacker failed: {error!r}")
        finally:
            attacker.close()


def _watch(
    at: stage.Stage, seen: Seen, threads: list[threading.Thread], seconds: float,
    samples: list[stage.Sample], work: _Work, tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Look at the processes while the attackers are at work; a second sample when warm."""
    begun_s = told_s = time.monotonic()
    while any(each.is_alive() for each in threads):
        time.sleep(min(_LOOK_S, seconds / 10))
        now_s = time.monotonic()
        try:
            gone = at.restarts()
            sample = at.sample()
        except psutil.NoSuchProcess as error:
            gone, sample = [f"process {error.pid}"], samples[-1]
        if gone:
            _mourn(at, seen, gone)
            work.over = work.over_early = True
            return
        if now_s - begun_s > WARM_UP * seconds:
            samples.append(sample)
        if now_s > told_s + 30:
            told_s = now_s
            tell(f"{sum(seen.plans.values()):,} plans, {len(seen.problems)} problems, {sample}")


def _end(
    at: stage.Stage, attack: Attack, seen: Seen, beside: witness.Witnesses,
    samples: list[stage.Sample],
) -> None:  # fmt: skip
    """Hold what is left when the attackers are gone against what there was before."""
    try:
        samples.append(_settled(at, samples[0], attack.seconds))
        if not beside.balanced():
            seen.problems.append("a ledger does not balance")
    except (psutil.NoSuchProcess, sira.SiraError) as error:
        seen.problems.append(f"at the end: {error!r}")
    if gone := at.restarts():
        _mourn(at, seen, gone)
    else:
        _compare(attack, samples, seen)


def _mourn(at: stage.Stage, seen: Seen, gone: list[str]) -> None:
    seen.problems.append(f"died or was started again: {', '.join(gone)}; {at.last_words()}")


def _settled(at: stage.Stage, before: stage.Sample, seconds: float) -> stage.Sample:
    """Wait until connections of attackers are gone, or until they should be; what is held then."""
    end_s = time.monotonic() + (stage.SETTLE_S if seconds > 60 else 10)
    while True:
        sample = at.sample()
        if _more_fds(before, sample) == {} or time.monotonic() > end_s:
            return sample
        time.sleep(0.25)


def _more_fds(before: stage.Sample, after: stage.Sample) -> dict[str, int]:
    return {name: n for name, n in after.fds.items() if n > before.fds[name] + FDS_MORE}


def _compare(attack: Attack, samples: list[stage.Sample], seen: Seen) -> None:
    first, warm, last = samples[0], samples[min(1, len(samples) - 1)], samples[-1]
    for name, rss in last.rss_bytes.items():
        most = max(each.rss_bytes[name] for each in samples)
        attack.rss_bytes[name] = [first.rss_bytes[name], warm.rss_bytes[name], most, rss]
        attack.fds[name] = [first.fds[name], last.fds[name]]
        if rss > warm.rss_bytes[name] + RSS_MORE_BYTES:
            seen.problems.append(f"{name} grew: RSS {attack.rss_bytes[name]}")
    for name, count in _more_fds(first, last).items():
        seen.problems.append(f"{name} holds {count} descriptors, at first {first.fds[name]}")
