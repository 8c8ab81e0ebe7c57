"""Many runs at once: a sweep's, an experiment's, those that meet a filter; and what there is where nothing does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.errors import UserError, nearest
from deepfake.installation import TRAIN
from deepfake.tracking.query import open_existing, record, sweep_parents
from deepfake.tracking.record import RunRecord, from_folder
from deepfake.tracking.runs import search
from deepfake.tracking.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

_FEW = 12


def sweep_runs(name: str, store: Store, outputs: Path) -> list[RunRecord]:
    """The runs of a sweep in the order of their numbers, those that failed too.

    Raises:
        UserError: There is no such sweep.
    """
    client = open_existing(store)
    if client is None:
        return _sweep_folders(name, store, outputs)
    parents = sweep_parents(client, name)
    found = [
        run
        for parent in parents
        for run in search(
            client, [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", newest=False
        )
    ]
    found.sort(key=lambda run: int(run.data.tags.get("job", "0")))
    if not found:
        raise UserError(f"the sweep {name!r} has no runs yet", "wait for its first one")
    return [record(client, run, outputs) for run in found]


def matching_runs(experiment: str | None, condition: str, store: Store, outputs: Path) -> list[RunRecord]:
    """The runs of an experiment (None: of all) that meet MLflow's filter, sweeps' parents left out, oldest first.

    Raises:
        UserError: No store, no such experiment, a filter that cannot be read, or nothing meets it; says what exists.
    """
    client = open_existing(store)
    if client is None:
        raise UserError(f"the tracking store {store.uri} does not exist", "name the runs' folders, or set tracking.uri")
    experiments = _experiments(client, experiment)
    found = _search(client, experiments, condition)
    if found:
        return [record(client, run, outputs) for run in found]
    there = _search(client, experiments, "")
    where = f"in experiment {experiment!r}" if experiment else "in any experiment"
    if not there or not condition:
        raise UserError(f"there are no runs {where}", _counted(client))
    raise UserError(f"none of the {len(there)} runs {where} meets {condition!r}", _keys(there))


def _sweep_folders(name: str, store: Store, outputs: Path) -> list[RunRecord]:
    folders = [folder for folder in (outputs / "sweeps" / name).glob("*") if folder.name.isdigit()]
    if not folders:
        raise UserError(
            f"there is no sweep {name!r} in {outputs / 'sweeps'}, and the tracking store {store.uri} does not exist",
            "name the runs' folders, or set tracking.uri",
        )
    return [from_folder(folder) for folder in sorted(folders, key=lambda folder: int(folder.name))]


def _experiments(client: MlflowClient, name: str | None) -> list[Experiment]:
    found = list(client.search_experiments())
    if name is None:
        return found
    chosen = [experiment for experiment in found if experiment.name == name]
    if not chosen:
        raise UserError(f"there is no experiment {name!r}", nearest(name, [experiment.name for experiment in found]))
    return chosen


def _search(client: MlflowClient, experiments: list[Experiment], condition: str) -> list[Run]:
    from mlflow.exceptions import MlflowException

    try:
        found = search(client, [experiment.experiment_id for experiment in experiments], condition)
    except MlflowException as error:
        raise UserError(
            f"cannot read the filter {condition!r}: {error.message}",
            "write for example: metrics.`test/roc_auc` > 0.9 and params.seed = '0'",
        ) from error
    return [run for run in found if "sweep" not in run.data.tags or "mlflow.parentRunId" in run.data.tags]


def _counted(client: MlflowClient) -> str:
    counts = {
        experiment.name: len(search(client, [experiment.experiment_id])) for experiment in client.search_experiments()
    }
    listed = ", ".join(f"{name} ({count} runs)" for name, count in counts.items() if count)
    return f"there are: {listed}" if listed else f"train something first: {TRAIN}"


def _keys(runs: list[Run]) -> str:
    metrics = sorted({key for run in runs for key in run.data.metrics if key.startswith("test/")})
    names = sorted({run.info.run_name for run in runs})
    return f"their names: {_few(names)}; their test metrics: {_few(metrics)}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:_FEW]) + (", …" if len(names) > _FEW else "")
