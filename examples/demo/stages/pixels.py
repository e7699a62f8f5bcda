"""What the stages of the demo do to an image. Plain NumPy: no bus in here.

`run.py` calls the same functions in one process and compares every pixel with what came over the
bus.
"""

from __future__ import annotations

import io

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_FACTOR = 4
"""A thumbnail pixel is the mean of so many by so many pixels."""

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_BLUR = np.array([1, 4, 6, 4, 1], np.float32) / 16
_SHADE = 0.8


def decode(file: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Decode an image file, u8[bytes], to f32[H, W, 3] from 0 to 1."""
    with Image.open(io.BytesIO(file.tobytes())) as image:
        return np.asarray(image.convert("RGB"), np.float32) / 255


def edges(image: NDArray[np.float32]) -> NDArray[ml_dtypes.bfloat16]:
    """Find the edges of f32[H, W, 3]: bf16[H, W] from 0 to 1.

    Luma, a blur of five by five, and the length of Sobel's gradient. bf16 keeps two to three
    digits, which is more than a mask needs, in half the bytes.
    """
    luma = image @ _LUMA
    smooth = _along(_along(luma, _BLUR, axis=0), _BLUR, axis=1)
    padded = np.pad(smooth, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = rows[:, 2:] - rows[:, :-2]
    down = columns[2:] - columns[:-2]
    length = np.sqrt(across * across + down * down)
    return (length / max(float(length.max()), 1e-6)).astype(ml_dtypes.bfloat16)


def _along(
    plane: NDArray[np.float32], kernel: NDArray[np.float32], *, axis: int
) -> NDArray[np.float32]:
    """Convolve a plane with a symmetric kernel along one axis; the border is repeated."""
    half = len(kernel) // 2
    width = [(half, half) if index == axis else (0, 0) for index in range(2)]
    padded = np.pad(plane, width, mode="edge")
    length = plane.shape[axis]
    total = np.zeros_like(plane)
    for offset, weight in enumerate(kernel):
        total += weight * padded.take(np.arange(offset, offset + length), axis)
    return total


def thumbnail(image: NDArray[np.float32], mask: NDArray[ml_dtypes.bfloat16]) -> NDArray[np.uint8]:
    """Draw the edges dark into the image and shrink it: u8[H/4, W/4, 3]."""
    shaded = image * (1 - _SHADE * np.asarray(mask, np.float32)[:, :, None])
    height = shaded.shape[0] // THUMBNAIL_FACTOR
    width = shaded.shape[1] // THUMBNAIL_FACTOR
    cut = shaded[: height * THUMBNAIL_FACTOR, : width * THUMBNAIL_FACTOR]
    blocks = cut.reshape(height, THUMBNAIL_FACTOR, width, THUMBNAIL_FACTOR, 3)
    return np.rint(blocks.mean(axis=(1, 3)) * 255).astype(np.uint8)


def exposure(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return mean and standard deviation of the luma of u8[H, W, 3], from 0 to 1: f64[2]."""
    luma = (picture.astype(np.float32) / 255) @ _LUMA
    return np.array([luma.mean(dtype=np.float64), luma.std(dtype=np.float64)])
