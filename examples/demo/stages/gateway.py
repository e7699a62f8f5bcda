"""The gateway: has the image file worked on, again and again, and publishes what comes out.

It names no agent and no topic of one: it says what is to be done, and passes what it has. Several
images are under way at once.

Arguments: URL of the node, image file, rounds, file for the last tensors (.npz). Prints one JSON
object: who answered, receipts, latencies in us, bytes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import sira

TIMEOUT_S = 60.0
WARM_ROUNDS = 2
AT_ONCE = 4
STEPS = {
    "edges": "find the edges in this image file",
    "thumbnail": "make a small preview of the picture with its edges",
    "exposure": "how bright is this picture?",
}


class Pipeline:
    """One image after the other through three steps, and what that took."""

    def __init__(self, bus: sira.Bus, file: np.ndarray) -> None:
        """Begin with empty books."""
        self.bus = bus
        self.file = file
        self.laps_us: dict[str, list[float]] = {name: [] for name in (*STEPS, "publish")}
        self.moved_bytes: Counter[str] = Counter()
        self.answered: dict[str, Counter[str]] = {name: Counter() for name in STEPS}
        self.reasons: dict[str, list[str]] = {}
        self.asked_again = 0
        self.receipts: list[dict[str, Any]] = []
        self.last: dict[str, np.ndarray] = {}

    async def step(self, name: str, body: dict[str, Any]) -> sira.Message:
        """Have one step done by whoever can; all of them may be done twice."""
        begun_ns = time.monotonic_ns()
        reply = await self.bus.call(STEPS[name], body, timeout_s=TIMEOUT_S, idempotent=True)
        self.note(name, begun_ns, sum(each.nbytes for each in body.values()) + reply.payload_bytes)
        receipt = reply.receipt
        assert receipt is not None, "of a call"
        self.answered[name][receipt.agent] += 1
        self.asked_again += receipt.tries > 1
        self.reasons[name] = [str(reason) for reason in receipt.reasons]
        return reply

    async def image(self, index: int) -> None:
        """Bring the file through all steps and publish what comes out."""
        found = await self.step("edges", {"file": self.file})
        stage = {"image": found["image"], "edges": found["edges"]}
        small = await self.step("thumbnail", stage)
        levels = await self.step("exposure", {"picture": small["thumbnail"]})
        result = {"thumbnail": small["thumbnail"], "levels": levels["levels"]}
        begun_ns = time.monotonic_ns()
        receipt = await self.bus.publish(
            "demo.results", result, headers={"round": str(index)}, timeout_s=TIMEOUT_S
        )
        self.note("publish", begun_ns, receipt.bytes)
        told = ("id", "grade", "matched", "lanes", "copies", "bytes")
        self.receipts.append({name: getattr(receipt, name) for name in told})
        self.last = {name: np.array(array) for name, array in (stage | result).items()}

    def note(self, name: str, begun_ns: int, moved_bytes: int) -> None:
        """Count a step that is over."""
        self.laps_us[name].append((time.monotonic_ns() - begun_ns) / 1e3)
        self.moved_bytes[name] += moved_bytes

    async def images(self, indices: list[int]) -> float:
        """Bring all of them through, several at once; return the seconds that it took."""
        begun_s = time.monotonic()

        async def some() -> None:
            while indices:
                await self.image(indices.pop(0))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(some())
        return time.monotonic() - begun_s


async def main(url: str, source: Path, rounds: int, target: Path) -> dict[str, Any]:
    """Run the pipeline and return what was measured."""
    file = np.fromfile(source, np.uint8)
    async with sira.connect(url) as bus:
        await Pipeline(bus, file).images(list(range(-WARM_ROUNDS, 0)))
        pipeline = Pipeline(bus, file)
        seconds = await pipeline.images(list(range(rounds)))
    last = pipeline.last
    dtypes = {name: str(array.dtype) for name, array in last.items()}
    # bf16 as its bits: NumPy's format has no name for it.
    np.savez(target, **(last | {"edges": last["edges"].view(np.uint16)}))
    return {
        "rounds": rounds,
        "seconds": seconds,
        "asked": STEPS,
        "answered": pipeline.answered,
        "asked_again": pipeline.asked_again,
        "reasons": pipeline.reasons,
        "laps_us": pipeline.laps_us,
        "moved_bytes": pipeline.moved_bytes,
        "receipts": pipeline.receipts,
        "dtypes": {"file": "uint8", **dtypes},
    }


if __name__ == "__main__":
    report = asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
    print(json.dumps(report))
