"""Where a crop lies in its frame, and what is cut there: boxes, alignment, shrinking and growing. Knows no files.

A place in an image is its distance from the image's upper left corner: the first pixel's middle is (0.5, 0.5) in boxes,
and (0, 0) where OpenCV's matrices speak of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepfake.data.media import Pixels, enlarge

# Where eyes, nose and mouth corners of a frontal face lie, in shares of a square about it whose margin is 0:
# the five points of the 112-pixel template used since Deng et al. 2019 (ArcFace, arXiv:1801.07698).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
) / np.array([112.0, 112.0])


def similarity(landmarks: NDArray[np.float32], margin: float, size: int) -> NDArray[np.float64]:
    """The rotation, scale and shift [2, 3] that bring landmarks [5, 2] nearest to the template's places.

    The least-squares solution of Umeyama 1991, which keeps a face's own proportions.
    """
    target = (0.5 + (TEMPLATE - 0.5) / (1 + margin)) * size
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


def square_boxes(boxes: NDArray[np.float32], margin: float) -> NDArray[np.float32]:
    """Squares [N, 4] about face boxes [N, 4], whose side is the longer side times 1 + margin.

    They are not rounded: whole pixels, chosen anew in each frame, would make the crop tremble where the face does not.
    """
    sides = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) * (1 + margin), 2)
    corners = (boxes[:, :2] + boxes[:, 2:] - sides) / 2
    return np.concatenate([corners, corners + sides], 1).astype(np.float32)


def landmarks_in_boxes(landmarks: NDArray[np.float32], boxes: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Landmarks [N, 5, 2] of frames in the pixels of the crops [size, size] of their boxes [N, 4]."""
    sides = boxes[:, None, 2:] - boxes[:, None, :2]
    return ((landmarks - boxes[:, None, :2]) * (size / sides)).astype(np.float32)


def landmarks_in_frames(landmarks: NDArray[np.float32], boxes: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The reverse of :func:`landmarks_in_boxes`."""
    sides = boxes[:, None, 2:] - boxes[:, None, :2]
    return (boxes[:, None, :2] + landmarks * (sides / size)).astype(np.float32)


def steady_boxes(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each frame of a clip one box that holds all of the clip's boxes, [clips, T, 4]."""
    low, high = boxes[..., :2].min(1, keepdims=True), boxes[..., 2:].max(1, keepdims=True)
    return np.repeat(np.concatenate([low, high], 2), boxes.shape[1], 1)


def patch_boxes(regions: NDArray[np.float32], size: int, width: int, height: int) -> NDArray[np.float32]:
    """Squares of whole pixels, each clip's at another place of its regions, [clips, T, 4].

    Args:
        regions: float32 [clips, T, 4]: what the patches are spread over, evenly and up to its edges; a region smaller
            than a patch is looked at about its middle.
        size: A patch's side in pixels, at most the picture's.
        width: Of the picture in pixels; and ``height``.
    """
    sides = np.maximum(regions[..., 2:] - regions[..., :2], 1)
    aspect = float(sides[..., 0].mean() / sides[..., 1].mean())
    places = _spread(len(regions), aspect)[:, None]  # [clips, 1, 2]
    spare = regions[..., 2:] - regions[..., :2] - size
    corners = regions[..., :2] + np.where(spare > 0, places * spare, spare / 2)
    corners = np.rint(corners).clip(0, [width - size, height - size])
    return np.concatenate([corners, corners + size], 2).astype(np.float32)


def _spread(count: int, aspect: float) -> NDArray[np.float64]:
    """So many places of a grid of about that width to height, [count, 2], 0 to 1 across and down."""
    columns = min(max(round((count * aspect) ** 0.5), 1), count)
    rows = -(-count // columns)
    cells = ((np.arange(count) + 0.5) * rows * columns / count).astype(int)
    steps = np.stack([cells % columns, cells // columns], 1)
    most = np.array([columns - 1, rows - 1])
    return np.where(most > 0, steps / np.maximum(most, 1), 0.5)


def cut_square(image: Pixels, box: NDArray[np.float32], size: int) -> Pixels:
    """What lies in a box, at fractions of a pixel, as [size, size, 3]; beyond the image its edge is repeated.

    It is shrunk by averaging whole pixels to the scale wanted, and what is left, a shift and a scale of nearly one, is
    interpolated; where it grows, interpolation does all.
    """
    import cv2

    corners = np.asarray(box, np.float64)
    if (corners == np.rint(corners)).all():
        return resize(cut_box(image, corners), size)
    scale = size / (corners[2:] - corners[:2])  # [x, y]
    reach = np.ceil(2 / np.minimum(scale, 1)) + 1  # cubic interpolation looks two pixels of the crop beyond it
    start, end = np.floor(corners[:2] - reach), np.ceil(corners[2:] + reach)
    around = cut_box(image, np.concatenate([start, end]))
    width, height = np.maximum(np.rint((end - start) * np.minimum(scale, 1)), 1).astype(int).tolist()
    shrunk = np.array([width, height]) / (end - start)
    if (width, height) != (around.shape[1], around.shape[0]):
        around = cv2.resize(around, (width, height), interpolation=cv2.INTER_AREA)
    # A pixel's place is its centre's: half a pixel from its corner at every scale.
    rest = scale / shrunk
    shift = (0.5 / shrunk + start - corners[:2]) * scale - 0.5
    matrix = np.array([[rest[0], 0, shift[0]], [0, rest[1], shift[1]]])
    return cv2.warpAffine(around, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def cut_box(image: Pixels, box: Sequence[float] | NDArray[np.float32] | NDArray[np.float64]) -> Pixels:
    """What lies in a box of whole pixels; beyond the image its edge is repeated."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (int(v) for v in box)
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        return image[y0:y1, x0:x1]
    return image[np.arange(y0, y1).clip(0, height - 1)][:, np.arange(x0, x1).clip(0, width - 1)]


def resize(image: Pixels, size: int) -> Pixels:
    """To [size, size, 3]: averaging where it shrinks, so that nothing aliases, cubic where it grows."""
    import cv2

    if image.shape[:2] == (size, size):
        return image
    if min(image.shape[:2]) < size:
        return enlarge(image, (size, size))
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
