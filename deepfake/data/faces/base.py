"""What a face is, and what finds faces. Knows no detector in particular."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepfake.data.media import Pixels

Box = NDArray[np.float32]
Landmarks = NDArray[np.float32]


@dataclass(frozen=True)
class Face:
    """One face in one image.

    Attributes:
        box: float32 [4], x0, y0, x1, y1 in pixels.
        score: The detector's confidence, 0 to 1.
        landmarks: float32 [5, 2]: the eye on the image's left, the other eye, nose, the mouth's corner on the
            image's left, the other corner.
    """

    box: Box
    score: float
    landmarks: Landmarks

    @property
    def size(self) -> float:
        """The longer side, in pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    def moved(self, scale: float, x: float, y: float) -> Face:
        """The same face in the coordinates of an image of which this one is a scaled cutting at (x, y)."""
        offset = np.array([x, y], np.float32)
        box = (self.box.reshape(2, 2) / scale + offset).reshape(4)
        return Face(box.astype(np.float32), self.score, (self.landmarks / scale + offset).astype(np.float32))


class FaceDetector(Protocol):
    """What finds faces; one per process, none is shared."""

    def detect(self, image: Pixels) -> list[Face]:
        """Every face of at least about 40 pixels in a uint8 [H, W, 3] RGB image, best first."""
        ...

    def follow(self, image: Pixels, box: Box) -> Face | None:
        """The face near where it was a moment ago, much cheaper than looking everywhere; None when it is lost."""
        ...


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = float(np.prod(np.maximum(high - low, 0)))
    areas = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]))
    return inside / (areas - inside) if areas > inside else 0.0
