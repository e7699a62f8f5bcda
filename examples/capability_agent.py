"""An agent that is found by what it can do; until SIGTERM or Ctrl-C.

python examples/capability_agent.py [NAME] [URL]
"""

from __future__ import annotations

import sys

import numpy as np

import sira

agent = sira.Agent(
    sys.argv[1] if sys.argv[1:] else "normaliser-1",
    url=sys.argv[2] if sys.argv[2:] else None,
    capabilities=[
        sira.Capability(
            "normalise a tensor to mean 0 and deviation 1",
            examples=["whiten these features", "standardise the image"],
            takes={"x": "f32|f64[N, M]"},
            gives={"y": "f32|f64[N, M]"},
            effects="pure",
        )
    ],
)


@agent.handler
def normalise(x: np.ndarray) -> dict[str, np.ndarray]:
    """Move `x`, [N, M], to mean 0 and deviation 1. `x` is a read-only view."""
    return {"y": (x - x.mean()) / max(float(x.std()), 1e-6)}


if __name__ == "__main__":
    agent.run()
