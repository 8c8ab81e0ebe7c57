"""Runs of the past made comparable: the samples that all of them scored, and a leaderboard. Computes tables only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepfake.config import is_environment_key
from deepfake.errors import UserError, nearest
from deepfake.metrics import METRICS, Interval, metric_names, sample_metrics
from deepfake.options import flatten, overrides_by_key
from deepfake.tracking import tables
from deepfake.tracking.reproducibility import is_timing
from deepfake.tracking.run_folder import HISTORY, PREDICTIONS, PROVENANCE
from deepfake.tracking.run_record import RunRecord
from deepfake.training.bootstrap import group_intervals
from deepfake.training.evaluation import Units, resampling_units
from deepfake.training.intervals import too_few

#: The split that runs are compared on.
SPLIT = "test"
#: Further columns of a leaderboard, where any run has them.
FACTS = ("test/gain_over_probe", "epochs_run", "train_seconds", "gpu_hours", "parameters", "latency_ms")
_MOST_TYPED = 6
_SIDE_BY_SIDE = 12  # runs beyond which the values of a key are summed up, as no table has so many columns
_HOUR = 3600.0


@dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    Attributes:
        label: Its name, or more where another run has the same.
        record: The run.
        values: Its config by dotted key.
        metrics: As it logged them.
        scores: Label and score of the test samples that were scored, by sample id.
    """

    label: str
    record: RunRecord
    values: Mapping[str, Any]
    metrics: Mapping[str, float]
    scores: pd.DataFrame

    @property
    def threshold(self) -> float:
        """The score from which accuracy and F1 call a sample fake."""
        return float(self.values.get("trainer.threshold", 0.5))

    def history(self) -> list[dict[str, float]]:
        """The metrics of each epoch; none where the file is gone."""
        return self.record.history() if self.record.has(HISTORY) else []


@dataclass(frozen=True)
class Shared:
    """The samples that every run of a comparison scored.

    Attributes:
        labels: 0 or 1 [n].
        scores: Probabilities [n] by run.
        units: What a bootstrap draws.
        notes: What a reader must know of them.
    """

    labels: np.ndarray
    scores: dict[str, np.ndarray]
    units: Units
    notes: list[str]

    @property
    def too_few(self) -> str:
        """Why there are no intervals and no tests; empty where there are."""
        return too_few(self.labels, self.units.codes, self.units.name)


def read_entries(records: Sequence[RunRecord]) -> list[Entry]:
    """Read what a comparison needs of each run.

    Raises:
        UserError: A run did not finish, or its files are gone.
    """
    entries = []
    for record, label in zip(records, _labels(records), strict=True):
        if "pruned" in record.tags:
            raise UserError(f"run {record} was pruned: it has no test scores", "leave it out")
        predictions = record.require_finished().predictions("split", "label", "status")
        scored = predictions[(predictions["split"] == SPLIT) & (predictions["status"] == "ok")]
        scores = scored.set_index("sample_id")[["label", "score"]]
        entries.append(Entry(label, record, flatten(record.config()), record.metrics(), scores))
    return entries


def exclusion_reason(record: RunRecord) -> str:
    """Why a run cannot be compared; empty if it can."""
    if "pruned" in record.tags:
        return "pruned"
    if record.status != "FINISHED":
        return record.status.lower()
    return "" if record.has(PREDICTIONS) else "its predictions are gone"


def shared_samples(entries: Sequence[Entry]) -> Shared:
    """The samples that all runs scored.

    Raises:
        UserError: There are none, or the runs do not agree on their labels.
    """
    first, *others = entries
    common = first.scores.index
    for entry in others:
        common = common.intersection(entry.scores.index, sort=False)
    if common.empty:
        raise UserError(
            f"no {SPLIT} sample was scored by all {len(entries)} runs: {_scored(entries)}",
            "compare runs on the same data, or score them on it first: deepfake evaluate RUN dataset=…",
        )
    labels = first.scores.loc[common, "label"]
    for entry in others:
        other = labels[labels != entry.scores.loc[common, "label"]]
        if not other.empty:
            raise UserError(
                f"{first.label} and {entry.label} do not agree on the label of {len(other)} samples, "
                f"such as {other.index[0]!r}",
                "one of them was trained on data read another way; compare runs on the same data",
            )
    notes = []
    more = {entry.label: len(entry.scores) - len(common) for entry in entries if len(entry.scores) > len(common)}
    if more:
        listed = ", ".join(f"{label} {count}" for label, count in more.items())
        notes.append(
            f"Compared on the {len(common)} {SPLIT} samples that every run scored; these scored more: {listed}. "
            "Accuracy, F1 and ROC-AUC here may differ from what the runs say of themselves."
        )
    numbers = labels.to_numpy(np.int64)
    scores = {entry.label: entry.scores.loc[common, "score"].to_numpy(np.float64) for entry in entries}
    shared = Shared(numbers, scores, _units(first.record, common, numbers), notes)
    if shared.too_few:
        notes.append(f"No intervals and no tests: {shared.too_few}.")
    return shared


