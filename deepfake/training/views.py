"""Several looks at each clip while it is scored, whose logits are averaged. Knows no data set and no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepfake.models.detector import Detector, resized
from deepfake.models.heads import Output
from deepfake.training.options import EvaluationOptions


@dataclass(frozen=True)
class View:
    """One look: a square part of the picture, enlarged to its size, as it is or mirrored.

    Attributes:
        scale: The part's side, of the picture's.
        across: Where it lies, 0 at the left edge, 1 at the right one.
        down: Where it lies, 0 at the upper edge, 1 at the lower one.
        mirrored: Left and right exchanged.
    """

    scale: float = 1.0
    across: float = 0.5
    down: float = 0.5
    mirrored: bool = False

    def of(self, clips: Tensor, side: int | None = None) -> Tensor:
        """The look at clips [B, T, C, H, W], uint8 in 0..255 or floating point in 0..1; [B, T, C, S, S].

        S is ``side``, or as it was where that is None. A part that is enlarged is so by cubic interpolation, and is
        floating point in 0..1.
        """
        height, width = clips.shape[-2:]
        high, wide = max(2, round(self.scale * height)), max(2, round(self.scale * width))
        if (high, wide) != (height, width):
            top, left = round((height - high) * self.down), round((width - wide) * self.across)
            part = clips[..., top : top + high, left : left + wide].flatten(0, 1)
            to = (side or height, side or width)
            made = resized(part, side) if side is not None and side <= min(high, wide) else _enlarged(part, to)
            clips = made.reshape(*clips.shape[:2], *made.shape[1:])
        return clips.flip(-1) if self.mirrored else clips


def _enlarged(frames: Tensor, to: tuple[int, int]) -> Tensor:
    frames = frames.float().div_(255) if frames.dtype == torch.uint8 else frames
    frames = frames.contiguous(memory_format=torch.channels_last)
    return F.interpolate(frames, to, mode="bicubic", align_corners=False).clamp_(0, 1)


WHOLE = View()


def _parts(scale: float, places: Sequence[tuple[float, float]]) -> list[View]:
    return [View(scale, across, down) for across, down in places]


#: The looks by the names that ``evaluation.views`` takes, for the side of those that are a part.
VIEWS: Mapping[str, Callable[[float], list[View]]] = {
    "whole": lambda scale: [WHOLE],
    "mirror": lambda scale: [View(mirrored=True)],
    "centre": lambda scale: _parts(scale, [(0.5, 0.5)]),
    "corners": lambda scale: _parts(scale, [(0, 0), (1, 0), (0, 1), (1, 1)]),
    "edges": lambda scale: _parts(scale, [(0.5, 0), (0, 0.5), (1, 0.5), (0.5, 1)]),
}


def views_of(names: Sequence[str], scale: float) -> list[View]:
    """The looks that are meant by names of :data:`VIEWS`; ``scale`` is the side of those that are a part.

    Example:
        >>> len(views_of(["whole", "corners"], 0.65))
        5
    """
    return [view for name in names for view in VIEWS[name](scale)]


class Viewed(nn.Module):
    """A detector that looks at each clip several times; a clip's logit is the mean of its looks'.

    Args:
        detector: Clips and mask to logits.
        views: The looks.
    """

    def __init__(self, detector: Detector, views: Sequence[View]) -> None:
        super().__init__()
        self.detector = detector
        self.views = views

    def forward(self, clips: Tensor, mask: Tensor) -> Output:
        """Clips [B, T, C, H, W] and mask bool [B, T] to logits."""
        outputs: list[Output] = [self.detector(view.of(clips, self.detector.size), mask) for view in self.views]
        frames = [output.frame_logits for output in outputs if output.frame_logits is not None]
        logits = torch.stack([output.logits for output in outputs]).mean(0)
        return Output(logits, torch.stack(frames).mean(0) if frames else None)


def viewed(detector: Detector, options: EvaluationOptions | None = None) -> nn.Module:
    """The detector as ``evaluation.views`` has it look at clips; the very same where it looks once, at the whole."""
    return viewed_by(detector, [WHOLE] if options is None else views_of(options.views, options.view_scale))


def viewed_by(detector: Detector, views: Sequence[View]) -> nn.Module:
    """The same of the looks themselves."""
    return detector if [*views] == [WHOLE] else Viewed(detector, views)
