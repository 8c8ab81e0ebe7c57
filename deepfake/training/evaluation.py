"""Predictions to every number reported of them, with intervals and reasons, for all and by any column.

Knows tables; no model and no file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from deepfake.data.splits import components
from deepfake.errors import UserError, nearest
from deepfake.metrics import METRICS, READS, Interval, Metrics, class_counts, lacking, metric_names, sample_metrics
from deepfake.training.bootstrap import group_intervals
from deepfake.training.decision import Decision
from deepfake.training.fitting import tpr_at_fpr
from deepfake.training.intervals import auc_interval, too_few
from deepfake.training.options import EvaluationOptions

#: False-positive rates at which the true positive rate is reported.
RATES = (0.01, 0.001)


@dataclass
class Evaluation(Metrics):
    """Metrics, with how their intervals were made.

    Attributes:
        intervals: Metric to method, such as ``bootstrap over 40 groups``; the ends are ``<metric>_low`` and ``_high``.
        confusion: For the thresholds ``default`` and ``fitted``: ``threshold``, ``real_as_real``, ``real_as_fake``,
            ``fake_as_real``, ``fake_as_fake``.
    """

    intervals: dict[str, str] = field(default_factory=dict)
    confusion: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Units:
    """What a bootstrap draws: samples that share footage or people come and go together.

    Attributes:
        codes: int64 [n], equal within a unit.
        name: What the units are, for people.
    """

    codes: np.ndarray
    name: str

    def __len__(self) -> int:
        """How many there are."""
        return len(np.unique(self.codes))

    def of(self, rows: np.ndarray) -> Units:
        """Those of some of the samples, by a mask or by places."""
        return Units(self.codes[rows], self.name)


def evaluate_predictions(
    predictions: pd.DataFrame,
    decision: Decision,
    options: EvaluationOptions,
    units: Units | None = None,
    intervals: Sequence[str] | None = None,
) -> Evaluation:
    """Every number of one table of predictions.

    Args:
        predictions: ``label``, ``score``, ``status``; only rows that say ``ok`` count.
        decision: Thresholds and calibrator.
        options: Draws and confidence of the intervals.
        units: Of all rows; None takes each for a unit of its own.
        intervals: Metrics that get ``<metric>_low`` and ``<metric>_high``; None for all of them.

    Returns:
        The metrics of ``sample_metrics`` at the default threshold; ``<metric>_fitted`` at the fitted one;
        ``<metric>_calibrated``; ``tpr_at_fpr_0.01`` and ``_0.001``; the intervals, DeLong's as ``roc_auc_delong_low``.

    Raises:
        ValueError: As :func:`deepfake.metrics.sample_metrics`.
    """
    counted = (predictions["status"] == "ok").to_numpy()
    table = predictions[counted]
    found = Evaluation(**vars(sample_metrics(table, decision.default)))
    _at_fitted(found, table, decision)
    _calibrated(found, table, decision)
    labels, scores = table["label"].to_numpy(np.int64), table["score"].to_numpy(np.float64)
    _at_rates(found, labels, scores)
    drawn = (units or single_samples(len(predictions))).of(counted)
    wanted = METRICS if intervals is None else intervals
    _intervals(found, labels, scores, drawn, decision.default, options, wanted)
    return found


def _at_fitted(found: Evaluation, table: pd.DataFrame, decision: Decision) -> None:
    for name, threshold in {"default": decision.default, "fitted": decision.threshold}.items():
        if threshold is not None:
            predicted = table["score"] >= threshold
            counts = {
                f"{truth}_as_{prediction}": float(((table["label"] == label) & (predicted == fake)).sum())
                for truth, label in (("real", 0), ("fake", 1))
                for prediction, fake in (("real", False), ("fake", True))
            }
            found.confusion[name] = {"threshold": threshold, **counts}
    if decision.threshold is None:
        reason = decision.unavailable.get("threshold", "no threshold was fitted")
        found.unavailable |= {f"{name}_fitted": reason for name in metric_names("calls")}
        return
    again = sample_metrics(table, decision.threshold)
    found.values |= {f"{name}_fitted": again.values[name] for name in metric_names("calls") if name in again.values}
    found.unavailable |= {
        f"{name}_fitted": again.unavailable[name] for name in metric_names("calls") if name in again.unavailable
    }


def _calibrated(found: Evaluation, table: pd.DataFrame, decision: Decision) -> None:
    if decision.calibrator is None:
        reason = decision.unavailable.get("calibrator", "no calibrator was fitted")
        found.unavailable |= {f"{name}_calibrated": reason for name in metric_names("probabilities")}
        return
    again = sample_metrics(table.assign(score=decision.calibrated(table["score"].to_numpy())), decision.default)
    for name in metric_names("probabilities"):
        if name in again.values:
            found.values[f"{name}_calibrated"] = again.values[name]
        else:
            found.unavailable[f"{name}_calibrated"] = again.unavailable[name]


def _at_rates(found: Evaluation, labels: np.ndarray, scores: np.ndarray) -> None:
    for rate in RATES:
        name = f"tpr_at_fpr_{rate:g}"
        try:
            found.values[name] = tpr_at_fpr(labels, scores, rate)
        except ValueError as error:
            found.unavailable[name] = found.unavailable.get("roc_auc", str(error))


def _intervals(
    found: Evaluation,
    labels: np.ndarray,
    scores: np.ndarray,
    units: Units,
    threshold: float,
    options: EvaluationOptions,
    wanted: Iterable[str],
) -> None:
    reason = too_few(labels, units.codes, units.name)
    count = len(units)
    if "roc_auc" in found.values:
        low, high, why = auc_bounds(labels, scores, units, options.level)
        if why:
            found.unavailable["roc_auc_delong"] = why
        else:
            found.values |= {"roc_auc_delong_low": low, "roc_auc_delong_high": high}
            found.intervals["roc_auc_delong"] = f"DeLong over {count} {units.name}"
    drawn: dict[str, Interval] = {}
    undrawn = dict.fromkeys(wanted, reason)
    if not reason:
        drawn, undrawn = group_intervals(
            labels,
            scores,
            units.codes,
            threshold=threshold,
            resamples=options.resamples,
            level=options.level,
        )
    for name in wanted:
        if name in drawn:
            found.values |= {f"{name}_low": drawn[name].low, f"{name}_high": drawn[name].high}
            found.intervals[name] = f"bootstrap over {count} {units.name}, {options.resamples} draws"
        elif name in found.values:
            found.unavailable[f"{name}_low"] = undrawn.get(name, "not defined on these samples")


def auc_bounds(labels: np.ndarray, scores: np.ndarray, units: Units, level: float) -> tuple[float, float, str]:
    """The bounds of a ROC-AUC by DeLong's variance over units; NaN and the reason where there are none."""
    reason = lacking(METRICS["roc_auc"], labels) or too_few(labels, units.codes, units.name)
    if reason:
        return float("nan"), float("nan"), reason
    interval = auc_interval(labels, scores, level, units.codes)
    return interval.low, interval.high, ""


