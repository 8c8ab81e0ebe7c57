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
    landmarks_in_frames,
    patch_boxes,
    similarity,
    square_boxes,
    steady_boxes,
    warp,
)
from deepfake.data.faces.base import Face, FaceDetector, Landmarks, Track, look_near, overlap, track_faces
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
_BOX = ("x0", "y0", "x1", "y1")

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
        box: ``frame`` follows the face from frame to frame; ``clip`` is one box for all frames of a run.
        view: ``face``, or ``patches``: squares of ``size`` pixels as they are, spread over the face's box.
        max_faces: How many faces of a sample are cut at most.
    """

    plan: ClipPlan
    faces: str
    face_model: str | None
    margin: float
    size: int
    align: bool
    normalise: bool = False
    box: str = "frame"
    view: str = "face"
    max_faces: int = 1


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
    """The crops of one sample, the clips of its largest face first.

    Attributes:
        pixels: uint8 [clips, T, S, S, 3], RGB.
        lengths: int64 [clips]; frames past it repeat the clip's last one.
        frames: The :data:`FRAME` records [clips, T]; boxes are what was cut, in pixels of the upright frame.
        info: What the file says of itself.
        dhashes: Of a few whole frames, first to last.
        thumbnail: uint8 [16, 16] of the frame in the middle.
        landmarks: float32 [clips, T, 5, 2], in the crops' pixels, as :class:`deepfake.data.faces.base.Face` orders
            them; None where no face was looked for.
        faces: int64 [clips]: the face that each clip shows, 0 for the largest; None where there is one only.
        beside: How many faces were seen beside the largest; None where none was looked for.
    """

    pixels: Pixels
    lengths: NDArray[np.int64]
    frames: np.ndarray
    info: MediaInfo
    dhashes: tuple[int, ...]
    thumbnail: Pixels
    landmarks: Landmarks | None = None
    faces: NDArray[np.int64] | None = None
    beside: int | None = None

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
        kind: ``video`` or ``image``; an image is one clip of one frame, or one for each of its patches.
        settings: How to cut.
        detector: What :func:`deepfake.data.faces.create_detector` gave for the same settings.
        known: The track of the video this one was made from, used where sizes and frames agree.
        until: When it has to be done.

    Raises:
        MediaError: The file cannot be used: ``no_face``, ``too_small``, ``timeout`` and the reasons of
            :func:`read_video` and :func:`read_image`.
    """
    frames, chosen = _read(file, kind, settings, until)
    views = Views(frames.images)
    followed = _known_boxes(frames, settings, known, detector)
    faces, beside = ([followed], None) if followed else _boxes(frames, settings, detector)
    places = np.searchsorted(frames.indices, chosen.indices)  # [clips, T]
    cuts = [_cut(views, places, cutter, settings, known if followed else None) for cutter, _ in faces]
    pixels = np.concatenate([cut.pixels for cut in cuts])
    if settings.normalise:
        for crop in pixels.reshape(-1, *pixels.shape[2:]):
            normalise(crop)
    landmarks = [cut.landmarks for cut in cuts if cut.landmarks is not None]
    counts = [len(cut.clips) for cut in cuts]
    first, middle, last = 0, len(frames.images) // 2, len(frames.images) - 1
    return Crops(
        pixels=pixels,
        lengths=np.concatenate([chosen.lengths[cut.clips] for cut in cuts]),
        frames=np.concatenate([_laid_out(frames, cut, found) for cut, (_, found) in zip(cuts, faces, strict=True)]),
        info=frames.info,
        dhashes=tuple(dhash(views[i]) for i in sorted({first, middle, last})),
        thumbnail=thumbnail(views[middle]),
        landmarks=np.concatenate(landmarks) if landmarks else None,
        faces=np.repeat(np.arange(len(cuts)), counts) if len(cuts) > 1 else None,
        beside=beside,
    )


def _laid_out(frames: Frames, cut: _Cut, found: NDArray[np.bool_] | bool) -> np.ndarray:
    """The :data:`FRAME` records [clips, T] of what was cut of one face."""
    records = np.zeros(len(frames.images), FRAME)
    records["frame_index"], records["pts"], records["found"] = frames.indices, frames.pts, found
    laid_out = records[cut.places]
    for name, column in zip(_BOX, np.moveaxis(cut.boxes, -1, 0), strict=True):
        laid_out[name] = column
    return laid_out


def _read(file: Path, kind: str, settings: CutSettings, until: Deadline | None) -> tuple[Frames, ClipIndices]:
    """The frames that are looked at, and which of them make which clip."""
    if kind == "image":
        clips = settings.plan.clips if settings.view == "patches" else 1
        return read_image(file), ClipIndices(np.zeros((clips, 1), np.int64), np.ones(clips, np.int64))
    plan = settings.plan if settings.plan.stride_seconds is None else settings.plan.at(frame_rate(file, until))
    frames = read_video(file, lambda count: plan.indices(count).indices.reshape(-1).tolist(), until)
    return frames, plan.indices(frames.info.frames)


@dataclass(frozen=True)
class _Cut:
    """What was cut.

    Attributes:
        clips: Which of the clips that were planned there are.
        places: Which frames are in each of them, [clips, T]; and what was cut there: pixels, boxes, landmarks.
    """

    clips: NDArray[np.int64]
    places: NDArray[np.int64]
    pixels: Pixels
    boxes: NDArray[np.float32]
    landmarks: Landmarks | None


