"""What every test of Sira shares: what was left out, and what was left behind; and saying so."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long anything takes is a matter of the machine.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

REDIS_SKIPPED = os.environ.get("SIRA_TEST_REDIS") == "skip"
# Made by libraries, which remove them when the process ends, later than we look.
OTHERS = ("pymp-", "matplotlib-")
STARTS_NODES = {"integration", "contract"}  # folders
TEMP = pytest.StashKey[Path]()
LEFT = pytest.StashKey[list[str]]()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Give this run, and all that it starts, a folder of its own for what is temporary.

    pytest's own folders stay where they are: paths of Unix sockets in them are long enough.
    A worker (pytest-xdist) is started by who has made the folder, and shares it.
    """
    if _is_worker(config):
        return
    os.environ.setdefault("SIRA_RUN_SEED", str(random.SystemRandom().randrange(1 << 32)))
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    config.stash[TEMP] = Path(tempfile.mkdtemp(prefix="sira-t-"))
    os.environ["TMPDIR"] = str(config.stash[TEMP])
    tempfile.tempdir = None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves something in its temporary folder, and remove that folder."""
    if _is_worker(session.config):
        return
    folder = session.config.stash[TEMP]
    left = sorted(each.name for each in folder.iterdir() if not each.name.startswith(OTHERS))
    session.config.stash[LEFT] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    if _is_worker(config):
        return
    folder = config.stash[TEMP]
    os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"]
    tempfile.tempdir = None
    shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _is_worker(config):
        items[:] = long_files_first(items)
    if REDIS_SKIPPED:
        for item in items:
            if item.get_closest_marker("redis"):
                item.add_marker(pytest.mark.skip(reason="REDIS=skip"))


def long_files_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests by file: those that compute for long, those that start nodes, the others.

    Workers take files in this order, whole: beside what computes, others wait for their nodes; and
    quick ones at the end leave no worker idle for long.
    """
    nodes = {item.path for item in items if not STARTS_NODES.isdisjoint(item.path.parts)}
    slow = {item.path for item in items if item.get_closest_marker("slow")} - nodes
    return sorted(items, key=lambda item: (item.path not in slow, item.path not in nodes))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if REDIS_SKIPPED:
        terminalreporter.write_line("REDIS=skip: nothing that needs redis-server was tested")
    if left := terminalreporter.config.stash.get(LEFT, []):
        terminalreporter.write_line(f"left behind in the temporary folder: {', '.join(left)}")
    for report in terminalreporter.stats.get("skipped", ()):
        if "is not installed" in str(report.longrepr):
            terminalreporter.write_line(f"not tested here: {report.nodeid}: {report.longrepr[2]}")
