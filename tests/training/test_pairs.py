from __future__ import annotations

import numpy as np
import pytest

from deepfake.training.bootstrap import paired_differences
from deepfake.training.delong import compare_aucs, holm
from deepfake.training.pairs import EVERY_PAIR, compare_pairs, pairs_of

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


def test_p_values_are_those_of_the_tests_corrected_together() -> None:
    scores = {"good": GOOD, "alike": ALIKE, "chance": CHANCE}
    found = compare_pairs(LABELS, scores, UNITS, metric="roc_auc", **SETTING)
    pairs = pairs_of(list(scores))
    delong = holm([compare_aucs(LABELS, scores[a], scores[b]).p for a, b in pairs])
    drawn = [paired_differences(LABELS, scores[a], scores[b], UNITS, resamples=200) for a, b in pairs]
    assert [difference.p_delong for difference in found] == delong
    assert [difference.p for difference in found] == holm([p for _, p in drawn])
    assert [difference.difference for difference in found] == [interval for interval, _ in drawn]


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
