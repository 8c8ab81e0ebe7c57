"""What a user can say about data: the ``dataset.*`` and ``augment.*`` keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deepfake.data.media import FILE_SECONDS
from deepfake.options import MOST, chosen, environment, ranged

FACE_MODES = ("mtcnn", "yunet", "center", "none", "auto")
SPLIT_MODES = ("auto", "official", "strict", "grouped")


@dataclass
class DatasetOptions:
    """One data set: where it lies, how it is split, and how its frames become clips.

    ``frames`` x ``clips`` crops of ``size`` pixels are kept per video: ``clips`` runs of ``frames``
    consecutive frames ``stride`` apart for temporal heads, the same number evenly spaced for frame models.
    """

    name: str = "dataset"
    layout: str = "images"
    root: str | None = environment(None, of_data=True)
    # Layouts with several manipulation methods, compressions or published splits read these; None means all found.
    methods: list[str] | None = None
    compression: str | None = None
    # auto: the published split where there is one, else made of whole groups. strict: published, made disjoint.
    splits: str = chosen("auto", SPLIT_MODES)
    split_files: str | None = environment(None, of_data=True)
    split_ratios: list[float] = ranged([0.7, 0.15, 0.15], low=0, high=1)
    split_seed: int = 0
    # Columns of a table layout; a group column keeps rows that share footage or a person on one side.
    columns: dict[str, str] | None = None
    table: str | None = environment(None, of_data=True)
    limit: int | None = ranged(None, low=2, high=MOST)
    # The layout mix: several data sets at once, each with the keys above of its own.
    parts: list[dict[str, Any]] = environment(field(default_factory=list), of_data=True)
    # Face crops. auto: none for sets that are face crops already, else mtcnn.
    faces: str = chosen("mtcnn", FACE_MODES)
    face_model: str | None = environment(None, of_data=True)
    # Faces of a video that are kept, the largest that stay first; all are scored, only the first is trained on.
    max_faces: int = ranged(1, low=1, high=16)
    margin: float = ranged(0.3, low=0, high=2)
    align: bool = False
    # Where a temporal clip is cut: in each frame about its face, or for all frames in one box that holds the face.
    box: str = chosen("frame", ("frame", "clip"))
    # What a crop shows: the face, or patches of size pixels as they are, one place of the face to each of the clips.
    view: str = chosen("face", ("face", "patches"))
    # Pass the crops of both classes through one and the same compression, so that neither keeps its own traces.
    normalise_format: bool = False
    # The crops' side; auto, the size that the backbone was made for, is a number by the time options are made.
    size: int = ranged(224, low=16, high=1024, words=("auto",))
    # Clips.
    frames: int = ranged(8, low=1, high=512)
    clips: int = ranged(4, low=1, high=64)
    stride: int = ranged(2, low=1, high=64)
    # The same in seconds, whatever a video's frame rate; None counts frames.
    stride_seconds: float | None = ranged(None, above=0, high=60)
    # Frames kept beyond a temporal clip's own, among which it begins somewhere else in every epoch.
    slack: int = ranged(0, low=0, high=512)
    # The share of samples that may fail to decode or show no face before the command stops.
    max_failed: float = ranged(0.25, low=0, high=1)
    # Seconds for one file, and one more for each megabyte; one that takes longer is listed, the others go on.
    file_timeout: float = environment(ranged(FILE_SECONDS, above=0, high=MOST))
    workers: str | int = environment(ranged("auto", low=0, high=1024, words=("auto",)))
    # All clips in a GPU's memory where they fit and nothing is changed where they are read.
    on_device: str = chosen("auto", ("auto", "never"))


@dataclass
class DemoOptions:
    """The generated data set: how many people, how long, how hard, from which seed."""

    people: int = ranged(64, low=8, high=2000)
    seconds: float = ranged(1.0, low=0.2, high=60)
    size: int = ranged(96, low=48, high=1024)
    fps: int = ranged(24, low=5, high=60)
    seed: int = 0


@dataclass
class AugmentOptions:
    """Random changes to training clips; one draw per clip, applied alike to all its frames and to both classes.

    Probabilities lie in [0, 1]; strengths are the largest change drawn, pairs what is drawn between. ``flip``,
    ``brightness``, ``contrast``, ``saturation``, ``grey`` and ``mixup`` run on the device, all else where clips are
    read.
    """

    flip: float = ranged(0.0, low=0, high=1)
    brightness: float = ranged(0.0, low=0, high=1)
    contrast: float = ranged(0.0, low=0, high=1)
    saturation: float = ranged(0.0, low=0, high=1)
    grey: float = ranged(0.0, low=0, high=1)
    # Another framing: a part of the picture, enlarged to its size by linear, cubic or Lanczos interpolation.
    crop: float = ranged(0.0, low=0, high=1)
    # The part's side, of the picture's.
    crop_scale: list[float] = ranged([0.35, 0.95], low=0.1, high=1)
    # How far off the middle, of what is left: 1 is up to the edge.
    crop_shift: float = ranged(1.0, low=0, high=1)
    # Degrees either way; half of the framings stand upright.
    crop_rotation: float = ranged(0.0, low=0, high=180)
    # The largest relative change of width to height.
    crop_aspect: float = ranged(0.0, low=0, high=0.5)
    # Down to a fraction of the side and up again.
    resize: float = ranged(0.0, low=0, high=1)
    resize_scale: list[float] = ranged([0.25, 0.9], low=0.05, high=1)
    blur: float = ranged(0.0, low=0, high=1)
    blur_sigma: float = ranged(2.0, above=0, high=20)
    sharpen: float = ranged(0.0, low=0, high=1)
    # What is added of the difference from a blurred copy.
    sharpen_amount: float = ranged(1.0, above=0, high=10)
    noise: float = ranged(0.0, low=0, high=1)
    noise_std: float = ranged(8.0, low=0, high=128)
    jpeg: float = ranged(0.0, low=0, high=1)
    jpeg_quality: list[int] = ranged([40, 95], low=1, high=100)
    h264: float = ranged(0.0, low=0, high=1)
    # Constant rate factor: higher is coarser.
    h264_crf: list[int] = ranged([18, 40], low=0, high=51)
    # Frames lost at random, in whose place the one before stands still.
    drop: float = ranged(0.0, low=0, high=1)
    drop_fraction: float = ranged(0.5, low=0, high=0.95)
    # Largest relative change of a clip's pace; a faster one needs dataset.slack.
    speed: float = ranged(0.0, low=0, high=0.9)
    # A rectangle painted over with the mean colour of the clip's first frame.
    cutout: float = ranged(0.0, low=0, high=1)
    cutout_size: float = ranged(0.4, above=0, high=1)
    # Two clips and their labels weighed by Beta(mixup, mixup) (Zhang et al. 2018, arXiv:1710.09412).
    mixup: float = ranged(0.0, low=0, high=10)
    # A real clip becomes a fake, blended of itself (Shiohara and Yamasaki 2022, arXiv:2204.08376).
    self_blend: float = ranged(0.0, low=0, high=0.95)
    # landmarks: about the face that was found; oval: about the middle of the picture, which is a framed face already.
    self_blend_mask: str = chosen("landmarks", ("landmarks", "oval"))
    # The mask, of the face.
    self_blend_size: list[float] = ranged([0.5, 1.1], low=0.1, high=1.5)
    # The largest relative change of brightness and contrast; half that of saturation.
    self_blend_colour: float = ranged(0.1, low=0, high=1)
    # How far the copy is moved, of the side.
    self_blend_shift: float = ranged(0.03, low=0, high=0.3)
    # How much mask, place and colour change over a clip's frames.
    self_blend_drift: float = ranged(0.5, low=0, high=3)
