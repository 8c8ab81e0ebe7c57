"""A frozen backbone's features to one vector for each sample, for a linear probe of what they tell already."""

from __future__ import annotations

import copy

import numpy as np
import torch

from deepfake.data.clips import ClipSource
from deepfake.models.detector import Detector

_CLIPS = 256  # read at once


def frozen_copy(detector: Detector) -> Detector:
    """The backbone as it is now, kept from what training does to it, as a detector that reads vectors."""
    return Detector(
        copy.deepcopy(detector.backbone),
        detector.head,
        "vectors",
        freeze=True,
        chunk=detector.chunk,
        size=detector.size,
    )


def sample_vectors(features: ClipSource) -> np.ndarray:
    """The mean of each sample's features over place, frames and clips.

    Args:
        features: A source whose batches carry features [B, T, D] or [B, T, D, h, w].

    Returns:
        float32 [samples, D] in the order of its table; NaN for a sample without clips.
    """
    sums: np.ndarray | None = None
    for start in range(0, len(features), _CLIPS):
        batch = features.fetch(range(start, min(start + _CLIPS, len(features))))
        vectors = batch.clips.float().flatten(3).mean(3) if batch.clips.ndim > 3 else batch.clips.float()
        held = batch.mask.to(vectors.device).unsqueeze(2)
        means = (vectors.where(held, torch.zeros_like(vectors)).sum(1) / held.sum(1).clamp(min=1)).cpu().numpy()
        if sums is None:
            sums = np.zeros((len(features.table), means.shape[1]))
        np.add.at(sums, batch.samples.cpu().numpy(), means)
    if sums is None:
        return np.full((len(features.table), 1), np.nan, np.float32)
    counts = np.bincount(features.items[:, 0], minlength=len(features.table))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counts[:, None] > 0, sums / counts[:, None], np.nan), np.float32)
