"""Vectorised bootstrap against resampled tables and scikit-learn."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from deepfake.metrics import METRICS, WeightedMetrics, sample_metrics
from deepfake.training.bootstrap import drawn_covariance, group_intervals, group_weights
from deepfake.training.intervals import MIN_UNITS, auc_covariance, auc_interval, effective


def predictions(kind: str = "random", n: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 2, n)
    scores = np.clip(0.25 * labels + 0.75 * generator.random(n), 0, 1)
    shapes = {
        "random": scores,
        "ties": np.round(scores, 1),
        "all equal": np.full(n, 0.5),
        "perfect": 0.25 + 0.5 * labels,
        "extremes": np.round(scores),
    }
    return labels, shapes[kind], generator.integers(0, n // 4, n)


@pytest.mark.parametrize("kind", ["random", "ties", "all equal", "perfect", "extremes"])
def test_weighted_metrics_equal_those_of_the_resampled_table(kind: str) -> None:
    labels, scores, groups = predictions(kind)
    compute = WeightedMetrics(labels, scores, 0.4)
    weights = next(iter(group_weights(groups, 20, 0)))
    found = compute(weights)
    assert set(found) == set(METRICS)
    for row, counts in enumerate(weights):
        drawn = np.repeat(np.arange(len(labels)), counts)
        expected = sample_metrics(pd.DataFrame({"label": labels[drawn], "score": scores[drawn]}), 0.4)
        for name, values in found.items():
            assert values[row] == pytest.approx(expected.values.get(name, np.nan), abs=1e-10, nan_ok=True), name


def test_groups_are_drawn_whole_and_as_many_as_there_are() -> None:
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    for weights in group_weights(groups, 70, 0):
        assert (weights[:, 0] == weights[:, 1]).all()
        assert (weights[:, 3] == weights[:, 5]).all()
        assert (weights[:, [0, 2, 3]].sum(1) == 3).all()


def test_variances_are_those_of_slow_draws() -> None:
    labels, scores, groups = predictions()
    _, covariance = drawn_covariance(
        labels, {"one": scores}, groups, metric="roc_auc", threshold=0.5, resamples=60, seed=4
    )
    slow = []
    for weights in group_weights(groups, 60, 4):
        for counts in weights:
            drawn = np.repeat(np.arange(len(labels)), counts)
            slow.append(
                sample_metrics(pd.DataFrame({"label": labels[drawn], "score": scores[drawn]})).values["roc_auc"]
            )
    count = effective(labels, groups).fewest
    assert covariance[0, 0] == pytest.approx(np.var(slow) * count / (count - 1), abs=1e-10)


def test_single_groups_agree_with_delong() -> None:
    labels, scores, _ = predictions(n=400)
    found, _ = group_intervals(labels, scores, np.arange(400), resamples=2000)
    (_,), ((variance,),) = auc_covariance(labels, scores)
    width = found["roc_auc"].high - found["roc_auc"].low
    assert width == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)
    delong = auc_interval(labels, scores)
    assert (found["roc_auc"].low, found["roc_auc"].high) == pytest.approx((delong.low, delong.high), abs=0.005)


def test_shared_groups_widen_the_interval() -> None:
    labels, scores, _ = predictions(n=80)
    again = np.tile(np.arange(80), 5)
    alone, _ = group_intervals(labels[again], scores[again], np.arange(400), resamples=300)
    shared, _ = group_intervals(labels[again], scores[again], again, resamples=300)
    assert shared["roc_auc"].high - shared["roc_auc"].low > 1.8 * (alone["roc_auc"].high - alone["roc_auc"].low)


def test_one_class_has_no_roc_interval_and_says_so() -> None:
    found, unavailable = group_intervals(np.ones(12), np.linspace(0, 1, 12), np.arange(12), resamples=10)
    assert "roc_auc" not in found
    assert unavailable["roc_auc"] == "not defined on these samples"
    assert "accuracy" in found


@pytest.mark.parametrize("few", [1, 2, 5, MIN_UNITS - 1])
def test_units_are_counted_for_each_class(few: int) -> None:
    labels = np.r_[np.zeros(few, int), np.ones(60, int)]
    scores = np.linspace(0, 1, len(labels))
    found, unavailable = group_intervals(labels, scores, np.arange(len(labels)), resamples=50)
    assert found == {}
    assert f"{few} groups with real samples are too few" in unavailable["roc_auc"]


def test_one_group_that_is_most_of_a_class_is_too_much() -> None:
    # Thirty groups of reals; as many fakes, seven of ten in one group.
    labels = np.r_[np.zeros(30, int), np.ones(100, int)]
    groups = np.r_[np.arange(30), np.full(70, 30), np.arange(31, 61)]
    _, unavailable = group_intervals(labels, np.linspace(0, 1, 130), groups, resamples=50)
    assert "one of the groups holds 70% of the fake samples" in unavailable["accuracy"]


def test_a_perfect_score_has_an_interval_of_some_width() -> None:
    labels = np.r_[np.zeros(16, int), np.ones(32, int)]
    scores = np.where(labels == 1, 0.9, 0.1) + np.linspace(0, 0.05, 48)
    found, _ = group_intervals(labels, scores, np.arange(48), resamples=100)
    for name, interval in found.items():
        assert interval.high - interval.low > 0.001, name
    for name in ("roc_auc", "accuracy", "f1", "precision", "recall", "balanced_accuracy", "average_precision"):
        assert (found[name].value, found[name].high) == (1.0, 1.0)
    # The rule of three: of 32 fakes as many could be missed.
    assert found["recall"].low == pytest.approx(0.05 ** (1 / 32), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("calibrated", [True, False])
def test_the_interval_of_the_calibration_error_holds_the_true_one(calibrated: bool) -> None:
    generator, held, rounds = np.random.default_rng(0), 0, 60
    for seed in range(rounds):
        chances = generator.beta(0.7, 0.7, 100)
        labels = (generator.random(100) < (chances if calibrated else chances**3)).astype(int)
        interval = group_intervals(labels, chances, np.arange(100), resamples=100, seed=seed)[0]["ece"]
        assert interval.low <= interval.value <= interval.high
        # The mean of p - p**3 under Beta(0.7, 0.7), which is the same sign in every bin.
        true = 0.0 if calibrated else 0.5 - 0.7 * 1.7 * 2.7 / (1.4 * 2.4 * 3.4)
        held += interval.low <= true <= interval.high
    assert held / rounds >= 0.9


def test_where_no_group_holds_both_classes_each_keeps_its_share() -> None:
    labels, groups = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 3])
    apart = np.concatenate(list(group_weights(groups, 200, 0, labels)))
    assert (apart[:, 3:].sum(1) == 2).all()
    mixed = np.concatenate(list(group_weights(np.array([0, 0, 1, 1, 2]), 200, 0, labels)))
    assert np.unique(mixed[:, 3:].sum(1)).size > 1


def test_no_samples_have_no_intervals() -> None:
    found, unavailable = group_intervals(np.empty(0), np.empty(0), np.empty(0))
    assert found == {}
    assert set(unavailable) == set(METRICS)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        group_intervals(np.array([0, 1]), np.array([0.1, np.nan]), np.arange(2))


def test_the_same_seed_gives_the_same_interval() -> None:
    one, _ = group_intervals(*predictions(), resamples=50, seed=1)
    two, _ = group_intervals(*predictions(), resamples=50, seed=1)
    assert one == two


def test_ten_thousand_predictions_take_seconds() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 10_000)
    scores = np.clip(0.2 * labels + 0.8 * generator.random(10_000), 0, 1)
    began = time.process_time()
    sample_metrics(pd.DataFrame({"label": labels, "score": scores}))
    group_intervals(labels, scores, generator.integers(0, 1000, 10_000), resamples=1000)
    auc_covariance(labels, scores)
    # A loop over scikit-learn's metrics takes minutes; the bound leaves room for a busy machine.
    assert time.process_time() - began < 30
