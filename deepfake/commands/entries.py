"""Runs of the past made comparable: what each scored, and the samples that all of them did.

Reads records; computes no metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepfake.config import flatten
from deepfake.errors import UserError
from deepfake.tracking.folder import HISTORY, PREDICTIONS
from deepfake.tracking.record import RunRecord
from deepfake.training.evaluation import Units, resampling_units
from deepfake.training.intervals import too_few

#: The split that runs are compared on.
SPLIT = "test"


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
        """Where accuracy and F1 cut the score."""
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


def enter(records: Sequence[RunRecord]) -> list[Entry]:
    """Read what a comparison needs of each run.

    Raises:
        UserError: A run did not finish, or its files are gone.
    """
    entries = []
    for record, label in zip(records, _labels(records), strict=True):
        if "pruned" in record.tags:
            raise UserError(f"run {record} was pruned: it has no test scores", "leave it out")
        predictions = record.require_finished().predictions()
        kept = predictions[(predictions["split"] == SPLIT) & (predictions["status"] == "ok")]
        scores = kept.set_index("sample_id")[["label", "score"]]
        entries.append(Entry(label, record, flatten(record.config()), record.metrics(), scores))
    return entries


def usable(record: RunRecord) -> str:
    """Why a run cannot be compared; empty if it can."""
    if "pruned" in record.tags:
        return "pruned"
    if record.status != "FINISHED":
        return record.status.lower()
    return "" if record.has(PREDICTIONS) else "its predictions are gone"


def share(entries: Sequence[Entry]) -> Shared:
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
        label if counts[label] == 1 else f"{label} {(record.run_id or str(record.places[0]))[-24:]}"
        for label, record in zip(labels, records, strict=True)
    ]


def _units(record: RunRecord, samples: pd.Index, labels: np.ndarray) -> Units:
    groups = record.manifest().set_index("sample_id")["groups"]
    own = pd.Series([(name,) for name in samples], samples)
    known = groups.reindex(samples).where(lambda found: found.notna(), own)
    return resampling_units(known.reset_index(drop=True), labels)


def _scored(entries: Sequence[Entry]) -> str:
    return "; ".join(
        f"{entry.label} {len(entry.scores)} of {entry.values.get('dataset.name', 'its data')}" for entry in entries[:5]
    )
