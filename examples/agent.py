"""An agent: answers requests on `lab.normalise` until SIGTERM or Ctrl-C.

python examples/agent.py [URL]
"""

from __future__ import annotations

import sys

import numpy as np

import sira

agent = sira.Agent("normaliser-1", topic="lab.normalise", url=sys.argv[1] if sys.argv[1:] else None)


@agent.handler
def normalise(x: np.ndarray) -> dict[str, np.ndarray]:
    """Move `x`, f32 of any shape, to mean 0 and deviation 1. `x` is a read-only view."""
    return {"y": (x - x.mean()) / max(float(x.std()), 1e-6)}


if __name__ == "__main__":
    agent.run()
