"""What happens to footage on its way, done to prepared clips at a stated severity. Knows pixels; no model.

After Hendrycks & Dietterich 2019 (arXiv:1903.12261) and the distortions of DeeperForensics-1.0 (arXiv:2001.03024):
each kind alone, from mild to hard. The same clip is damaged alike every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from deepfake.data.augment import stills
from deepfake.data.clips import Batch, ClipSet, ClipSource
from deepfake.data.encoding import through_h264
from deepfake.data.media import Pixels, enlarge

Damage = Callable[[Pixels, float, int], Pixels]


@dataclass(frozen=True)
class Kind:
    """One kind of damage.

    Attributes:
        severities: Mildest first.
        unit: What the severity is, for an axis.
        apply: From a clip uint8 [T, H, W, 3], a severity and the clip's number to a clip of the same shape.
        over_time: Whether it does anything to a single frame.
    """

    severities: tuple[float, ...]
    unit: str
    apply: Damage
    over_time: bool = False


class DamagedClips(ClipSource):
    """The clips of a set, each damaged alike.

    Args:
        clips: The untouched ones.
        kind: What is done to them.
        severity: How hard.
    """

    def __init__(self, clips: ClipSet, kind: Kind, severity: float) -> None:
        self._clips = clips
        self._kind = kind
        self._severity = severity
        self.describe_as(clips)

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        """The clips of these items, damaged; what is repeated to fill a short one is repeated again."""
        batch = self._clips.fetch(items, epoch)
        clips = batch.clips.permute(0, 1, 3, 4, 2).numpy()
        damaged = np.empty_like(clips)
        for place, item in enumerate(items):
            length = int(batch.mask[place].sum())
            damaged[place, :length] = self._kind.apply(
                np.ascontiguousarray(clips[place, :length]), self._severity, item
            )
            damaged[place, length:] = damaged[place, length - 1]
        return replace(batch, clips=torch.from_numpy(damaged).permute(0, 1, 4, 2, 3))


def _jpeg(clip: Pixels, quality: float, item: int) -> Pixels:
    import simplejpeg

    encoded = (simplejpeg.encode_jpeg(frame, quality=int(quality), colorsubsampling="420") for frame in clip)
    return np.stack([simplejpeg.decode_jpeg(data) for data in encoded])


def _resize(clip: Pixels, fraction: float, item: int) -> Pixels:
    """Down to a fraction of the side and up again: what was finer is gone."""
    import cv2

    height, width = clip.shape[1:3]
    small = (max(1, round(width * fraction)), max(1, round(height * fraction)))
    shrunk = (cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in clip)
    return np.stack([enlarge(frame, (width, height)) for frame in shrunk])


def _blur(clip: Pixels, sigma: float, item: int) -> Pixels:
    import cv2

    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for frame in clip])


def _crop(clip: Pixels, fraction: float, item: int) -> Pixels:
    """A square part somewhere in the picture, enlarged to its size: another framing of the face."""
    height, width = clip.shape[1:3]
    high, wide = max(1, round(height * fraction)), max(1, round(width * fraction))
    down, across = np.random.default_rng(item).random(2)
    top, left = int(down * (height - high + 1)), int(across * (width - wide + 1))
    parts = np.ascontiguousarray(clip[:, top : top + high, left : left + wide])
    return np.stack([enlarge(part, (width, height)) for part in parts])


def _noise(clip: Pixels, deviation: float, item: int) -> Pixels:
    added = np.random.default_rng(item).normal(0, deviation, clip.shape)
    return np.rint(clip + added).clip(0, 255).astype(np.uint8)


def _brightness(clip: Pixels, factor: float, item: int) -> Pixels:
    return np.rint(clip * factor).clip(0, 255).astype(np.uint8)


def _h264(clip: Pixels, crf: float, item: int) -> Pixels:
    """Encoded as H.264 at a constant rate factor and decoded again, at 25 frames a second."""
    return through_h264(clip, {"crf": str(int(crf)), "preset": "veryfast"})


def _drop(clip: Pixels, fraction: float, item: int) -> Pixels:
    """Frames lost at random; a player shows the one before instead. The first is always there."""
    return clip[stills(len(clip), fraction, item)]


KINDS: dict[str, Kind] = {
    "JPEG": Kind((90, 70, 50, 30, 10), "quality", _jpeg),
    "resize": Kind((0.75, 0.5, 0.35, 0.25), "share of the side", _resize),
    "crop": Kind((0.9, 0.75, 0.6, 0.45), "share of the side", _crop),
    "blur": Kind((0.5, 1.0, 2.0, 3.0), "sigma, pixels", _blur),
    "noise": Kind((4, 8, 16, 32), "deviation of 255", _noise),
    "brighter": Kind((1.2, 1.5, 2.0), "factor", _brightness),
    "darker": Kind((0.8, 0.5, 0.25), "factor", _brightness),
    "H.264": Kind((18, 23, 30, 37, 44), "CRF", _h264),
    "frames dropped": Kind((0.1, 0.25, 0.5, 0.75), "share", _drop, over_time=True),
}
