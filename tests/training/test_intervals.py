"""Bounds against binomial ones by their definition, DeLong against its own over all pairs; how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from deepfake.training.bootstrap import group_intervals
from deepfake.training.intervals import (
    MIN_UNITS,
    auc_covariance,
    auc_difference,
    auc_interval,
    effective,
    fraction_bounds,
    too_few,
)

MANY = 1e9  # degrees of freedom


@pytest.mark.parametrize(("count", "size"), [(3, 20), (10, 20), (19, 20), (1, 50)])
def test_a_rate_of_single_samples_has_the_mid_p_bounds(count: int, size: int) -> None:
    rate = count / size
    low, high = fraction_bounds(np.array(rate), np.array(rate * (1 - rate) / size), size, MANY, 0.95)
    for end, tail in ((low, 0.025), (high, 0.975)):
        upper = binom.sf(count, size, end) + 0.5 * binom.pmf(count, size, end)
        assert upper == pytest.approx(tail, abs=1e-9)


@pytest.mark.parametrize("size", [10, 30, 300])
def test_a_perfect_rate_has_the_rule_of_three(size: int) -> None:
    low, high = fraction_bounds(np.array([1.0, 0.0]), np.zeros(2), size, MANY, 0.95)
    assert low.tolist() == pytest.approx([0.05 ** (1 / size), 0.0])
    assert high.tolist() == pytest.approx([1.0, 1 - 0.05 ** (1 / size)])


def test_one_error_is_never_surer_than_it_would_be_of_as_many_units() -> None:
    # One of 1000 samples in 20 units: the variance alone would count 1000.
    low, high = fraction_bounds(np.array(0.999), np.array(0.999 * 0.001 / 1000), 20, MANY, 0.95)
    trusting, _ = fraction_bounds(np.array(0.999), np.array(0.999 * 0.001 / 1000), 1000, MANY, 0.95)
    assert low < trusting
    assert high > 0.999


def test_few_units_widen_as_student_does() -> None:
    many, few = (fraction_bounds(np.array(0.5), np.array(1e-4), 10, freedom, 0.95) for freedom in (MANY, 9))
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(2.262 / 1.960, rel=0.01)


def test_units_of_equal_size_count_as_they_are_and_others_less() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert effective(labels, np.array([0, 0, 1, 1, 2, 2, 3, 3])).real == 2
    assert effective(labels, np.array([0, 1, 1, 1, 2, 3, 3, 3])).fake == pytest.approx(1.6)


def test_too_few_says_of_which_class_and_why() -> None:
    labels = np.r_[np.zeros(MIN_UNITS - 1, int), np.ones(30, int)]
    assert too_few(labels, np.arange(39), "people").startswith("9 people with real samples are too few")
    assert too_few(labels, np.arange(39), "samples").startswith("9 real samples are too few")
    assert too_few(np.ones(30), np.arange(30)) == ""
    assert too_few(np.empty(0), np.empty(0)) == ""
    assert "holds 35% of the fake samples" in too_few(
        np.r_[np.zeros(20), np.ones(20)], np.r_[np.arange(20), np.full(7, 20), np.arange(21, 34)]
    )


def drawn(generator: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Labels, scores, units and the true ROC-AUC."""
    real, fake, size, shared, gap = {
        "few reals": (10, 60, 1, 0.0, 1.5),
        "nearly perfect": (12, 24, 1, 0.0, 4.4),
        "a few large units": (15, 15, 6, 1.0, 2.5),
    }[kind]
    units = np.repeat(np.arange(real + fake), size)
    labels = (units >= real).astype(np.int64)
    logits = (
        gap * labels + shared * generator.standard_normal(real + fake)[units] + generator.standard_normal(len(units))
    )
    return labels, 1 / (1 + np.exp(gap / 2 - logits)), units, float(norm.cdf(gap / np.sqrt(2 * (1 + shared**2))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["few reals", "nearly perfect", "a few large units"])
def test_intervals_hold_the_true_area(kind: str) -> None:
    generator, rounds, held, held_delong = np.random.default_rng(7), 120, 0, 0
    for seed in range(rounds):
        labels, scores, units, true = drawn(generator, kind)
        found, _ = group_intervals(labels, scores, units, resamples=100, seed=seed)
        interval, delong = found["roc_auc"], auc_interval(labels, scores, groups=units)
        held += interval.low <= true <= interval.high
        held_delong += delong.low <= true <= delong.high
        assert interval.low < interval.high
    # Quantiles of the draws held it in 0.86, 0.16 and 0.88 of these; DeLong over samples in 0.84, 0.16 and 0.68.
    assert min(held, held_delong) / rounds >= 0.91


def by_pairs(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ROC-AUCs and covariance straight from the structural components of DeLong et al. 1988."""
    fakes, reals = scores[:, labels == 1], scores[:, labels == 0]
    wins = (fakes[:, :, None] > reals[:, None, :]) + 0.5 * (fakes[:, :, None] == reals[:, None, :])
    v10, v01 = wins.mean(2), wins.mean(1)
    theta = wins.mean((1, 2))
    k, m, n = len(scores), fakes.shape[1], reals.shape[1]
    covariance = np.zeros((k, k))
    for r in range(k):
        for s in range(k):
            s10 = np.sum((v10[r] - theta[r]) * (v10[s] - theta[s])) / (m - 1)
            s01 = np.sum((v01[r] - theta[r]) * (v01[s] - theta[s])) / (n - 1)
            covariance[r, s] = s10 / m + s01 / n
    return theta, covariance


def sample(kind: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 2, 120)
    scores = np.clip(0.2 * labels + 0.8 * generator.random((3, 120)), 0, 1)
    shapes = {
        "random": scores,
        "ties": np.round(scores, 1),
        "all equal": np.full_like(scores, 0.5),
        "perfect": np.stack([labels * 1.0] * 3),
        "inverted": 1 - scores,
        "logits": 40 * (scores - 0.5),
    }
    return labels, shapes[kind]


@pytest.mark.parametrize("kind", ["random", "ties", "all equal", "perfect", "inverted", "logits"])
def test_agrees_with_all_pairs(kind: str) -> None:
    labels, scores = sample(kind)
    values, covariance = auc_covariance(labels, scores)
    expected_values, expected_covariance = by_pairs(labels, scores)
    np.testing.assert_allclose(values, expected_values, rtol=0, atol=1e-10)
    np.testing.assert_allclose(covariance, expected_covariance, rtol=0, atol=1e-10)
    np.testing.assert_allclose(values, [roc_auc_score(labels, row) for row in scores], rtol=0, atol=1e-10)


def test_the_interval_is_the_normal_one_where_samples_are_many() -> None:
    generator = np.random.default_rng(1)
    labels = np.tile([0, 1], 4000)
    scores = labels + 1.5 * generator.standard_normal(8000)
    found = auc_interval(labels, scores)
    (value,), ((variance,),) = auc_covariance(labels, scores)
    assert found.low == pytest.approx(value - 1.96 * np.sqrt(variance), abs=2e-4)
    assert found.high == pytest.approx(value + 1.96 * np.sqrt(variance), abs=2e-4)


@pytest.mark.parametrize("kind", ["random", "ties", "all equal", "perfect", "inverted"])
def test_the_interval_holds_its_value_within_its_range(kind: str) -> None:
    labels, scores = sample(kind)
    found = auc_interval(labels, scores[0])
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01


def test_samples_repeated_within_groups_say_no_more() -> None:
    labels, scores = sample("random")
    again = np.repeat(np.arange(120), 5)
    values, covariance = auc_covariance(labels[again], scores[:, again], again)
    single_values, single = auc_covariance(labels, scores, np.arange(120))
    np.testing.assert_allclose(values, single_values, rtol=0, atol=1e-10)
    np.testing.assert_allclose(covariance, single, rtol=1e-9)


def test_groups_of_one_sample_are_as_none() -> None:
    labels, scores = sample("ties")
    for one, other in zip(auc_covariance(labels, scores), auc_covariance(labels, scores, np.arange(120)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="1 scores are NaN"):
        auc_covariance(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, np.nan, 0.3]))


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 0, 1]])
def test_too_few_of_a_class_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="two samples of each class"):
        auc_covariance(np.array(labels), np.array([0.1, 0.2, 0.3]))


def test_a_difference_of_areas_has_a_width_where_both_are_perfect() -> None:
    labels = np.tile([0, 1], 40)
    found = auc_difference(labels, labels.astype(float), labels.astype(float))
    assert found.value == 0
    assert -0.1 < found.low < 0 < found.high < 0.1


def test_scores_that_move_together_have_a_narrower_difference() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 100)
    first = labels + rng.normal(size=200)
    alike, apart = first + 0.1 * rng.normal(size=200), labels + rng.normal(size=200)
    widths = [one.high - one.low for one in (auc_difference(labels, first, other) for other in (alike, apart))]
    assert widths[0] < widths[1] / 2
