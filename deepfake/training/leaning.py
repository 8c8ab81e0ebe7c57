"""What a detector leans on: how far its ROC-AUC falls on changed pictures, and where in a picture its gradient lies.

A detector that reads traces of manipulation in a face keeps most of its ROC-AUC in another framing and under
compression; one that reads how pictures are framed, or what a codec left, does not. Knows clips and a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning_fabric import Fabric
from scipy.special import stdtrit
from torch import Tensor

from deepfake.data.clips import Batch, ClipSource
from deepfake.metrics import Interval
from deepfake.models.detector import Detector
from deepfake.training.evaluation import Units
from deepfake.training.intervals import auc_covariance, auc_difference, too_few
from deepfake.training.scoring import full_precision

#: Clips whose gradients are looked at, and at once.
GRADIENTS, _AT_ONCE = 32, 4


class OneClipEach(ClipSource):
    """The middle clip of some samples of a source.

    Args:
        clips: The source.
        rows: Which rows of its table; those without clips are left out.
    """

    def __init__(self, clips: ClipSource, rows: np.ndarray) -> None:
        self._clips = clips
        self.at_hand = clips.at_hand
        of = clips.items[:, 0]
        middle = {row: np.flatnonzero(of == row) for row in np.asarray(rows).tolist()}
        self.chosen = np.array([found[len(found) // 2] for found in middle.values() if len(found)], np.int64)
        self.table = clips.table.iloc[of[self.chosen]].reset_index(drop=True)
        self.items = np.column_stack([np.arange(len(self.chosen)), clips.items[self.chosen, 1]])
        self.labels, self.lengths = clips.labels[self.chosen], clips.lengths[self.chosen]

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        """The clips of these items, as the source has them."""
        chosen = np.asarray(items, np.int64)
        batch = self._clips.fetch(self.chosen[chosen].tolist(), epoch)
        return replace(batch, samples=torch.from_numpy(chosen).to(batch.samples.device))


@dataclass(frozen=True)
class Fall:
    """A ROC-AUC before and after pictures were changed.

    Attributes:
        before: On the pictures as they are.
        after: On the changed ones.
        drop: How far it fell, with bounds, NaN where there are none.
        reason: Why there are none; else empty.
    """

    before: float
    after: float
    drop: Interval
    reason: str = ""


def fall(labels: np.ndarray, before: np.ndarray, after: np.ndarray, units: Units, level: float = 0.95) -> Fall:
    """How far a ROC-AUC fell, by scores of the same samples.

    Args:
        labels: 0 or 1 [n], at least two of each.
        before: Scores [n] on any scale.
        after: Of the changed pictures.
        units: Of the samples.
        level: Confidence.
    """
    (one, other), _ = auc_covariance(labels, np.stack([before, after]), units.codes)
    reason = too_few(labels, units.codes, units.name)
    if reason:
        drop = Interval(float(one - other), float("nan"), float("nan"))
    else:
        drop = auc_difference(labels, before, after, level, units.codes)
    return Fall(float(one), float(other), drop, reason)


def balanced_rows(labels: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Up to so many samples, half of each class as far as there are, drawn by a seed; in order."""
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(labels == label))[: most // 2] for label in (0, 1)]
    return np.sort(np.concatenate(drawn))


def saliency_inside(
    detector: Detector, clips: ClipSource, side: float, fabric: Fabric, most: int = GRADIENTS
) -> tuple[np.ndarray, np.ndarray]:
    """Which part of each clip's gradient x input lies in the middle of its pictures (Shrikumar et al. 2016).

    Args:
        detector: Reads pixels; its weights and gradients stay as they are.
        clips: Some are looked at, evenly spread.
        side: The side of the square in the middle, of the picture's.
        fabric: Where it works.
        most: How many clips.

    Returns:
        A fraction for each clip that was looked at, NaN where all gradients are 0, and which clips these are.
    """
    looked = np.unique(np.linspace(0, len(clips) - 1, min(most, len(clips))).round().astype(np.int64))
    # A frozen detector's backbone gives no gradients.
    whole = detector.of_pixels(freeze=False).to(fabric.device).eval()
    found = []
    # cuDNN's recurrent layers give gradients in training mode only.
    with full_precision(), torch.backends.cudnn.flags(enabled=False):
        for start in range(0, len(looked), _AT_ONCE):
            batch = clips.fetch(looked[start : start + _AT_ONCE].tolist()).to(fabric.device)
            found.append(_inside(whole, batch, side))
    return np.concatenate([*found, np.zeros(0)]), looked


def _inside(detector: Detector, batch: Batch, side: float) -> np.ndarray:
    pixels = (batch.clips.float() / 255).requires_grad_()  # [B, T, C, H, W]
    logits = detector(pixels, batch.mask).logits
    (gradient,) = torch.autograd.grad(logits.sum(), pixels)
    with torch.no_grad():
        normed = pixels * detector.scale + detector.shift
        strength = (gradient * normed).sum(2).abs() * batch.mask[:, :, None, None]  # [B, T, H, W]
        total = strength.sum((1, 2, 3))
        inside = _middle(strength, side).sum((1, 2, 3))
        share: Tensor = torch.where(total > 0, inside / total, torch.nan)
    return np.asarray(share.double().cpu().numpy())


def _middle(strength: Tensor, side: float) -> Tensor:
    height, width = strength.shape[-2:]
    top, left = (round(length * (1 - side) / 2) for length in (height, width))
    return strength[..., top : height - top, left : width - left]


def mean_interval(values: np.ndarray, units: np.ndarray, level: float = 0.95) -> Interval:
    """The mean of numbers, with bounds by Student's t over the means of units; NaN where there are fewer than two.

    Args:
        values: [n], without NaN.
        units: What each belongs to [n].
        level: Confidence.

    Example:
        >>> print(mean_interval(np.array([0.4, 0.5, 0.6]), np.arange(3)))
        0.500 [0.252, 0.748]
    """
    _, codes = np.unique(units, return_inverse=True)
    sizes = np.bincount(codes)
    means = np.bincount(codes, values) / sizes
    mean = float(means.mean()) if len(means) else float("nan")
    if len(means) < 2:
        return Interval(mean, float("nan"), float("nan"))
    reach = float(stdtrit(len(means) - 1, 0.5 + level / 2) * means.std(ddof=1) / np.sqrt(len(means)))
    return Interval(mean, mean - reach, mean + reach)
