"""Random changes to clips, half of them here where clips are read, half of them on the device. Knows no model.

One draw for a whole clip, applied alike to all its frames: a change that differs from frame to frame would itself
be a trace over time. Draws depend on (seed, epoch, item) only, never on which worker reads an item or when.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from deepfake.data.media import Pixels
from deepfake.data.options import AugmentOptions


@dataclass(frozen=True)
class Draw:
    """What happens to one clip.

    Attributes:
        quality: JPEG quality, or None.
        sigma: Of a Gaussian blur in pixels, or None.
        noise: Deviation of Gaussian noise in grey levels, or None.
        seed: Of the noise.
        device: float32 [4]: flip (0 or 1), and factors for brightness, contrast and saturation.
    """

    quality: int | None
    sigma: float | None
    noise: float | None
    seed: int
    device: np.ndarray

    @property
    def changes_pixels(self) -> bool:
        """Whether anything is to be done before the device."""
        return self.quality is not None or self.sigma is not None or self.noise is not None


def draw(options: AugmentOptions, seed: int, epoch: int, item: int) -> Draw:
    """The draw of one clip in one epoch. All numbers are drawn every time, so that one option moves no other."""
    rng = np.random.default_rng((seed, epoch, item))
    chance = rng.random(4)
    low, high = min(options.jpeg_quality), max(options.jpeg_quality)
    quality = int(rng.integers(low, high + 1))
    sigma = float(rng.uniform(0.1, max(options.blur_sigma, 0.1)))
    noise = float(rng.uniform(0.0, options.noise_std))
    strengths = np.array([options.brightness, options.contrast, options.saturation])
    factors = 1 + rng.uniform(-1, 1, 3) * strengths
    return Draw(
        quality=quality if chance[0] < options.jpeg else None,
        sigma=sigma if chance[1] < options.blur else None,
        noise=noise if chance[2] < options.noise else None,
        seed=int(rng.integers(2**31)),
        device=np.array([chance[3] < options.flip, *factors], np.float32),
    )


def uses_device(options: AugmentOptions) -> bool:
    """Whether any change on the device can be drawn."""
    return any((options.flip, options.brightness, options.contrast, options.saturation))


def uses_pixels(options: AugmentOptions) -> bool:
    """Whether any change before the device can be drawn."""
    return any((options.jpeg, options.blur, options.noise))


def change_pixels(clip: Pixels, drawn: Draw) -> None:
    """Blur, add noise and compress a clip uint8 [T, H, W, 3] in place, as a camera and then a platform would."""
    import cv2

    if drawn.sigma is not None:
        reach = max(1, round(2.5 * drawn.sigma))  # pixels either side; what lies beyond adds under 2 %
        kernel = cv2.getGaussianKernel(2 * reach + 1, drawn.sigma)
        for frame in clip:
            cv2.sepFilter2D(frame, -1, kernel, kernel, dst=frame, borderType=cv2.BORDER_REFLECT)
    if drawn.noise is not None:
        _add_noise(clip, drawn.noise, drawn.seed)
    if drawn.quality is not None:
        import simplejpeg

        for frame in clip:
            # The fast DCT adds an error of its own to what the format loses, and saves next to nothing.
            data = simplejpeg.encode_jpeg(frame, quality=drawn.quality, colorsubsampling="420", fastdct=False)
            simplejpeg.decode_jpeg(data, buffer=frame, fastdct=False, fastupsample=False)


def _add_noise(clip: Pixels, deviation: float, seed: int) -> None:
    """Gaussian noise: for each frame another cutting of one large field, scaled by looking each value up."""
    import cv2

    rng = np.random.default_rng(seed)
    _, height, width, _ = clip.shape
    field = _noise_field(max(512, -(-max(height, width) // 256) * 256 + 256))
    levels = np.rint((np.arange(256) - 128) / 32 * deviation)
    more, less = (cv2.LUT(field, table.clip(0, 255).astype(np.uint8)) for table in (levels, -levels))
    for frame in clip:
        y, x = rng.integers((len(field) - height, len(field) - width)).tolist()
        cv2.add(frame, more[y : y + height, x : x + width], dst=frame)
        cv2.subtract(frame, less[y : y + height, x : x + width], dst=frame)


@lru_cache(maxsize=2)
def _noise_field(side: int) -> Pixels:
    """Normal numbers uint8 [side, side, 3], 32 to a deviation about 128; a constant that takes a while to make."""
    normal = np.random.default_rng(0).standard_normal((side, side, 3), np.float32)
    return np.rint(normal * 32 + 128).clip(0, 255).astype(np.uint8)


def apply_draws(clips: Tensor, draws: Tensor) -> Tensor:
    """Flip and colour clips on whatever device they are on.

    Args:
        clips: float [B, T, C, H, W] in 0 to 1.
        draws: float [B, 4]: flip, then factors for brightness, contrast (about the clip's mean grey) and saturation
            (about each pixel's own grey, ITU-R BT.601).

    Returns:
        The same shape, held to 0 to 1.
    """
    flip, brightness, contrast, saturation = (d.view(-1, 1, 1, 1, 1) for d in draws.to(clips.dtype).unbind(1))
    clips = clips.flip(-1).where(flip > 0.5, clips)
    # The three changes, one after the other, are one: clips * own + grey * shared + constant.
    grey = _grey(clips)
    both = brightness * contrast
    constant = brightness * grey.mean((1, 2, 3, 4), keepdim=True) * (1 - contrast)
    added = grey.mul_((1 - saturation) * both).add_(constant)
    return torch.addcmul(added, clips, saturation * both).clamp_(0, 1)


def _grey(clips: Tensor) -> Tensor:
    red, green, blue = clips.unbind(2)
    return (0.299 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(2)