def single_samples(count: int) -> Units:
    """Each of so many samples as a unit of its own."""
    return Units(np.arange(count), "samples")


def resampling_units(groups: pd.Series, labels: np.ndarray | None = None) -> Units:
    """What a bootstrap over samples with these groups draws.

    Args:
        groups: A tuple of footages or people for each sample.
        labels: 0 or 1 of each; None takes all for one class.

    Returns:
        Whole components of shared groups. Where these are too few in a class, or one of them is most of it, because
        groups link nearly everything together: the first group of each sample instead, which is less than all that
        samples share, and the name says so. Components again where the first groups are too few as well.
    """
    if len(groups) == 0:
        return Units(np.zeros(0, np.int64), "groups")
    classes = np.ones(len(groups), np.int64) if labels is None else np.asarray(labels)
    linked = components(groups).to_numpy(np.int64)
    if too_few(classes, linked):
        first, _ = pd.factorize(groups.map(lambda names: names[0]))
        if not too_few(classes, first):
            return Units(first.astype(np.int64), "groups (each sample's first)")
    return Units(linked, "groups")


#: Columns that are broken down by without being asked, where they tell groups apart.
USUAL = ("method", "compression", "dataset")


def break_down(
    predictions: pd.DataFrame, columns: Sequence[str], decision: Decision, level: float, units: Units | None = None
) -> pd.DataFrame:
    """Metrics of each value of each column.

    A method is a kind of fake: each is scored against all reals. Any other column's values are scored on their own
    rows.

    Args:
        predictions: ``label``, ``score``, ``status``, ``method`` and the columns; only rows that say ``ok`` count.
        columns: Which.
        decision: Its applied threshold is that of accuracy and F1.
        level: The ROC-AUC intervals' confidence.
        units: Of all rows, as the intervals over all of them have; None takes each for a unit of its own.

    Returns:
        A row for each column and value: ``by``, ``group``, ``n``, ``real``, ``fake``, the metrics marked ``by_group``
        (NaN where not defined), ``roc_auc_low``, ``roc_auc_high`` (DeLong over the units) and ``reason``, which says
        why there is no ROC-AUC, or no interval of it.

    Raises:
        UserError: A column that is not there, naming those there are.
    """
    counted = (predictions["status"] == "ok").to_numpy()
    table, drawn = predictions[counted], (units or single_samples(len(predictions))).of(counted)
    places = pd.Series(np.arange(len(table)), table.index)
    rows = []
    for column in columns:
        if column not in table.columns:
            known = sorted(set(table.columns) - {"score", "calibrated", "status", "frames_used", "label"})
            raise UserError(f"there is no column {column!r} to break down by", nearest(column, known))
        for group, part in _parts(table, column):
            numbers = _numbers(part, decision.applied_threshold, level, drawn.of(places.loc[part.index].to_numpy()))
            rows.append({"by": column, "group": group, **numbers})
    names = ("by", "group", "n", "real", "fake", *_group_metrics(), "roc_auc_low", "roc_auc_high", "reason")
    return pd.DataFrame(rows, columns=list(names))


