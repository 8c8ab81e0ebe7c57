"""Detectors, and one face followed through a video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.data.crop_geometry import cut_box, cut_square, resize, similarity, square_boxes, warp
from deepfake.data.faces import create_detector, find_face_model
from deepfake.data.faces.base import Box, Face, FaceDetector, overlap, track_face, track_faces
from deepfake.data.media import Pixels, read_image
from deepfake.data.options import DatasetOptions
from deepfake.data.video import read_video
from deepfake.errors import DataError


def _face(x: float, y: float, size: float, score: float = 0.99) -> Face:
    box = np.array([x, y, x + size, y + size], np.float32)
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    return Face(box, score, points * size + box[:2])


class Scripted(FaceDetector):
    """Finds what was painted: a face wherever a frame has a block of one of the given grey levels."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        self.levels = levels

    def detect(self, image: Pixels) -> list[Face]:
        found = []
        for level in self.levels:
            rows, columns = np.nonzero(image[:, :, 0] == level)
            if len(rows):
                found.append(_face(columns.min(), rows.min(), columns.max() - columns.min() + 1))
        return found

    def follow(self, image: Pixels, box: Box) -> Face | None:
        faces = self.detect(image)
        return max(faces, key=lambda face: overlap(face.box, box), default=None)


def _painted(blocks: list[tuple[int, int, int, int] | None]) -> Pixels:
    image = np.zeros((200, 300, 3), np.uint8)
    for block in blocks:
        if block is not None:
            x, y, size, level = block
            image[y : y + size, x : x + size] = level
    return image


def test_a_moving_face_is_followed() -> None:
    images = [_painted([(10 + 5 * i, 50, 60, 200)]) for i in range(30)]
    track = track_face(images, np.arange(30.0), Scripted((200,)))
    assert track is not None
    assert np.abs(track.boxes[:, 0] - (10 + 5 * np.arange(30))).max() <= 1


def test_the_largest_steady_face_wins_over_a_larger_passing_one() -> None:
    images = [_painted([(10, 50, 50, 200), (150, 20, 90, 100) if i == 15 else None]) for i in range(30)]
    track = track_face(images, np.arange(30.0), Scripted((100, 200)))
    assert track is not None
    assert track.boxes[:, 0].max() <= 11


def test_the_track_does_not_jump_between_two_people() -> None:
    images = [_painted([(10, 50, 60, 200), (180, 50, 60 + (i % 2) * 4, 100)]) for i in range(30)]
    track = track_face(images, np.arange(30.0), Scripted((100, 200)))
    assert track is not None
    assert np.ptp(track.boxes[:, 0]) <= 2


def test_misses_are_interpolated_and_marked() -> None:
    images = [_painted([(10 + 4 * i, 50, 60, 200) if not 10 <= i < 14 else None]) for i in range(30)]
    track = track_face(images, np.arange(30.0), Scripted((200,)))
    assert track is not None
    assert np.flatnonzero(~track.found).tolist() == [10, 11, 12, 13]
    assert np.abs(track.boxes[:, 0] - (10 + 4 * np.arange(30))).max() <= 1


def test_no_face_anywhere_gives_no_track() -> None:
    assert track_face([_painted([])] * 8, np.arange(8.0), Scripted((200,))) is None


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_detectors_find_the_faces_of_real_crops(name: str, shared_data: Path) -> None:
    model = shared_data.parent / "models" / "yunet_n_640_640.onnx"
    if name == "yunet" and not model.is_file():
        pytest.skip("no YuNet model in ../shared/models")
    detector = create_detector(name, str(model) if name == "yunet" else None)
    assert detector is not None
    files = sorted((shared_data / "dfdc_crops" / "real").glob("*.jpg"))[:12]
    hits = [len(detector.detect(read_image(file).images[0])) > 0 for file in files]
    assert sum(hits) >= 10


@pytest.mark.parametrize("size", [(1, 1), (12, 300), (39, 39)])
def test_mtcnn_takes_images_of_any_size(size: tuple[int, int]) -> None:
    detector = create_detector("mtcnn", None)
    assert detector is not None
    assert detector.detect(np.full((*size, 3), 128, np.uint8)) == []


