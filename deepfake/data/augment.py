"""Random changes to clips, half of them here where clips are read, half of them on the device. Knows no model.

One draw for a whole clip, applied alike to all its frames: a change that differs from frame to frame would itself
be a trace over time. Draws depend on (seed, epoch, item) only, never on which worker reads an item or when.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from deepfake.data.encoding import through_h264
from deepfake.data.media import Pixels
from deepfake.data.options import AugmentOptions


@dataclass(frozen=True)
class Framing:
    """Another look at a clip: a part of it, enlarged to its size.

    Attributes:
        scale: The part's side, of the picture's.
        shift: Its middle, -1 to 1 of what is left, across and down.
        rotation: Degrees anticlockwise.
        aspect: Width to height, of the picture's.
        interpolation: One of OpenCV's; a look that is turned is always interpolated linearly.
    """

    scale: float
    shift: tuple[float, float]
    rotation: float
    aspect: float
    interpolation: int

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The part in whole pixels: left, top, right, bottom; without its rotation."""
        wide, high = self._sides()
        across, down = max(2, round(wide * width)), max(2, round(high * height))
        left = round((width - across) * (1 + self.shift[0]) / 2)
        top = round((height - down) * (1 + self.shift[1]) / 2)
        return left, top, left + across, top + down

    def matrix(self, height: int, width: int) -> np.ndarray:
        """float64 [2, 3]: where in the picture each pixel of the look lies."""
        sides = np.array(self._sides())
        middle = np.array([width - 1, height - 1]) / 2
        at = middle + np.array(self.shift) * (1 - sides) * [width / 2, height / 2]
        angle = np.deg2rad(self.rotation)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn * sides
        return np.hstack([linear, (at - linear @ middle)[:, None]])

    def _sides(self) -> tuple[float, float]:
        """The part's width and height, of the picture's."""
        return min(1.0, self.scale * self.aspect**0.5), min(1.0, self.scale / self.aspect**0.5)


@dataclass(frozen=True)
class Draw:
    """What happens to one clip; None for what does not.

    Attributes:
        quality: JPEG quality.
        sigma: Of a Gaussian blur in pixels.
        noise: Deviation of Gaussian noise in grey levels.
        seed: Of the noise, and of which frames are lost.
        device: float32 [4]: flip (0 or 1), and factors for brightness, contrast and saturation.
        framing: Another look at it.
        resize: The fraction of the side that it is shrunk to, and OpenCV's interpolation for the way back.
        sharpen: What is added of the difference from a blurred copy.
        crf: H.264's constant rate factor.
        dropped: The fraction of frames that are lost.
        start: Where in its run of frames the clip begins, 0 for as early as can be, 1 for as late.
        speed: Its pace; see :func:`deepfake.data.frame_sampling.window`.
        cutout: A rectangle: left, top, right, bottom as fractions of the sides.
        mix: The clip's weight against its partner's in a mixture; 1 for none.
    """

    quality: int | None
    sigma: float | None
    noise: float | None
    seed: int
    device: np.ndarray
    framing: Framing | None = None
    resize: tuple[float, int] | None = None
    sharpen: float | None = None
    crf: int | None = None
    dropped: float | None = None
    start: float = 0.5
    speed: float = 1.0
    cutout: tuple[float, float, float, float] | None = None
    mix: float = 1.0

    @property
    def changes_pixels(self) -> bool:
        """Whether anything is to be done before the device."""
        filters = (self.sigma, self.sharpen, self.noise, self.crf, self.quality)
        changes: tuple[object, ...] = (self.framing, self.resize, *filters, self.dropped, self.cutout)
        return any(change is not None for change in changes)


#: OpenCV's INTER_LINEAR, INTER_CUBIC, INTER_LANCZOS4: how a picture may have been enlarged on its way.
_INTERPOLATIONS = (1, 2, 4)


