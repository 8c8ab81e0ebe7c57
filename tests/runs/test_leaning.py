"""When a run is asked what it leans on, what it says then, and that it says nothing where all is well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepfake.data.clips import ClipSource
from deepfake.data.options import DatasetOptions
from deepfake.runs import leaning
from deepfake.runs.build import Cache, Run, prepare_reading
from deepfake.runs.evaluate import Evaluated
from deepfake.runs.leaning import lean
from deepfake.runs.solved import FACT
from deepfake.training.decision import Decision
from deepfake.training.evaluation import Evaluation, single_samples
from deepfake.training.options import EvaluationOptions, TrainerOptions
from deepfake.training.scoring import score
from tests.runs.begun import run_of

RESULT: Any = SimpleNamespace(batch_size=8)


def evaluated(run: Run) -> Evaluated:
    """A run's test scores, as they are before it is asked what it leans on."""
    scored = score(run.detector, run.data.splits["test"], fabric=run.fabric, batch_size=8, split="test")
    decision = Decision(0.5, None, "fixed", None, "mean")
    return Evaluated(scored.samples, scored.clips, None, decision, single_samples(24), Evaluation())


def told(run: Run, monkeypatch: pytest.MonkeyPatch, *, crop: float = 0.0, jpeg: float = 0.0) -> tuple[list[str], Any]:
    """What is said of a run whose scores are right, and turn to a degree (1 is the reverse) when pictures change."""
    found = evaluated(run)
    clips = found.clips.assign(logit=found.clips["label"] * 2.0 - 1)
    found = replace(found, clips=clips)
    turned = iter((crop, jpeg))

    def logits(run: Run, detector: object, looked: ClipSource, result: object) -> np.ndarray:
        return (looked.table["label"].to_numpy() * 2.0 - 1) * (1 - 2 * next(turned))

    monkeypatch.setattr(leaning, "_logits", logits)
    return lean(run, RESULT, found), found.found


def test_a_run_that_falls_under_crops_leans_on_framing_where_the_audit_saw_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, True)
    run.data.audit.facts[FACT] = {"framing": {"roc_auc": 0.99, "low": 0.98}}
    (line,), found = told(run, monkeypatch, crop=1.0)
    assert line.startswith("leans on framing: ROC-AUC falls from 1.000 to 0.000 when")
    assert found.values["test/drop_crop_low"] > 0.05
    assert found.values["test/drop_jpeg"] == 0


def test_without_such_a_framing_only_the_fall_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,), _ = told(run_of(tmp_path, True), monkeypatch, crop=1.0)
    assert line.startswith("ROC-AUC falls from 1.000")
    assert "leans" not in line


def test_a_run_that_falls_under_jpeg_leans_on_fine_detail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,), _ = told(run_of(tmp_path, True), monkeypatch, jpeg=1.0)
    assert line.startswith("leans on fine detail: ")
    assert "JPEG quality 50" in line


def test_where_all_is_well_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, found = told(run_of(tmp_path, True), monkeypatch, crop=0.1)
    assert lines == []
    assert {"test/drop_crop", "test/drop_jpeg"} <= set(found.values)
    assert "test/saliency_face" not in found.values  # nobody looked for faces


def test_the_gradients_part_in_the_face_box_is_told_where_faces_were_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, True)
    run.config = replace(run.config, dataset=DatasetOptions(size=16, frames=2, faces="mtcnn", margin=0.6))
    found = evaluated(run)
    lean(run, RESULT, found)
    values = found.found.values
    assert 0 < values["test/saliency_face_low"] < values["test/saliency_face"] < values["test/saliency_face_high"] < 1
    monkeypatch.setattr(leaning, "_BESIDE", 9.0)
    assert any(line.startswith("leans on what is beside the face") for line in lean(run, RESULT, found))


def test_what_is_told_is_scored_as_the_run_was(tmp_path: Path) -> None:
    """Nothing is patched here: the clips as they are have the very logits that the test part had."""
    run = run_of(tmp_path, True, cached=True)
    prepare_reading(run, Cache())
    found = evaluated(run)
    lean(run, RESULT, found)
    again = Evaluated(**{**vars(found), "found": Evaluation()})
    lean(run, RESULT, again)
    assert again.found.values == found.found.values
    assert set(again.found.values) >= {"test/drop_crop", "test/drop_jpeg"}


@pytest.mark.parametrize("asked", ["auto", "false", False])
def test_a_short_training_is_not_asked_by_itself(tmp_path: Path, asked: str | bool) -> None:
    run = run_of(tmp_path, asked)
    run.config = replace(run.config, trainer=TrainerOptions(epochs=1))
    assert lean(run, RESULT, evaluated(run)) == []


def test_a_long_training_pays_for_it_and_a_sweeps_job_on_stored_features_never(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.config = replace(run.config, trainer=TrainerOptions(epochs=100))
    assert leaning._affordable(run) == 200
    run.config = replace(run.config, trainer=TrainerOptions(epochs=20))
    # 40 clips of 2 frames, 20 times, each worth 3; a tenth of that over 5 for each of 2 frames.
    assert leaning._affordable(run) == 48
    cached = run_of(tmp_path / "cached", cached=True)
    cached.config = replace(cached.config, trainer=TrainerOptions(epochs=1000))
    assert leaning._affordable(cached) == 200
    cached.context = SimpleNamespace(number=3)  # type: ignore[assignment]
    assert leaning._affordable(cached) == 0


def test_a_test_part_of_one_class_says_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path, True)
    found = evaluated(run)
    run.data.splits["test"].table["label"] = 1
    assert lean(run, RESULT, found) == []
    assert EvaluationOptions().leaning == "auto"
