"""What a training saw: clips as they are stored and as epochs changed them. Draws pixels made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from deepfake.tracking.figures.style import FAKE_COLOUR, GREY, REAL_COLOUR, new_figure

_GAP = 3  # white pixels between frames of one clip
_INCHES = {True: 1.5, False: 0.95}  # of a frame's side, by whether clips are single images


@dataclass
class SeenClip:
    """One sample of the training split.

    Attributes:
        name: Its ``sample_id``.
        what: What it is, in a word or two.
        looks: As stored, then as each epoch saw it: uint8 [frames, H, W, 3], RGB.
        fake: Whether it was trained on as a fake, for each of ``looks``.
    """

    name: str
    what: str
    looks: Sequence[npt.NDArray[np.uint8]]
    fake: Sequence[bool]


def seen_clips(clips: Sequence[SeenClip], side: int) -> Figure:
    """One row for each clip: as it is stored, then as each epoch saw it, framed in the colour of what it stood for.

    Args:
        clips: As many looks at each.
        side: Of the frames that the backbone reads, in pixels, for the heading.
    """
    looks, frames = len(clips[0].looks), len(clips[0].looks[0])
    inches = _INCHES[frames == 1]
    width, height = inches * frames * looks + 1.3, (inches + 0.12) * len(clips) + 0.75
    figure, axes = new_figure(width, height, looks, len(clips), fitted=True)
    figure.suptitle(f"What training sees: stored clips, and how epochs change them ({side} px)", fontsize=11)
    for place, axis in enumerate(axes):
        row, column = divmod(place, looks)
        clip = clips[row]
        axis.imshow(_side_by_side(clip.looks[column]))
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set(visible=True, color=FAKE_COLOUR if clip.fake[column] else REAL_COLOUR, linewidth=2)
        if row == 0:
            axis.set_title(f"epoch {column}" if column else "stored", fontsize=8.5)
        if column == 0:
            axis.set_ylabel(clip.what, fontsize=8, color=GREY, rotation=0, ha="right", va="center")
    return figure


def _side_by_side(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    gap = np.full((frames.shape[1], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for frame in frames for part in (frame, gap)][:-1], axis=1)
