"""Which frames of a video become which clips. Knows numbers of frames only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfake.data.options import DatasetOptions


class ClipIndices(NamedTuple):
    """What a plan picks: ``indices`` int64 [clips, frames] and ``lengths`` int64 [clips].

    Frames past a clip's length repeat its last one, to fill the clip of a short video.
    """

    indices: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class ClipPlan:
    """How clips are taken from a video.

    Args:
        temporal: Runs of consecutive frames ``stride`` apart, from evenly placed starts. Otherwise
            ``clips`` x ``frames`` evenly spaced frames, of which clip c holds every ``clips``-th from c on, so that
            each clip spans the whole video.
        clips: Clips of a video; a video too short for so many different ones gives fewer.
        frames: Frames of a clip.
        stride: Frames from one to the next in a run; never stretched for a short video.

    Example:
        >>> ClipPlan(temporal=True, clips=2, frames=3).indices(10).indices.tolist()
        [[0, 1, 2], [7, 8, 9]]
        >>> ClipPlan(temporal=False, clips=2, frames=2).indices(10).indices.tolist()
        [[1, 6], [3, 8]]
    """

    temporal: bool
    clips: int
    frames: int
    stride: int = 1

    @classmethod
    def of(cls, options: DatasetOptions, temporal: bool) -> ClipPlan:
        """The plan of a data set's options; a stride that does not matter is left out of it."""
        return cls(temporal, options.clips, options.frames, options.stride if temporal else 1)

    def indices(self, count: int) -> ClipIndices:
        """The frames of each clip of a video with ``count`` frames; no clips when it has none."""
        runs = self._runs(count) if self.temporal else self._spread(count)
        lengths = np.array([len(run) for run in runs], np.int64)
        padded = [np.pad(run, (0, self.frames - len(run)), mode="edge") for run in runs]
        return ClipIndices(np.array(padded, np.int64).reshape(len(runs), self.frames), lengths)

    def _runs(self, count: int) -> list[NDArray[np.int64]]:
        last = count - 1 - (self.frames - 1) * self.stride
        middle = [max(last, 0) / 2] if self.clips == 1 else np.linspace(0, max(last, 0), self.clips)
        starts = np.unique(np.rint(middle).astype(np.int64))
        steps = np.arange(self.frames, dtype=np.int64) * self.stride
        return [run[run < count] for run in starts[:, None] + steps] if count else []

    def _spread(self, count: int) -> list[NDArray[np.int64]]:
        total = self.clips * self.frames
        picked: NDArray[np.int64] = np.unique(((np.arange(total) + 0.5) * count / total).astype(np.int64))[:count]
        return [picked[c :: self.clips] for c in range(min(self.clips, len(picked)))]
