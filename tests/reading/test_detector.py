"""Answers of a reader whose logits are made up: files that are looked at together are answered for as if alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.hostile import scenes, video
from deepfake.data.crop_records import read_records
from deepfake.data.prepare_worker import Job
from deepfake.data.worker_pool import prepare_jobs
from deepfake.reading.detector import Cut, FileReader
from deepfake.reading.file_answers import Answer, Input
from deepfake.training.calibration import Platt
from deepfake.training.decision import Decision

FRAMES = 8


def described(**changed: Any) -> dict[str, Any]:
    """What ``config.json`` says of a detector that looks at the middle of files."""
    plan = {"temporal": True, "clips": 3, "frames": FRAMES, **changed.pop("plan", {})}
    crops = {
        "plan": plan, "faces": "center", "face_model": None, "margin": 0.0, "size": 32, "align": False, **changed,
    }  # fmt: skip
    decision = Decision(0.5, 0.4, "youden", Platt(1.0, 0.0), "mean", {"data": "val"})
    return {
        "run": {"name": "made", "id": None},
        "preprocessing": {"crops": crops, "seconds": 25.0, "finds_faces": False},
        "scoring": {"clips": "mean", "faces": "max", "top_k": 2},
        "decision": decision.to_dict(),
    }


class Bright(FileReader):
    """Says how bright a clip is, of the frames that are no fillers.

    Attributes:
        seen: The shape of each batch.
    """

    def __init__(self, **changed: Any) -> None:
        super().__init__(described(**changed))
        self.seen: list[tuple[int, ...]] = []

    def run(self, clips: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.seen.append(clips.shape)
        each = clips.mean((2, 3, 4)) / 64 - 2
        logits = (each * mask).sum(1) / mask.sum(1)
        return logits.astype(np.float32), logits[:, None].astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Videos, long and short, a picture, and what is none."""
    frames = [np.roll(scenes()["clouds"], 3 * step, 1) for step in range(40)]
    dark = [frame // 3 for frame in frames]
    made = [video(tmp_path / "a.mp4", frames), video(tmp_path / "b.mp4", dark), video(tmp_path / "c.mp4", dark[:3])]
    cv2.imwrite(str(tmp_path / "still.png"), frames[0])
    (tmp_path / "text.mp4").write_text("no video")
    return [*made, tmp_path / "text.mp4", tmp_path / "still.png"]


def cut(reader: FileReader, files: list[Path], folder: Path) -> list[Cut]:
    """The files, each cut into a folder of its own."""
    found = []
    for number, file in enumerate(files):
        own = folder / f"crops-{number}"
        own.mkdir()
        kind = "image" if file.suffix == ".png" else "video"
        prepare_jobs([Job("file", file, kind)], own, reader.settings, 0)
        found.append(Cut(Input(file, kind), read_records(own)["file"], own))
    return found


def test_files_that_are_looked_at_together_are_answered_for_as_if_alone(files: list[Path], tmp_path: Path) -> None:
    reader = Bright()
    cuts = cut(reader, files, tmp_path)
    alone: list[Answer] = [answer for one in cuts for answer in reader.read([one])]
    single, reader.seen = reader.seen, []
    together = reader.read(cuts)
    assert together == alone
    assert [answer.reason for answer in together] == ["", "", "", "undecodable", ""]
    assert len({answer.score for answer in together if not answer.reason}) == 4
    # Seven clips of videos in one batch, and the picture's, which is shorter.
    assert [shape[:2] for shape in reader.seen] == [(7, FRAMES), (1, 1)]
    assert len(single) == 4


@pytest.mark.parametrize("slack", [0, 3])
def test_a_batch_holds_no_more_frames_than_it_may(files: list[Path], tmp_path: Path, slack: int) -> None:
    reader = Bright(plan={"clips": 6, "slack": slack})
    cuts = cut(reader, files[:2], tmp_path)
    assert [answer.reason for answer in reader.read(cuts)] == ["", ""]
    assert [shape[:2] for shape in reader.seen] == [(8, FRAMES), (4, FRAMES)]


def test_one_score_that_is_no_number_is_no_answer_and_others_have_theirs(files: list[Path], tmp_path: Path) -> None:
    reader = Bright()
    cuts = cut(reader, files[:2], tmp_path)
    said = reader.run
    reader.run = lambda clips, mask: tuple(  # type: ignore[method-assign, assignment, return-value]
        np.where(clips.mean((1, 2, 3, 4)).reshape(-1, *[1] * (one.ndim - 1)) < 60, np.nan, one)
        for one in said(clips, mask)
    )
    bright, dark = reader.read(cuts)
    assert (bright.reason, dark.reason) == ("", "not_a_number")
    assert dark.media is not None


def test_crops_may_go_while_they_are_looked_at(files: list[Path], tmp_path: Path) -> None:
    reader = Bright()
    cuts = cut(reader, files[:2], tmp_path)
    said = reader.run

    def leaving(clips: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for one in cuts:
            shutil.rmtree(one.folder, ignore_errors=True)
        return said(clips, mask)

    reader.run = leaving  # type: ignore[method-assign]
    assert [answer.reason for answer in reader.read(cuts)] == ["", ""]


def test_how_crops_become_logits_has_to_be_said() -> None:
    with pytest.raises(TypeError, match="abstract"):
        FileReader(described())  # type: ignore[abstract]
