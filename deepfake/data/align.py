"""Five face landmarks into a crop in which they lie in fixed places. Knows no video and no detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepfake.data.media import Pixels

# Where eyes, nose and mouth corners of a frontal face lie, in shares of a square about it whose margin is 0:
# the five points of the 112-pixel template used since Deng et al. 2019 (ArcFace, arXiv:1801.07698).
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
) / np.array([112.0, 112.0])


def similarity(landmarks: NDArray[np.float32], margin: float, size: int) -> NDArray[np.float64]:
    """The rotation, scale and shift [2, 3] that bring landmarks [5, 2] nearest to the template's places.

    The least-squares solution of Umeyama 1991, which keeps a face's own proportions.
    """
    target = (0.5 + (_TEMPLATE - 0.5) / (1 + margin)) * size
    source = landmarks.astype(np.float64)
    a, b = source - source.mean(0), target - target.mean(0)
    spread = max(float((a**2).sum()), 1e-9)
    # In the plane the solution is one complex number: the landmarks times it are the template.
    real, imaginary = (a * b).sum() / spread, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
    turn = np.array([[real, -imaginary], [imaginary, real]])
    return np.column_stack([turn, target.mean(0) - turn @ source.mean(0)])


def aligned_boxes(matrices: Sequence[NDArray[np.float64]], size: int) -> NDArray[np.float32]:
    """The upright boxes [N, 4] that hold what each crop shows of its frame."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64)
    boxes = []
    for matrix in matrices:
        places = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T)  # [2, 4]
        boxes.append([*places.min(1), *places.max(1)])
    return np.array(boxes, np.float32)


def warp(image: Pixels, matrix: NDArray[np.float64], size: int) -> Pixels:
    """The aligned crop [size, size, 3]; beyond the image its edge is repeated."""
    import cv2

    # warpAffine samples single pixels: shrink by whole averaging steps first, so that large faces do not alias.
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        image = cv2.resize(image, None, fx=2 * scale, fy=2 * scale, interpolation=cv2.INTER_AREA)
        # A pixel's place is its centre's, half a pixel from its corner at every scale.
        grown = 1 / (2 * scale)
        matrix = np.column_stack([matrix[:, :2] * grown, matrix[:, 2] + matrix[:, :2].sum(1) * (grown / 2 - 0.5)])
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
