"""One file into the face crops of its clips: aligned by landmarks, hashed, with a thumbnail.

Knows how to crop, not where the crops are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepfake.data.crop_geometry import (
    aligned_boxes,
    cut_square,
    landmarks_in_boxes,
    similarity,
    square_boxes,
    warp,
)
from deepfake.data.faces.base import Face, FaceDetector, Landmarks, Track, look_near, overlap, track_face
from deepfake.data.frame_sampling import ClipIndices, ClipPlan
from deepfake.data.media import Deadline, Frames, MediaError, MediaInfo, Pixels, Views, read_image
from deepfake.data.video import frame_rate, read_video

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
        landmarks: float32 [*frames.shape, 5, 2]: the face's in the pixels of those crops; None where none were kept.
    """

    size: tuple[int, int, int]
    frames: np.ndarray
    landmarks: Landmarks | None = None


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
        landmarks: float32 [clips, T, 5, 2], in the crops' pixels, as :class:`deepfake.data.faces.base.Face` orders
            them; None where no face was looked for.
    """

    pixels: Pixels
    lengths: NDArray[np.int64]
    frames: np.ndarray
    info: MediaInfo
    dhashes: tuple[int, ...]
    thumbnail: Pixels
    landmarks: Landmarks | None = None

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
        plan = settings.plan if settings.plan.stride_seconds is None else settings.plan.at(frame_rate(file, until))
        frames = read_video(file, lambda count: plan.indices(count).indices.reshape(-1).tolist(), until)
        chosen = plan.indices(frames.info.frames)
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
        landmarks=None if cutter.landmarks is None else cutter.landmarks[places],
    )


class _Cutter:
    """Cuts frame i's square box and resizes it.

    Attributes:
        boxes: float32 [N, 4].
        size: Of the crops, in pixels.
        landmarks: float32 [N, 5, 2], in the crops' pixels; None where there are none.
    """

    def __init__(self, boxes: NDArray[np.float32], size: int, landmarks: Landmarks | None = None) -> None:
        self.boxes = boxes
        self.size = size
        self.landmarks = landmarks

    def __call__(self, image: Pixels, i: int) -> Pixels:
        return cut_square(image, self.boxes[i], self.size)


class _Aligner(_Cutter):
    """Turns and scales frame i so that its landmarks come to lie in fixed places."""

    def __init__(self, track: Track, margin: float, size: int) -> None:
        self.matrices = [similarity(points, margin, size) for points in track.landmarks]
        placed = [points @ m[:, :2].T + m[:, 2] for points, m in zip(track.landmarks, self.matrices, strict=True)]
        super().__init__(aligned_boxes(self.matrices, size), size, np.array(placed, np.float32))

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
    boxes = square_boxes(track.boxes, settings.margin)
    return _Cutter(boxes, settings.size, landmarks_in_boxes(track.landmarks, boxes, settings.size)), track.found


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
    # One box is one crop: its landmarks lie where the original's do.
    landmarks = None if known.landmarks is None else known.landmarks.reshape(-1, 5, 2)[first]
    return _Cutter(boxes, settings.size, landmarks), records["found"]


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


def normalise(crop: Pixels) -> None:
    """Compress a crop in place as every other one is: JPEG at one quality, colours at half resolution.

    Traces of the format a class was published in (Grommelt et al. 2024, arXiv:2403.17608) are drowned by those of
    one format for all. The size is one for all already.
    """
    import simplejpeg

    data = simplejpeg.encode_jpeg(crop, quality=_NORMAL_QUALITY, colorsubsampling="420", fastdct=False)
    simplejpeg.decode_jpeg(data, buffer=crop, fastdct=False, fastupsample=False)
