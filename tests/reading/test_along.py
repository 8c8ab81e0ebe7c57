"""A file looked at all along, by a detector that says what it is told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.hostile import scenes, video
from deepfake.data.crop_records import read_frames, read_records
from deepfake.data.cropping import CutSettings
from deepfake.data.file_facts import Media
from deepfake.data.frame_sampling import ClipPlan
from deepfake.data.prepare_worker import Job
from deepfake.data.worker_pool import prepare_jobs
from deepfake.errors import UserError
from deepfake.reading.along import Along, look_along, paint_along, timeline_of
from deepfake.reading.file_answers import Answer, Input
from deepfake.training.saliency import Attribution, MapCheck
from tests import PROJECT

SETTINGS = CutSettings(ClipPlan(True, 2, 4), "center", None, 0.0, 32, False)
COUNT = 37


class Scripted:
    """Says of each clip what comes next.

    Args:
        logits: One for each clip; the last one of all that follow.
        maps: Whether it has maps.
    """

    def __init__(self, *logits: float, maps: bool = True) -> None:
        self._logits = list(logits)
        self._maps = maps
        self.checked: list[Attribution] = []

    def look(self, clip: np.ndarray, mask: np.ndarray) -> Attribution:
        logit = self._logits.pop(0) if len(self._logits) > 1 else self._logits[0]
        if not self._maps:
            return Attribution(logit, None, None, "it has none")
        return Attribution(logit, np.arange(len(mask)) + logit, np.ones((len(mask), 4, 4), np.float32))

    def check(self, clip: np.ndarray, mask: np.ndarray, own: Attribution) -> MapCheck:
        self.checked.append(own)
        return MapCheck(True, "it was learned")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return video(tmp_path / "clip.mp4", [np.roll(scenes()["clouds"], 3 * step, 1) for step in range(COUNT)])


def media(frames: int = COUNT) -> Media:
    return Media(160, 120, frames, 25.0, frames / 25, "h264", 1.0, None)


def looked(file: Path, folder: Path, looker: Scripted, settings: CutSettings = SETTINGS) -> Along:
    folder.mkdir()
    kind = "image" if file.suffix == ".png" else "video"
    return look_along(Job("0", file, kind), media(), settings, looker, folder, workers=0)


def test_every_frame_of_a_short_video_is_looked_at_once_in_order(file: Path, tmp_path: Path) -> None:
    looker = Scripted(1.0, -3.0, 0.5)
    along = looked(file, tmp_path / "crops", looker)
    assert {moment.frame for moment in along.timeline} == set(range(COUNT))
    assert [m.seconds for m in along.timeline] == sorted(m.seconds for m in along.timeline)
    assert [own.logit for own in looker.checked] == [-3.0]
    assert {mark.map is None for mark in along.marks} == {False}
    first = along.looks[0].moments
    assert [round(moment.score, 3) for moment in first[:2]] == [0.731, 0.881]
    assert {round(moment.clip_score, 3) for moment in first} == {0.731}


def test_clips_without_a_score_are_left_out_and_none_at_all_is_told(file: Path, tmp_path: Path) -> None:
    along = looked(file, tmp_path / "some", Scripted(float("nan"), 1.0))
    assert len(along.looks) == len(along.clips.all) - 1
    with pytest.raises(UserError, match="was read once and not again"):
        looked(file, tmp_path / "none", Scripted(float("nan")))


def test_without_maps_boxes_are_painted_and_nothing_is_checked(file: Path, tmp_path: Path) -> None:
    looker = Scripted(1.0, maps=False)
    along = looked(file, tmp_path / "crops", looker)
    assert looker.checked == []
    assert (along.check.meaningful, along.check.why) == (False, "it has none")
    assert {mark.map is None for mark in along.marks} == {True}
    answer = Answer(Input(file, "video"), "FAKE", score=0.9, media=media())
    assert paint_along(along, answer, 0.5, tmp_path / "overlay.mp4") == ""
    assert int(cv2.VideoCapture(str(tmp_path / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)) == COUNT


def test_a_picture_is_looked_at_once(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), scenes()["clouds"])
    along = looked(tmp_path / "still.png", tmp_path / "crops", Scripted(1.0))
    assert [(moment.frame, moment.seconds) for moment in along.timeline] == [(0, 0.0)]
    answer = Answer(Input(tmp_path / "still.png", "image"), "REAL", score=0.1, media=media(1))
    paint_along(along, answer, 0.5, tmp_path / "overlay.png")
    assert cv2.imread(str(tmp_path / "overlay.png")) is not None


def test_the_timeline_of_an_answer_has_a_point_for_each_clip(file: Path, tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    prepare_jobs([Job("file", file, "video")], tmp_path / "crops", SETTINGS, 0)
    record = read_records(tmp_path / "crops")["file"]
    frames = read_frames(tmp_path / "crops", record)
    found = timeline_of(record, frames, (0.25, 0.75))
    assert [one["score"] for one in found] == [0.25, 0.75]
    assert [one["face"] for one in found] == [0, 0]
    assert found[0]["seconds"] == pytest.approx(0.06, abs=1e-3)
    assert timeline_of(record, frames, (0.25,)) == []


def test_looking_along_needs_neither_torch_nor_tables() -> None:
    heavy = ("torch", "pandas", "filelock", "psutil", "scipy", "sklearn", "hydra", "mlflow")
    code = f"import sys, deepfake.reading.along; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
