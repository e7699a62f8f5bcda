"""What was answered to requests, so that one that is repeated is not applied again. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from sira.v1 import tables_pb2

# A repeat comes within seconds: 65,536 are half a minute of 2,000 a second, and some 20 MiB.
PER_CLIENT_MAX = 1_024
ALL_MAX = 65_536


class Answers:
    """The results of the last requests: so many of each client, so many in all."""

    def __init__(self, *, per_client_max: int = PER_CLIENT_MAX, all_max: int = ALL_MAX) -> None:
        """Begin with none."""
        self._per_client_max, self._all_max = per_client_max, all_max
        self._kept: OrderedDict[tuple[str, int], tables_pb2.TableResult] = OrderedDict()
        self._of: dict[str, OrderedDict[int, None]] = {}

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._kept)

    def get(self, request: tables_pb2.TableRequest) -> tables_pb2.TableResult | None:
        """Return what a request was answered; None: it is new, or too long ago."""
        return self._kept.get((request.client, request.sequence))

    def keep(self, client: str, sequence: int, result: tables_pb2.TableResult) -> None:
        """Remember. Requires: it is not kept yet."""
        assert (client, sequence) not in self._kept, (client, sequence)
        self._kept[client, sequence] = result
        of = self._of.setdefault(client, OrderedDict())
        of[sequence] = None
        if len(of) > self._per_client_max:
            oldest, _ = of.popitem(last=False)
            del self._kept[client, oldest]
        if len(self._kept) > self._all_max:
            (client, oldest), _ = self._kept.popitem(last=False)
            of = self._of[client]
            del of[oldest]
            if not of:
                del self._of[client]

    def items(self) -> Iterator[tuple[str, int, tables_pb2.TableResult]]:
        """Yield all that are kept, oldest first."""
        for (client, sequence), result in self._kept.items():
            yield client, sequence, result
