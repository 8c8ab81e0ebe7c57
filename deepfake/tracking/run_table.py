"""The runs of a store as one table: what each is, how it ended, its metrics and parameters. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from deepfake.tracking.runs import STATE
from deepfake.tracking.search import experiments_named, filtered, open_existing
from deepfake.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

#: Of every run, in this order; then come its metrics and its parameters.
COLUMNS = ("run", "run_id", "status", "experiment", "sweep", "started", "seconds", "run_dir")
_MACHINE = "system/"


def run_table(store: Store, experiment: str | None = None, condition: str = "") -> pd.DataFrame:
    """One row per run, newest first, those of sweeps and those that failed too; empty where there are none.

    Args:
        store: Where runs are remembered; need not exist.
        experiment: Only those of this experiment of MLflow's.
        condition: Only those that meet MLflow's filter, such as ``metrics.`test/f1` > 0.8``.

    Returns:
        :data:`COLUMNS`, then each metric by its name and each parameter by its key; NaN where a run has none.

    Raises:
        UserError: No such experiment, or a filter that cannot be read.
    """
    client = open_existing(store)
    if client is None:
        return pd.DataFrame(columns=list(COLUMNS))
    experiments = experiments_named(client, experiment)
    names = {one.experiment_id: one.name for one in experiments}
    runs = filtered(client, experiments, condition)[::-1]
    parents = {parent for run in runs if (parent := run.data.tags.get("mlflow.parentRunId"))}
    # By the name that best:NAME takes, which is the parent's own only where that was called so.
    found = {parent: client.get_run(parent) for parent in sorted(parents)}
    sweeps = {parent: run.data.tags.get("sweep", run.info.run_name) for parent, run in found.items()}
    rows = [_row(run, names, sweeps) for run in runs]
    metrics = sorted({name for run in runs for name in run.data.metrics if not name.startswith(_MACHINE)})
    parameters = sorted({name for run in runs for name in run.data.params})
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, *metrics, *parameters])))


def _row(run: Run, experiments: Mapping[str, str], sweeps: Mapping[str, str]) -> dict[str, object]:
    info, tags = run.info, run.data.tags
    ended = None if info.end_time is None else (info.end_time - info.start_time) / 1000
    fixed = (
        info.run_name,
        info.run_id,
        "pruned" if "pruned" in tags else tags.get(STATE, info.status.lower()),
        experiments[info.experiment_id],
        sweeps.get(tags.get("mlflow.parentRunId", "")),
        pd.Timestamp(info.start_time, unit="ms", tz="UTC"),
        ended,
        tags.get("run_dir"),
    )
    parameters = {name: _value(text) for name, text in run.data.params.items()}
    return {**parameters, **run.data.metrics, **dict(zip(COLUMNS, fixed, strict=True))}


def _value(text: str) -> object:
    """A parameter as the number, truth value or None that it is written as; MLflow keeps texts."""
    words: dict[str, object] = {"None": None, "True": True, "False": False}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
