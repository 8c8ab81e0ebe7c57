"""What a face is, what finds faces, and a face followed through a video. Knows no detector in particular, no files.

The largest face that stays is followed, not the largest of each frame, which would jump between people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


_KEYS = 5  # frames looked at everywhere
_LONG_SIDES = (320, 640, 1280)  # of the copy looked at; larger ones only when the smaller shows no face
_SURE = 0.9  # a key frame without a face this certain is looked at again, larger
_INTERVAL = 0.2  # seconds after which the face is looked for again rather than interpolated
_SMOOTHING = 0.12  # seconds; the deviation of the Gaussian that takes the detector's tremble out
_FOLLOW_SIZE = 96  # pixels; the size of the face in the copy in which it is looked for again


@dataclass(frozen=True)
class Track:
    """Where one face is in each frame.

    Attributes:
        boxes: float32 [N, 4], x0, y0, x1, y1 in pixels.
        landmarks: float32 [N, 5, 2].
        found: bool [N]; False where the face was looked for and missed, so that its place is interpolated.
        beside: Of the first track, how many other faces were seen, at least half as large and as steady as others that
            are followed; those that are followed too are among them.
    """

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    found: NDArray[np.bool_]
    beside: int = 0


def track_face(images: Sequence[Pixels], times: NDArray[np.float64], detector: FaceDetector) -> Track | None:
    """Follow the largest steady face; see :func:`track_faces`. None when no face is in any frame looked at."""
    return next(iter(track_faces(images, times, detector)), None)


def track_faces(
    images: Sequence[Pixels], times: NDArray[np.float64], detector: FaceDetector, most: int = 1
) -> list[Track]:
    """Follow the largest steady faces.

    Args:
        images: N frames uint8 [H, W, 3], in order.
        times: float64 [N], seconds.
        detector: What finds faces.
        most: How many at most.

    Returns:
        Their paths, the largest first; none when no face is in any frame looked at. All but the first were seen in two
        of the frames that were searched, where there are as many, and found in half of all.
    """
    seen = _look_everywhere(images, detector, thorough=most > 1)
    found: list[Track] = []
    paths = _steadiest(seen)
    for faces in paths:
        if len(found) == most:
            break
        if found and len(faces) < min(2, len(seen)):
            continue
        track = _track(images, times, detector, dict(faces))
        if not found or (track.found.mean() >= 0.5 and not any(_together(track, other) for other in found)):
            found.append(track if found else replace(track, beside=_beside(paths, least=min(2, len(seen)))))
    return found


def _beside(paths: Sequence[dict[int, Face]], least: int) -> int:
    """How many paths but the first are of faces at least half as large, seen so many times."""
    sizes = [float(np.median([face.size for face in path.values()])) for path in paths]
    others = zip(paths[1:], sizes[1:], strict=True)
    return sum(len(path) >= least and 2 * size >= sizes[0] for path, size in others)


def _together(track: Track, other: Track) -> bool:
    """Whether two paths are one face's: a lost one is sometimes found again where another is."""
    overlaps = [overlap(a, b) for a, b in zip(track.boxes, other.boxes, strict=True)]
    return float(np.median(overlaps)) > 0.3


def _track(
    images: Sequence[Pixels], times: NDArray[np.float64], detector: FaceDetector, faces: dict[int, Face]
) -> Track:
    missed = _follow(images, times, detector, faces)
    known = sorted(faces)
    values = np.stack([np.concatenate([faces[i].box, faces[i].landmarks.reshape(-1)]) for i in known])  # [K, 14]
    path = _smooth(_interpolate(times, times[known], values), times)
    found = np.ones(len(images), bool)
    found[sorted(missed)] = False
    return Track(path[:, :4], path[:, 4:].reshape(-1, 5, 2), _spread_misses(found, faces, missed))


def detect_resized(image: Pixels, detector: FaceDetector, long_side: int) -> list[Face]:
    """Faces found in a copy whose longer side is at most ``long_side``, in the image's own pixels."""
    import cv2

    scale = min(1.0, max(long_side, 1) / max(image.shape[:2]))
    if scale < 1.0:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    else:
        small = image
    return [face.moved(scale, 0, 0) for face in detector.detect(small)]


def _look_everywhere(images: Sequence[Pixels], detector: FaceDetector, thorough: bool = False) -> dict[int, list[Face]]:
    """All faces of a few frames spread over the video. A size that was needed once is begun with from then on.

    Once a face is certain smaller ones are not looked for, unless it is to be ``thorough``.
    """
    keys = np.unique(((np.arange(_KEYS) + 0.5) * len(images) / _KEYS).astype(int))
    first = 0
    found: dict[int, list[Face]] = {}
    for key in keys.tolist():
        for level in range(first, len(_LONG_SIDES)):
            faces = detect_resized(images[key], detector, _LONG_SIDES[level])
            if len(faces) > len(found.get(key, [])):
                found[key] = faces
            if not thorough and any(face.score >= _SURE for face in faces):
                first = level
                break
            if _LONG_SIDES[level] >= max(images[key].shape[:2]):
                break
    return found


