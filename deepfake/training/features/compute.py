"""Runs a frozen backbone over clips, each frame once, and checks that stored features are still what it gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from deepfake.data.augment import apply_draws
from deepfake.data.batch import Batch
from deepfake.models.detector import Detector
from deepfake.training.features.spec import Layout
from deepfake.training.features.storage import FrameKind, Written
from deepfake.training.memory import is_out_of_memory
from deepfake.training.progress import Progress, bar
from deepfake.training.score import full_precision
from deepfake.training.source import ClipSource

#: Frames the backbone reads at once.
_FRAMES = {"cuda": 256}
_FRAMES_ELSEWHERE = 32
#: How far recomputed features may lie from stored ones, as a share of their norm: other batch sizes choose other
#: orders of summation, and 16-bit numbers and TensorFloat-32 have 8 to 11 bits where float32 has 24.
TOLERANCE, TOLERANCE_SHORT = 1e-3, 3e-2
_CHECKED = 3


class Extractor:
    """Clips to the features of their frames.

    Args:
        detector: Frozen, on the fabric's device.
        sources: Whose clips.
        layout: Where their frames go.
        views: How many changed versions of each clip; 0 for the clips as they are.
        fabric: Device and precision, as in training.
        workers: Loader processes.
        exact: In full precision instead, as scores that are kept are computed.
    """

    def __init__(
        self,
        detector: Detector,
        sources: Sequence[ClipSource],
        layout: Layout,
        views: int,
        fabric: Fabric,
        workers: int,
        *,
        exact: bool = False,
    ) -> None:
        self._detector = detector
        self._sources = sources
        self._layout = layout
        self._views = max(1, views)
        self._changed = views > 0
        self._fabric = fabric
        self._workers = workers
        self._exact = exact
        self._most = _FRAMES.get(fabric.device.type, _FRAMES_ELSEWHERE)

    @property
    def frames(self) -> int:
        """How many frames' features there are, over all views."""
        return self._views * self._layout.frames

    def kind(self) -> FrameKind:
        """What the backbone gives for a frame, found with the first one."""
        source = next(source for source in self._sources if len(source))
        features = self._extract(source.fetch([0], 0))
        return FrameKind(tuple(features.shape[1:]), features.dtype)

    def all(self, progress: Progress) -> Iterator[Written]:
        """Every clip of every view; the start of a run of frames, and their features on the CPU."""
        clips = sum(map(len, self._sources)) * self._views
        with bar(progress, clips, "computing features") as told:
            for view in range(self._views):
                for source in self._sources:
                    size = max(1, self._most // max([*source.lengths, 1]))
                    batches = [range(i, min(i + size, len(source))) for i in range(0, len(source), size)]
                    pin = self._fabric.device.type == "cuda"
                    loaded = source.read(batches, view, self._workers, pin)
                    for items, batch in zip(batches, loaded, strict=True):
                        yield from self._placed(source, items, view, self._extract(batch).cpu())
                        told.advance(len(items))

    def deviation(self, stored: Tensor) -> float:
        """The largest distance of stored features from recomputed ones, over a few clips of the first view.

        Args:
            stored: [frames, ...], over all views.

        Returns:
            As a share of the recomputed ones' norm.
        """
        worst = 0.0
        for source in self._sources:
            if len(source) == 0:
                continue
            for item in sorted({round(i * (len(source) - 1) / max(1, _CHECKED - 1)) for i in range(_CHECKED)}):
                features = self._extract(source.fetch([item], 0)).cpu()
                for start, wanted in self._placed(source, [item], 0, features):
                    worst = max(worst, _distance(stored[start : start + len(wanted)].cpu(), wanted))
        return worst

    def tolerance(self, kind: FrameKind) -> float:
        """What :meth:`deviation` may come to."""
        tf32 = self._fabric.device.type == "cuda" and torch.backends.cudnn.allow_tf32 and not self._exact
        return TOLERANCE_SHORT if tf32 or kind.dtype.itemsize < 4 else TOLERANCE

    def _placed(self, source: ClipSource, items: Sequence[int], view: int, features: Tensor) -> Iterator[Written]:
        """Features [frames, ...] of a batch, clip by clip, with where they begin."""
        samples = source.table["sample_id"].to_numpy()[source.items[list(items), 0]]
        parts = torch.split(features, np.asarray(source.lengths)[list(items)].tolist())
        for sample, clip, part in zip(samples, source.items[list(items), 1].tolist(), parts, strict=True):
            yield view * self._layout.frames + self._layout.starts[sample, clip], part

    def _extract(self, batch: Batch) -> Tensor:
        """Features [frames that are no fillers, ...] of a batch, one clip after another."""
        moved = batch.to(self._fabric.device, non_blocking=True)
        with torch.inference_mode(), full_precision() if self._exact else self._fabric.autocast():
            clips = moved.clips
            if self._changed and moved.draws is not None:
                clips = apply_draws(clips.float().div_(255), moved.draws)
            # Gathered with channels last, as they lie in memory and as the backbone likes them.
            frames = clips.permute(0, 1, 3, 4, 2)[moved.mask].permute(0, 3, 1, 2)
            return torch.cat([self._read(part) for part in torch.split(frames, self._most)])

    def _read(self, frames: Tensor) -> Tensor:
        while True:
            try:
                parts = [self._detector.extract(part[:, None])[:, 0] for part in torch.split(frames, self._most)]
                return torch.cat(parts)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._most == 1:
                    raise
                self._most = max(1, self._most // 2)
                if self._fabric.device.type == "cuda":
                    torch.cuda.empty_cache()


def _distance(found: Tensor, wanted: Tensor) -> float:
    distance = float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-12))
    return distance if math.isfinite(distance) else math.inf
