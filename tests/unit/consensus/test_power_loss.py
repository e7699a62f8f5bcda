"""Power goes, or a kill -9 comes, again and again: what was answered is there, in order, once."""

from __future__ import annotations

import os
import random
from typing import Any

from sira.consensus import snapshot
from sira.consensus.journal import Journal
from sira.consensus.state import State
from sira.kernel.errors import StorageFull
from sira.v1 import tables_pb2

CUTS = 60


def test_what_was_answered_survives_power_loss(disks: Any, power_cut: Any) -> None:
    seed = int(os.environ.get("SIRA_RUN_SEED", "0"))
    print(f"seed {seed}: SIRA_RUN_SEED={seed} runs it again")
    rng = random.Random(seed)
    disk, answered, proposed, snapshots, torn = disks(rng), 0, 0, 0, 0
    for cut in range(CUTS):
        disk.left = rng.randrange(1, 60)
        # What is on its way when the power goes may be there or not, as a whole.
        begun = answered
        try:
            journal = Journal(disk, snapshot_after_bytes=rng.choice([400, 4_000]))
            state = journal.recover()
            assert answered <= state.index <= proposed, (cut, answered, proposed)
            answered = state.index  # recovered is believed
            check(state)
            while True:
                count = rng.randrange(1, 6)
                entries = [entry(state.index + 1 + at, rng) for at in range(count)]
                proposed = state.index + count
                if rng.random() < 0.1:
                    disk.room_bytes = 0
                try:
                    journal.append(state.index + 1, entries)
                except StorageFull:
                    proposed = state.index
                    continue
                finally:
                    disk.room_bytes = None
                answered = proposed
                for each in entries:
                    state.apply(each)
                if journal.wants_snapshot:
                    journal.turn(state.index + 1)
                    journal.write_snapshot(snapshot.picture(state))
                    snapshots += 1
        except power_cut:
            torn += answered < proposed
            if rng.random() < 0.6:  # else only the process was killed
                disk = disk.after_power_loss()
        assert answered >= begun
    disk.left = None
    state = Journal(disk).recover()
    assert answered <= state.index <= proposed
    check(state)
    assert snapshots and torn, "the run met neither: it proves little"


def entry(number: int, rng: random.Random) -> tables_pb2.TableEntry:
    """Make the entry of an index: it writes its own number, over many sectors or few bytes."""
    made = tables_pb2.TableEntry(version=1, elapsed_ms=1)
    value = number.to_bytes(8, "big") + rng.randbytes(rng.choice([0, 10, 3_000]))
    made.command.transaction.puts.add(table="t", key=f"{number % 20}", value=value)
    return made


def check(state: State) -> None:
    """Each of the last twenty numbers stands where its entry put it."""
    assert state.now_ms == state.index == state.revision
    for number in range(max(1, state.index - 19), state.index + 1):
        row = state.rows.get("t", f"{number % 20}")
        assert row is not None and int.from_bytes(row.value[:8], "big") == number == row.changed
