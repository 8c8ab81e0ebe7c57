"""Whether two runs came out the same: every metric, every epoch and every prediction, side by side.

Compares numbers; knows neither how they were computed nor what may have changed them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

IDENTICAL, WITHIN, DIFFERENT = "identical", "within tolerance", "different"

#: Metrics that say how long something took or what the machine did: no two runs share them.
_TIMINGS = re.compile(
    r"(^|[/_])(seconds|latency_ms|gpu_hours|\w*per_second|mfu)($|_)|^(system|profile)/|_(seconds|bytes|per_second)$"
)
_KEY = ["split", "sample_id"]
#: Columns of predictions that must agree to the letter; all other numbers are compared as scores are.
_EXACT = ("label", "method", "dataset", "status", "frames_used")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """What a comparison found.

    Attributes:
        word: ``identical``, ``within tolerance`` or ``different``.
        metrics: One row per metric: metric, then, now, and the difference as text.
        notes: A line each on the metrics, the epochs, the predictions, and on what could not be compared.
        tolerance: What was allowed.
    """

    word: str
    metrics: pd.DataFrame
    notes: list[str]
    tolerance: float

    def __str__(self) -> str:
        return f"verdict: {self.word}"


def is_timing(metric: str) -> bool:
    """Whether a metric tells of time or of the machine, and not of the detector."""
    return _TIMINGS.search(metric) is not None


def compare_results(
    then: Mapping[str, float],
    now: Mapping[str, float],
    predictions: tuple[pd.DataFrame, pd.DataFrame],
    histories: tuple[Sequence[Mapping[str, float]], Sequence[Mapping[str, float]]],
    tolerance: float,
) -> Verdict:
    """Two runs' results.

    Args:
        then: Metrics of the first run: each of them is compared but those of :func:`is_timing`.
        now: Of the second.
        predictions: Both tables, compared row by row, by split and sample.
        histories: Both runs' metrics of each epoch.
        tolerance: Scores may differ by so much, metrics by so much times the larger of 1 and their size, for the
            verdict ``within tolerance``; ``identical`` allows nothing.
    """
    table, worst = _metrics(then, now)
    epochs, worst_epoch = _epochs(*histories)
    rows, worst_row = _predictions(*predictions)
    largest = max(worst, worst_epoch, worst_row)
    word = IDENTICAL if largest == 0 else WITHIN if largest <= tolerance else DIFFERENT
    notes = [_metrics_told(table), epochs, rows]
    if more := [name for name in now if name not in then and not is_timing(name)]:
        notes.append(f"not compared, as the first run has none of them: {', '.join(more)}")
    return Verdict(word, table, notes, tolerance)


def _metrics(then: Mapping[str, float], now: Mapping[str, float]) -> tuple[pd.DataFrame, float]:
    rows, worst = [], 0.0
    for name, a in then.items():
        if is_timing(name):
            continue
        b = now.get(name, math.nan)
        rows.append(
            {"metric": name, "then": a, "now": b, "difference": "none" if _distance(a, b) == 0 else f"{b - a:+.3g}"}
        )
        worst = max(worst, _distance(a, b))
    return pd.DataFrame(rows, columns=["metric", "then", "now", "difference"]), worst


def _metrics_told(table: pd.DataFrame) -> str:
    other = table[table["difference"] != "none"]
    if other.empty:
        return f"metrics: all {len(table)} are the same"
    few = ", ".join(f"{row.metric} {row.then:.6g} -> {row.now:.6g}" for row in other.head(_MOST_NAMED).itertuples())
    return f"metrics: {len(other)} of {len(table)} differ ({few}{', …' if len(other) > _MOST_NAMED else ''})"


def _epochs(then: Sequence[Mapping[str, float]], now: Sequence[Mapping[str, float]]) -> tuple[str, float]:
    if len(then) != len(now):
        return f"epochs: {len(then)} then, {len(now)} now", math.inf
    worst, first = 0.0, ""
    for number, (a, b) in enumerate(zip(then, now, strict=True), start=1):
        for name in a:
            if is_timing(name):
                continue
            distance = _distance(a[name], b.get(name, math.nan))
            if distance and not first:
                first = f"{name} of epoch {number}"
            worst = max(worst, distance)
    if not worst:
        return f"epochs: every metric of all {len(then)} is the same", worst
    return f"epochs: the first to differ is {first}, {_largest(worst)}", worst


def _predictions(then: pd.DataFrame, now: pd.DataFrame) -> tuple[str, float]:
    a, b = (table.set_index(_KEY).sort_index() for table in (then, now))
    if not a.index.equals(b.index):
        lost, new = a.index.difference(b.index), b.index.difference(a.index)
        parts = [f"{len(ids)} {what} ({_named(ids)})" for ids, what in ((lost, "missing"), (new, "new")) if len(ids)]
        return f"predictions: rows differ, {', '.join(parts) or 'some are doubled'}", math.inf
    for column in _EXACT:
        if column in a and column in b and (other := a[column].ne(b[column])).any():
            return f"predictions: {column} differs in {other.sum()} rows ({_named(a.index[other])})", math.inf
    worst, changed = 0.0, pd.Series(False, a.index)
    for column in a.columns.intersection(b.columns):
        if column not in _EXACT and pd.api.types.is_float_dtype(a[column]):
            other = a[column].ne(b[column]) & ~(a[column].isna() & b[column].isna())
            changed |= other
            gaps = (a[column] - b[column]).abs()[other]
            worst = max(worst, math.inf if gaps.isna().any() else float(gaps.max() if len(gaps) else 0.0))
    if not changed.any():
        return f"predictions: all {len(a)} rows are the same", 0.0
    return (
        f"predictions: {changed.sum()} of {len(a)} rows differ ({_named(a.index[changed])}), {_largest(worst)}",
        worst,
    )


def _distance(a: float, b: float) -> float:
    """In the tolerance's own measure; 0 only for equal numbers."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    gap = abs(a - b) / max(1.0, abs(a))
    return gap if math.isfinite(gap) else math.inf


def _largest(gap: float) -> str:
    return f"the largest difference is {gap:.3g}" if math.isfinite(gap) else "and some have a value on one side only"


def _named(index: pd.Index) -> str:
    names = [str(key[-1]) for key in index[:_MOST_NAMED]]
    return ", ".join(names) + (f" and {len(index) - _MOST_NAMED} more" if len(index) > _MOST_NAMED else "")
