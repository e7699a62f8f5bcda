"""The screen of `sira top`: three tables that follow the node. Keys: q ends, p pauses."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from sira.cli.top import EARLY_S, TABLES, Pictures, cell, headline
from sira.client.subscription import Subscription
from sira.kernel.errors import SiraError

_ROWS_MAX = 200  # of one table; more cannot be read, and drawing them costs the terminal


class TopScreen(App[None]):
    """Redraws what the node tells."""

    CSS = "Static { height: 1; text-style: bold; } DataTable { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "end"),
        Binding("ctrl+c", "quit", show=False),
        Binding("p", "pause", "pause"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, messages: Subscription, pictures: Pictures, args: Namespace) -> None:
        """Show what comes on `messages`."""
        super().__init__()
        self._messages, self._makes, self._args = messages, pictures, args
        self._latest: dict[str, Any] | None = None
        self._paused = False
        self.pictures = 0
        self.failure: SiraError | None = None

    def compose(self) -> ComposeResult:
        """Lay out a line, three tables and the keys."""
        yield Static(id="head")
        for name in TABLES:
            yield DataTable(id=name, cursor_type="none", zebra_stripes=True)
        yield Footer()

    async def on_mount(self) -> None:
        """Write the columns and begin."""
        for name, columns in TABLES.items():
            table: DataTable[str] = self.query_one(f"#{name}", DataTable)
            for key, title in columns:
                table.add_column(title, key=key)
        self.run_worker(self._follow(), exit_on_error=False)

    async def _follow(self) -> None:
        shown_s = 0.0
        try:
            while True:
                self._latest = await self._makes.next(self._messages)
                if time.monotonic() - shown_s >= self._args.interval - EARLY_S:
                    shown_s = time.monotonic()
                    await self.refresh_now()
        except SiraError as error:
            self.failure = error
            self.exit()
        except StopAsyncIteration:
            self.exit()

    async def refresh_now(self) -> None:
        """Draw the latest picture; nothing while paused."""
        found = self._latest
        if self._paused or found is None:
            return
        self.pictures += 1
        self.query_one("#head", Static).update(headline(found))
        for name, columns in TABLES.items():
            table: DataTable[str] = self.query_one(f"#{name}", DataTable)
            table.clear()
            for row in found[name][:_ROWS_MAX]:
                table.add_row(*(cell(key, row[key]) for key, _ in columns))

    def action_pause(self) -> None:
        """Stop or go on drawing."""
        self._paused = not self._paused
