"""A picture into a few bits that stay alike when it is scaled, recompressed or toned. Knows no files and no tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepfake.data.media import Pixels

THUMBNAIL = 16  # pixels a side


def dhash(image: Pixels) -> int:
    """A 64-bit difference hash: whether each of 8 x 8 averaged cells is brighter than its right neighbour.

    Krawetz 2013, "Kind of Like That". Pictures of which fewer than about 6 bits differ are most likely one picture.

    Args:
        image: uint8 [H, W, 3], RGB.
    """
    cells = _grey(image, 9, 8).astype(np.int16)
    bits = (cells[:, 1:] > cells[:, :-1]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: Pixels) -> Pixels:
    """A grey uint8 [16, 16] copy, to tell apart pictures whose hashes agree by chance."""
    return _grey(image, THUMBNAIL, THUMBNAIL)


def distances(hashes: NDArray[np.uint64], other: int) -> NDArray[np.int64]:
    """How many bits differ between each of the hashes [N] and another one."""
    return np.bitwise_count(hashes ^ np.uint64(other)).astype(np.int64)


def _grey(image: Pixels, width: int, height: int) -> Pixels:
    import cv2

    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