def _steadiest(seen: dict[int, list[Face]]) -> list[dict[int, Face]]:
    """Link the faces of successive frames into paths; the one with the largest total area is first."""
    paths: list[dict[int, Face]] = []
    for key, faces in sorted(seen.items()):
        free = list(paths)
        for face in faces:
            near = min(free, key=lambda path: _distance(path, face), default=None)
            if near is not None and _distance(near, face) < 1.0:
                near[key] = face
                free.remove(near)
            else:
                paths.append({key: face})
    return sorted(paths, key=lambda path: -sum(face.size**2 * face.score for face in path.values()))


def _distance(path: dict[int, Face], face: Face) -> float:
    """How far a face is from a path's last one, in its sizes; infinite when the sizes differ twofold."""
    last = path[max(path)]
    if not _alike(face.size, last.size):
        return float("inf")
    centres = [(f.box[:2] + f.box[2:]) / 2 for f in (last, face)]
    return float(np.linalg.norm(centres[0] - centres[1])) / max(last.size, face.size)


def _follow(
    images: Sequence[Pixels], times: NDArray[np.float64], detector: FaceDetector, faces: dict[int, Face]
) -> set[int]:
    """Look for the face near its last place, outward from the frames it is known in; adds to ``faces``.

    Returns:
        The frames in which it was looked for and missed.
    """
    known = sorted(faces)
    order = [*range(known[0] + 1, len(images)), *range(known[0] - 1, -1, -1)]
    missed: set[int] = set()
    last, looked = faces[known[0]], times[known[0]]
    for i in order:
        if i == known[0] - 1:
            last, looked = faces[known[0]], times[known[0]]
        if i in faces:
            last, looked = faces[i], times[i]
            continue
        if abs(times[i] - looked) < _INTERVAL and 0 < i < len(images) - 1:
            continue
        looked = times[i]
        face = look_near(images[i], last, detector)
        if face is None:
            missed.add(i)
        else:
            faces[i] = last = face
    return missed


def look_near(image: Pixels, last: Face, detector: FaceDetector) -> Face | None:
    """Look where the face was, then, once it is lost there, in a cutting four faces wide, shrunk to be cheap."""
    face = detector.follow(image, last.box)
    if face is not None and _alike(face.size, last.size):
        return face
    centre, reach = (last.box[:2] + last.box[2:]) / 2, 2 * last.size
    x0, y0 = np.maximum(centre - reach, 0).astype(int).tolist()
    x1, y1 = np.maximum(np.ceil(centre + reach), 0).astype(int).tolist()
    cutting = image[y0:y1, x0:x1]
    if not cutting.size:
        return None
    scale = min(1.0, _FOLLOW_SIZE / max(last.size, 1.0))
    faces = detect_resized(np.ascontiguousarray(cutting), detector, round(scale * max(cutting.shape[:2])))
    near = [face.moved(1.0, x0, y0) for face in faces if _alike(face.size, last.size)]
    return max(near, key=lambda face: face.score, default=None)


def _alike(size: float, other: float) -> bool:
    """Whether one face's size can be another's a moment later."""
    return 0.5 < size / max(other, 1e-6) < 2.0


def _interpolate(
    times: NDArray[np.float64], at: NDArray[np.float64], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    return np.stack([np.interp(times, at, column) for column in values.T], 1).astype(np.float32)


def _smooth(path: NDArray[np.float32], times: NDArray[np.float64]) -> NDArray[np.float32]:
    """A Gaussian in time, which leaves frames far apart as they are."""
    gaps = (times[:, None] - times[None, :]) / _SMOOTHING
    weights = np.exp(-0.5 * gaps**2)
    return ((weights @ path) / weights.sum(1, keepdims=True)).astype(np.float32)


def _spread_misses(found: NDArray[np.bool_], faces: dict[int, Face], missed: set[int]) -> NDArray[np.bool_]:
    """Frames between looks count as found only when the look before and the look after both found the face."""
    looks = np.array(sorted({*faces, *missed}))
    hit = np.array([i in faces for i in looks])
    places = np.arange(len(found))
    before = np.clip(np.searchsorted(looks, places, "right") - 1, 0, None)
    after = np.clip(np.searchsorted(looks, places, "left"), None, len(looks) - 1)
    return found & hit[before] & hit[after]
