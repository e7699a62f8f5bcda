"""A gateway that names no agent: it says what is to be done.

python examples/capability_gateway.py [URL]
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

import sira


async def main(url: str | None) -> None:
    """Have a tensor normalised by whoever can, and say who did."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    async with sira.connect(url) as bus:
        reply = await bus.call("standardise this tensor to mean 0", {"x": x}, timeout_s=5)
        receipt = reply.receipt
        assert receipt is not None, "of a call"
        print(f"mean {abs(reply['y'].mean()):.3f}, by {receipt.agent}, {receipt.capability}")
        for reason in receipt.reasons:
            print(f"  {reason}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if sys.argv[1:] else None))
