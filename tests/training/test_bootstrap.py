"""Vectorised bootstrap against resampled tables and scikit-learn."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from deepfake.training.bootstrap import group_intervals, group_weights, paired_differences
from deepfake.training.delong import auc_covariance
from deepfake.training.metrics import LESS_IS_BETTER, sample_metrics
from deepfake.training.weighted import WeightedMetrics


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
    assert set(found) == set(LESS_IS_BETTER)
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


def test_intervals_are_the_quantiles_of_slow_draws() -> None:
    labels, scores, groups = predictions()
    found, _ = group_intervals(labels, scores, groups, resamples=60, seed=4)
    slow = []
    for weights in group_weights(groups, 60, 4):
        for counts in weights:
            drawn = np.repeat(np.arange(len(labels)), counts)
            slow.append(
                sample_metrics(pd.DataFrame({"label": labels[drawn], "score": scores[drawn]})).values["roc_auc"]
            )
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (found["roc_auc"].low, found["roc_auc"].high) == pytest.approx((low, high), abs=1e-10)


def test_single_groups_agree_with_delong() -> None:
    labels, scores, _ = predictions(n=400)
    found, _ = group_intervals(labels, scores, np.arange(400), resamples=2000)
    (_,), ((variance,),) = auc_covariance(labels, scores)
    width = found["roc_auc"].high - found["roc_auc"].low
    assert width == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)


def test_shared_groups_widen_the_interval() -> None:
    labels, scores, _ = predictions(n=80)
    again = np.tile(np.arange(80), 5)
    alone, _ = group_intervals(labels[again], scores[again], np.arange(400), resamples=300)
    shared, _ = group_intervals(labels[again], scores[again], again, resamples=300)
    assert shared["roc_auc"].high - shared["roc_auc"].low > 1.8 * (alone["roc_auc"].high - alone["roc_auc"].low)


def test_one_class_has_no_roc_interval_and_says_so() -> None:
    found, unavailable = group_intervals(np.ones(6), np.linspace(0, 1, 6), np.arange(6), resamples=10)
    assert "roc_auc" not in found
    assert unavailable["roc_auc"] == "not defined on these samples"
    assert "accuracy" in found


def test_a_class_in_one_group_is_too_little() -> None:
    labels = np.array([1] + [0] * 3)
    _, unavailable = group_intervals(labels, np.linspace(0, 1, 4), np.array([0, 1, 1, 1]), resamples=50)
    assert "too few groups" in unavailable["roc_auc"]


def test_no_samples_have_no_intervals() -> None:
    found, unavailable = group_intervals(np.empty(0), np.empty(0), np.empty(0))
    assert found == {}
    assert set(unavailable) == set(LESS_IS_BETTER)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        group_intervals(np.array([0, 1]), np.array([0.1, np.nan]), np.arange(2))


def test_the_same_seed_gives_the_same_interval() -> None:
    one, _ = group_intervals(*predictions(), resamples=50, seed=1)
    two, _ = group_intervals(*predictions(), resamples=50, seed=1)
    assert one == two


def test_paired_differences_find_the_better_one() -> None:
    labels, scores, groups = predictions(n=400)
    noise = np.random.default_rng(1).random(400)
    interval, p = paired_differences(labels, scores, noise, groups, resamples=200)
    assert interval.low > 0
    assert p < 0.05


def test_a_detector_does_not_differ_from_itself() -> None:
    labels, scores, groups = predictions()
    interval, p = paired_differences(labels, scores, scores, groups, resamples=50)
    assert (interval.value, interval.low, interval.high, p) == (0.0, 0.0, 0.0, 1.0)


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
