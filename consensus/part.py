"""The tables as a part of a node: in its data folder, or in memory where it has none."""

from __future__ import annotations

from collections.abc import Iterable

from sira.consensus.one_node import OneNode
from sira.consensus.storage import FolderStorage, MemoryStorage, Storage
from sira.consensus.tables import Tables
from sira.kernel.errors import DataDirUnusable, SiraError
from sira.kernel.methods import Method, TopicClass
from sira.kernel.parts import Host

FOLDER = "tables"


class TablesPart:
    """Starts the tables before the node listens. Other parts are given it, and read `tables`."""

    def __init__(self, storage: Storage | None = None) -> None:
        """Prepare; `storage`: None takes the data folder's, else memory."""
        self._storage = storage
        self._tables: OneNode | None = None
        self._host: Host | None = None

    @property
    def tables(self) -> Tables:
        """The tables. Requires: started; a part that comes after this one finds them."""
        assert self._tables is not None, "the tables are started first"
        return self._tables

    def methods(self) -> Iterable[Method]:
        """Return none: what is served of the tables is served by other parts."""
        return ()

    def topic_classes(self) -> Iterable[TopicClass]:
        """Return none."""
        return ()

    async def start(self, host: Host) -> None:
        """Recover what was answered before.

        Raises:
            DataDirUnusable, JournalCorrupt, UpgradeRequired: see `Journal.recover`.
        """
        self._host = host
        tables = OneNode(
            self._storage or _storage_of(host),
            clock_ns=host.clock_ns,
            failed=self._failed,
            told=self._told,
        )
        await tables.start()
        self._tables = tables

    def tick(self) -> None:
        """End what has ended on a clock that was moved by hand."""
        if self._tables is not None:
            self._tables.tick()

    async def stop(self) -> None:
        """Write what waits, and end."""
        if self._tables is not None:
            await self._tables.stop()

    def _failed(self, error: SiraError) -> None:
        """Say that the tables can be read and not changed any more."""
        assert self._host is not None, "started"
        self._host.not_ready()
        self._host.say("sira.tables.failed", reason=error.code, error=str(error))

    def _told(self, event: str, text: str, **fields: str | int) -> None:
        assert self._host is not None, "started"
        level = "info" if event == "recovered" else "warning"
        self._host.logs.write(level, "tables", event, text, fields)


def _storage_of(host: Host) -> Storage:
    if host.folder is None:
        return MemoryStorage()
    try:
        return FolderStorage(host.folder / FOLDER)
    except OSError as error:
        raise DataDirUnusable(
            f"{host.folder / FOLDER} cannot be used: {error.strerror}",
            details={"data_dir": str(host.folder)},
        ) from error
