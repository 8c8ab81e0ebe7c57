"""Faces to crops: hashes of pictures, and frames that were cropped before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.data.cropping import CutSettings, KnownTrack, cut_sample, dhash, thumbnail
from deepfake.data.faces import create_detector
from deepfake.data.faces.base import Face, overlap
from deepfake.data.frame_sampling import ClipPlan
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.media import MediaError
from deepfake.data.options import DatasetOptions
from deepfake.data.prepare import prepare_crops
from tests.data.making import write_video


def _picture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)


def _recompressed(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize(
    "change",
    [
        _recompressed,
        lambda image: cv2.resize(image, (150, 120)),
        lambda image: cv2.convertScaleAbs(image, None, 0.8, 9),
    ],
    ids=["recompressed", "scaled", "toned"],
)
def test_the_same_picture_stays_alike(change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = _picture(0)
    assert int(dhash(image) ^ dhash(change(image))).bit_count() <= 5


def test_other_pictures_differ() -> None:
    hashes = [dhash(_picture(seed)) for seed in range(20)]
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > 10


def test_a_thumbnail_is_small_and_grey() -> None:
    assert thumbnail(_picture(1)).shape == (16, 16)


SETTINGS = CutSettings(ClipPlan(False, 1, 4), "center", None, 0.0, 16, False)


def _known(path: Path, size: tuple[int, int, int]) -> tuple[KnownTrack, np.ndarray]:
    frames = cut_sample(path, "video", SETTINGS, None).frames.copy()
    frames["x0"], frames["y0"], frames["x1"], frames["y1"] = 10, 20, 50, 60
    frames["found"] = [[True, False, True, True]]
    return KnownTrack(size, frames), frames


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "v.mp4", 12)


def test_the_known_boxes_are_cut(video: Path) -> None:
    known, frames = _known(video, (160, 96, 12))
    assert np.array_equal(cut_sample(video, "video", SETTINGS, None, known).frames, frames)


@pytest.mark.parametrize("size", [(160, 90, 12), (160, 96, 13)], ids=["other size", "other length"])
def test_a_video_that_does_not_fit_its_original_has_boxes_of_its_own(size: tuple[int, int, int], video: Path) -> None:
    known, _ = _known(video, size)
    assert cut_sample(video, "video", SETTINGS, None, known).frames["x0"].max() == 32


def test_a_real_fake_is_framed_as_its_original(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "FaceForensics++"
    real = "original_sequences/youtube/c23/videos/519.mp4"
    fake = "manipulated_sequences/Deepfakes/c23/videos/519_515.mp4"
    rows = [
        {"sample_id": "fake", "path": fake, "label": 1, "original": "real"},
        {"sample_id": "real", "path": real, "label": 0, "original": ""},
    ]
    table = make_rows([{"kind": "video", "method": "m", "dataset": "set", **row} for row in rows])
    options = DatasetOptions(frames=4, clips=1, size=64)
    store = prepare_crops(Manifest(table, {"set": root}), options, True, tmp_path, workers=0)
    boxes = [store.frame_records(name)[["x0", "y0", "x1", "y1"]].tolist() for name in ("real", "fake")]
    assert boxes[0] == boxes[1]


def test_the_landmarks_of_a_real_face_lie_where_a_face_has_them(shared_data: Path) -> None:
    path = shared_data / "FaceForensics++/original_sequences/youtube/c23/videos/519.mp4"
    settings = CutSettings(ClipPlan(True, 1, 3), "mtcnn", None, 0.3, 100, False)
    crops = cut_sample(path, "video", settings, create_detector("mtcnn", None))
    assert crops.landmarks is not None
    left, right, nose, *mouth = crops.landmarks[0].mean(0).tolist()
    assert left[0] < nose[0] < right[0]
    assert max(left[1], right[1]) < nose[1] < min(corner[1] for corner in mouth)
    assert crops.landmarks.min() > 20
    assert crops.landmarks.max() < 85


class Elsewhere:
    """Sees the one face of a frame where it is told to."""

    def __init__(self, x: float) -> None:
        self.face = Face(np.array([x, 20, x + 30, 55], np.float32), 0.99, np.zeros((5, 2), np.float32))

    def detect(self, image: np.ndarray) -> list[Face]:
        return [self.face]

    def follow(self, image: np.ndarray, box: np.ndarray) -> Face | None:
        return self.face


@pytest.mark.parametrize(("x", "left"), [(15, 10), (110, 102.25)], ids=["there", "mirrored"])
def test_a_face_that_is_not_where_the_original_had_it_is_tracked(x: float, left: float, video: Path) -> None:
    known, _ = _known(video, (160, 96, 12))
    settings = CutSettings(**{**vars(SETTINGS), "faces": "mtcnn", "margin": 0.3})
    assert cut_sample(video, "video", settings, Elsewhere(x), known).frames["x0"].tolist() == [[left] * 4]


class Spot:
    """Sees one face whose points all lie on a bright spot."""

    def __init__(self, x: float, y: float) -> None:
        box = np.array([x - 20, y - 20, x + 20, y + 20], np.float32)
        points = np.array([[-9, -8], [9, -8], [0, 0], [-7, 9], [7, 9]], np.float32)
        self.face = Face(box, 0.99, points + np.array([x, y], np.float32))

    def detect(self, image: np.ndarray) -> list[Face]:
        return [self.face]

    def follow(self, image: np.ndarray, box: np.ndarray) -> Face | None:
        return self.face


@pytest.mark.parametrize("align", [False, True])
def test_landmarks_lie_on_what_they_mark(align: bool, tmp_path: Path) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    image[50:53, 70:73] = 255
    cv2.imwrite(str(tmp_path / "spot.png"), image)
    changes = {"faces": "mtcnn", "margin": 0.3, "size": 104, "align": align}
    settings = CutSettings(**{**vars(SETTINGS), **changes})
    crops = cut_sample(tmp_path / "spot.png", "image", settings, Spot(71.5, 51.5))
    rows, columns = np.nonzero(crops.pixels[0, 0, :, :, 0] > 128)
    assert crops.landmarks is not None
    assert crops.landmarks.shape == (1, 1, 5, 2)
    # OpenCV's matrices place a pixel at its corner, boxes at its middle.
    assert crops.landmarks[0, 0, 2] == pytest.approx([columns.mean() + 0.5, rows.mean() + 0.5], abs=1.3)


def test_a_fake_in_its_originals_crop_has_its_landmarks(video: Path) -> None:
    known, frames = _known(video, (160, 96, 12))
    points = np.arange(frames.size * 10, dtype=np.float32).reshape(*frames.shape, 5, 2)
    crops = cut_sample(video, "video", SETTINGS, None, KnownTrack(known.size, frames, points))
    assert np.array_equal(crops.landmarks, points)


def test_crops_for_which_no_face_was_looked_for_have_no_landmarks(video: Path) -> None:
    assert cut_sample(video, "video", SETTINGS, None).landmarks is None


class Passing:
    """Sees a face of 30 pixels that moves by four pixels from one frame looked at to the next."""

    def __init__(self) -> None:
        self.x = 20.0

    def detect(self, image: np.ndarray) -> list[Face]:
        return [self._face()]

    def follow(self, image: np.ndarray, box: np.ndarray) -> Face | None:
        return self._face()

    def _face(self) -> Face:
        self.x += 4
        points = np.array([[self.x + 15, 45]] * 5, np.float32)
        return Face(np.array([self.x, 30, self.x + 30, 60], np.float32), 0.99, points)


def _boxes(frames: np.ndarray) -> np.ndarray:
    return np.stack([frames[name] for name in ("x0", "y0", "x1", "y1")], -1)


RUNS = {"plan": ClipPlan(True, 2, 4, 1), "faces": "mtcnn", "margin": 0.3}


def test_a_clips_box_stands_still_and_holds_the_face_throughout(video: Path) -> None:
    moving = cut_sample(video, "video", CutSettings(**{**vars(SETTINGS), **RUNS}), Passing())
    still = cut_sample(video, "video", CutSettings(**{**vars(SETTINGS), **RUNS, "box": "clip"}), Passing())
    boxes, inner = _boxes(still.frames), _boxes(moving.frames)
    assert (boxes == boxes[:, :1]).all()
    assert (boxes[0] != boxes[1]).any()
    assert (boxes[..., :2] <= inner[..., :2] + 1e-3).all()
    assert (boxes[..., 2:] >= inner[..., 2:] - 1e-3).all()
    assert boxes[..., 2] - boxes[..., 0] == pytest.approx(boxes[..., 3] - boxes[..., 1])


def test_landmarks_move_in_a_box_that_stands_still(video: Path) -> None:
    moving = cut_sample(video, "video", CutSettings(**{**vars(SETTINGS), **RUNS}), Passing())
    still = cut_sample(video, "video", CutSettings(**{**vars(SETTINGS), **RUNS, "box": "clip"}), Passing())
    seen = []
    for crops in (moving, still):
        assert crops.landmarks is not None
        boxes = _boxes(crops.frames)[..., None, :]
        seen.append(boxes[..., :2] + crops.landmarks * (boxes[..., 2:] - boxes[..., :2]) / SETTINGS.size)
    assert seen[0] == pytest.approx(seen[1], abs=1e-3)


def test_a_fake_is_cut_by_its_originals_clip_boxes_even_where_clips_share_frames(video: Path) -> None:
    settings = CutSettings(**{**vars(SETTINGS), **RUNS, "plan": ClipPlan(True, 3, 8, 1), "box": "clip"})
    real = cut_sample(video, "video", settings, Passing())
    known = KnownTrack((160, 96, 12), real.frames, real.landmarks)
    fake = cut_sample(video, "video", settings, None, known)
    assert np.array_equal(fake.frames, real.frames)
    assert np.array_equal(fake.pixels, real.pixels)
    assert fake.landmarks == pytest.approx(real.landmarks, abs=1e-3)


def _patches(clips: int, size: int, **changes: object) -> CutSettings:
    plan = ClipPlan(False, clips, 1)
    return CutSettings(**{**vars(SETTINGS), "plan": plan, "faces": "none", "size": size, "view": "patches", **changes})


@pytest.mark.parametrize(("clips", "places"), [(1, 1), (4, 4), (6, 6)])
def test_patches_are_the_pictures_own_pixels(clips: int, places: int, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), image[..., ::-1])
    crops = cut_sample(tmp_path / "noise.png", "image", _patches(clips, 32), None)
    boxes = _boxes(crops.frames)[:, 0].astype(int).tolist()
    assert len({tuple(box) for box in boxes}) == len(boxes) == places
    for (x0, y0, x1, y1), patch in zip(boxes, crops.pixels[:, 0], strict=True):
        assert np.array_equal(patch, image[y0:y1, x0:x1])


def test_four_patches_reach_the_corners(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 70, 3), np.uint8))
    boxes = _boxes(cut_sample(tmp_path / "a.png", "image", _patches(4, 32), None).frames)[:, 0, :2].tolist()
    assert boxes == [[0, 0], [38, 0], [0, 18], [38, 18]]


def test_a_picture_of_a_patchs_size_has_one(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    crops = cut_sample(tmp_path / "a.png", "image", _patches(4, 32), None)
    assert (crops.pixels.shape[0], crops.lengths.tolist()) == (1, [1])


def test_a_picture_smaller_than_a_patch_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((31, 70, 3), np.uint8))
    with pytest.raises(MediaError, match="70x31 has no room for a patch of 32 pixels") as caught:
        cut_sample(tmp_path / "a.png", "image", _patches(4, 32), None)
    assert caught.value.reason == "too_small"


def test_patches_of_a_face_smaller_than_they_lie_about_it(video: Path) -> None:
    crops = cut_sample(video, "video", _patches(2, 64, faces="mtcnn", margin=0.0), Elsewhere(15))
    assert _boxes(crops.frames)[:, 0].tolist() == [[0, 6, 64, 70]] * 2


def test_a_patch_stands_still_in_a_run(video: Path) -> None:
    settings = _patches(2, 24, **RUNS)
    boxes = _boxes(cut_sample(video, "video", settings, Passing()).frames)
    assert (boxes == boxes[:, :1]).all()
    assert (boxes[0] != boxes[1]).any()


def test_normalised_crops_carry_one_compression(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 8)
    plain = cut_sample(path, "video", SETTINGS, None)
    twice = cut_sample(path, "video", CutSettings(**{**vars(SETTINGS), "normalise": True}), None)
    assert (plain.pixels != twice.pixels).any()
    assert np.abs(plain.pixels.astype(int) - twice.pixels).mean() < 12


def test_a_stride_in_seconds_takes_frames_by_a_videos_own_rate(tmp_path: Path) -> None:
    plan = ClipPlan(True, clips=1, frames=3, stride_seconds=0.2)
    settings = CutSettings(**{**vars(SETTINGS), "plan": plan})
    for ticks, stride in ((1, 10), (5, 2)):
        path = write_video(tmp_path / f"{ticks}.mp4", 60, steps=[ticks] * 60)
        frames = cut_sample(path, "video", settings, None).frames
        assert np.diff(frames["frame_index"]).tolist() == [[stride, stride]]


class Two:
    """Sees two faces that do not move."""

    def __init__(self) -> None:
        points = np.zeros((5, 2), np.float32)
        self.faces = [
            Face(np.array([x, 20, x + w, 20 + w], np.float32), 0.99, points) for x, w in ((10, 40), (100, 30))
        ]

    def detect(self, image: np.ndarray) -> list[Face]:
        return self.faces

    def follow(self, image: np.ndarray, box: np.ndarray) -> Face | None:
        return max(self.faces, key=lambda face: overlap(face.box, box))


def test_each_face_has_clips_of_its_own(video: Path) -> None:
    changes = {"faces": "mtcnn", "margin": 0.0, "max_faces": 3, "plan": ClipPlan(False, 2, 4)}
    crops = cut_sample(video, "video", CutSettings(**{**vars(SETTINGS), **changes}), Two())
    assert crops.faces is not None
    assert (crops.faces.tolist(), crops.pixels.shape[:2], crops.lengths.tolist()) == ([0, 0, 1, 1], (4, 4), [4] * 4)
    assert crops.frames["x0"][:, 0].tolist() == [10, 10, 100, 100]
    one = cut_sample(video, "video", CutSettings(**{**vars(SETTINGS), **changes, "max_faces": 1}), Two())
    assert one.faces is None
    assert np.array_equal(one.pixels, crops.pixels[:2])
    assert np.array_equal(one.frames, crops.frames[:2])


def test_patches_of_each_face_are_told_apart(video: Path) -> None:
    changes = {"faces": "mtcnn", "margin": 0.0, "max_faces": 3, "plan": ClipPlan(False, 2, 4), "view": "patches"}
    crops = cut_sample(video, "video", CutSettings(**{**vars(SETTINGS), **changes}), Two())
    assert crops.faces is not None
    assert len(crops.faces) == len(crops.pixels) == len(crops.frames)
    assert crops.frames["x0"][crops.faces == 0].max() < 60 <= crops.frames["x0"][crops.faces == 1].min()