def draw(options: AugmentOptions, seed: int, epoch: int, item: int) -> Draw:
    """The draw of one clip in one epoch. All numbers are drawn every time, so that one option moves no other."""
    rng = np.random.default_rng((seed, epoch, item))
    chance = rng.random(4)
    quality = _whole(options.jpeg_quality, rng)
    sigma = float(rng.uniform(0.1, max(options.blur_sigma, 0.1)))
    noise = float(rng.uniform(0.0, options.noise_std))
    strengths = np.array([options.brightness, options.contrast, options.saturation])
    factors = 1 + rng.uniform(-1, 1, 3) * strengths
    noise_seed = int(rng.integers(2**31))
    # What came later is drawn later, so that a run of before draws what it drew.
    later = rng.random(7)
    framing = _framing(options, rng)
    resize = (_between(options.resize_scale, rng), int(rng.choice(_INTERPOLATIONS)))
    sharpen = float(rng.uniform(0, options.sharpen_amount))
    crf = _whole(options.h264_crf, rng)
    dropped = float(rng.uniform(0, options.drop_fraction))
    cutout = _rectangle(options.cutout_size, rng)
    mix = float(rng.beta(options.mixup, options.mixup)) if options.mixup else 1.0
    start, pace = rng.random(2).tolist()
    if later[0] < options.grey:
        factors[2] = 0.0
    return Draw(
        quality=quality if chance[0] < options.jpeg else None,
        sigma=sigma if chance[1] < options.blur else None,
        noise=noise if chance[2] < options.noise else None,
        seed=noise_seed,
        device=np.array([chance[3] < options.flip, *factors], np.float32),
        framing=framing if later[1] < options.crop else None,
        resize=resize if later[2] < options.resize else None,
        sharpen=sharpen if later[3] < options.sharpen else None,
        crf=crf if later[4] < options.h264 else None,
        dropped=dropped if later[5] < options.drop else None,
        start=start,
        speed=1 + (2 * pace - 1) * options.speed,
        cutout=cutout if later[6] < options.cutout else None,
        # Of a clip and its partner the clip stays the larger part, and its label the nearer one.
        mix=max(mix, 1 - mix),
    )


def _framing(options: AugmentOptions, rng: np.random.Generator) -> Framing:
    across, down, turn, stretch = rng.uniform(-1, 1, 4).tolist()
    return Framing(
        scale=_between(options.crop_scale, rng),
        shift=(across * options.crop_shift, down * options.crop_shift),
        # Half of them stand upright, and are interpolated as drawn.
        rotation=turn * options.crop_rotation if rng.random() < 0.5 else 0.0,
        aspect=float((1 + options.crop_aspect) ** stretch),
        interpolation=int(rng.choice(_INTERPOLATIONS)),
    )


