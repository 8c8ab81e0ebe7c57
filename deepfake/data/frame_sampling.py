"""Which frames of a video become which clips. Knows numbers of frames only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from deepfake.data.options import DatasetOptions


class ClipIndices(NamedTuple):
    """What a plan picks: ``indices`` int64 [clips, frames + slack] and ``lengths`` int64 [clips].

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
        stride_seconds: The same in seconds; see :meth:`at`.
        slack: Frames of a run beyond ``frames``, so that a clip may begin at any of the first ``slack`` + 1.
        part: From which fraction of the video's frames up to which clips are taken; None takes them from all.

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
    stride_seconds: float | None = None
    slack: int = 0
    part: tuple[float, float] | None = None

    @classmethod
    def of(cls, options: DatasetOptions, temporal: bool) -> ClipPlan:
        """The plan of a data set's options; what does not matter to it is left out."""
        if not temporal:
            return cls(temporal, options.clips, options.frames)
        stride = 1 if options.stride_seconds else options.stride
        return cls(temporal, options.clips, options.frames, stride, options.stride_seconds, options.slack)

    @property
    def length(self) -> int:
        """Frames that are kept of a clip."""
        return self.frames + self.slack

    def at(self, fps: float) -> ClipPlan:
        """The plan for a video with so many frames a second; 0, where that is not known, stands for 25."""
        if self.stride_seconds is None:
            return self
        return replace(self, stride=max(1, round(self.stride_seconds * (fps or 25.0))), stride_seconds=None)

    def indices(self, count: int) -> ClipIndices:
        """The frames of each clip of a video with ``count`` frames; no clips when it has none."""
        if self.part is not None:
            first, end = (round(edge * count) for edge in self.part)
            whole = replace(self, part=None).indices(max(end, first + 1) - first if count else 0)
            return ClipIndices((whole.indices + first).clip(0, max(count - 1, 0)), whole.lengths)
        runs = self._runs(count) if self.temporal else self._spread(count)
        lengths = np.array([len(run) for run in runs], np.int64)
        padded = [np.pad(run, (0, self.length - len(run)), mode="edge") for run in runs]
        return ClipIndices(np.array(padded, np.int64).reshape(len(runs), self.length), lengths)

    def _runs(self, count: int) -> list[NDArray[np.int64]]:
        last = count - 1 - (self.length - 1) * self.stride
        middle = [max(last, 0) / 2] if self.clips == 1 else np.linspace(0, max(last, 0), self.clips)
        starts = np.unique(np.rint(middle).astype(np.int64))
        steps = np.arange(self.length, dtype=np.int64) * self.stride
        return [run[run < count] for run in starts[:, None] + steps] if count else []

    def _spread(self, count: int) -> list[NDArray[np.int64]]:
        total = self.clips * self.frames
        picked: NDArray[np.int64] = np.unique(((np.arange(total) + 0.5) * count / total).astype(np.int64))[:count]
        return [picked[c :: self.clips] for c in range(min(self.clips, len(picked)))]


def window(length: int, frames: int, start: float = 0.5, speed: float = 1.0) -> NDArray[np.int64]:
    """Which frames of a run make a clip of it.

    Args:
        length: Frames of the run that are no fillers, at least 1.
        frames: Of the clip.
        start: Where it begins, 0 for as early as can be, 1 for as late.
        speed: Steps of the run from one frame of the clip to the next, on average: below 1 repeats some.

    Returns:
        int64 [frames]; those past the run's end are its last one.

    Example:
        >>> window(8, 4).tolist(), window(8, 4, start=0.0, speed=0.5).tolist(), window(3, 4).tolist()
        ([2, 3, 4, 5], [0, 0, 1, 2], [0, 1, 2, 2])
    """
    steps = np.arange(frames) * speed
    spare = max(0, length - 1 - int(np.ceil(steps[-1])))
    first = min(spare, int(start * (spare + 1)))
    return np.minimum(first + np.rint(steps).astype(np.int64), length - 1)
