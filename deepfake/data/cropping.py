"""One file into the face crops of its clips: aligned by landmarks, hashed, with a thumbnail.

Knows how to crop, not where the crops are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepfake.data.faces.base import Face, FaceDetector, Track, look_near, overlap, track_face
from deepfake.data.frame_sampling import ClipIndices, ClipPlan
from deepfake.data.media import Deadline, Frames, MediaError, MediaInfo, Pixels, Views, enlarge, read_image
from deepfake.data.video import read_video

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


THUMBNAIL = 16  # pixels a side


def dhash(image: Pixels) -> int:
    """A 64-bit difference hash: whether each of 8 x 8 averaged cells is brighter than its right neighbour.

    Krawetz 2013, "Kind of Like That". Pictures of which fewer than about 6 bits differ are most likely one picture.

    Args:
        image: uint8 [H, W, 3], RGB.
    """
    cells = _grey(image, 9, 8).astype(np.int16)
    bits = (cells[:, 1:] > cells[:, :-1]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: Pixels) -> Pixels:
    """A grey uint8 [16, 16] copy, to tell apart pictures whose hashes agree by chance."""
    return _grey(image, THUMBNAIL, THUMBNAIL)


def _grey(image: Pixels, width: int, height: int) -> Pixels:
    import cv2

    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


_NORMAL_QUALITY = 85

#: What is kept about each frame of each clip.
FRAME = np.dtype(
    [
        ("frame_index", "<i4"),
        ("pts", "<f8"),
        ("x0", "<f4"),
        ("y0", "<f4"),
        ("x1", "<f4"),
        ("y1", "<f4"),
        ("found", "?"),
    ]
)


@dataclass(frozen=True)
class CutSettings:
    """Everything that changes the pixels of a crop.

    Args:
        plan: Which frames.
        faces: Which detector; ``center`` takes the largest centred square, ``none`` the whole frame.
        face_model: The detector's model file where it needs one.
        margin: A crop's side is the face box's longer side times 1 + margin.
        size: A crop's side as stored, in pixels.
        align: Turn and scale faces so that eyes, nose and mouth lie in the same places.
        normalise: Compress every crop alike, whatever it came from.
    """

    plan: ClipPlan
    faces: str
    face_model: str | None
    margin: float
    size: int
    align: bool
    normalise: bool = False


@dataclass(frozen=True)
class KnownTrack:
    """Where the face is in the video a fake was made from: it is in the same place in the fake.

    Attributes:
        size: Width, height and number of frames of that video; a fake that differs in any has a track of its own.
        frames: The :data:`FRAME` records of its crops, in any order and number.
    """

    size: tuple[int, int, int]
    frames: np.ndarray


@dataclass(frozen=True)
class Crops:
    """The crops of one sample.

    Attributes:
        pixels: uint8 [clips, T, S, S, 3], RGB.
        lengths: int64 [clips]; frames past it repeat the clip's last one.
        frames: The :data:`FRAME` records [clips, T]; boxes are what was cut, in pixels of the upright frame.
        info: What the file says of itself.
        dhashes: Of a few whole frames, first to last.
        thumbnail: uint8 [16, 16] of the frame in the middle.
    """

    pixels: Pixels
    lengths: NDArray[np.int64]
    frames: np.ndarray
    info: MediaInfo
    dhashes: tuple[int, ...]
    thumbnail: Pixels

    @property
    def filled(self) -> int:
        """Frames in which the face was missed and its place interpolated."""
        no_filler = np.arange(self.frames.shape[1]) < self.lengths[:, None]
        return int((no_filler & ~self.frames["found"]).sum())


def cut_sample(
    file: Path,
    kind: str,
    settings: CutSettings,
    detector: FaceDetector | None,
    known: KnownTrack | None = None,
    until: Deadline | None = None,
) -> Crops:
    """Decode, find the face, and cut.

    Args:
        file: The video or image.
        kind: ``video`` or ``image``; an image is one clip of one frame.
        settings: How to cut.
        detector: What :func:`deepfake.data.faces.create_detector` gave for the same settings.
        known: The track of the video this one was made from, used where sizes and frames agree.
        until: When it has to be done.

    Raises:
        MediaError: The file cannot be used: ``no_face``, ``timeout`` and the reasons of :func:`read_video` and
            :func:`read_image`.
    """
    if kind == "image":
        frames, chosen = read_image(file), ClipIndices(np.zeros((1, 1), np.int64), np.ones(1, np.int64))
    else:
        frames = read_video(file, lambda count: settings.plan.indices(count).indices.reshape(-1).tolist(), until)
        chosen = settings.plan.indices(frames.info.frames)
    views = Views(frames.images)
    cutter, found = _known_boxes(frames, settings, known, detector) or _boxes(frames, settings, detector)
    crops = np.stack([cutter(image, i) for i, image in enumerate(views)])  # [N, S, S, 3]
    if settings.normalise:
        for crop in crops:
            normalise(crop)
    places = np.searchsorted(frames.indices, chosen.indices)  # [clips, T]
    records = np.zeros(len(frames.images), FRAME)
    records["frame_index"], records["pts"], records["found"] = frames.indices, frames.pts, found
    for name, column in zip(("x0", "y0", "x1", "y1"), cutter.boxes.T, strict=True):
        records[name] = column
    first, middle, last = 0, len(frames.images) // 2, len(frames.images) - 1
    return Crops(
        pixels=crops[places],
        lengths=chosen.lengths,
        frames=records[places],
        info=frames.info,
        dhashes=tuple(dhash(views[i]) for i in sorted({first, middle, last})),
        thumbnail=thumbnail(views[middle]),
    )


class _Cutter:
    """Cuts frame i's square box and resizes it."""

    def __init__(self, boxes: NDArray[np.float32], size: int) -> None:
        self.boxes = boxes
        self.size = size

    def __call__(self, image: Pixels, i: int) -> Pixels:
        return cut_square(image, self.boxes[i], self.size)


