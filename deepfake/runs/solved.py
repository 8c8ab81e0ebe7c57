"""How far a data set is solved before any detector: by what its files are, how they are framed, their colours.

Each is a number on the set's own test part; a detector's ROC-AUC means what it is above them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import PurePath

import numpy as np
import pandas as pd

from deepfake.data.audit import Audit
from deepfake.data.manifest import Manifest
from deepfake.data.shortcuts import METADATA
from deepfake.training.baselines import Baseline, baseline, linear, trees

#: The audit's section and its fact.
TITLE, FACT = "already solved by (ROC-AUC on the set's own test part)", "solved"
_MOST = 4000  # samples looked at: more move the third digit


def some_of(samples: pd.Index) -> list[str]:
    """The samples that are looked at, drawn by a fixed seed where there are many."""
    if len(samples) <= _MOST:
        return list(samples)
    drawn = np.random.default_rng(0).choice(len(samples), _MOST, replace=False)
    return list(samples[np.sort(drawn)])


def solved_without_faces(manifest: Manifest, facts: pd.DataFrame, seen: pd.DataFrame) -> dict[str, Baseline]:
    """What simple models that look at no face make of the set.

    Args:
        manifest: With splits.
        facts: What preparing noted, by sample id.
        seen: :func:`deepfake.data.appearance.appearance` of the samples that are looked at.

    Returns:
        By what they read: ``metadata``, ``framing``, ``colours``.
    """
    table = manifest.table.set_index("sample_id")
    known = table.loc[table.index.intersection(seen.index)]
    if not len(known):
        return {}
    samples = known[["label", "groups", "split"]].rename_axis("sample_id").reset_index()
    files = _file_facts(known, facts.loc[known.index])
    looked = seen.loc[known.index]
    return {
        "metadata": baseline(files, samples, trees),
        "framing": baseline(np.stack(list(looked["framing"])), samples, linear),
        "colours": baseline(np.stack(list(looked["colours"])), samples, linear),
    }


def state_solved(audit: Audit, found: Mapping[str, Baseline]) -> None:
    """Say in an audit how far its set is solved, beside what it said of it before."""
    solved = audit.facts.setdefault(FACT, {})
    for name, one in found.items():
        ends = {"value": None, "low": None, "high": None} if one.roc_auc is None else asdict(one.roc_auc)
        known = {name: value for name, value in ends.items() if value is not None and math.isfinite(value)}
        solved[name] = {
            "roc_auc": known.get("value"),
            "low": known.get("low"),
            "high": known.get("high"),
            "how": one.how,
            "reason": one.reason,
        }
    if solved:
        rows = [{"by": _TOLD.get(name, name), **one} for name, one in solved.items()]
        audit.tables[TITLE] = pd.DataFrame(rows)


_TOLD = {
    "metadata": "metadata of the files",
    "framing": "framing: a 16-pixel grey thumbnail of the crop",
    "colours": "colour statistics of the crop",
    "probe": "a linear probe on the backbone's frozen features",
}


def _file_facts(table: pd.DataFrame, facts: pd.DataFrame) -> np.ndarray:
    """Columns of numbers [n, D]: what preparing noted of the files, their format, and bytes for each pixel."""
    columns = {name: facts[name] for name in METADATA if name in facts}
    sizes = pd.to_numeric(table["bytes"], errors="coerce")
    columns["bytes"] = sizes
    columns["format"] = table["path"].map(lambda path: PurePath(str(path)).suffix.lower())
    pixels = facts["width"] * facts["height"] * facts["video_frames"].clip(lower=1)
    columns["bytes_per_pixel"] = sizes / pixels.where(pixels > 0)
    numbers = [
        column if pd.api.types.is_numeric_dtype(column) else pd.Series(pd.factorize(column, sort=True)[0])
        for column in columns.values()
    ]
    return np.nan_to_num(np.column_stack([column.to_numpy(np.float64) for column in numbers]), nan=-1.0)
