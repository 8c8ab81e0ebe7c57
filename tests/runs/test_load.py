"""How a run of the past is read: with what it fitted, or fitted anew from what it kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from deepfake.config import load_values, to_plain
from deepfake.hydra_app import compose_config
from deepfake.runs.load import read_decision
from deepfake.tracking.run_record import RunRecord
from deepfake.training.decision import Decision
from deepfake.training.fitting import fit_decision, fit_threshold

N = 20


@pytest.fixture(scope="module")
def resolved() -> str:
    return yaml.safe_dump(to_plain(compose_config(["dataset=demo"])))


@pytest.fixture
def run(tmp_path: Path, resolved: str) -> RunRecord:
    """A run with validation predictions of two clips each, and what it fitted on them."""
    (tmp_path / "resolved.yaml").write_text(resolved)
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], N // 2)
    logits = generator.normal(0, 1, (N, 2)) + (2 * labels - 1)[:, None]
    names = [f"demo/{i}" for i in range(N)]
    scores = (1 / (1 + np.exp(-logits))).mean(1)
    predictions = pd.DataFrame({"sample_id": names, "label": labels, "split": "val", "score": scores, "status": "ok"})
    predictions.to_parquet(tmp_path / "predictions.parquet")
    clips = pd.DataFrame({"sample_id": np.repeat(names, 2), "split": "val", "logit": logits.ravel()})
    clips.to_parquet(tmp_path / "clips.parquet")
    record = RunRecord("old", None, "FINISHED", None, (tmp_path,))
    options = load_values(record.config()).evaluation
    saved = fit_decision(predictions, options, 0.5, "the val split of demo").to_dict()
    # A number no fit gives, so that reading it can be told from fitting again.
    (tmp_path / "calibration.json").write_text(json.dumps({**saved, "threshold": 0.123}))
    return record


def read(record: RunRecord, **changes: object) -> Decision:
    """Its decision, with these changes to how it is fitted."""
    config = load_values(record.config())
    return read_decision(record, replace(config.evaluation, **changes), config.trainer.threshold)  # type: ignore[arg-type]


def test_what_the_run_fitted_is_read(run: RunRecord) -> None:
    assert read(run).threshold == 0.123


def test_draws_of_intervals_are_no_reason_to_fit_again(run: RunRecord) -> None:
    assert read(run, resamples=200, level=0.9).threshold == 0.123


def test_a_run_that_fitted_nothing_is_fitted_from_what_it_kept(run: RunRecord) -> None:
    run.file("calibration.json").unlink()
    val = run.predictions()
    expected = fit_threshold(val["label"].to_numpy(), val["score"].to_numpy(), "youden")
    found = read(run)
    assert found.threshold == pytest.approx(expected, abs=1e-12)
    assert found.fitted_on == {"data": "the val split of demo", "n": N, "real": N // 2, "fake": N // 2}


def test_another_criterion_is_fitted_anew(run: RunRecord) -> None:
    val = run.predictions()
    expected = fit_threshold(val["label"].to_numpy(), val["score"].to_numpy(), "f1")
    assert read(run, threshold="f1").threshold == pytest.approx(expected, abs=1e-12)


def test_another_pooling_is_fitted_on_scores_made_so(run: RunRecord) -> None:
    odds = run.clips().groupby("sample_id")["logit"].mean()
    scores = (1 / (1 + np.exp(-odds)))[run.predictions()["sample_id"]].to_numpy()
    expected = fit_threshold(run.predictions()["label"].to_numpy(), scores, "youden")
    found = read(run, clips="log_odds")
    assert (found.threshold, found.pooling) == (pytest.approx(expected, abs=1e-12), "log_odds")


def test_without_clips_another_pooling_has_no_threshold_and_says_why(run: RunRecord) -> None:
    run.file("clips.parquet").unlink()
    found = read(run, clips="median")
    assert (found.threshold, found.applied_threshold) == (None, 0.5)
    assert "kept no clips' scores" in found.unavailable["threshold"]


def test_without_predictions_the_reason_is_told(run: RunRecord) -> None:
    run.file("calibration.json").unlink()
    run.file("predictions.parquet").unlink()
    assert "was deleted" in read(run).unavailable["calibrator"]