def test_a_real_face_is_found_in_every_frame(shared_data: Path) -> None:
    frames = read_video(shared_data / "real_videos" / "cap13_edit2.mp4", lambda n: range(100, 160, 4))
    detector = create_detector("mtcnn", None)
    assert detector is not None
    track = track_face(list(frames.images), frames.pts, detector)
    assert track is not None
    assert track.found.all()


def test_a_missing_model_file_is_a_clear_error(tmp_path: Path) -> None:
    options = DatasetOptions(faces="yunet", face_model=str(tmp_path / "nothing.onnx"))
    with pytest.raises(DataError, match="is not a file"):
        find_face_model(options, tmp_path)


def test_a_model_file_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match="no YuNet model"):
        create_detector("yunet", str(tmp_path / "model.onnx"))


def test_a_spoilt_download_is_refused_by_its_checksum(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "face_detection_yunet_2023mar.onnx").write_bytes(b"half of it")
    with pytest.raises(DataError, match="SHA-256"):
        find_face_model(DatasetOptions(faces="yunet"), tmp_path)


def test_a_crop_is_a_square_of_the_longer_side_and_margin() -> None:
    box = square_boxes(np.array([[100, 100, 140, 180]], np.float32), 0.25)
    assert box.tolist() == [[70, 90, 170, 190]]


@pytest.mark.parametrize("box", [(-20, -10, 30, 40), (80, 50, 140, 110), (-50, -50, 200, 200), (300, 300, 340, 340)])
def test_a_crop_beyond_the_image_repeats_its_edge(box: tuple[int, int, int, int]) -> None:
    image = np.arange(100 * 120 * 3, dtype=np.uint32).reshape(100, 120, 3).astype(np.uint8)
    cut = cut_box(image, box)
    rows = np.arange(box[1], box[3]).clip(0, 99)
    columns = np.arange(box[0], box[2]).clip(0, 119)
    assert np.array_equal(cut, image[rows][:, columns])


