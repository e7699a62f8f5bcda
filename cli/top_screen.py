"""The screen of `sira top`: three tables that follow the node. Keys: q ends, p pauses."""

from __future__ import annotations

from argparse import Namespace
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from sira.cli.top import TABLES, Look, cell, headline, look, picture
from sira.client.bus import Bus
from sira.kernel.errors import SiraError

_ROWS_MAX = 200  # of one table; more cannot be read, and drawing them costs the terminal


class TopScreen(App[None]):
    """Asks the node every interval and redraws what it said."""

    CSS = "Static { height: 1; text-style: bold; } DataTable { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "end"),
        Binding("ctrl+c", "quit", show=False),
        Binding("p", "pause", "pause"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, bus: Bus, first: Look, args: Namespace) -> None:
        """Show what the node says, first against the look `first`."""
        super().__init__()
        self._bus, self._before, self._args = bus, first, args
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
        self.set_interval(self._args.interval, self.refresh_now)
        await self.refresh_now()

    async def refresh_now(self) -> None:
        """Ask the node and redraw; nothing while paused."""
        if self._paused:
            return
        try:
            now = await look(self._bus, self._args.pattern)
        except SiraError as error:
            self.failure = error
            self.exit()
            return
        found = picture(self._before, now)
        self._before = now
        self.pictures += 1
        self.query_one("#head", Static).update(headline(found))
        for name, columns in TABLES.items():
            table: DataTable[str] = self.query_one(f"#{name}", DataTable)
            table.clear()
            for row in found[name][:_ROWS_MAX]:
                table.add_row(*(cell(key, row[key]) for key, _ in columns))

    def action_pause(self) -> None:
        """Stop or go on asking."""
        self._paused = not self._paused
