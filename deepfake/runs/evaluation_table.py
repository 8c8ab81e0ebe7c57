"""An evaluation as tables for people. Knows results; computes and keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from rich.table import Table
from rich.text import Text

from deepfake.errors import harmless
from deepfake.metrics import METRICS, READS, class_counts, metric_names
from deepfake.runs.evaluate import EvaluatedData

#: Beside the metrics: fakes found at a fixed rate of false alarms.
_AT_RATES = {
    "tpr_at_fpr_0.01": "fakes found at 1 % false alarms",
    "tpr_at_fpr_0.001": "fakes found at 0.1 % false alarms",
}
#: How the value beside the first is named, by what a metric reads: at the fitted threshold, or calibrated.
_OTHER = {"ranks": "", "calls": "_fitted", "probabilities": "_calibrated"}


def scorecard(run: str, result: EvaluatedData) -> Table:
    """Every number with its interval, its value at the fitted threshold or calibrated, and why one is missing."""
    table = Table(title=_title(run, result), title_justify="left")
    fitted = "none" if result.decision.threshold is None else f"{result.decision.threshold:.3f}"
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column(f"{result.target.config.evaluation.level:.0%} interval")
    table.add_column(f"at threshold {fitted} / calibrated", justify="right")
    table.add_column("note")
    mark = "" if result.covered else "*"
    for reads in READS:
        titles = {name: METRICS[name].title for name in metric_names(reads)} | (_AT_RATES if reads == "ranks" else {})
        for name, text in titles.items():
            other = _number(result, f"{name}{_OTHER[reads]}") if _OTHER[reads] else ""
            table.add_row(text, _number(result, name, mark), _interval(result, name), other, Text(_note(result, name)))
    if "frame/roc_auc" in result.found.values:
        table.add_row("ROC-AUC of single frames", _number(result, "frame/roc_auc", mark), "", "", "")
    if result.macro is not None:
        table.add_row("ROC-AUC, mean over methods", f"{result.macro:.4f}{mark}", "", "", "each against all reals")
    coverage = result.coverage
    said = f"{coverage['scored']:.0f} of {coverage['samples']:.0f} samples"
    table.add_row("scored", f"{coverage['share']:.1%}{mark}", "", "", Text(f"{said}{_failed(result)}"))
    if mark:
        table.caption = (
            f"* fewer samples have a score than min_coverage={result.target.config.evaluation.min_coverage:g}"
        )
    return table


def breakdown_table(result: EvaluatedData) -> Table:
    """A row for each value of each column; ROC-AUC with DeLong's interval over the same units as the whole."""
    table = Table(
        "by",
        "",
        title=f"{result.name} by its parts, called at {result.decision.applied_threshold:.3f}",
        title_justify="left",
    )
    for name in ("real", "fake", "ROC-AUC"):
        table.add_column(name, justify="right")
    table.add_column("interval")
    others = [name for reads in READS for name in metric_names(reads, by_group=True) if name not in ("roc_auc", "eer")]
    for name in others:
        table.add_column(METRICS[name].title, justify="right")
    for row in result.breakdown.to_dict("records"):
        interval = f"{row['roc_auc_low']:.3f} to {row['roc_auc_high']:.3f}"
        if pd.isna(row["roc_auc_low"]):
            interval = f"none: {row['reason']}" if pd.notna(row["roc_auc"]) else ""
        shown = [_plain(row[name]) for name in others]
        auc = _plain(row["roc_auc"]) if pd.notna(row["roc_auc"]) else f"none: {row['reason']}"
        counts = (f"{row['real']}", f"{row['fake']}")
        table.add_row(Text(str(row["by"])), Text(harmless(str(row["group"]))), *counts, auc, interval, *shown)
    return table


def curves_table(curves: Mapping[str, pd.DataFrame]) -> Table:
    """ROC-AUC for each kind of damage, mildest first."""
    table = Table("damage", "severity", title="robustness", title_justify="left")
    table.add_column("ROC-AUC", justify="right")
    table.add_column("interval")
    for kind, curve in curves.items():
        for row in curve.to_dict("records"):
            interval = f"{row['low']:.3f} to {row['high']:.3f}" if pd.notna(row["low"]) else ""
            table.add_row(kind, f"{row['severity']:g} {curve.attrs.get('unit', '')}", _plain(row["value"]), interval)
    return table


def _title(run: str, result: EvaluatedData) -> str:
    counts = class_counts(result.target.manifest.table["label"])
    return (
        f"{run} on {result.name}: {counts['real']} real + {counts['fake']} fake, a sample's score is the "
        f"{result.decision.pooling} of its clips', threshold {result.decision.default:g}"
    )


def _number(result: EvaluatedData, name: str, mark: str = "") -> str:
    value = result.found.values.get(name)
    return "–" if value is None else f"{value:.4f}{mark}"


def _plain(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.4f}"


def _interval(result: EvaluatedData, name: str) -> str:
    ends = [result.found.values.get(f"{name}_{end}") for end in ("low", "high")]
    return "" if None in ends else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _note(result: EvaluatedData, name: str) -> str:
    """Why a number is missing, or its interval, or how the ROC-AUC's was made."""
    reasons, values = result.found.unavailable, result.found.values
    if name in reasons:
        return reasons[name]
    if f"{name}_low" in reasons:
        # What holds for all of them is said once.
        same = name != "roc_auc" and reasons[f"{name}_low"] == reasons.get("roc_auc_low")
        return "" if same else f"no interval: {reasons[f'{name}_low']}"
    if name != "roc_auc" or "roc_auc" not in result.found.intervals:
        return ""
    text = result.found.intervals["roc_auc"]
    if "roc_auc_delong_low" in values:
        text += f"; DeLong {values['roc_auc_delong_low']:.3f} to {values['roc_auc_delong_high']:.3f}"
    return text


def _failed(result: EvaluatedData) -> str:
    parts = [
        f"{count:.0f} {name.removeprefix('status_')}"
        for name, count in result.coverage.items()
        if name.startswith("status_")
    ]
    filled = f"{result.coverage['filled']:.1%} of their frames filled in" if result.coverage["filled"] else ""
    return "".join(f", {part}" for part in [*parts, filled] if part)
