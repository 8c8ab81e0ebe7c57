"""Cuts and calibration against scikit-learn and plain searches."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import f1_score, log_loss, roc_curve

from deepfake.errors import UserError
from deepfake.training.calibration import Temperature, fit_calibrator, load_calibrator
from deepfake.training.threshold import fit_threshold, tpr_at_fpr


def sample(n: int = 300, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 2, n)
    scores = np.clip(0.3 * labels + 0.7 * generator.random(n), 0.001, 0.999)
    return labels, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
def test_youden_is_the_best_point_of_the_curve(ties: bool) -> None:
    labels, scores = sample(ties=ties)
    cut = fit_threshold(labels, scores, "youden")
    alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    called = scores >= cut
    worth = called[labels == 1].mean() - called[labels == 0].mean()
    assert worth == pytest.approx((hits - alarms).max(), abs=1e-10)


@pytest.mark.parametrize("ties", [False, True])
def test_f1_is_the_best_of_all_cuts(ties: bool) -> None:
    labels, scores = sample(ties=ties)
    cut = fit_threshold(labels, scores, "f1")
    best = max(f1_score(labels, scores >= t) for t in np.unique(scores))
    assert f1_score(labels, scores >= cut) == pytest.approx(best, abs=1e-10)


def test_a_cut_lies_halfway_between_the_classes() -> None:
    assert fit_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]), "youden") == pytest.approx(0.5)


def test_equal_scores_have_a_cut_all_the_same() -> None:
    assert fit_threshold(np.array([0, 1]), np.array([0.3, 0.3]), "f1") == pytest.approx(0.3)


def test_an_unknown_criterion_gets_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        fit_threshold(*sample(), "yuden")
    assert "youden" in caught.value.hint


@pytest.mark.parametrize("how", ["youden", "f1"])
def test_one_class_has_no_cut(how: str) -> None:
    with pytest.raises(ValueError, match="both real and fake"):
        fit_threshold(np.ones(3), np.linspace(0, 1, 3), how)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.5, 1.0])
def test_tpr_at_fpr_is_read_off_the_curve(ties: bool, fpr: float) -> None:
    labels, scores = sample(ties=ties)
    alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert tpr_at_fpr(labels, scores, fpr) == pytest.approx(hits[alarms <= fpr].max(), abs=1e-10)


def test_too_few_reals_cannot_resolve_a_rate() -> None:
    with pytest.raises(ValueError, match="cannot resolve"):
        tpr_at_fpr(*sample(), 0.001)


def test_temperature_is_the_likeliest_of_softened_labels() -> None:
    labels, scores = sample()
    fitted = fit_calibrator(labels, scores, "temperature")
    assert isinstance(fitted, Temperature)
    logits = np.log(scores / (1 - scores))
    fakes, reals = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def loss(temperature: float) -> float:
        # Each sample counted as both classes, by how far its softened label leaves each open.
        twice = np.r_[np.ones_like(labels), np.zeros_like(labels)]
        probabilities = np.tile(1 / (1 + np.exp(-logits / temperature)), 2)
        return float(log_loss(twice, probabilities, sample_weight=np.r_[targets, 1 - targets]))

    slow = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9})
    assert fitted.temperature == pytest.approx(slow.x, rel=1e-6)


def test_isotonic_agrees_with_scikit_learn() -> None:
    labels, scores = sample()
    fitted = fit_calibrator(labels, scores, "isotonic")
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels)
    new = np.linspace(0, 1, 101)
    bound = 1 / (len(labels) + 2)
    np.testing.assert_allclose(fitted(new), np.clip(theirs.predict(new), bound, 1 - bound), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibrators_never_swap_two_samples(method: str) -> None:
    fitted = fit_calibrator(*sample(), method)
    assert (np.diff(fitted(np.linspace(0, 1, 200))) >= 0).all()


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibrators_survive_json(method: str) -> None:
    labels, scores = sample()
    fitted = fit_calibrator(labels, scores, method)
    loaded = load_calibrator(json.loads(json.dumps(fitted.to_dict())))
    np.testing.assert_array_equal(loaded(scores), fitted(scores))


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_separated_classes_stay_finite(method: str) -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = fit_calibrator(labels, np.array([0.1, 0.2, 0.8, 0.9]), method)(np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(probabilities).all()


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_nan_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="NaN"):
        fit_calibrator(np.array([0, 1]), np.array([0.1, np.nan]), method)


def test_an_unknown_method_gets_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        fit_calibrator(*sample(), "isotone")
    assert "isotonic" in caught.value.hint


def test_separated_classes_promise_no_more_than_their_number_allows() -> None:
    labels = np.repeat([0, 1], 20)
    scores = np.where(labels == 1, 0.999, 0.001)
    sure = fit_calibrator(labels, scores, "temperature")(np.array([0.999]))[0]
    # Platt's target: 21 of 22.
    assert sure == pytest.approx(21 / 22, abs=1e-6)
