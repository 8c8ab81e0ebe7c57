"""Runs side by side: a table sorted by one metric, and a report of such tables, for the terminal, as Markdown and CSV.

As a page: :mod:`deepfake.tracking.page`. Arranges what is computed elsewhere; knows neither MLflow nor statistics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deepfake.errors import UserError, harmless, nearest
from deepfake.metrics import METRICS

#: The status of a run that finished and broke what its sweep's best are to keep.
INFEASIBLE = "infeasible"
#: What people call columns; others are shown under their own names.
HEADINGS = {
    "run": "Run",
    "model": "Model",
    "status": "Status",
    **{f"test/{name}": metric.heading for name, metric in METRICS.items()},
    **{f"val/{name}": f"{metric.heading} (val)" for name, metric in METRICS.items()},
    "test/probe_roc_auc": "ROC-AUC of the probe",
    "test/gain_over_probe": "Gain over the probe",
    "test/drop_crop": "ROC-AUC lost by random crops",
    "test/drop_jpeg": "ROC-AUC lost by JPEG",
    "test/saliency_face": "Gradient in the face box",
    "best_epoch": "Best epoch",
    "epochs_run": "Epochs",
    "train_seconds": "Seconds",
    "gpu_hours": "GPU-hours",
    "parameters": "Parameters",
    "latency_ms": "Latency, ms",
    "epoch_seconds": "Seconds an epoch",
    "against": "Against",
    "difference": "Difference",
    "real": "Real",
    "key": "Key",
}

#: How a cell says that a run has no such number.
ABSENT = "–"


def heading(column: str) -> str:
    """What people call a column."""
    return HEADINGS.get(column, column)


def rank(runs: pd.DataFrame, by: str, *, larger_is_better: bool = True) -> pd.DataFrame:
    """The runs, best first; those without the metric last, in the order they came.

    Args:
        runs: One row per run; a column per metric, parameter or anything else.
        by: The metric's column.
        larger_is_better: False for losses.

    Raises:
        UserError: No run has that metric.
    """
    if by not in runs.columns or runs[by].isna().all():
        numbers = [str(c) for c in runs.columns if pd.api.types.is_numeric_dtype(runs[c]) and runs[c].notna().any()]
        raise UserError(f"no run has the metric {by!r}", nearest(by, numbers))
    return runs.sort_values(by, ascending=not larger_is_better, na_position="last", kind="stable", ignore_index=True)


def unrepeated(ranked: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns without ``run`` where another says the same of every run, and without a status all runs share."""
    same = any(column != "run" and (ranked[column].astype(str) == ranked["run"]).all() for column in columns)
    settled = "status" in columns and (ranked["status"] == "finished").all()
    left_out = {"run": same, "status": settled}
    return [column for column in columns if not left_out.get(column, False)]


def typed_value(text: str) -> float | str:
    """A rate as it was typed or chosen, as the number it is, so that tables can round it; anything else as it is."""
    return float(text) if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?|-?\d+(\.\d+)?e-?\d+", text) else text


def without_ends(rows: pd.DataFrame) -> list[str]:
    """The columns but those that are shown as another's interval."""
    ends = {end for column in rows.columns for end in interval_of(str(column))}
    return [str(column) for column in rows.columns if column not in ends]


def to_terminal(ranked: pd.DataFrame, columns: Sequence[str], by: str, title: str = "") -> Table:
    """A rich table; the first row with a value of ``by`` is marked as best.

    Args:
        ranked: From :func:`rank`.
        columns: Which columns to show, in order.
        by: The metric it is sorted by.
        title: What the table is of.
    """
    table = Table(title=title or None, header_style="bold", title_justify="left")
    for column in columns:
        number = pd.api.types.is_numeric_dtype(ranked[column])
        header = f"{heading(column)} {'▼' if descending(ranked, by) else '▲'}" if column == by else heading(column)
        table.add_column(header, justify="right" if number else "left", overflow="fold")
    best = best_place(ranked, by)
    for place, texts in enumerate(cells(ranked, columns)):
        table.add_row(*(Text(harmless(text)) for text in texts), style="bold green" if place == best else None)
    return table


def to_markdown(ranked: pd.DataFrame, columns: Sequence[str], by: str) -> str:
    """A Markdown table; the best run's row is in bold."""
    numbers = [pd.api.types.is_numeric_dtype(ranked[column]) for column in columns]
    lines = [
        "| " + " | ".join(escaped(heading(column)) for column in columns) + " |",
        "| " + " | ".join("---:" if number else "---" for number in numbers) + " |",
    ]
    best = best_place(ranked, by)
    for place, texts in enumerate(cells(ranked, columns)):
        marked = [f"**{escaped(text)}**" if place == best and text else escaped(text) for text in texts]
        lines.append("| " + " | ".join(marked) + " |")
    return "\n".join(lines) + "\n"


