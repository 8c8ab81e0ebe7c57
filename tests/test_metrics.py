"""Metrics against scikit-learn, and what they say where they are not defined."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from deepfake.metrics import (
    METRICS,
    Metric,
    Weighted,
    expected_calibration_error,
    sample_metrics,
)
from deepfake.runs.console import epoch_line
from deepfake.training.checkpoint import create_monitor
from deepfake.training.decision import Decision
from deepfake.training.evaluation import evaluate_predictions
from deepfake.training.options import EvaluationOptions


def table_of(labels: list[int], scores: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"label": labels, "score": scores})


def random_table(n: int = 200, ties: bool = False) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, n)
    scores = np.clip(0.3 * labels + 0.7 * generator.random(n), 0, 1)
    return pd.DataFrame({"label": labels, "score": np.round(scores, 1) if ties else scores})


@pytest.mark.parametrize("ties", [False, True])
def test_all_agree_with_scikit_learn(ties: bool) -> None:
    table = random_table(ties=ties)
    y, s = table["label"].to_numpy(), table["score"].to_numpy()
    called = (s >= 0.4).astype(int)
    expected = {
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "f1": sk.f1_score(y, called),
        "precision": sk.precision_score(y, called),
        "recall": sk.recall_score(y, called),
        "roc_auc": sk.roc_auc_score(y, s),
        "average_precision": sk.average_precision_score(y, s),
        "log_loss": sk.log_loss(y, s),
        "brier": sk.brier_score_loss(y, s),
    }
    found = sample_metrics(table, 0.4)
    assert found.unavailable == {}
    assert set(found.values) == set(METRICS)
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value, abs=1e-10), name


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_says_so_and_is_never_zero(label: int) -> None:
    found = sample_metrics(table_of([label] * 3, [0.2, 0.6, 0.9]))
    for name in ("roc_auc", "average_precision", "eer", "balanced_accuracy"):
        assert name not in found.values
        assert found.unavailable[name] == f"only {('real', 'fake')[label]} samples"
    assert found.values["accuracy"] == pytest.approx([1 / 3, 2 / 3][label])
    assert "log_loss" in found.values


def test_precision_without_a_call_is_not_available() -> None:
    found = sample_metrics(table_of([0, 1], [0.1, 0.2]))
    assert found.unavailable == {"precision": "no sample was called fake"}
    assert found.values["f1"] == 0.0


def test_nothing_scored_leaves_nothing() -> None:
    found = sample_metrics(table_of([], []))
    assert found.values == {}
    assert set(found.unavailable.values()) == {"no sample was scored"}


def test_failed_samples_do_not_count() -> None:
    table = table_of([0, 1, 1], [0.1, 0.9, float("nan")]).assign(status=["ok", "ok", "no_face"])
    assert sample_metrics(table).values["recall"] == 1.0


def test_a_nan_score_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        sample_metrics(table_of([0, 1], [0.1, float("nan")]))


def test_a_logit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        sample_metrics(table_of([0, 1], [-3.0, 2.0]))


def test_an_odd_label_is_refused() -> None:
    with pytest.raises(ValueError, match="labels must be 0 and 1"):
        sample_metrics(table_of([0, 2], [0.1, 0.2]))


@pytest.mark.parametrize(
    ("scores", "rate"),
    [
        ([0.1, 0.2, 0.8, 0.9], 0.0),
        ([0.8, 0.9, 0.1, 0.2], 1.0),
        ([0.5, 0.5, 0.5, 0.5], 0.5),
        ([0.1, 0.6, 0.4, 0.9], 0.5),
    ],
)
def test_equal_error_rate(scores: list[float], rate: float) -> None:
    assert sample_metrics(table_of([0, 0, 1, 1], scores)).values["eer"] == pytest.approx(rate)


def test_equal_error_rate_lies_on_the_curve() -> None:
    table = random_table()
    y, s = table["label"].to_numpy(), table["score"].to_numpy()
    rate = sample_metrics(table).values["eer"]
    x, t, _ = sk.roc_curve(y, s, drop_intermediate=False)
    assert 1 - np.interp(rate, x, t) == pytest.approx(rate, abs=0.5 / min(y.sum(), (1 - y).sum()))


def test_calibration_error_by_hand() -> None:
    labels, scores = np.array([0, 1, 1, 0]), np.array([0.1, 0.15, 0.95, 1.0])
    # Bins of a half: the first holds 0.1 and 0.15 with one fake, the second 0.95 and 1.0 with one fake.
    expected = (abs(0.25 - 1) + abs(1.95 - 1)) / 4
    assert expected_calibration_error(labels, scores, bins=2) == pytest.approx(expected)


def test_a_further_metric_is_one_entry_and_is_told_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def correlation(w: Weighted) -> np.ndarray:
        false_positives, misses = w.reals - w.true_negatives, w.fakes - w.true_positives
        above = w.true_positives * w.true_negatives - false_positives * misses
        return above / np.sqrt(w.predicted * w.fakes * w.reals * (w.n - w.predicted))

    entry = Metric("mcc", "Matthews correlation", "calls", correlation, needs="both", low=-1.0, headline=True)
    monkeypatch.setitem(METRICS, "mcc", entry)
    table = random_table().assign(status="ok", method="one", compression="c23")
    decision = Decision(0.4, 0.5, "fixed", None, "mean")
    found = evaluate_predictions(table, decision, EvaluationOptions(resamples=200))
    y, s = table["label"].to_numpy(), table["score"].to_numpy()
    expected = sk.matthews_corrcoef(y, s >= 0.4)
    assert found.values["mcc"] == pytest.approx(expected)
    assert found.values["mcc_fitted"] == pytest.approx(sk.matthews_corrcoef(y, s >= 0.5))
    assert -1 <= found.values["mcc_low"] < expected < found.values["mcc_high"] <= 1
    assert "Matthews correlation 0.2500" in epoch_line(0, 1, {"val/mcc": 0.25})
    assert create_monitor("val/mcc", "max", None, y).name == "val/mcc"
    assert found.unavailable.get("mcc") is None
    assert sample_metrics(table_of([1, 1], [0.2, 0.9])).unavailable["mcc"] == "only fake samples"
