"""Runs side by side: their numbers on the samples they share, what they cost, and what was set otherwise.

Computes tables; prints and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from deepfake.commands.entries import SPLIT, Entry, Shared
from deepfake.config import is_environment_key
from deepfake.errors import UserError, nearest
from deepfake.metrics import METRICS, metric_names, sample_metrics
from deepfake.tracking import table
from deepfake.tracking.folder import PROVENANCE
from deepfake.tracking.verdict import is_timing
from deepfake.training.bootstrap import group_intervals
from deepfake.training.intervals import Interval

#: Further columns, where any run has them.
FACTS = ("epochs_run", "train_seconds", "gpu_hours", "parameters", "latency_ms")
_MOST_TYPED = 6
_HOUR = 3600.0


def leaderboard(entries: Sequence[Entry], shared: Shared, resamples: int, level: float) -> pd.DataFrame:
    """One row per run: what was typed differently, its numbers with their intervals, what it cost."""
    rows = []
    typed = typed_differently(entries)
    for entry in entries:
        scores = shared.scores[entry.label]
        measured, _ = group_intervals(
            shared.labels, scores, shared.units.codes, threshold=entry.threshold, resamples=resamples, level=level
        )
        values = sample_metrics(pd.DataFrame({"label": shared.labels, "score": scores}), entry.threshold).values
        own = {key: value for key, value in entry.metrics.items() if key not in {f"{SPLIT}/{m}" for m in METRICS}}
        rows.append(
            {
                "run": entry.label,
                "run_id": entry.record.run_id,
                **{key: table.typed_value(values[entry.label]) for key, values in typed.items()},
                **own,
                **_gpu_hours(entry),
                **{f"{SPLIT}/{name}": value for name, value in values.items()},
                **{
                    key: value
                    for name in metric_names(headline=True)
                    if name in measured
                    for key, value in _ends(name, measured[name])
                },
            }
        )
    board = pd.DataFrame(rows)
    return board.astype({"epochs_run": "Int64"}) if "epochs_run" in board else board


def columns_of(board: pd.DataFrame, entries: Sequence[Entry], by: str) -> list[str]:
    """The columns worth showing, in reading order."""
    typed = list(typed_differently(entries))[:_MOST_TYPED]
    measured = [f"{SPLIT}/{name}" for name in metric_names(headline=True)]
    wanted = ["run", *typed, *([] if by in (*measured, *FACTS) else [by]), *measured, *FACTS]
    return table.unrepeated(board, [name for name in wanted if name in board and not board[name].isna().all()])


def typed_differently(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """What was typed for some runs and not, or otherwise, for others: key to value by run."""
    given = {entry.label: _typed(entry.record.overrides()) for entry in entries}
    keys = dict.fromkeys(key for values in given.values() for key in values)
    found = {key: {label: values.get(key, table.ABSENT) for label, values in given.items()} for key in keys}
    return {key: values for key, values in found.items() if len(set(values.values())) > 1}


def parameters(entries: Sequence[Entry]) -> pd.DataFrame:
    """The config keys whose values differ: one row per key, one column per run."""
    keys = sorted({key for entry in entries for key in entry.values if not is_environment_key(key)})
    rows = [
        {"key": key.removesuffix("._target_"), **{entry.label: _shown(entry.values, key) for entry in entries}}
        for key in keys
    ]
    kept = [row for row in rows if len({value for name, value in row.items() if name != "key"}) > 1]
    return pd.DataFrame(kept, columns=["key", *(entry.label for entry in entries)])


def metric_named(by: str, board: pd.DataFrame) -> tuple[str, bool]:
    """A leaderboard's column for what a user calls it, and whether more of it is better.

    Raises:
        UserError: No run has it.
    """
    numbers = [str(name) for name in board if pd.api.types.is_numeric_dtype(board[name]) and board[name].notna().any()]
    name = by if by in numbers else f"{SPLIT}/{by}"
    if name not in numbers:
        raise UserError(f"no run has the metric {by!r}", nearest(by, numbers))
    base = name.rsplit("/", 1)[-1].removesuffix("_fitted").removesuffix("_calibrated")
    costs = is_timing(name) and not base.endswith("per_second")
    return name, not ((base in METRICS and METRICS[base].less_is_better) or costs or base in ("loss", "parameters"))


def _ends(name: str, found: Interval) -> list[tuple[str, float]]:
    return [(f"{SPLIT}/{name}_low", found.low), (f"{SPLIT}/{name}_high", found.high)]


def _gpu_hours(entry: Entry) -> dict[str, float]:
    world = entry.record.provenance() if entry.record.has(PROVENANCE) else {}
    if not str(world.get("machine", {}).get("device", "")).startswith("cuda") or "train_seconds" not in entry.metrics:
        return {}
    processes = int(world.get("environment", {}).get("WORLD_SIZE", 1))
    return {"gpu_hours": entry.metrics["train_seconds"] * processes / _HOUR}


def _typed(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (text.lstrip("+~").split("=", 1) for text in overrides if "=" in text)
    return {key: value for key, value in pairs if not is_environment_key(key)}


def _shown(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, table.ABSENT)
    # Of a class in the config its name says enough.
    return "null" if value is None else str(value).rpartition(".")[2] if key.endswith("._target_") else str(value)