class _Aligner(_Cutter):
    """Turns and scales frame i so that its landmarks come to lie in fixed places."""

    def __init__(self, track: Track, margin: float, size: int) -> None:

        self.matrices = [similarity(points, margin, size) for points in track.landmarks]
        super().__init__(aligned_boxes(self.matrices, size), size)

    def __call__(self, image: Pixels, i: int) -> Pixels:

        return warp(image, self.matrices[i], self.size)


def _boxes(
    frames: Frames, settings: CutSettings, detector: FaceDetector | None
) -> tuple[_Cutter, NDArray[np.bool_] | bool]:
    """What cuts each frame, and in which of them the face was found."""
    height, width = frames.images.shape[1:3]
    if detector is None:
        side = min(height, width)
        x, y = ((width - side) // 2, (height - side) // 2) if settings.faces == "center" else (0, 0)
        whole = (x, y, width - x, height - y) if settings.faces == "none" else (x, y, x + side, y + side)
        return _Cutter(np.tile(np.array(whole, np.float32), (len(frames.images), 1)), settings.size), True
    track = track_face(Views(frames.images), frames.pts, detector)
    if track is None:
        raise MediaError("no_face", f"no face in any of the frames looked at, {width}x{height}")
    if settings.align:
        return _Aligner(track, settings.margin, settings.size), track.found
    return _Cutter(square_boxes(track.boxes, settings.margin), settings.size), track.found


def _known_boxes(
    frames: Frames, settings: CutSettings, known: KnownTrack | None, detector: FaceDetector | None
) -> tuple[_Cutter, NDArray[np.bool_]] | None:
    """The crops of the video this one was made from, if it has every frame wanted here and the face is there too."""
    info = frames.info
    if known is None or settings.align or known.size != (info.width, info.height, info.frames):
        return None
    indices, first = np.unique(known.frames["frame_index"], return_index=True)
    if not np.array_equal(indices, frames.indices):
        return None
    records = known.frames.reshape(-1)[first]
    boxes = np.stack([records[name] for name in ("x0", "y0", "x1", "y1")], 1)
    if detector is not None and not _confirmed(frames, boxes, records["found"], settings.margin, detector):
        return None
    return _Cutter(boxes, settings.size), records["found"]


def _confirmed(
    frames: Frames, boxes: NDArray[np.float32], found: NDArray[np.bool_], margin: float, detector: FaceDetector
) -> bool:
    """Whether a few looks find the face in the known crops: a mirrored or shifted fake has a track of its own."""
    seen = np.flatnonzero(found)
    looks = sorted({int(seen[0]), int(seen[len(seen) // 2]), int(seen[-1])}) if len(seen) else []
    found_again, views = 0, Views(frames.images)
    for i in looks:
        centre, half = (boxes[i, :2] + boxes[i, 2:]) / 2, (boxes[i, 2:] - boxes[i, :2]) / (2 * (1 + margin))
        inner = np.concatenate([centre - half, centre + half])
        face = look_near(views[i], Face(inner, 1.0, np.zeros((5, 2), np.float32)), detector)
        found_again += face is not None and overlap(face.box, inner) > 0.3
    return 2 * found_again >= len(looks)


def square_boxes(boxes: NDArray[np.float32], margin: float) -> NDArray[np.float32]:
    """Squares [N, 4] about face boxes [N, 4], whose side is the longer side times 1 + margin.

    They are not rounded: whole pixels, chosen anew in each frame, would make the crop tremble where the face does not.
    """
    sides = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) * (1 + margin), 2)
    corners = (boxes[:, :2] + boxes[:, 2:] - sides) / 2
    return np.concatenate([corners, corners + sides], 1).astype(np.float32)


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


def normalise(crop: Pixels) -> None:
    """Compress a crop in place as every other one is: JPEG at one quality, colours at half resolution.

    Traces of the format a class was published in (Grommelt et al. 2024, arXiv:2403.17608) are drowned by those of
    one format for all. The size is one for all already.
    """
    import simplejpeg

    data = simplejpeg.encode_jpeg(crop, quality=_NORMAL_QUALITY, colorsubsampling="420", fastdct=False)
    simplejpeg.decode_jpeg(data, buffer=crop, fastdct=False, fastupsample=False)
