"""Predictions by method, compression or any column: which kind of sample the numbers hide. Knows tables only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deepfake.errors import UserError, nearest
from deepfake.metrics import READS, metric_names, sample_metrics
from deepfake.training.decision import Decision
from deepfake.training.delong import auc_interval
from deepfake.training.evaluation import Units
from deepfake.training.intervals import too_few

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
        decision: Its threshold in use is where accuracy and F1 cut.
        level: The ROC-AUC intervals' confidence.
        units: Of all rows, as the intervals over all of them have; None takes each for a unit of its own.

    Returns:
        A row for each column and value: ``by``, ``group``, ``n``, ``real``, ``fake``, the metrics marked ``by_group``
        (NaN where not defined), ``roc_auc_low``, ``roc_auc_high`` (DeLong over the units) and ``reason``, which says
        why there is no ROC-AUC, or no interval of it.

    Raises:
        UserError: A column that is not there, naming those there are.
    """
    codes = np.arange(len(predictions)) if units is None else units.codes
    name = "samples" if units is None else units.name
    counted = (predictions["status"] == "ok").to_numpy()
    table = predictions[counted]
    drawn = pd.Series(codes[counted], table.index)
    rows = []
    for column in columns:
        if column not in table.columns:
            known = sorted(set(table.columns) - {"score", "calibrated", "status", "frames_used", "label"})
            raise UserError(f"there is no column {column!r} to break down by", nearest(column, known))
        for group, own in _parts(table, column):
            own_units = Units(drawn.loc[own.index].to_numpy(), name)
            rows.append({"by": column, "group": group, **_numbers(own, decision.cut, level, own_units)})
    names = ("by", "group", "n", "real", "fake", *_told(), "roc_auc_low", "roc_auc_high", "reason")
    return pd.DataFrame(rows, columns=list(names))


def usual_columns(predictions: pd.DataFrame) -> list[str]:
    """``method`` where there is a fake, and compression and data set where there are several."""
    several = [c for c in USUAL[1:] if c in predictions and predictions[c].nunique() > 1]
    return [*(["method"] if (predictions["label"] == 1).any() else []), *several]


def macro_average(groups: pd.DataFrame, metric: str = "roc_auc") -> float | None:
    """The mean of a metric over methods, each weighing the same; None where it is defined for none."""
    values = groups.loc[groups["by"] == "method", metric].dropna()
    return float(values.mean()) if len(values) else None


def _told() -> list[str]:
    return [name for reads in READS for name in metric_names(reads, by_group=True)]


def _parts(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    if column == "method":
        reals, fakes = table[table["label"] == 0], table[table["label"] == 1]
        return [(str(name), pd.concat([reals, own])) for name, own in fakes.groupby("method", sort=True)]
    # Lists, such as groups, are values like any other here.
    return [(str(name), own) for name, own in table.groupby(table[column].astype(str), sort=True)]


def _numbers(own: pd.DataFrame, threshold: float, level: float, units: Units) -> dict[str, object]:
    found = sample_metrics(own, threshold)
    labels = own["label"].to_numpy(np.int64)
    row: dict[str, object] = {"n": len(own), "real": int((labels == 0).sum()), "fake": int((labels == 1).sum())}
    row |= {name: found.values.get(name, float("nan")) for name in _told()}
    reason = found.unavailable.get("roc_auc", "") or too_few(labels, units.codes, units.name)
    row |= {"roc_auc_low": float("nan"), "roc_auc_high": float("nan"), "reason": reason}
    if not reason:
        interval = auc_interval(labels, own["score"].to_numpy(np.float64), level, units.codes)
        row |= {"roc_auc_low": interval.low, "roc_auc_high": interval.high}
    return row
