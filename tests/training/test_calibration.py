"""Cuts and calibration against scikit-learn and plain searches."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import f1_score, log_loss, roc_curve

from deepfake.errors import UserError
from deepfake.metrics import expected_calibration_error
from deepfake.training.calibration import Platt, Temperature, load_calibrator
from deepfake.training.decision import Decision
from deepfake.training.fitting import INTERCEPT_SPREAD, SLOPE_SPREAD, fit_calibrator, fit_threshold, tpr_at_fpr
from deepfake.training.options import EvaluationOptions


def sample(n: int = 300, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 2, n)
    scores = np.clip(0.3 * labels + 0.7 * generator.random(n), 0.001, 0.999)
    return labels, np.round(scores, 1) if ties else scores


METHODS = ["platt", "temperature", "isotonic"]


def drawn(
    generator: np.random.Generator,
    n: int,
    share: float = 0.5,
    gap: float = 2.0,
    *,
    shift: float = 0.0,
    hot: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits [n] of two normal classes ``gap`` apart: calibrated with a hot of 1 and a shift of 0.

    A positive weight in the loss shifts logits by minus the log-odds of the share of fakes.
    """
    labels = (generator.random(n) < share).astype(np.int64)
    labels[:2] = 0, 1
    seen = gap * (labels - 0.5) + generator.standard_normal(n)
    return labels, hot * (gap * seen + log_odds(share) + shift)


def log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))


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
    labels, logits = drawn(np.random.default_rng(1), 300, hot=3.0)
    fitted = fit_calibrator(labels, sigmoid(logits), "temperature")
    assert isinstance(fitted, Temperature)
    fakes, reals = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def loss(temperature: float) -> float:
        # Each sample counted as both classes, by how far its softened label leaves each open.
        twice = np.r_[np.ones_like(labels), np.zeros_like(labels)]
        probabilities = np.tile(1 / (1 + np.exp(-logits / temperature)), 2)
        return float(log_loss(twice, probabilities, sample_weight=np.r_[targets, 1 - targets]))

    slow = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9})
    assert fitted.temperature == pytest.approx(slow.x, rel=1e-6)


def test_platt_is_the_likeliest_where_little_is_expected_to_need_change() -> None:
    labels, logits = drawn(np.random.default_rng(2), 80, 0.8, shift=-log_odds(0.8), hot=2.0)
    fitted = fit_calibrator(labels, sigmoid(logits), "platt")
    assert isinstance(fitted, Platt)

    def loss(values: np.ndarray) -> float:
        z = np.exp(values[0]) * logits + values[1]
        expected = 0.5 * (values[0] / SLOPE_SPREAD) ** 2 + 0.5 * (values[1] / INTERCEPT_SPREAD) ** 2
        return float(np.sum(np.logaddexp(0, z) - labels * z) + expected)

    slow = minimize(loss, [0.0, 0.0], tol=1e-12)
    assert [np.log(fitted.slope), fitted.intercept] == pytest.approx(slow.x, abs=1e-4)


def test_a_shifted_prior_is_shifted_back() -> None:
    generator = np.random.default_rng(3)
    shift = -log_odds(0.8)
    fitted = fit_calibrator(*scored(drawn(generator, 2000, 0.8, shift=shift)), "platt")
    labels, scores = scored(drawn(generator, 20_000, 0.8, shift=shift))
    assert expected_calibration_error(labels, scores) > 0.1
    assert expected_calibration_error(labels, fitted(scores)) < 0.02


