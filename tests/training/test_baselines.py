"""Simple models' ROC-AUCs: what tells is told, what does not is not, and small sets say so."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from deepfake.training.baselines import Fit, baseline, linear, trees


def made(count: int, gap: float, seed: int = 0, each: int = 1) -> tuple[np.ndarray, pd.DataFrame]:
    """Samples in groups of ``each``, the first of four columns ``gap`` deviations apart by class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) // each % 2
    features = rng.normal(size=(count, 4))
    features[:, 0] += gap * labels
    samples = pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(count)], "label": labels,
            "groups": [(f"g{i // each}",) for i in range(count)],
            "split": [("train", "train", "test")[i // each // 2 % 3] for i in range(count)],
        }
    )  # fmt: skip
    return features, samples


@pytest.mark.parametrize("fit", [linear, trees], ids=["linear", "trees"])
def test_what_tells_the_class_is_told_with_an_interval(fit: Fit) -> None:
    found = baseline(*made(240, 4.0), fit)
    assert found.roc_auc is not None
    assert found.roc_auc.value > 0.97
    assert 0.8 < found.roc_auc.low < found.roc_auc.value <= found.roc_auc.high <= 1
    assert found.how == "train (160) to test (80)"
    assert found.scores is not None
    assert len(found.scores) == 80


@pytest.mark.parametrize("fit", [linear, trees], ids=["linear", "trees"])
def test_noise_is_about_one_half(fit: Fit) -> None:
    found = [baseline(*made(240, 0.0, seed), fit).roc_auc for seed in range(3)]
    assert np.mean([one.value for one in found if one is not None]) == pytest.approx(0.5, abs=0.12)


def test_steps_that_do_not_rise_are_seen_by_trees() -> None:
    features, samples = made(240, 0.0)
    features[:, 0] = np.where(samples["label"] == 1, 0.0, np.sign(features[:, 1]) * 3)
    found = baseline(features, samples, trees).roc_auc
    assert found is not None
    assert found.value > 0.95


def test_a_small_test_part_is_replaced_by_folds_over_all() -> None:
    features, samples = made(60, 4.0)
    found = baseline(features, samples.assign(split="train"), linear)
    assert found.how == "5 folds of whole groups over all 60"
    assert found.roc_auc is not None
    assert found.roc_auc.value > 0.9


def test_folds_do_not_tear_groups_apart() -> None:
    """A column that names the group tells nothing once no group is on both sides."""
    _, samples = made(240, 0.0, each=8)
    groups = np.repeat(np.random.default_rng(3).normal(size=(30, 4)), 8, axis=0)
    found = baseline(groups, samples.assign(split="test"), trees).roc_auc
    assert found is not None
    assert found.value < 0.75


def test_too_few_samples_have_a_reason_and_no_number() -> None:
    features, samples = made(16, 4.0)
    found = baseline(features, samples, linear)
    assert found.roc_auc is None
    assert "fewer than" in found.reason


def test_too_few_groups_in_the_test_part_give_a_number_without_an_interval() -> None:
    features, samples = made(240, 4.0, each=20)
    found = baseline(features, samples, linear)
    assert found.roc_auc is not None
    assert math.isnan(found.roc_auc.low)
    assert "too few" in found.reason


def test_features_that_never_vary_tell_nothing() -> None:
    features, samples = made(240, 4.0)
    found = baseline(np.ones_like(features), samples, linear).roc_auc
    assert found is not None
    assert found.value == 0.5