def to_csv(ranked: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """The same columns with every digit, and the ends of their intervals, for other programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [name for column in columns for name in (column, *interval_of(column)) if name in ranked.columns]
    ranked[shown].map(_no_formula).to_csv(path, index=False)


def interval_of(column: str) -> tuple[str, str]:
    """The columns that hold the ends of a metric's interval, where there are any."""
    return f"{column}_low", f"{column}_high"


def cell(value: object) -> str:
    """One value as the tables show it: shares to four places, larger numbers to fewer, nothing as a dash."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    if isinstance(value, float):
        size = abs(value)
        if (size != 0 and size < 1e-3) or size >= 1e7:
            return f"{value:.3g}"
        return f"{value:,.{4 if size < 10 else 2 if size < 100 else 0}f}"
    return str(value)


def cells(table: pd.DataFrame, columns: Sequence[str]) -> Iterable[list[str]]:
    """Each row's cells as text; a metric with an interval shows it behind the value."""
    for row in table.to_dict("records"):
        yield [_with_interval(row, column) for column in columns]


def _with_interval(row: Mapping[Hashable, Any], column: str) -> str:
    low, high = (row.get(name) for name in interval_of(column))
    if any(end is None or pd.isna(end) for end in (low, high)):
        return cell(row[column])
    return f"{row[column]:.3f} [{low:.3f}, {high:.3f}]"


def best_place(ranked: pd.DataFrame, by: str) -> int | None:
    """The row of the best run; None where no run has the metric, or none is feasible."""
    if by not in ranked.columns or not len(ranked) or pd.isna(ranked[by].iloc[0]):
        return None
    return None if "status" in ranked.columns and ranked["status"].iloc[0] == INFEASIBLE else 0


def descending(ranked: pd.DataFrame, by: str) -> bool:
    """Whether the metric falls from the first row to the last."""
    values = ranked[by].dropna()
    return len(values) < 2 or bool(values.iloc[0] >= values.iloc[-1])


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: no cell's end, no HTML, no link."""
    shown = harmless(text).replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")
    return shown.replace("|", "\\|").replace("](", "]\\(")


def _no_formula(value: object) -> object:
    """A value that spreadsheets show: text that they would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


@dataclass(frozen=True)
class Section:
    """A further table: which differences are real, which parameters differ."""

    heading: str
    rows: pd.DataFrame
    remark: str = ""


@dataclass(frozen=True)
class Report:
    """What a comparison says.

    Attributes:
        title: What was compared.
        runs: The leaderboard, best first; see :func:`rank`. Columns ``<metric>_low`` and
            ``<metric>_high`` show as an interval behind the metric.
        columns: Which of its columns to show, in order.
        by: The metric it is sorted by.
        sections: Further tables.
        notes: What a reader must know to read the numbers rightly.
        opening: HTML below the page's title.
        charts: HTML of the page's figures.
        curves: By chart, the line of each run, in the order of ``runs``; see :func:`deepfake.tracking.page.slots`.
        addresses: What the names of runs link to on the page.
    """

    title: str
    runs: pd.DataFrame
    columns: Sequence[str]
    by: str
    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()
    opening: Sequence[str] = ()
    charts: Sequence[str] = ()
    curves: Mapping[str, Sequence[str]] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)


def report_to_terminal(report: Report) -> Group:
    """Everything but the charts, for rich to print."""
    parts: list[object] = [to_terminal(report.runs, report.columns, report.by, report.title)]
    for section in report.sections:
        if section.rows.empty:
            parts.append(Text(f"{section.heading}: none"))
            continue
        parts.append(to_terminal(section.rows, without_ends(section.rows), "", section.heading))
        parts += [Text(section.remark, style="dim")] if section.remark else []
    parts += [Text(f"note: {note}") for note in report.notes]
    return Group(*parts)  # type: ignore[arg-type]


def report_to_markdown(report: Report) -> str:
    """Everything but the charts, for a README or an issue."""
    parts = [f"# {report.title}", to_markdown(report.runs, report.columns, report.by)]
    for section in report.sections:
        parts.append(f"## {section.heading}")
        parts.append(to_markdown(section.rows, without_ends(section.rows), "") if len(section.rows) else "None.")
        parts += [section.remark] if section.remark else []
    if report.notes:
        parts.append("\n".join(f"- {note}" for note in report.notes))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"
