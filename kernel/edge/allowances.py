"""How often something may happen for each of many: a token bucket each, forgotten when it is full.

Pure: the caller brings the clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_SAVED_S = 2.0  # an allowance grows for so long: an application may cancel all it does at once
_KNOWN_MAX = 4_096  # allowances that are known not to be full


@dataclass(slots=True)
class _Allowance:
    left: float
    at_s: float
    count: int = 0  # since it was last full


class Allowances:
    """What each has left of its allowance."""

    def __init__(self, *, per_s_max: float) -> None:
        """Allow each `per_s_max` a second, and what was not used of the last two; 0: any number."""
        self._per_s_max = per_s_max
        self._most = per_s_max * _SAVED_S
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()  # longest unused first

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._allowances)

    def note(self, who: str, now_s: float) -> bool:
        """Count once more for `who`; return whether that is one too many.

        Args:
            who: names one of them.
            now_s: monotonic clock, seconds; not before that of the last call.
        """
        if not self._per_s_max:
            return False
        known = self._allowances.get(who)
        if known is None:
            self._forget_old(now_s)
            known = self._allowances[who] = _Allowance(self._most, now_s)
        known.left = min(self._most, known.left + (now_s - known.at_s) * self._per_s_max)
        known.at_s = now_s
        known.count = 1 if known.left == self._most else known.count + 1
        self._allowances.move_to_end(who)
        if known.left < 1:
            return True
        known.left -= 1
        return False

    def count(self, who: str) -> int:
        """Return how often it has happened for `who` since its allowance was last full."""
        known = self._allowances.get(who)
        return known.count if known is not None else 0

    def forget(self, who: str) -> None:
        """Begin anew: who had that name is no more, and another may get it."""
        self._allowances.pop(who, None)

    def _forget_old(self, now_s: float) -> None:
        while self._allowances:
            oldest = next(iter(self._allowances.values()))
            if len(self._allowances) < _KNOWN_MAX and now_s - oldest.at_s < _SAVED_S:
                return
            self._allowances.popitem(last=False)
