"""A gateway: asks whoever serves `lab.normalise`, then publishes the answer.

python examples/gateway.py [URL]
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

import sira


async def main(url: str | None) -> None:
    """Ask once, publish once, and say what became of it."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    async with sira.connect(url) as bus:
        reply = await bus.request("lab.normalise", {"x": x}, timeout_s=5)
        y = reply["y"]
        print(f"y: {y.dtype} {list(y.shape)}, mean {abs(y.mean()):.3f}, deviation {y.std():.3f}")
        receipt = await bus.publish("lab.results", {"y": y}, headers={"study": "7"})
        print(f"{receipt.grade}, matched {receipt.matched}, {receipt.bytes} bytes")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if sys.argv[1:] else None))
