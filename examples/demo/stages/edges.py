"""An agent that decodes an image file and finds its edges. Any number of twins may run.

Takes {"file": u8[bytes]}, gives {"image": f32[H, W, 3], "edges": bf16[H, W]}.
"""

from __future__ import annotations

import sys

import numpy as np
import pixels

import sira

CAPABILITY = sira.Capability(
    "decode a picture file and find the edges in it",
    examples=["outline the shapes in this photograph", "detect contours of an image file"],
    takes={"file": "u8[N]"},
    gives={"image": "f32[H, W, 3]", "edges": "bf16[H, W]"},
    name="edges",
    effects="pure",
)


def find_edges(file: np.ndarray) -> dict[str, np.ndarray]:
    """Decode and filter; tensors are bound by the names of the parameters."""
    image = pixels.decode(file)
    return {"image": image, "edges": pixels.edges(image)}


if __name__ == "__main__":
    name, url = sys.argv[1:]
    sira.Agent(name, capabilities=[CAPABILITY], handler=find_edges, url=url).run()
