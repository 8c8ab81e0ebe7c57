"""Explanations by detectors of every kind, without a run that was trained."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.hostile import scenes, video
from deepfake.config import load_config
from deepfake.errors import UserError
from deepfake.hydra_app import compose_config
from deepfake.models.detector import create_detector
from deepfake.reading.file_answers import Input
from deepfake.runs.explanation import explain
from deepfake.runs.load import Ensemble, Trained
from deepfake.runs.saved_config import read_changes
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.store import locate
from deepfake.training.calibration import Platt
from deepfake.training.decision import Decision
from deepfake.training.runtime import create_fabric

SMALL = ("dataset.frames=4", "dataset.clips=2", "dataset.size=64", "dataset.workers=0", "trainer.accelerator=cpu")


def trained(place: Path, *words: str) -> Trained:
    """A detector with random weights, as a run has it."""
    config = load_config(compose_config(["model=cnn_gru", "head.hidden=8", *SMALL, f"paths.outputs={place}", *words]))
    detector = create_detector(config.backbone, config.head, 64).eval()
    decision = Decision(0.5, None, "fixed", Platt(1.0, 0.0), "mean", {"data": "val", "n": 4, "real": 2, "fake": 2})
    record = RunRecord("made", None, "FINISHED", None, (place,))
    changes = read_changes([f"paths.outputs={place}"])
    store = locate(config.tracking, place)
    return Trained(record, config, changes, store, detector, create_fabric(config.trainer), decision)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of 36 frames."""
    return video(tmp_path / "clip.mp4", [np.roll(scenes()["clouds"], 3 * step, 1) for step in range(36)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model=cnn", "head.hidden=null"),
        ("model=cnn_vit", "head.width=16", "head.heads=2"),
        ("evaluation.views=[whole,mirror,corners]",),
        ("backbone.size=48",),
        ("backbone.freeze=true",),
        ("dataset.view=patches", "dataset.faces=center"),
        ("dataset.slack=3",),
        ("dataset.stride_seconds=0.08",),
    ],
    ids=lambda words: " ".join(words) or "plain",
)
def test_runs_of_every_kind_are_explained(words: tuple[str, ...], clip: Path, tmp_path: Path) -> None:
    if words[:1] in (("model=cnn",), ("model=cnn_vit",)):
        words = tuple(word for word in words if "hidden" not in word)
        made = trained_without_hidden(tmp_path, *words)
    else:
        made = trained(tmp_path, *words)
    found = explain(made, Input(clip, "video"), tmp_path / "out")
    assert found.answer.predicted in ("REAL", "FAKE")
    assert found.overlay is not None
    assert found.overlay.stat().st_size > 0
    assert found.page is not None
    assert all(0 <= moment.score <= 1 for moment in found.timeline)
    assert len({moment.frame for moment in found.timeline}) >= 8
    assert found.similarity or not found.map_meaningful
    numbers = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert len(numbers["timeline"]) == len(found.timeline)


def trained_without_hidden(place: Path, *words: str) -> Trained:
    """The same with a head that has no hidden size."""
    config = load_config(compose_config([*SMALL, f"paths.outputs={place}", *words]))
    made = trained(place)
    detector = create_detector(config.backbone, config.head, 64).eval()
    return Trained(made.record, config, made.changes, made.store, detector, made.fabric, made.decision)


def test_a_picture_of_patches_shows_each_of_them(tmp_path: Path) -> None:
    file = tmp_path / "still.png"
    cv2.imwrite(str(file), scenes(200)["clouds"])
    made = trained(tmp_path, "dataset.view=patches", "dataset.faces=center", "dataset.clips=4")
    found = explain(made, Input(file, "image"), tmp_path / "out")
    assert len({moment.box for moment in found.timeline}) == 4
    assert found.overlay == tmp_path / "out" / "overlay.png"


def test_a_map_that_means_nothing_is_not_painted_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    file = tmp_path / "still.png"
    cv2.imwrite(str(file), scenes()["clouds"])
    made = trained(tmp_path)
    torch.nn.init.zeros_(made.detector.head.classifier.weight)
    found = explain(made, Input(file, "image"), tmp_path / "out")
    assert not found.map_meaningful
    assert "0 everywhere" in found.why
    assert all(one.painted is None for one in found.suspicious)
    assert found.page is not None
    assert "No map is painted" in found.page.read_text()


def test_a_file_without_an_answer_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "text.mp4"
    file.write_text("no video")
    found = explain(trained(tmp_path), Input(file, "video"), tmp_path / "out")
    assert (found.overlay, found.page, found.timeline) == (None, None, ())
    assert found.answer.reason == "undecodable"
    assert not (tmp_path / "out").exists()


def test_an_ensemble_names_its_members(tmp_path: Path) -> None:
    one = trained(tmp_path)
    both = Ensemble(one.record, one.config, one.changes, one.store, one.decision, [one, one])
    with pytest.raises(UserError, match="is an ensemble"):
        explain(both, Input(tmp_path / "x.mp4", "video"), tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "still.png"
    cv2.imwrite(str(file), scenes()["clouds"])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        explain(trained(tmp_path), Input(file, "image"), tmp_path / "out")
