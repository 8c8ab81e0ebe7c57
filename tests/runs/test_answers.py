"""What is said of each face of a file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from deepfake.commands.predict import _table
from deepfake.data.cropping import FRAME
from deepfake.reading.file_answers import Input, as_result, face_places
from deepfake.runs.answers import Look, _face_scores, read_looks
from deepfake.training.calibration import Platt, log_odds, sigmoid
from deepfake.training.decision import Decision
from deepfake.training.options import EvaluationOptions

DECISION = Decision(0.5, 0.5, "youden", Platt(1.0, 0.0), "mean", {"data": "val"})
BOXES = [(7, (0.0, 0.0, 10.0, 10.0)), (8, (50.0, 20.0, 60.0, 30.0))]


def look(name: str, *scores: float) -> Look:
    member: Any = SimpleNamespace(
        record=SimpleNamespace(name=name), config=SimpleNamespace(dataset=SimpleNamespace(faces="mtcnn"))
    )
    record: Any = {"status": "ok", "frames": 4, "filled": 0}
    return Look(member, record, max(scores), np.array(scores), np.array(scores), BOXES[: len(scores)])


def said(*looks: Look) -> Any:
    trained: Any = SimpleNamespace(decision=DECISION)
    return read_looks(trained, Input(Path("clip.mp4"), "video"), looks)


def test_each_face_is_told_with_its_place() -> None:
    answer = said(look("run", 0.2, 0.8))
    assert (answer.predicted, answer.score) == ("FAKE", 0.8)
    assert as_result(answer)["each_face"] == [
        {"face": 0, "score": 0.2, "probability": pytest.approx(0.2), "frame": 7, "box": [0.0, 0.0, 10.0, 10.0]},
        {"face": 1, "score": 0.8, "probability": pytest.approx(0.8), "frame": 8, "box": [50.0, 20.0, 60.0, 30.0]},
    ]
    console = Console(width=300)
    with console.capture() as shown:
        console.print(_table([answer], "run", DECISION))
    assert "face 0 at (5, 5) of frame 7: 0.200, face 1 at (55, 25) of frame 8: 0.800" in shown.get()


def test_an_ensembles_faces_are_averaged_where_all_see_as_many() -> None:
    answer = said(look("a", 0.2, 0.8), look("b", 0.4, 0.6))
    expected = sigmoid((log_odds(np.array([0.8])) + log_odds(np.array([0.6]))) / 2)[0]
    assert answer.each_face[1].score == pytest.approx(expected)
    assert answer.members == (("a", 0.8), ("b", 0.6))
    assert said(look("a", 0.2, 0.8), look("b", 0.4)).each_face == ()


def test_without_several_faces_nothing_is_said_of_them() -> None:
    one = look("run", 0.3)
    alone = Look(one.member, one.record, one.score, one.clips, np.empty(0), [])
    assert "each_face" not in as_result(said(alone))


def test_a_faces_place_is_the_middle_of_where_it_was_found() -> None:
    frames = np.zeros((4, 3), FRAME)  # two clips of each of two faces
    frames["frame_index"] = [[0, 2, 4], [1, 3, 5]] * 2
    frames["x0"] = frames["frame_index"] + np.array([[0]] * 2 + [[100]] * 2)
    frames["found"] = True
    frames["found"][2:, :2] = False
    found = face_places({"faces": [0, 0, 1, 1]}, frames)
    assert [(frame, box[0]) for frame, box in found] == [(3, 3.0), (5, 105.0)]


def test_a_faces_score_is_made_of_its_clips() -> None:
    member: Any = SimpleNamespace(config=SimpleNamespace(evaluation=EvaluationOptions()))
    clips = pd.DataFrame({"face": [0, 0, 1], "logit": log_odds(np.array([0.2, 0.4, 0.9]))})
    assert _face_scores(clips, 2, member).tolist() == pytest.approx([0.3, 0.9])
    assert _face_scores(clips.drop(columns="face"), 0, member).size == 0
