"""A fake is cut where its original was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepfake.data.crops import prepare_crops
from deepfake.data.cut import CutSettings, KnownTrack, cut_sample
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


def test_normalised_crops_carry_one_compression(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 8)
    plain = cut_sample(path, "video", SETTINGS, None)
    twice = cut_sample(path, "video", CutSettings(**{**vars(SETTINGS), "normalise": True}), None)
    assert (plain.pixels != twice.pixels).any()
    assert np.abs(plain.pixels.astype(int) - twice.pixels).mean() < 12
