"""The parts of a node, in the order in which they start."""

from __future__ import annotations

from sira.consensus.config_service import ConfigPart
from sira.consensus.lease_service import LeasesPart
from sira.consensus.part import TablesPart
from sira.consensus.storage import MemoryStorage
from sira.consensus.topics_part import TopicsPart
from sira.kernel.parts import Part
from sira.registry import weights
from sira.registry.part import Registry


def parts(memory: MemoryStorage | None = None) -> list[Part]:
    """Return the parts of one life of a node.

    Args:
        memory: where the tables are kept; None: in the data folder, and in a memory of their own
            where the node holds none.
    """
    tables = TablesPart(memory)
    config = ConfigPart(tables, checks={weights.PREFIX: weights.parse})
    return [tables, TopicsPart(tables), LeasesPart(tables), config, Registry(tables)]


class InMemory:
    """The parts of a node without a folder, over lives: the next finds what was kept."""

    def __init__(self) -> None:
        """Begin with nothing kept."""
        self._memory = MemoryStorage()

    def parts(self) -> list[Part]:
        """Return the parts of the next life."""
        return parts(self._memory)
