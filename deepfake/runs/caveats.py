"""Why a number may mean less than it looks. Knows results; computes none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from deepfake.data.audit import COLOUR_LIMIT, FRAMING_LIMIT, METADATA_LIMIT
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_record import RunRecord

#: A ROC-AUC whose interval is wider tells good from useless, and little more.
WIDE = 0.15
_LIMITS = {"framing": FRAMING_LIMIT, "metadata": METADATA_LIMIT, "colour": COLOUR_LIMIT}
_CHANCE = 0.015  # an audit of old, of fewer shufflings, gives no smaller p than 0.002


@dataclass(frozen=True)
class Overlap:
    """How much of what is scored a run was made of.

    Attributes:
        other: Whether it is another data set.
        trained: How many of its samples the run was trained on.
    """

    other: bool
    trained: int


def same_samples(trained: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether a data set is the run's own, by the names of its samples and the sizes of their files.

    Args:
        trained: The run's manifest.
        other: The data set's.
    """
    return int(_keys(other).isin(set(_keys(trained))).sum()) >= max(1, len(other) / 2)


def _keys(table: pd.DataFrame) -> pd.Series:
    # Names such as images/fake/1 occur in many data sets.
    return table["sample_id"] + " " + table["bytes"].astype(str)


def find_overlap(record: RunRecord, scored: pd.DataFrame, digests: pd.Series) -> Overlap:
    """Compare samples with a run's own, by name and by content.

    Args:
        record: The run.
        scored: Manifest rows: ``sample_id`` and ``bytes``.
        digests: SHA-256 of each row's file, in the same order; empty where unknown.
    """
    if not record.has(files.MANIFEST):
        return Overlap(True, 0)
    every = record.manifest("split", "bytes")
    train = every[every["split"] == "train"]
    known, seen = (set(table["sha256"].fillna("")) - {""} if "sha256" in table else set() for table in (every, train))
    digests = digests.fillna("").reset_index(drop=True)
    keys = _keys(scored).reset_index(drop=True)
    same = digests.isin(known) | keys.isin(set(_keys(every)))
    again = digests.isin(seen) | keys.isin(set(_keys(train)))
    return Overlap(other=int(same.sum()) < len(scored) / 2, trained=int(again.sum()))


def caveats(record: RunRecord, overlap: Overlap, metrics: Mapping[str, float], min_coverage: float) -> list[str]:
    """Why an evaluation's numbers may mean less than they look, one sentence each.

    Args:
        record: The run.
        overlap: How the data relates to the run's own.
        metrics: Of the evaluation, without a prefix; ``coverage/share`` is the fraction of samples with a score.
        min_coverage: The fraction below which the numbers are marked.
    """
    found = []
    if overlap.other:
        found.append(f"another data set than the run was trained on{_fall(record, metrics)}")
        found += _shortcuts(record)
    if overlap.trained:
        found.append(f"{overlap.trained} of the samples were trained on: a number on them says nothing of new ones")
    if "roc_auc_low" in metrics and "roc_auc" in metrics:
        low, high = metrics["roc_auc_low"], metrics["roc_auc_high"]
        if high - low > WIDE:
            found.append(f"the ROC-AUC's interval is wide, {low:.3f} to {high:.3f}: too few samples to say more")
        if low <= 0.5 <= high:
            found.append("the ROC-AUC's interval holds 0.5: this may be guessing")
    if (coverage := metrics["coverage/share"]) < min_coverage:
        found.append(f"only {coverage:.1%} of the samples have a score, min_coverage={min_coverage:g} were wanted")
    return found


def _fall(record: RunRecord, metrics: Mapping[str, float]) -> str:
    before = record.metrics().get("test/roc_auc")
    if before is None or "roc_auc" not in metrics:
        return ""
    return f": ROC-AUC {metrics['roc_auc']:.3f} here, {before:.3f} on the test part of its own"


def _shortcuts(record: RunRecord) -> list[str]:
    """What the run could have learnt instead, as the audit of its own data found."""
    if not record.has(files.AUDIT):
        return []
    audit = record.audit()
    sentences = []
    for name, limit in _LIMITS.items():
        found = audit.get(f"{name}_shortcut") or {}
        value = found.get("roc_auc")
        # Audits of old have no p_value.
        if value is not None and value > limit and (found.get("p_value") or 0.0) <= _CHANCE:
            sentences.append(
                f"in the run's own training data {name} alone tells the class (ROC-AUC {value:.3f}): "
                "it may have learnt that and not what makes a fake"
            )
    return sentences
