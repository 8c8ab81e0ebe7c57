"""What is fitted on validation, and what is said where it cannot be."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from deepfake.errors import UserError
from deepfake.training.calibration import Isotonic, Platt, Temperature
from deepfake.training.decision import load_decision
from deepfake.training.fitting import fit_decision, fit_threshold
from deepfake.training.options import EvaluationOptions


def predictions(labels: list[int], scores: list[float], status: str = "ok") -> pd.DataFrame:
    return pd.DataFrame({"label": labels, "score": scores, "status": status})


MIXED = predictions([0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.55, 0.4, 0.8, 0.9])


@pytest.mark.parametrize("how", ["youden", "f1"])
def test_the_threshold_is_the_one_of_validation(how: str) -> None:
    decision = fit_decision(MIXED, EvaluationOptions(threshold=how), 0.5, "val")
    assert decision.threshold == fit_threshold(MIXED["label"].to_numpy(), MIXED["score"].to_numpy(), how)
    assert decision.applied_threshold == decision.threshold


def test_fixed_keeps_what_was_set() -> None:
    assert fit_decision(MIXED, EvaluationOptions(threshold="fixed"), 0.7, "val").applied_threshold == 0.7


@pytest.mark.parametrize(("name", "kind"), [("platt", Platt), ("temperature", Temperature), ("isotonic", Isotonic)])
def test_the_calibrator_is_chosen(name: str, kind: type) -> None:
    assert isinstance(fit_decision(MIXED, EvaluationOptions(calibration=name), 0.5, "val").calibrator, kind)


def test_it_says_what_it_was_fitted_on() -> None:
    decision = fit_decision(MIXED, EvaluationOptions(), 0.5, "the val split of demo")
    assert decision.fitted_on == {"data": "the val split of demo", "n": 6, "real": 3, "fake": 3}


def test_one_class_gives_neither_and_says_why() -> None:
    decision = fit_decision(predictions([1, 1], [0.2, 0.9]), EvaluationOptions(), 0.5, "val")
    assert (decision.threshold, decision.calibrator, decision.applied_threshold) == (None, None, 0.5)
    assert decision.unavailable == dict.fromkeys(("threshold", "calibrator"), "validation holds only fake samples")
    assert np.isnan(decision.calibrated(np.array([0.3]))).all()


def test_failed_samples_do_not_count() -> None:
    failed = predictions([0, 1], [float("nan")] * 2, "no_face")
    decision = fit_decision(failed, EvaluationOptions(), 0.5, "val")
    assert decision.unavailable["threshold"] == "no validation sample was scored"


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        fit_decision(predictions([0, 1], [0.1, float("nan")]), EvaluationOptions(), 0.5, "val")


@pytest.mark.parametrize("calibration", ["platt", "temperature", "isotonic", "none"])
def test_it_survives_json(calibration: str) -> None:
    decision = fit_decision(MIXED, EvaluationOptions(calibration=calibration, clips="topk"), 0.5, "val")
    assert load_decision(json.loads(json.dumps(decision.to_dict()))) == decision


def test_the_first_format_is_read_as_it_was() -> None:
    first = {
        "format": 1,
        "threshold": 0.7,
        "method": "youden",
        "default_threshold": 0.5,
        "calibrator": {"method": "temperature", "temperature": 2.0},
        "pooling": "mean",
        "fitted_on": {},
        "unavailable": {},
    }
    decision = load_decision(first)
    assert (decision.applied_threshold, decision.calibrator) == (0.7, Temperature(2.0))


@pytest.mark.parametrize("calibration", ["platt", "temperature", "isotonic"])
@pytest.mark.parametrize("threshold", ["youden", "f1", "fixed"])
def test_the_cut_as_a_probability_parts_what_is_called_fake_from_what_is_called_real(
    calibration: str, threshold: str
) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 60)
    scores = np.clip(0.3 * labels + 0.7 * generator.random(60), 0, 1)
    options = EvaluationOptions(calibration=calibration, threshold=threshold)
    decision = fit_decision(predictions(labels.tolist(), scores.tolist()), options, 0.62, "val")
    new = np.linspace(0, 1, 1001)
    cut, probable, fake = decision.applied_probability, decision.calibrated(new), decision.predicts_fake(new)
    assert cut is not None
    assert probable[fake].min() >= cut >= probable[~fake].max()


def test_without_a_calibrator_the_cut_is_no_probability() -> None:
    assert fit_decision(MIXED, EvaluationOptions(calibration="none"), 0.5, "val").applied_probability is None


def test_a_newer_format_is_refused() -> None:
    saved = fit_decision(MIXED, EvaluationOptions(), 0.5, "val").to_dict()
    with pytest.raises(UserError, match="format 99"):
        load_decision({**saved, "format": 99})


def test_a_score_at_the_threshold_is_fake() -> None:
    decision = fit_decision(MIXED, EvaluationOptions(threshold="fixed"), 0.5, "val")
    assert decision.predicts_fake(np.array([0.5, 0.4999])).tolist() == [True, False]


WHOLE = {
    "format": 2,
    "threshold": 0.4,
    "method": "youden",
    "default_threshold": 0.5,
    "calibrator": {"method": "platt", "slope": 0.7, "intercept": 1.4},
    "pooling": "mean",
    "fitted_on": {"data": "the val split of demo", "n": 6, "real": 2, "fake": 4},
    "unavailable": {},
}


@pytest.mark.parametrize("key", WHOLE)
@pytest.mark.parametrize("value", ["x", [], [1], -1, 1e300, True, {"method": "os.system"}, {"n": "x"}, ...])
def test_a_damaged_decision_is_read_as_one_or_refused(key: str, value: object) -> None:
    saved = {name: given for name, given in {**WHOLE, key: value}.items() if given is not ...}
    try:
        read = load_decision(saved)
    except UserError:
        return
    assert 0 <= read.applied_threshold <= 1
    assert np.isfinite(read.calibrated(np.linspace(0, 1, 11))).all()


@pytest.mark.parametrize(
    "calibrator",
    [
        {"method": "platt", "slope": -1.0, "intercept": 0.0},
        {"method": "platt", "slope": float("nan"), "intercept": 0.0},
        {"method": "temperature", "temperature": 0},
        {"method": "temperature", "temperature": "x"},
        {"method": "isotonic", "scores": [], "probabilities": [], "bound": 0.1},
        {"method": "isotonic", "scores": [0, 1], "probabilities": [1, 0], "bound": 0.1},
        {"method": "isotonic", "scores": [0, 1], "probabilities": [0, 1], "bound": 2},
        {"method": "platt"},
        {},
    ],
)
def test_a_calibrator_that_would_swap_scores_or_give_none_is_refused(calibrator: dict[str, object]) -> None:
    with pytest.raises(UserError, match="damaged"):
        load_decision({**WHOLE, "calibrator": calibrator})
