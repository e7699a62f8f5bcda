"""An agent that draws the edges into the image and shrinks it.

Takes {"image": f32[H, W, 3], "edges": bf16[H, W]}, gives {"thumbnail": u8[H/4, W/4, 3]}.
"""

from __future__ import annotations

import sys

import numpy as np
import pixels

import sira

CAPABILITY = sira.Capability(
    "shrink a picture to a small preview with its edges drawn in dark",
    examples=["make a thumbnail", "scale this image down for a list"],
    takes={"image": "f32[H, W, 3]", "edges": "bf16[H, W]"},
    gives={"thumbnail": "u8[h, w, 3]"},
    name="thumbnail",
    effects="pure",
)


def make_thumbnail(image: np.ndarray, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Shade and shrink; both arrays are read-only views of the received message."""
    return {"thumbnail": pixels.thumbnail(image, edges)}


if __name__ == "__main__":
    name, url = sys.argv[1:]
    sira.Agent(name, capabilities=[CAPABILITY], handler=make_thumbnail, url=url).run()