def scored(sample: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return sample[0], sigmoid(sample[1])


@pytest.mark.parametrize("n", [60, 500])
@pytest.mark.parametrize("gap", [1.0, 4.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_default_calibrates_as_well_as_slope_and_intercept(n: int, gap: float, share: float) -> None:
    generator = np.random.default_rng(4)
    ours, theirs = [], []
    for shift in (0.0, -log_odds(share)):
        for _ in range(6):
            labels, logits = drawn(generator, n, share, gap, shift=shift)
            fitted = fit_calibrator(labels, sigmoid(logits), EvaluationOptions().calibration)
            slope, intercept = plain_platt(labels, logits)
            new, seen = drawn(generator, 5000, share, gap, shift=shift)
            ours.append(expected_calibration_error(new, fitted(sigmoid(seen))))
            theirs.append(expected_calibration_error(new, sigmoid(slope * seen + intercept)))
    assert np.mean(ours) <= np.mean(theirs) + 0.02


def plain_platt(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the least log loss."""

    def loss(values: np.ndarray) -> float:
        z = values[0] * logits + values[1]
        return float(np.mean(np.logaddexp(0, z) - labels * z))

    slope, intercept = minimize(loss, [1.0, 0.0]).x
    return float(slope), float(intercept)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_no_fit_is_worse_on_its_own_samples_than_none(method: str) -> None:
    generator = np.random.default_rng(5)
    for number in range(100):
        n, share = int(generator.integers(4, 200)), float(generator.uniform(0.1, 0.9))
        gap, hot = float(generator.uniform(-1, 5)), float(generator.choice([0.1, 0.4, 1.0, 3.0, 50.0]))
        labels, scores = scored(drawn(generator, n, share, gap, shift=float(generator.normal()), hot=hot))
        scores = np.round(scores, 1) if number % 4 == 0 else scores
        fitted = fit_calibrator(labels, scores, method)(scores)
        before, after = (log_loss(labels, np.clip(p, 1e-12, 1 - 1e-12)) for p in (scores, fitted))
        assert after <= before + 1e-9, (number, n, share, gap, hot)
        errors = [expected_calibration_error(labels, p) for p in (scores, fitted)]
        assert errors[1] <= errors[0] + 1e-9, (number, n, share, gap, hot)


def test_isotonic_agrees_with_scikit_learn() -> None:
    labels, scores = sample()
    fitted = fit_calibrator(labels, scores, "isotonic")
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels)
    new = np.linspace(0, 1, 101)
    bound = 1 / (len(labels) + 2)
    np.testing.assert_allclose(fitted(new), np.clip(theirs.predict(new), bound, 1 - bound), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_calibrators_never_swap_two_samples(method: str) -> None:
    fitted = fit_calibrator(*sample(), method)
    assert (np.diff(fitted(np.linspace(0, 1, 200))) >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_calibrators_survive_json(method: str) -> None:
    labels, scores = sample()
    fitted = fit_calibrator(labels, scores, method)
    loaded = load_calibrator(json.loads(json.dumps(fitted.to_dict())))
    np.testing.assert_array_equal(loaded(scores), fitted(scores))


@pytest.mark.parametrize("method", METHODS)
def test_separated_classes_stay_finite(method: str) -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = fit_calibrator(labels, np.array([0.1, 0.2, 0.8, 0.9]), method)(np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(probabilities).all()


@pytest.mark.parametrize("method", METHODS)
def test_nan_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="NaN"):
        fit_calibrator(np.array([0, 1]), np.array([0.1, np.nan]), method)


def test_an_unknown_method_gets_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        fit_calibrator(*sample(), "isotone")
    assert "isotonic" in caught.value.hint


def test_separated_classes_are_no_licence_to_be_certain() -> None:
    labels = np.repeat([0, 1], 20)
    scores = np.where(labels == 1, 0.9, 0.1)
    # Hard labels alone would want an endless slope.
    assert 0.9 < fit_calibrator(labels, scores, "platt")(np.array([0.9]))[0] < 0.999


def test_a_good_detector_is_not_made_to_doubt_itself() -> None:
    labels = np.repeat([0, 1], 20)
    scores = np.where(labels == 1, 0.999, 0.001)
    for method in METHODS:
        assert fit_calibrator(labels, scores, method)(np.array([0.999]))[0] >= 0.999 - 1e-12, method


def test_what_earlier_versions_kept_is_read_as_it_was() -> None:
    logits = np.array([-3.0, 0.0, 2.0])
    kept = load_calibrator({"method": "temperature", "temperature": 2.0})
    np.testing.assert_allclose(kept(sigmoid(logits)), sigmoid(logits / 2), rtol=1e-12)
    kept = load_calibrator({"method": "isotonic", "scores": [0.2, 0.8], "probabilities": [0.0, 1.0], "bound": 0.1})
    np.testing.assert_allclose(kept(np.array([0.0, 0.5, 1.0])), [0.1, 0.5, 0.9])


FITTED_ON = {"data": "val", "n": 40, "real": 10, "fake": 30}


def test_probabilities_at_another_prior_are_those_of_bayes_rule() -> None:
    """Drawn where three in four are fake, and looked at where one in a hundred is: they hold there, too."""
    generator = np.random.default_rng(3)
    labels, logits = drawn(generator, 400_000, share=0.01)
    scores = 1 / (1 + np.exp(-(logits + np.log(0.75 / 0.25) - np.log(0.01 / 0.99))))
    decision = Decision(0.5, 0.6, "youden", Platt(1.0, 0.0), "mean", FITTED_ON)
    assert decision.prior == decision.fitted_prior == 0.75
    assert expected_calibration_error(labels, decision.calibrated(scores)) > 0.3
    rare = decision.at_prior(0.01)
    assert rare.prior == 0.01
    assert expected_calibration_error(labels, rare.calibrated(scores)) < 0.01
    np.testing.assert_array_equal(rare.predicts_fake(scores), decision.predicts_fake(scores))


def test_a_prior_is_stated_anew_not_on_top_of_another() -> None:
    decision = Decision(0.5, 0.6, "youden", Platt(1.0, 0.0), "mean", FITTED_ON)
    scores = np.array([0.2, 0.8])
    np.testing.assert_allclose(
        decision.at_prior(0.5).at_prior(0.01).calibrated(scores), decision.at_prior(0.01).calibrated(scores)
    )
    np.testing.assert_allclose(decision.at_prior(0.75).calibrated(scores), decision.calibrated(scores))


def test_what_is_kept_of_a_decision_knows_no_stated_prior() -> None:
    decision = Decision(0.5, 0.6, "youden", Platt(1.0, 0.0), "mean", FITTED_ON)
    assert decision.at_prior(0.01).to_dict() == decision.to_dict()


@pytest.mark.parametrize("prior", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_a_prior_that_is_no_fraction_is_refused(prior: float) -> None:
    with pytest.raises(UserError, match="prior"):
        Decision(0.5, 0.6, "youden", Platt(1.0, 0.0), "mean", FITTED_ON).at_prior(prior)


@pytest.mark.parametrize(
    ("calibrator", "fitted_on", "why"), [(None, FITTED_ON, "has none"), (Platt(1.0, 0.0), {}, "does not say")]
)
def test_a_prior_needs_a_calibration_at_a_known_one(
    calibrator: Platt | None, fitted_on: dict[str, object], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        Decision(0.5, 0.6, "youden", calibrator, "mean", fitted_on).at_prior(0.1)
