"""First stage: an agent that decodes an image file and finds its edges.

Takes {"file": u8[bytes]}, gives {"image": f32[H, W, 3], "edges": bf16[H, W]}.
"""

from __future__ import annotations

import sys

import numpy as np
import pixels

import sira


def find_edges(file: np.ndarray) -> dict[str, np.ndarray]:
    """Decode and filter; tensors are bound by the names of the parameters."""
    image = pixels.decode(file)
    return {"image": image, "edges": pixels.edges(image)}


if __name__ == "__main__":
    sira.Agent("edges-1", topic="demo.edges", handler=find_edges, url=sys.argv[1]).run()
