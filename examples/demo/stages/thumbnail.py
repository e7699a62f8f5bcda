"""Second stage: an agent that draws the edges into the image and shrinks it.

Takes {"image": f32[H, W, 3], "edges": bf16[H, W]}, gives {"thumbnail": u8[H/4, W/4, 3]}.
"""

from __future__ import annotations

import sys

import numpy as np
import pixels

import sira


def make_thumbnail(image: np.ndarray, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Shade and shrink; both arrays are read-only views of the received message."""
    return {"thumbnail": pixels.thumbnail(image, edges)}


if __name__ == "__main__":
    sira.Agent("thumbnail-1", topic="demo.thumbnail", handler=make_thumbnail, url=sys.argv[1]).run()
