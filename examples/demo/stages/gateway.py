"""The gateway: sends the image file through both stages, again and again, and publishes what comes
out.

Arguments: URL of the node, image file, rounds, file for the last tensors (.npz). Prints one JSON
object: receipts, latencies in us, bytes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import sira

TIMEOUT_S = 20.0
WARM_ROUNDS = 2


async def main(url: str, source: Path, rounds: int, target: Path) -> dict[str, Any]:
    """Run the pipeline and return what was measured."""
    file = np.fromfile(source, np.uint8)
    laps_us: dict[str, list[float]] = {"edges": [], "thumbnail": [], "publish": []}
    moved_bytes = {"edges": 0, "thumbnail": 0, "publish": 0}
    receipts: list[dict[str, Any]] = []
    start_s = time.monotonic()
    async with sira.connect(url) as bus:
        for index in range(-WARM_ROUNDS, rounds):
            if index == 0:
                start_s = time.monotonic()
            at_ns = [time.monotonic_ns()]
            found = await bus.request("demo.edges", {"file": file}, timeout_s=TIMEOUT_S)
            at_ns.append(time.monotonic_ns())
            stage = {"image": found["image"], "edges": found["edges"]}
            small = await bus.request("demo.thumbnail", stage, timeout_s=TIMEOUT_S)
            at_ns.append(time.monotonic_ns())
            receipt = await bus.publish(
                "demo.results",
                {"thumbnail": small["thumbnail"]},
                headers={"round": str(index)},
                timeout_s=TIMEOUT_S,
            )
            at_ns.append(time.monotonic_ns())
            if index < 0:
                continue
            for name, lap_ns in zip(laps_us, np.diff(at_ns), strict=True):
                laps_us[name].append(float(lap_ns) / 1e3)
            moved_bytes["edges"] += file.nbytes + found.payload_bytes
            moved_bytes["thumbnail"] += found.payload_bytes + small.payload_bytes
            moved_bytes["publish"] += small.payload_bytes
            receipts.append(
                {
                    "id": receipt.id,
                    "grade": receipt.grade,
                    "matched": receipt.matched,
                    "lanes": list(receipt.lanes),
                    "copies": receipt.copies,
                    "bytes": receipt.bytes,
                }
            )
        seconds = time.monotonic() - start_s
        # bf16 as its bits: NumPy's format has no name for it.
        np.savez(
            target,
            image=found["image"],
            edges_bits=np.asarray(found["edges"]).view(np.uint16),
            thumbnail=small["thumbnail"],
        )
        dtypes = {name: str(found[name].dtype) for name in found.keys()}  # noqa: SIM118
    return {
        "rounds": rounds,
        "seconds": seconds,
        "laps_us": laps_us,
        "moved_bytes": moved_bytes,
        "receipts": receipts,
        "dtypes": {"file": "uint8", **dtypes, "thumbnail": str(small["thumbnail"].dtype)},
    }


if __name__ == "__main__":
    report = asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
    print(json.dumps(report))