def _cut(
    views: Views, places: NDArray[np.int64], cutter: _Cutter, settings: CutSettings, known: KnownTrack | None
) -> _Cut:
    """Cut frames as they are laid out in clips; ``known`` is the track that the cutter follows, if it does."""
    if settings.view == "patches":
        return _cut_patches(views, places, cutter, settings)
    if settings.box == "clip":
        return _cut_steadily(views, places, cutter, known)
    crops = np.stack([cutter(image, i) for i, image in enumerate(views)])  # [N, S, S, 3]
    landmarks = None if cutter.landmarks is None else cutter.landmarks[places]
    return _Cut(np.arange(len(places)), places, crops[places], cutter.boxes[places], landmarks)


def _cut_steadily(views: Views, places: NDArray[np.int64], cutter: _Cutter, known: KnownTrack | None) -> _Cut:
    """One box for all frames of a clip, which holds the face throughout; the known ones where there are any."""
    if known is not None and known.frames.shape == places.shape:
        boxes = np.stack([known.frames[name] for name in _BOX], -1)
    else:
        boxes = square_boxes(steady_boxes(cutter.boxes[places]).reshape(-1, 4), 0).reshape(*places.shape, 4)
    return _cut_boxes(views, np.arange(len(places)), places, boxes, cutter)


def _cut_patches(views: Views, places: NDArray[np.int64], cutter: _Cutter, settings: CutSettings) -> _Cut:
    """Squares as they are in the frames, each clip's at another place of the face's box; equal ones are cut once."""
    height, width = views[0].shape[:2]
    if min(height, width) < settings.size:
        raise MediaError("too_small", f"{width}x{height} has no room for a patch of {settings.size} pixels")
    regions = cutter.boxes[places]
    if settings.plan.temporal:  # in a run a patch stands still
        regions = steady_boxes(regions)
    boxes = patch_boxes(regions, settings.size, width, height)
    shown = np.concatenate([places[..., None], boxes], 2).reshape(len(places), -1)
    apart = np.sort(np.unique(shown, axis=0, return_index=True)[1])
    return _cut_boxes(views, apart, places[apart], boxes[apart], cutter)


def _cut_boxes(
    views: Views, clips: NDArray[np.int64], places: NDArray[np.int64], boxes: NDArray[np.float32], cutter: _Cutter
) -> _Cut:
    """Each clip's own box of each of its frames [clips, T, 4]."""
    size = cutter.size
    pixels = np.empty((*places.shape, size, size, 3), np.uint8)
    for place in np.unique(places).tolist():
        image = views[place]
        for clip, time in np.argwhere(places == place).tolist():
            pixels[clip, time] = cut_square(image, boxes[clip, time], size)
    if cutter.landmarks is None:
        return _Cut(clips, places, pixels, boxes, None)
    seen = landmarks_in_frames(cutter.landmarks, cutter.boxes, size)[places].reshape(-1, 5, 2)
    placed = landmarks_in_boxes(seen, boxes.reshape(-1, 4), size).reshape(*places.shape, 5, 2)
    return _Cut(clips, places, pixels, boxes, placed)


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
) -> tuple[list[tuple[_Cutter, NDArray[np.bool_] | bool]], int | None]:
    """For each face what cuts each frame, and in which of them it was found, the largest first; and how many others
    there are beside that."""
    height, width = frames.images.shape[1:3]
    if detector is None:
        side = min(height, width)
        x, y = ((width - side) // 2, (height - side) // 2) if settings.faces == "center" else (0, 0)
        whole = (x, y, width - x, height - y) if settings.faces == "none" else (x, y, x + side, y + side)
        return [(_Cutter(np.tile(np.array(whole, np.float32), (len(frames.images), 1)), settings.size), True)], None
    tracks = track_faces(Views(frames.images), frames.pts, detector, settings.max_faces)
    if not tracks:
        raise MediaError("no_face", f"no face in any of the frames looked at, {width}x{height}")
    return [(_cutter(track, settings), track.found) for track in tracks], tracks[0].beside


def _cutter(track: Track, settings: CutSettings) -> _Cutter:
    if settings.align:
        return _Aligner(track, settings.margin, settings.size)
    boxes = square_boxes(track.boxes, settings.margin)
    return _Cutter(boxes, settings.size, landmarks_in_boxes(track.landmarks, boxes, settings.size))


def _known_boxes(
    frames: Frames, settings: CutSettings, known: KnownTrack | None, detector: FaceDetector | None
) -> tuple[_Cutter, NDArray[np.bool_]] | None:
    """The crops of the video this one was made from, if it has every frame wanted here and the face is there too."""
    info = frames.info
    # Where one face is known, others are not.
    own = settings.align or settings.view == "patches" or settings.max_faces > 1
    if known is None or own or known.size != (info.width, info.height, info.frames):
        return None
    indices, first = np.unique(known.frames["frame_index"], return_index=True)
    if not np.array_equal(indices, frames.indices):
        return None
    records = known.frames.reshape(-1)[first]
    boxes = np.stack([records[name] for name in _BOX], 1)
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