def _labels(records: Sequence[RunRecord]) -> list[str]:
    """Names that tell runs apart: those of a sweep by their number, others by their id or folder."""
    names = [record.name for record in records]
    labels = []
    for record in records:
        apart = f"#{record.tags['job']}" if "job" in record.tags else (record.run_id or record.places[0].name)[:8]
        labels.append(record.name if names.count(record.name) == 1 else f"{record.name} {apart}")
    counts = {label: labels.count(label) for label in labels}
    return [
        label if counts[label] == 1 else f"{label} {record.reference[-24:]}"
        for label, record in zip(labels, records, strict=True)
    ]


def _units(record: RunRecord, samples: pd.Index, labels: np.ndarray) -> Units:
    groups = record.manifest().set_index("sample_id")["groups"]
    alone = pd.Series([(name,) for name in samples], samples)
    known = groups.reindex(samples).where(lambda found: found.notna(), alone)
    return resampling_units(known.reset_index(drop=True), labels)


def _scored(entries: Sequence[Entry]) -> str:
    return "; ".join(
        f"{entry.label} {len(entry.scores)} of {entry.values.get('dataset.name', 'its data')}" for entry in entries[:5]
    )


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
        logged = {key: value for key, value in entry.metrics.items() if key not in {f"{SPLIT}/{m}" for m in METRICS}}
        rows.append(
            {
                "run": entry.label,
                "run_id": entry.record.run_id,
                **{key: tables.typed_value(values[entry.label]) for key, values in typed.items()},
                **logged,
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
    return tables.unrepeated(board, [name for name in wanted if name in board and not board[name].isna().all()])


def typed_differently(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """What was typed for some runs and not, or otherwise, for others: key to value by run."""
    given = {entry.label: _typed(entry.record.overrides()) for entry in entries}
    keys = dict.fromkeys(key for values in given.values() for key in values)
    found = {key: {label: values.get(key, tables.ABSENT) for label, values in given.items()} for key in keys}
    return {key: values for key, values in found.items() if len(set(values.values())) > 1}


def parameters(entries: Sequence[Entry]) -> pd.DataFrame:
    """The config keys whose values differ: one row per key, one column per run; of many runs what they had instead."""
    keys = sorted({key for entry in entries for key in entry.values if not is_environment_key(key)})
    rows = [
        {"key": key.removesuffix("._target_"), **{entry.label: _shown(entry.values, key) for entry in entries}}
        for key in keys
    ]
    rows = [row for row in rows if len({value for name, value in row.items() if name != "key"}) > 1]
    if len(entries) > _SIDE_BY_SIDE:
        found = [(row["key"], [row[entry.label] for entry in entries]) for row in rows]
        summed = [{"key": key, "values": len(set(values)), "such as": _summary(values)} for key, values in found]
        return pd.DataFrame(summed, columns=["key", "values", "such as"])
    return pd.DataFrame(rows, columns=["key", *(entry.label for entry in entries)])


def _summary(values: Sequence[str]) -> str:
    """The most frequent values and how often they occur, or from where to where they go."""
    common = Counter(values).most_common(4)
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if numbers and len(set(values)) > len(common):
        return f"{tables.cell(min(numbers))} to {tables.cell(max(numbers))}"
    left = len(set(values)) - len(common)
    return ", ".join(f"{value} ({count})" for value, count in common) + (f" and {left} more" if left else "")


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
    return name, not (
        (base in METRICS and METRICS[base].less_is_better)
        or costs
        or base in ("loss", "parameters", "drop_crop", "drop_jpeg")
    )


def _ends(name: str, found: Interval) -> list[tuple[str, float]]:
    return [(f"{SPLIT}/{name}_low", found.low), (f"{SPLIT}/{name}_high", found.high)]


def _gpu_hours(entry: Entry) -> dict[str, float]:
    world = entry.record.provenance() if entry.record.has(PROVENANCE) else {}
    if not str(world.get("machine", {}).get("device", "")).startswith("cuda") or "train_seconds" not in entry.metrics:
        return {}
    processes = int(world.get("environment", {}).get("WORLD_SIZE", 1))
    return {"gpu_hours": entry.metrics["train_seconds"] * processes / _HOUR}


def _typed(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, value in overrides_by_key(overrides).items() if not is_environment_key(key)}


def _shown(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, tables.ABSENT)
    # Of a class in the config its name says enough.
    return "null" if value is None else str(value).rpartition(".")[2] if key.endswith("._target_") else str(value)