def usual_columns(predictions: pd.DataFrame) -> list[str]:
    """``method`` where there is a fake, and compression and data set where there are several."""
    several = [c for c in USUAL[1:] if c in predictions and predictions[c].nunique() > 1]
    return [*(["method"] if (predictions["label"] == 1).any() else []), *several]


def macro_average(groups: pd.DataFrame, metric: str = "roc_auc") -> float | None:
    """The mean of a metric over methods, each weighing the same; None where it is defined for none."""
    values = groups.loc[groups["by"] == "method", metric].dropna()
    return float(values.mean()) if len(values) else None


def _group_metrics() -> list[str]:
    return [name for reads in READS for name in metric_names(reads, by_group=True)]


def _parts(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    if column == "method":
        reals, fakes = table[table["label"] == 0], table[table["label"] == 1]
        return [(str(name), pd.concat([reals, part])) for name, part in fakes.groupby("method", sort=True)]
    # Lists, such as groups, are values like any other here.
    return [(str(name), part) for name, part in table.groupby(table[column].astype(str), sort=True)]


def _numbers(part: pd.DataFrame, threshold: float, level: float, units: Units) -> dict[str, object]:
    values = sample_metrics(part, threshold).values
    labels, scores = part["label"].to_numpy(np.int64), part["score"].to_numpy(np.float64)
    low, high, reason = auc_bounds(labels, scores, units, level)
    return {
        "n": len(part),
        **class_counts(labels),
        **{name: values.get(name, float("nan")) for name in _group_metrics()},
        "roc_auc_low": low,
        "roc_auc_high": high,
        "reason": reason,
    }
