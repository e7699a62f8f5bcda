"""An agent that tells how a picture is exposed.

Takes {"picture": u8[H, W, 3]}, gives {"levels": f64[2]}: mean and deviation of the luma, 0 to 1.
"""

from __future__ import annotations

import sys

import numpy as np
import pixels

import sira

CAPABILITY = sira.Capability(
    "measure the exposure of a picture: how bright it is, and how strong its contrast",
    examples=["is this photo too dark?", "mean and deviation of the brightness"],
    takes={"picture": "u8[H, W, 3]"},
    gives={"levels": "f64[2]"},
    name="exposure",
    effects="pure",
)


def measure(picture: np.ndarray) -> dict[str, np.ndarray]:
    """Measure a read-only view of the received message."""
    return {"levels": pixels.exposure(picture)}


if __name__ == "__main__":
    name, url = sys.argv[1:]
    sira.Agent(name, capabilities=[CAPABILITY], handler=measure, url=url).run()
