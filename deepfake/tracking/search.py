"""What a user types (a name, an id, a folder, a sweep, a filter) to runs of the past. Reads MLflow; changes nothing."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from deepfake.errors import UserError, nearest
from deepfake.installation import TRAIN
from deepfake.tracking import run_folder as files
from deepfake.tracking.delivery import BEST_DIR, BEST_ID
from deepfake.tracking.run_record import RunRecord, from_folder
from deepfake.tracking.runs import search
from deepfake.tracking.store import Store, connect, local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run


_RUN_ID = re.compile(r"[0-9a-f]{32}")
#: How a trial of a sweep is named.
TRIAL = re.compile(r"(?P<study>.+):(?P<number>\d+)")
_BEST = re.compile(r"best:(?P<study>.+)")
_NAMED = 5


def find_run(reference: str, store: Store, outputs: Path) -> RunRecord:
    """The run that a user means.

    Args:
        reference: A run folder, a ``config.yaml`` in one, an MLflow run id, ``best:<study>``,
            ``<study>:<trial number>``, or a run's name.
        store: Where runs are remembered; need not exist for a folder.
        outputs: Where run and sweep folders lie.

    Raises:
        UserError: Nothing fits, several runs do, or the run's store cannot be opened.
    """
    path = Path(reference).expanduser()
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        path = path.parent
    if path.is_dir():
        return _with_store(from_folder(path), store, outputs)
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"there is no file {reference}", "name a config.yaml inside a run's folder")
    client = open_existing(store)
    if match := _BEST.fullmatch(reference):
        return _best(match["study"], client, store, outputs)
    if match := TRIAL.fullmatch(reference):
        return _trial(match["study"], int(match["number"]), client, outputs)
    if client is None:
        return _folder_named(reference, store, outputs)
    if _RUN_ID.fullmatch(reference):
        return _by_id(client, reference, store, outputs)
    return record(client, _only(_named(client, reference), reference, client), outputs)


def find_runs(references: Sequence[str], store: Store, outputs: Path) -> list[RunRecord]:
    """Each run that is named, in that order; see :func:`find_run`."""
    return [find_run(reference, store, outputs) for reference in references]


def record(client: MlflowClient, run: Run, outputs: Path) -> RunRecord:
    """An MLflow run as a record that finds its files in its folder, else among its artifacts.

    Args:
        client: Opened on the run's store.
        run: As MLflow gives it.
        outputs: Below whose ``cache`` artifacts are kept that have to be downloaded.
    """
    tags = run.data.tags
    artifacts = local_folder(run.info.artifact_uri)
    places = [Path(tags["run_dir"])] if "run_dir" in tags else []
    places += [artifacts] if artifacts is not None else []
    return RunRecord(
        name=run.info.run_name,
        run_id=run.info.run_id,
        status=run.info.status,
        failure=tags.get("failure"),
        places=tuple(places),
        fetch=_fetcher(client, run.info.run_id, outputs / "cache" / "artifacts") if artifacts is None else None,
        tags=tags,
        params=run.data.params,
        logged=run.data.metrics,
    )


def open_existing(store: Store) -> MlflowClient | None:
    """The store, opened; None where there is none, since asking about runs must not leave an empty one behind."""
    if store.database is not None and not store.database.exists():
        return None
    return connect(store)


def _with_store(found: RunRecord, store: Store, outputs: Path) -> RunRecord:
    """What the store knows of a folder's run; the folder's own files stay the first place to look."""
    client = open_existing(store)
    if client is None:
        return found
    folder = str(found.places[0]).replace("'", "")
    runs = search_all(client, f"tags.run_dir = '{folder}'")
    if not runs:
        return found
    known = record(client, runs[0], outputs)
    return dataclasses.replace(known, places=(found.places[0], *known.places))


def _by_id(client: MlflowClient, run_id: str, store: Store, outputs: Path) -> RunRecord:
    from mlflow.exceptions import MlflowException

    try:
        return record(client, client.get_run(run_id), outputs)
    except MlflowException as error:
        raise UserError(f"{store.uri} has no run {run_id}", f"list the runs: {store.ui_command()}") from error


def _named(client: MlflowClient, name: str) -> list[Run]:
    quoted = name.replace('"', "")
    return search_all(client, f'attributes.run_name = "{quoted}"')


def _best(study: str, client: MlflowClient | None, store: Store, outputs: Path) -> RunRecord:
    if client is None:
        raise UserError(
            f"best:{study} needs the tracking store, and {store.uri} does not exist",
            "name the run's folder, or set tracking.uri",
        )
    for parent in sweep_parents(client, study):
        if best := parent.data.tags.get(BEST_ID):
            return _by_id(client, best, store, outputs)
        folder = parent.data.tags.get(BEST_DIR)
        if folder and (Path(folder) / files.RESOLVED).is_file():
            # Its server has not heard of it yet.
            return from_folder(Path(folder))
    raise UserError(f"the sweep {study!r} has no best run yet", "wait for it to end, or name one of its trials")


def _trial(study: str, number: int, client: MlflowClient | None, outputs: Path) -> RunRecord:
    if client is not None:
        parents = sweep_parents(client, study)
        children = [run for parent in parents for run in _children(client, parent.info.run_id)]
        numbers = sorted({int(run.data.tags["job"]) for run in children if run.data.tags.get("job", "").isdigit()})
        of_job = [run for run in children if run.data.tags.get("job") == str(number)]
        # Of several seeds the first is meant.
        of_job.sort(key=lambda run: int(run.data.tags.get("repeat", "0")))
        # A trial that was begun again after a crash has several runs; the one that finished is meant.
        of_job = [run for run in of_job if run.info.status == "FINISHED"][:1] or of_job[:1]
        if of_job:
            return record(client, of_job[0], outputs)
        held = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
        raise UserError(f"the sweep {study!r} has no trial {number}", f"its trials are {held}")
    folder = outputs / "sweeps" / study / str(number)
    if folder.is_dir():
        return from_folder(folder)
    raise UserError(f"there is no trial {number} of {study!r} in {outputs / 'sweeps'}", "name the run's folder")


def sweep_parents(client: MlflowClient, study: str) -> list[Run]:
    """The parent runs of the sweeps of that name, newest first.

    Raises:
        UserError: There is none.
    """
    if parents := sweeps_named(client, study):
        return parents
    sweeps = {run.data.tags["sweep"] for run in search_all(client, "tags.sweep LIKE '%'")}
    raise UserError(f"there is no sweep {study!r}", nearest(study, sweeps))


def sweeps_named(client: MlflowClient, name: str) -> list[Run]:
    """The parent runs of the sweeps of that name, newest first; empty where there is none."""
    quoted = name.replace("'", "")
    found = search_all(client, f"tags.sweep = '{quoted}'")
    return [run for run in found if "mlflow.parentRunId" not in run.data.tags]


def _children(client: MlflowClient, parent_run_id: str) -> list[Run]:
    return search_all(client, f"tags.`mlflow.parentRunId` = '{parent_run_id}'")


def search_all(client: MlflowClient, condition: str = "") -> list[Run]:
    """Runs of every experiment that meet a condition, newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return search(client, experiments, condition, newest=True)


