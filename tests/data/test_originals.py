"""A fake is cut where its original was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepfake.data.crops import prepare_crops
from deepfake.data.cut import CutSettings, KnownTrack, cut_sample
from deepfake.data.faces.base import Face
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.data.plan import ClipPlan
from tests.data.making import write_video

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


def test_normalised_crops_carry_one_compression(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 8)
    plain = cut_sample(path, "video", SETTINGS, None)
    twice = cut_sample(path, "video", CutSettings(**{**vars(SETTINGS), "normalise": True}), None)
    assert (plain.pixels != twice.pixels).any()
    assert np.abs(plain.pixels.astype(int) - twice.pixels).mean() < 12