def _blob(x: float, y: float, deviation: float, side: int = 320) -> Pixels:
    """A picture of one soft spot about (x, y), where (0.5, 0.5) is the middle of the first pixel."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    grey = 220 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * deviation**2))
    return np.repeat(np.rint(grey).astype(np.uint8)[:, :, None], 3, 2)


def _middle(picture: Pixels) -> np.ndarray:
    """Where the spot of a picture is: x, y."""
    grey = picture[:, :, 0].astype(float)
    rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]] + 0.5
    return np.array([(columns * grey).sum(), (rows * grey).sum()]) / grey.sum()


@pytest.mark.parametrize("side", [60.0, 111.7, 150.3, 223.9])
def test_a_crop_follows_a_face_by_fractions_of_a_pixel(side: float) -> None:
    """The spot moves with its box, so that it stays in one place of the crop; whole pixels would move it by 0.3."""
    steps = np.arange(12) * 0.37
    boxes = np.stack([40 + steps, 43 + 1.3 * steps, 40 + steps + side, 43 + 1.3 * steps + side], 1)
    found = [_middle(cut_square(_blob(*(box[:2] + side / 2), side / 9), box.astype(np.float32), 112)) for box in boxes]
    assert np.abs(np.array(found) - 56).max() < 0.08


def test_boxes_are_not_rounded() -> None:
    boxes = np.array([[100.2, 100.4, 140.3, 180.9], [100.3, 100.5, 140.4, 181.1]], np.float32)
    squares = square_boxes(boxes, 0.3)
    assert (squares[:, :2] + squares[:, 2:]) / 2 == pytest.approx((boxes[:, :2] + boxes[:, 2:]) / 2, abs=1e-3)
    assert squares[:, 2] - squares[:, 0] == pytest.approx([1.3 * 80.5, 1.3 * 80.6], abs=1e-3)


@pytest.mark.parametrize(
    "box", [(-20.4, -10.2, 30.1, 40.3), (-50.5, -50.5, 400.5, 400.5), (300.3, 300.3, 340.8, 340.8)]
)
def test_a_crop_at_fractions_of_a_pixel_repeats_the_edge_beyond_the_image(box: tuple[float, ...]) -> None:
    crop = cut_square(np.full((100, 120, 3), 77, np.uint8), np.array(box, np.float32), 32)
    assert crop.shape == (32, 32, 3)
    assert (crop == 77).all()


@pytest.mark.parametrize("face", [60, 150, 240])
def test_an_aligned_crop_has_its_points_where_its_matrix_says(face: int) -> None:
    points = _face(30.25, 40.6, face).landmarks
    matrix = similarity(points, 0.3, 48)
    spot = points[2].astype(np.float64)
    crop = warp(_blob(*(spot + 0.5), face / 12), matrix, 48)
    assert _middle(crop) - 0.5 == pytest.approx(matrix[:, :2] @ spot + matrix[:, 2], abs=0.03)


@pytest.mark.parametrize("size", [16, 40, 97])
def test_resizing_keeps_the_mean(size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    assert abs(resize(image, size).mean() - image.mean()) < 2


def test_alignment_brings_a_turned_face_upright() -> None:
    points = _face(100, 80, 120).landmarks
    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    placed = [similarity(p.astype(np.float32), 0.3, 224) for p in (points, points @ turn.T + 30)]
    first = points @ placed[0][:, :2].T + placed[0][:, 2]
    second = (points @ turn.T + 30) @ placed[1][:, :2].T + placed[1][:, 2]
    assert np.abs(first - second).max() < 1e-3


@pytest.mark.parametrize("size", [24, 112, 300])
def test_an_aligned_crop_shows_the_face(size: int) -> None:
    face = _face(60, 40, 120)
    image = np.zeros((240, 320, 3), np.uint8)
    for x, y in face.landmarks:
        cv2.circle(image, (round(float(x)), round(float(y))), 8, (255, 255, 255), -1)
    matrix = similarity(face.landmarks, 0.3, size)
    crop = warp(image, matrix, size)
    places = np.rint(face.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(int)
    assert crop.shape == (size, size, 3)
    assert all(crop[y, x, 0] > 120 for x, y in places)


def test_every_steady_face_is_followed_the_largest_first() -> None:
    images = [_painted([(10 + 2 * i, 50, 60, 200), (180, 50 + i, 40, 100)]) for i in range(30)]
    tracks = track_faces(images, np.arange(30.0), Scripted((100, 200)), most=4)
    assert [round(float(track.boxes[0, 0])) for track in tracks] == [10, 180]
    assert np.abs(tracks[1].boxes[:, 1] - (50 + np.arange(30))).max() <= 1


def test_no_more_faces_are_followed_than_are_asked_for() -> None:
    images = [_painted([(10, 50, 60, 200), (180, 50, 40, 100)]) for _ in range(30)]
    (track,) = track_faces(images, np.arange(30.0), Scripted((100, 200)), most=1)
    assert track.boxes[0, 0] == pytest.approx(10, abs=1)


def test_a_face_that_passes_by_is_none_of_them() -> None:
    images = [_painted([(10, 50, 60, 200), (180, 50, 40, 100) if i == 15 else None]) for i in range(30)]
    assert len(track_faces(images, np.arange(30.0), Scripted((100, 200)), most=4)) == 1


def test_in_a_picture_each_face_is_one() -> None:
    image = _painted([(10, 50, 60, 200), (180, 50, 40, 100)])
    assert len(track_faces([image], np.zeros(1), Scripted((100, 200)), most=4)) == 2


@pytest.mark.parametrize(("other", "passing", "beside"), [(40, False, 1), (20, False, 0), (40, True, 0)])
def test_faces_beside_the_largest_are_counted_without_being_followed(other: int, passing: bool, beside: int) -> None:
    images = [_painted([(10, 50, 60, 200), None if passing and i != 15 else (180, 50, other, 100)]) for i in range(30)]
    (track,) = track_faces(images, np.arange(30.0), Scripted((100, 200)))
    assert track.beside == beside
