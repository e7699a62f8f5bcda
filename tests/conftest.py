"""What every test of Sira shares: what was left out, and saying so."""

from __future__ import annotations

import os

import pytest

REDIS_SKIPPED = os.environ.get("SIRA_TEST_REDIS") == "skip"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REDIS_SKIPPED:
        for item in items:
            if item.get_closest_marker("redis"):
                item.add_marker(pytest.mark.skip(reason="REDIS=skip"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if REDIS_SKIPPED:
        terminalreporter.write_line("REDIS=skip: nothing that needs redis-server was tested")
    for report in terminalreporter.stats.get("skipped", ()):
        if "is not installed" in str(report.longrepr):
            terminalreporter.write_line(f"not tested here: {report.nodeid}: {report.longrepr[2]}")
