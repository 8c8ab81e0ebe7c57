from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from deepfake.training.bootstrap import drawn_covariance
from deepfake.training.intervals import auc_covariance, effective
from deepfake.training.significance import EVERY_PAIR, compare_pairs, pairs_of

RANDOM = np.random.default_rng(0)
LABELS = np.arange(200) % 2
UNITS = np.arange(200) // 4
GOOD = np.clip(LABELS * 0.4 + RANDOM.random(200) * 0.6, 0, 1)
ALIKE = np.clip(GOOD + RANDOM.normal(0, 0.01, 200), 0, 1)
CHANCE = RANDOM.random(200)
SETTING = {"threshold": 0.5, "resamples": 200, "level": 0.95}


def test_a_real_difference_is_told_from_none() -> None:
    found = compare_pairs(LABELS, {"good": GOOD, "alike": ALIKE, "chance": CHANCE}, UNITS, metric="roc_auc", **SETTING)
    real = {(difference.first, difference.second): difference.real(0.95) for difference in found}
    assert real == {("good", "alike"): False, ("good", "chance"): True, ("alike", "chance"): True}


def test_a_single_pair_is_the_paired_test() -> None:
    (found,) = compare_pairs(LABELS, {"good": GOOD, "chance": CHANCE}, UNITS, metric="roc_auc", **SETTING)
    scores, setting = {"good": GOOD, "chance": CHANCE}, {"metric": "roc_auc", "threshold": 0.5, "resamples": 200}
    values, covariance = drawn_covariance(LABELS, scores, UNITS, **setting)
    test = student(effective(LABELS, UNITS).freedom)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference, reach = values[0] - values[1], test.ppf(0.975) * error
    assert found.p == pytest.approx(2 * test.sf(difference / error), rel=1e-9)
    assert (found.difference.low, found.difference.high) == pytest.approx((difference - reach, difference + reach))


def test_a_detector_does_not_differ_from_itself() -> None:
    (found,) = compare_pairs(LABELS, {"one": GOOD, "same": GOOD}, UNITS, metric="f1", **SETTING)
    assert (found.difference.value, found.difference.low, found.difference.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_more_detectors_make_a_difference_less_sure() -> None:
    scores = {"good": GOOD, "alike": ALIKE, "chance": CHANCE}
    others = {f"other {i}": np.clip(GOOD + RANDOM.normal(0, 0.2, 200), 0, 1) for i in range(10)}
    few = compare_pairs(LABELS, scores, UNITS, metric="roc_auc", **SETTING)
    many = compare_pairs(LABELS, scores | others, UNITS, metric="roc_auc", **SETTING)
    reach = [found.difference.high - found.difference.value for found in (few[1], many[1])]
    assert reach[1] > 1.2 * reach[0]


def test_bounds_leave_out_zero_where_a_difference_is_real() -> None:
    found = compare_pairs(LABELS, {"good": GOOD, "alike": ALIKE, "chance": CHANCE}, UNITS, metric="roc_auc", **SETTING)
    for difference in found:
        outside = difference.difference.low > 0 or difference.difference.high < 0
        assert outside == difference.real(0.95)


@pytest.mark.slow
def test_equal_detectors_are_seldom_told_apart_however_many() -> None:
    generator, alarms, alarms_delong = np.random.default_rng(3), 0, 0
    for _ in range(50):
        base = 1.2 * LABELS + generator.normal(0, 0.5, 200)
        logits = base + generator.normal(0, 0.8, (20, 200))
        scores = 1 / (1 + np.exp(-logits))
        best_first = sorted(range(20), key=lambda i: -auc_covariance(LABELS, scores[i])[0][0])
        named = {f"run {i}": scores[i] for i in best_first}
        found = compare_pairs(LABELS, named, np.arange(200), metric="roc_auc", **SETTING | {"resamples": 100})
        alarms += any(difference.real(0.95) for difference in found)
        alarms_delong += any(difference.p_delong < 0.05 for difference in found if difference.p_delong is not None)
    # One in twenty of 50 is 2.5. DeLong of the best against each, corrected by Holm, gave 9.
    assert max(alarms, alarms_delong) <= 5


def test_a_worse_one_is_found_among_many() -> None:
    generator = np.random.default_rng(4)
    base = 1.2 * LABELS + generator.normal(0, 0.5, 200)
    scores = {f"run {i}": 1 / (1 + np.exp(-(base + generator.normal(0, 0.8, 200)))) for i in range(30)}
    scores |= {"worse": CHANCE}
    found = compare_pairs(LABELS, scores, np.arange(200), metric="roc_auc", **SETTING)
    assert {difference.second for difference in found if difference.real(0.95)} == {"worse"}


def test_p_can_be_small_enough_for_a_hundred() -> None:
    generator = np.random.default_rng(5)
    scores = {f"run {i}": np.clip(GOOD + generator.normal(0, 0.01, 200), 0, 1) for i in range(99)}
    found = compare_pairs(LABELS, scores | {"chance": CHANCE}, UNITS, metric="roc_auc", **SETTING)
    assert found[-1].p < 0.01


def test_units_that_are_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="5 groups with real samples are too few"):
        compare_pairs(LABELS, {"a": GOOD, "b": CHANCE}, np.arange(200) // 40, metric="roc_auc", **SETTING)


def test_other_metrics_have_no_delong() -> None:
    (found,) = compare_pairs(LABELS, {"a": GOOD, "b": CHANCE}, UNITS, metric="accuracy", **SETTING)
    assert found.p_delong is None
    assert found.difference.value == pytest.approx(
        np.mean((GOOD >= 0.5) == LABELS) - np.mean((CHANCE >= 0.5) == LABELS)
    )


def test_a_metric_that_is_not_defined_is_refused() -> None:
    with pytest.raises(ValueError, match="not defined"):
        compare_pairs(np.ones(200, int), {"a": GOOD, "b": CHANCE}, UNITS, metric="roc_auc", **SETTING)


def test_of_many_the_best_is_tested_against_each() -> None:
    few, many = [str(i) for i in range(EVERY_PAIR)], [str(i) for i in range(EVERY_PAIR + 1)]
    assert len(pairs_of(few)) == EVERY_PAIR * (EVERY_PAIR - 1) // 2
    assert pairs_of(many) == [("0", other) for other in many[1:]]
