"""Stored features as a clip source, and a detector that reads them: fit and score need no other way.

Knows neither how features were computed nor where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deepfake.data.batch import Batch
from deepfake.data.loader import Readable
from deepfake.models.detector import Detector
from deepfake.training.features.spec import Layout
from deepfake.training.source import ClipSource


class FeatureReader(Detector):
    """A detector whose clips are features already; it shares its modules with the one it is made from.

    Its weights are the whole detector's, so what is saved of it is a detector like any other.

    Args:
        detector: Frozen.
        dtype: What its backbone gives in training; features are trained on in it, whatever they passed through.
    """

    def __init__(self, detector: Detector, dtype: torch.dtype) -> None:
        super().__init__(detector.backbone, detector.head, detector.reads, freeze=True, chunk=detector.chunk)
        self.dtype = dtype

    def extract(self, clips: Tensor) -> Tensor:
        """Features [B, T, D] or [B, T, D, h, w]: as the backbone gives them where 16 bits are in use, else whole."""
        return clips.to(self.dtype) if torch.is_autocast_enabled(clips.device.type) else clips.float()


class FeatureSet(Readable):
    """The features of a split's clips; batches carry them where others carry pixels.

    Args:
        clips: The split.
        frames: [V * F, ...]: the features of V views, one after another; on any device.
        layout: Where each clip's lie within a view.
        seed: With epoch and clip, decides which view is read.

    Attributes:
        table, items, labels, lengths: The split's own.
        dtype: What the backbone gave.
    """

    at_hand = True

    def __init__(self, clips: ClipSource, frames: Tensor, layout: Layout, seed: int) -> None:
        self.table = clips.table
        self.items = clips.items
        self.labels = clips.labels
        self.lengths = clips.lengths
        self.dtype = frames.dtype
        self._frames = frames
        self._views = len(frames) // max(1, layout.frames)
        self._seed = seed
        self._drawn: tuple[int, np.ndarray] = (-1, np.empty(0))
        samples = clips.table["sample_id"].to_numpy()[clips.items[:, 0]]
        starts = [layout.starts[sample, clip] for sample, clip in zip(samples, clips.items[:, 1].tolist(), strict=True)]
        time = np.arange(max(clips.lengths, default=0))
        # A clip's last frame fills it up, as it does where clips are read.
        place = np.array(starts, np.int64)[:, None] + np.minimum(time, np.asarray(clips.lengths)[:, None] - 1)
        device = frames.device
        self._place = torch.from_numpy(place).to(device)  # [n, T]
        self._mask = torch.from_numpy(time < np.asarray(clips.lengths)[:, None]).to(device)
        self._labels = torch.from_numpy(np.asarray(clips.labels, np.float32)).to(device)
        self._rows = torch.from_numpy(np.ascontiguousarray(clips.items[:, 0])).to(device)
        self._per_view = layout.frames

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.items)

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        """Features of these clips; which view of each depends on (seed, epoch, item) only."""
        chosen = np.asarray(items, np.int64)
        index = torch.from_numpy(chosen).to(self._frames.device)
        place = self._place[index]
        if self._views > 1:
            view = torch.from_numpy(self._view(epoch)[chosen]).to(place.device)
            place = place + self._per_view * view[:, None]
        features = self._frames.index_select(0, place.flatten()).view(*place.shape, *self._frames.shape[1:])
        return Batch(features, self._mask[index], self._labels[index], self._rows[index])

    def _view(self, epoch: int) -> np.ndarray:
        if self._drawn[0] != epoch:
            generator = np.random.default_rng((self._seed, epoch))
            self._drawn = (epoch, generator.integers(self._views, size=len(self)))
        return self._drawn[1]
