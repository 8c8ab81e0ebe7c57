"""What moves a clip's logit, and whether a map of it means anything, as plain arrays.

:mod:`deepfake.training.attribution` makes them of a detector's weights; whoever paints them needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Attribution:
    """What a detector makes of one clip, and why.

    Attributes:
        logit: Its own; above 0 means fake.
        frame_logits: float64 [T]; None for heads that see only whole clips.
        maps: float32 [T, h, w] over each frame's picture: what each place adds to the logit; above 0 speaks for fake.
            None where there is none.
        why: Why there is none; else empty.
        reliance: float64 [T]: by how much the logit is higher with the frame than without it. NaN for fillers; None
            for a clip of one frame.
        attention: float64 [T]: the fraction of the head's attention that each frame gets; None for heads without.
    """

    logit: float
    frame_logits: NDArray[np.float64] | None
    maps: Maps | None
    why: str = ""
    reliance: NDArray[np.float64] | None = None
    attention: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class MapCheck:
    """How similar a map is to those of the same model with random weights (Adebayo et al. 2018, arXiv:1810.03292).

    Attributes:
        meaningful: Whether it shows something that was learned.
        why: In a sentence.
        similarity: Spearman's rank correlation of the absolute maps by what was drawn anew, as
            :data:`deepfake.training.attribution.CASCADE` names it; the mean of some draws.
    """

    meaningful: bool
    why: str
    similarity: dict[str, float] = field(default_factory=dict)
