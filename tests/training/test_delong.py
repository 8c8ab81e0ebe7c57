"""DeLong against its definition over all pairs, written here without midranks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deepfake.training.delong import auc_covariance, auc_interval, compare_aucs, holm


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


def test_the_paired_test_by_its_definition() -> None:
    from scipy.stats import norm

    labels, scores = sample("ties")
    values, covariance = by_pairs(labels, scores)
    found = compare_aucs(labels, scores[0], scores[1])
    z = (values[0] - values[1]) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.z == pytest.approx(z, abs=1e-10)
    assert found.p == pytest.approx(2 * norm.sf(abs(z)), abs=1e-10)


def test_a_detector_does_not_differ_from_itself_on_another_scale() -> None:
    labels, scores = sample("random")
    assert compare_aucs(labels, scores[0], scores[0] ** 3).p == 1.0


def test_perfect_against_perfectly_wrong_is_certain() -> None:
    labels, scores = sample("perfect")
    assert compare_aucs(labels, scores[0], 1 - scores[0]).p == 0.0


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="1 scores are NaN"):
        auc_covariance(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, np.nan, 0.3]))


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 0, 1]])
def test_too_few_of_a_class_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="two samples of each class"):
        auc_covariance(np.array(labels), np.array([0.1, 0.2, 0.3]))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
