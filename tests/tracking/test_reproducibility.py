from __future__ import annotations

import math

import pandas as pd
import pytest

from deepfake.tracking.reproducibility import DIFFERENT, IDENTICAL, WITHIN, Verdict, compare_results, is_timing

METRICS = {"test/roc_auc": 0.9, "test/log_loss": 40.0}
HISTORY = [{"epoch": 0.0, "train/loss": 0.7, "epoch_seconds": 3.0}]
TABLE = pd.DataFrame(
    {
        "sample_id": ["a", "b"],
        "label": [0, 1],
        "method": ["real", "swap"],
        "dataset": "d",
        "split": "test",
        "score": [0.25, math.nan],
        "frames_used": [4, 0],
        "status": ["ok", "no face"],
    }
)


def compared(metrics=METRICS, table=TABLE, history=HISTORY) -> Verdict:
    return compare_results(METRICS, metrics, (TABLE, table), (HISTORY, history), tolerance=1e-3)


def test_equal_to_the_last_digit_is_identical() -> None:
    assert str(compared()) == "verdict: identical"


def test_row_order_does_not_matter() -> None:
    assert compared(table=TABLE[::-1]).word == IDENTICAL


@pytest.mark.parametrize(
    ("off", "word"), [(math.ulp(0.9), WITHIN), (0.9e-3, WITHIN), (1.1e-3, DIFFERENT), (math.nan, DIFFERENT)]
)
def test_a_metric_may_be_off_by_the_tolerance(off: float, word: str) -> None:
    assert compared({**METRICS, "test/roc_auc": 0.9 + off}).word == word


def test_the_metrics_that_differ_are_named() -> None:
    assert compared().notes[0] == "metrics: all 2 are the same"
    other = compared({**METRICS, "test/roc_auc": 0.5})
    assert other.notes[0] == "metrics: 1 of 2 differ (test/roc_auc 0.9 -> 0.5)"


def test_a_large_metric_may_be_off_by_a_share_of_its_size() -> None:
    assert compared({**METRICS, "test/log_loss": 40.03}).word == WITHIN


def test_a_metric_that_is_gone_differs_and_a_new_one_is_told() -> None:
    gone = {"test/log_loss": 40.0}
    assert compared(gone).word == DIFFERENT
    more = compared({**METRICS, "test/f1": 0.5})
    assert more.word == IDENTICAL
    assert "test/f1" in more.notes[-1]


@pytest.mark.parametrize(("score", "word"), [(0.25 + 1e-9, WITHIN), (0.26, DIFFERENT), (math.nan, DIFFERENT)])
def test_a_score_may_be_off_by_the_tolerance(score: float, word: str) -> None:
    found = compared(table=TABLE.assign(score=[score, math.nan]))
    assert found.word == word
    assert "1 of 2 rows differ (a)" in found.notes[2]


@pytest.mark.parametrize(("column", "value"), [("status", "ok"), ("frames_used", 4), ("label", 0)])
def test_what_is_no_score_must_agree(column: str, value: object) -> None:
    table = TABLE.copy()
    table.loc[1, column] = value
    found = compared(table=table)
    assert found.word == DIFFERENT
    assert f"{column} differs in 1 rows (b)" in found.notes[2]


def test_missing_and_new_rows_are_named() -> None:
    found = compared(table=TABLE.assign(sample_id=["a", "c"]))
    assert found.word == DIFFERENT
    assert "1 missing (b), 1 new (c)" in found.notes[2]


def test_the_first_epoch_that_differs_is_named() -> None:
    found = compared(history=[{"epoch": 0.0, "train/loss": 0.8}])
    assert found.word == DIFFERENT
    assert "train/loss of epoch 1" in found.notes[1]


def test_another_number_of_epochs_differs() -> None:
    assert compared(history=[]).word == DIFFERENT


@pytest.mark.parametrize(
    "name", ["train_seconds", "latency_ms", "gpu_hours", "best/samples_per_second", "system/cpu", "profile/data_wait"]
)
def test_timings_are_not_compared(name: str) -> None:
    assert is_timing(name)


@pytest.mark.parametrize("name", ["test/roc_auc", "train/loss", "best_epoch", "parameters", "test/recall"])
def test_results_are_compared(name: str) -> None:
    assert not is_timing(name)