def _only(runs: list[Run], reference: str, client: MlflowClient) -> Run:
    if len(runs) == 1:
        return runs[0]
    if not runs:
        names = {run.info.run_name for run in search_all(client, "")}
        raise UserError(f"there is no run named {reference!r}", nearest(reference, names))
    listed = "; ".join(f"{run.info.run_id} ({run.info.status.lower()}, {_when(run)})" for run in runs[:_NAMED])
    more = f"; and {len(runs) - _NAMED} older" if len(runs) > _NAMED else ""
    raise UserError(f"{len(runs)} runs are named {reference!r}", f"name one by its id: {listed}{more}")


def _when(run: Run) -> str:
    return pd.Timestamp(run.info.start_time, unit="ms", tz="UTC").strftime("%Y-%m-%d %H:%M UTC")


def _folder_named(reference: str, store: Store, outputs: Path) -> RunRecord:
    folder = outputs / "runs" / reference
    if (folder / files.RESOLVED).is_file():
        return from_folder(folder)
    raise UserError(
        f"cannot look up the run {reference!r}: the tracking store {store.uri} does not exist",
        "name the run's folder instead, or set tracking.uri to the store that knows it",
    )


def _fetcher(client: MlflowClient, run_id: str, cache: Path) -> Callable[[str], Path | None]:
    """Downloads a run's files one by one, each once; a file appears in the cache only when it is whole."""

    def fetch(name: str) -> Path | None:
        from mlflow.exceptions import MlflowException

        target = cache / run_id / name
        if target.is_file():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
            try:
                Path(client.download_artifacts(run_id, name, scratch)).replace(target)
            except (MlflowException, OSError):
                return None
        return target

    return fetch


_MOST_NAMED = 12


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
    experiments = experiments_named(client, experiment)
    found = filtered(client, experiments, condition)
    if found:
        return [record(client, run, outputs) for run in found]
    there = filtered(client, experiments, "")
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


def experiments_named(client: MlflowClient, name: str | None) -> list[Experiment]:
    """The experiment of that name; None: all of them.

    Raises:
        UserError: There is none, with the nearest one there is.
    """
    found = list(client.search_experiments())
    if name is None:
        return found
    chosen = [experiment for experiment in found if experiment.name == name]
    if not chosen:
        raise UserError(f"there is no experiment {name!r}", nearest(name, [experiment.name for experiment in found]))
    return chosen


def filtered(client: MlflowClient, experiments: list[Experiment], condition: str) -> list[Run]:
    """The runs of some experiments that meet MLflow's filter, sweeps' parents left out, oldest first.

    Raises:
        UserError: The filter cannot be read.
    """
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
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
