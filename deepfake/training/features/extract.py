"""Runs a frozen backbone over clips, each frame once, and serves what it gave as a clip source to heads.

Checks that stored features are still what the backbone gives. Knows not where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from deepfake.data.clips import Batch, ClipSource
from deepfake.models.detector import Detector
from deepfake.progress import Progress, bar
from deepfake.training.autotune import is_out_of_memory
from deepfake.training.features.feature_store import FeatureLayout, FrameKind, Written
from deepfake.training.scoring import full_precision
from deepfake.training.train_step import changed


class FeatureReader(Detector):
    """A detector whose clips are features already; it shares its modules with the one it is made from.

    Its weights are the whole detector's, so what is saved of it is a detector like any other.

    Args:
        detector: Frozen.
        dtype: What its backbone gives in training; features are trained on in it, whatever they passed through.
    """

    def __init__(self, detector: Detector, dtype: torch.dtype) -> None:
        super().__init__(
            detector.backbone, detector.head, detector.reads, freeze=True, chunk=detector.chunk, size=detector.size
        )
        self.dtype = dtype
        self.based = detector.based

    def extract(self, clips: Tensor) -> Tensor:
        """Features [B, T, D] or [B, T, D, h, w]: as the backbone gives them where 16 bits are in use, else whole."""
        return clips.to(self.dtype) if torch.is_autocast_enabled(clips.device.type) else clips.float()


class FeatureSet(ClipSource):
    """The features of a split's clips; batches carry them where others carry pixels.

    Args:
        clips: The split.
        frames: [V * F, ...]: the features of V views, one after another; on any device.
        layout: Where each clip's lie within a view.
        seed: With epoch and clip, decides which view is read.

    Attributes:
        dtype: What the backbone gave.
    """

    at_hand = True

    def __init__(self, clips: ClipSource, frames: Tensor, layout: FeatureLayout, seed: int) -> None:
        self.describe_as(clips)
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
        # What a clip is, each view says for itself: a real one may have been made a fake.
        self._view_labels = np.stack([np.asarray(clips.labels_in(v), np.float32) for v in range(max(1, self._views))])
        self._labels = torch.from_numpy(self._view_labels).to(device)  # [V, n]
        self._rows = torch.from_numpy(np.ascontiguousarray(clips.items[:, 0])).to(device)
        self._per_view = layout.frames

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        """Features of these clips; which view of each depends on (seed, epoch, item) only."""
        chosen = np.asarray(items, np.int64)
        place, mask, labels = self.places(chosen, epoch)
        rows = self._rows[torch.from_numpy(chosen).to(place.device)]
        return Batch(take_frames(self._frames, place), mask, labels, rows)

    @property
    def frames(self) -> Tensor:
        """The features of all frames, [V * F, ...]: those of another set may be the very same."""
        return self._frames

    def places(self, items: np.ndarray, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where :meth:`fetch` finds the frames of clips: int64 [..., T] into :attr:`frames`, their mask and labels.

        Args:
            items: int64 [...].
            epoch: Which view of each is read.
        """
        index = torch.from_numpy(items).to(self._frames.device)
        place, view = self._place[index], torch.zeros_like(index)
        if self._views > 1:
            view = torch.from_numpy(self._view(epoch)[items]).to(place.device)
            place = place + self._per_view * view[..., None]
        return place, self._mask[index], self._labels[view, index]

    def labels_in(self, epoch: int) -> np.ndarray:
        """See :meth:`deepfake.data.clips.ClipSource.labels_in`."""
        view = self._view(epoch) if self._views > 1 else np.zeros(len(self), int)
        labels: np.ndarray = self._view_labels[view, np.arange(len(self))]
        return labels

    def _view(self, epoch: int) -> np.ndarray:
        if self._drawn[0] != epoch:
            generator = np.random.default_rng((self._seed, epoch))
            self._drawn = (epoch, generator.integers(self._views, size=len(self)))
        return self._drawn[1]


def take_frames(frames: Tensor, places: Tensor) -> Tensor:
    """Features [..., T, D] or [..., T, D, h, w] from where they lie: ``places`` [..., T] into ``frames`` [F, ...]."""
    return frames.index_select(0, places.flatten()).view(*places.shape, *frames.shape[1:])


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
        layout: FeatureLayout,
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

    def all(self, progress: Progress | None) -> Iterator[Written]:
        """Every clip of every view; the start of a run of frames, and their features on the CPU."""
        clips = sum(map(len, self._sources)) * self._views
        with bar(progress, clips, "computing features") as shown:
            for view in range(self._views):
                for source in self._sources:
                    size = max(1, self._most // max([*source.lengths, 1]))
                    batches = [range(i, min(i + size, len(source))) for i in range(0, len(source), size)]
                    pin = self._fabric.device.type == "cuda"
                    loaded = source.read(batches, view, self._workers, pin)
                    for items, batch in zip(batches, loaded, strict=True):
                        yield from self._placed(source, items, view, self._extract(batch).cpu())
                        shown.advance(len(items))

    def deviation(self, stored: Tensor) -> float:
        """The largest distance of stored features from recomputed ones, over a few clips of the first view.

        Args:
            stored: [frames, ...], over all views.

        Returns:
            As a fraction of the recomputed ones' norm.
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
            clips = changed(moved, self._detector.size)[0] if self._changed else moved.clips
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
