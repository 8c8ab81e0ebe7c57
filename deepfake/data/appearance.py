"""Prepared crops to what can be seen of them without a look at the face: how they are framed, and their colours.

Reads one frame of each sample from a crop store; knows no class and no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import thumbnail
from deepfake.data.media import Pixels

#: Cells of each channel's histogram.
BINS = 16


def appearance(store: CropStore, samples: Sequence[str]) -> pd.DataFrame:
    """The framing and the colours of samples, of the middle frame of each one's middle clip.

    Args:
        store: Their crops.
        samples: Which, by id; those without crops are left out.

    Returns:
        By sample id: ``framing``, see :func:`framing`, and ``colours``, see :func:`colours`; an array in each cell.
    """
    found = {}
    for name in samples:
        record = store.records.get(name)
        if record is None or record["status"] != "ok" or not record["clips"]:
            continue
        middle = record["clips"] // 2
        clip, kept = store.clip(name, middle)
        frame = np.ascontiguousarray(clip[int(kept.sum()) // 2])
        found[name] = {"framing": framing(frame), "colours": colours(frame)}
    index = pd.Index(list(found), name="sample_id", dtype=object)
    columns = {name: [one[name] for one in found.values()] for name in ("framing", "colours")}
    return pd.DataFrame(columns, index=index, dtype=object)


def framing(image: Pixels) -> NDArray[np.float32]:
    """Its 16 x 16 grey thumbnail without brightness and contrast, which are no framing: float32 [256].

    Args:
        image: uint8 [H, W, 3], RGB.
    """
    return flattened(thumbnail(image))


def flattened(picture: Pixels) -> NDArray[np.float32]:
    """A thumbnail [16, 16] as float32 [256] of mean 0 and deviation 1."""
    pixels = picture.astype(np.float32).ravel()
    return np.asarray((pixels - pixels.mean()) / (pixels.std() + 1e-6), np.float32)


def colours(image: Pixels) -> NDArray[np.float32]:
    """Means, deviations and histograms of the channels, as float32 [6 + 3 * BINS].

    Histograms are the roots of fractions, of which rare values weigh more (Hellinger).

    Args:
        image: uint8 [H, W, 3], RGB.
    """
    import cv2

    mean, deviation = cv2.meanStdDev(image)
    counts = [cv2.calcHist([image], [channel], None, [BINS], [0, 256]).ravel() for channel in range(3)]
    shares = np.concatenate(counts) / (image.shape[0] * image.shape[1])
    return np.concatenate([mean.ravel() / 255, deviation.ravel() / 255, np.sqrt(shares)]).astype(np.float32)
