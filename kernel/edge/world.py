"""One tenant on a node, and all of them: a bus each, its time, its unary requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sira.kernel.bus import Bus
from sira.kernel.edge.request import Requests
from sira.kernel.edge.ticker import Ticker
from sira.kernel.errors import QuotaExceeded
from sira.kernel.identity import SYSTEM
from sira.kernel.metrics import Loop

DEFAULT = "default"


@dataclass(slots=True, eq=False)
class World:
    """What a tenant has on this node. Nothing in it leads to another."""

    tenant: str
    bus: Bus
    ticker: Ticker
    requests: Requests
    loop: Loop

    @classmethod
    def around(cls, bus: Bus, loop: Loop) -> World:
        """Give a bus its time and its unary requests. Belongs to the running loop.

        `loop` counts how long what is done for it holds the loop.
        """
        ticker = Ticker(bus, loop)
        return cls(bus.tenant, bus, ticker, Requests(bus, ticker), loop)


class Worlds:
    """The worlds of a node, made when a tenant is first seen, kept until the node ends."""

    def __init__(self, make: Callable[[str], World], *, tenants_max: int) -> None:
        """Begin with that of the tenant `default`."""
        self._make, self._tenants_max = make, tenants_max
        self.default = make(DEFAULT)
        self._worlds = {DEFAULT: self.default}

    def __iter__(self) -> Iterator[World]:
        """Yield all, oldest first; worlds that come meanwhile are left out."""
        return iter(list(self._worlds.values()))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._worlds)

    def get(self, tenant: str) -> World | None:
        """Return the world of a tenant; None: it has none yet."""
        return self._worlds.get(tenant)

    def of(self, tenant: str) -> World:
        """Return the world of a tenant that has been authenticated.

        Raises:
            QuotaExceeded: tenants_max. The operators always have room.
        """
        found = self._worlds.get(tenant)
        if found is not None:
            return found
        if len(self._worlds) >= self._tenants_max and tenant != SYSTEM:
            raise QuotaExceeded(
                f"tenants_max = {self._tenants_max} is reached",
                details={"setting": "tenants_max", "limit": str(self._tenants_max)},
            )
        self._worlds[tenant] = made = self._make(tenant)
        return made