def _rectangle(largest: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = rng.uniform(0.25 * largest, largest, 2).tolist()
    left, top = (rng.random(2) * (1 - np.array([width, height]))).tolist()
    return left, top, left + width, top + height


def _between(bounds: list[float], rng: np.random.Generator) -> float:
    return float(rng.uniform(min(bounds), max(bounds)))


def _whole(bounds: list[int], rng: np.random.Generator) -> int:
    return int(rng.integers(min(bounds), max(bounds) + 1))


def uses_device(options: AugmentOptions) -> bool:
    """Whether any change on the device can be drawn."""
    return any((options.flip, options.brightness, options.contrast, options.saturation, options.grey))


def uses_pixels(options: AugmentOptions) -> bool:
    """Whether any change before the device can be drawn."""
    own = (options.jpeg, options.blur, options.noise, options.crop, options.resize)
    return any((*own, options.sharpen, options.h264, options.drop, options.cutout, options.self_blend))


def changes_anything(options: AugmentOptions) -> bool:
    """Whether any change at all can be drawn."""
    return uses_device(options) or uses_pixels(options) or options.mixup > 0 or options.speed > 0


def describe_changes(options: AugmentOptions) -> dict[str, object]:
    """All that says how clips are changed; keys of a change that is never drawn are left out where they are newer."""
    values: dict[str, object] = asdict(options)
    newer = [("self_blend", options.self_blend), ("speed", options.speed)]
    never = tuple(name for name, strength in newer if not strength)
    return {key: value for key, value in values.items() if not (never and key.startswith(never))}


def change_pixels(clip: Pixels, drawn: Draw) -> None:
    """Change a clip uint8 [T, H, W, 3] in place: framed, filtered, by a camera's noise and a platform's compression."""
    if drawn.framing is not None:
        _frame(clip, drawn.framing)
    if drawn.resize is not None:
        _resize(clip, *drawn.resize)
    if drawn.sigma is not None:
        _blur(clip, drawn.sigma)
    if drawn.sharpen is not None:
        _sharpen(clip, drawn.sharpen)
    if drawn.noise is not None:
        _add_noise(clip, drawn.noise, drawn.seed)
    if drawn.dropped is not None:
        clip[:] = clip[stills(len(clip), drawn.dropped, drawn.seed)]
    if drawn.crf is not None:
        clip[:] = through_h264(clip, {"crf": str(drawn.crf), "preset": "ultrafast"})
    if drawn.quality is not None:
        _compress(clip, drawn.quality)
    if drawn.cutout is not None:
        _cut_out(clip, drawn.cutout)


def stills(frames: int, fraction: float, seed: int) -> np.ndarray:
    """int64 [frames]: which frame is seen at each time where so many are lost at random; the first is always there."""
    left = np.random.default_rng(seed).random(frames) >= fraction
    left[0] = True
    return np.maximum.accumulate(np.where(left, np.arange(frames), 0))


def _frame(clip: Pixels, framing: Framing) -> None:
    import cv2

    height, width = clip.shape[1:3]
    if not framing.rotation:
        left, top, right, bottom = framing.box(height, width)
        for frame in clip:
            part = frame[top:bottom, left:right].copy()
            cv2.resize(part, (width, height), dst=frame, interpolation=framing.interpolation)
        return
    # Ten times as fast as by cubic splines, for which a turn has no fast way.
    how, matrix = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, framing.matrix(height, width)
    for frame in clip:
        frame[:] = cv2.warpAffine(frame, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REFLECT_101)


def _resize(clip: Pixels, fraction: float, interpolation: int) -> None:
    import cv2

    height, width = clip.shape[1:3]
    small = (max(1, round(width * fraction)), max(1, round(height * fraction)))
    for frame in clip:
        shrunk = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
        cv2.resize(shrunk, (width, height), dst=frame, interpolation=interpolation)


def _blur(clip: Pixels, sigma: float) -> None:
    import cv2

    reach = max(1, round(2.5 * sigma))  # pixels either side; what lies beyond adds under 2 %
    kernel = cv2.getGaussianKernel(2 * reach + 1, sigma)
    for frame in clip:
        cv2.sepFilter2D(frame, -1, kernel, kernel, dst=frame, borderType=cv2.BORDER_REFLECT)


def _sharpen(clip: Pixels, amount: float) -> None:
    """Unsharp masking by a Gaussian of one pixel."""
    import cv2

    for frame in clip:
        soft = cv2.GaussianBlur(frame, (5, 5), 1.0, borderType=cv2.BORDER_REFLECT)
        cv2.addWeighted(frame, 1 + amount, soft, -amount, 0, dst=frame)


def _compress(clip: Pixels, quality: int) -> None:
    import simplejpeg

    for frame in clip:
        # The fast DCT adds an error of its own to what the format loses, and saves next to nothing.
        data = simplejpeg.encode_jpeg(frame, quality=quality, colorsubsampling="420", fastdct=False)
        simplejpeg.decode_jpeg(data, buffer=frame, fastdct=False, fastupsample=False)


def _cut_out(clip: Pixels, box: tuple[float, float, float, float]) -> None:
    import cv2

    height, width = clip.shape[1:3]
    left, top, right, bottom = (round(a * b) for a, b in zip(box, (width, height) * 2, strict=True))
    clip[:, top:bottom, left:right] = np.array(cv2.mean(clip[0])[:3], np.uint8)


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


def mix_pairs(clips: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Each clip and its label weighed against those of the next one in the batch.

    Args:
        clips: float [B, T, C, H, W].
        labels: float [B].
        weights: float [B]; 1 leaves a clip as it is.
    """
    own = weights.to(clips.dtype).view(-1, 1, 1, 1, 1)
    return torch.lerp(clips.roll(1, 0), clips, own), torch.lerp(labels.roll(1, 0), labels, weights.to(labels.dtype))


def _grey(clips: Tensor) -> Tensor:
    red, green, blue = clips.unbind(2)
    return (0.299 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(2)
