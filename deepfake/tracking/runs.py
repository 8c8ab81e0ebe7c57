"""The runs of a store as a table: the children of a parent, an experiment, or what a filter finds."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from deepfake.files import remove_halves
from deepfake.installation import started_ticks
from deepfake.tracking.store import local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Columns that every row has; the rest are ``params.<key>``, ``tags.<key>`` and metrics under their own names.
INFO = ("run_id", "name", "status", "experiment", "started", "seconds")


def list_children(client: MlflowClient, parent_run_id: str) -> pd.DataFrame:
    """The runs nested under a parent, oldest first.

    Returns:
        One row per run with the columns of :data:`INFO`, ``params.<key>``, ``tags.<key>`` (without MLflow's
        own), and one column per metric under its own name, holding its last value. Empty without children.
    """
    parent = client.get_run(parent_run_id)
    return list_runs(client, [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent_run_id}'")


def list_runs(client: MlflowClient, experiment_ids: Sequence[str], condition: str = "") -> pd.DataFrame:
    """The runs of experiments that meet MLflow's filter; see :func:`list_children` for the columns."""
    return runs_table(search(client, experiment_ids, condition))


def search(
    client: MlflowClient, experiment_ids: Sequence[str], condition: str = "", *, newest: bool = False
) -> list[Run]:
    """All of MLflow's runs that meet a filter, oldest first unless said otherwise."""
    order = [f"attributes.start_time {'DESC' if newest else 'ASC'}"]
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(list(experiment_ids), condition, max_results=1000, order_by=order, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def end_abandoned(client: MlflowClient, parent_run_id: str) -> list[str]:
    """End the children that a killed process of this machine left running, as FAILED; returns their ids.

    A process that is killed outright cannot say so itself. Children of other machines are left alone, for only
    those can tell.
    """
    parent = client.get_run(parent_run_id)
    children = f"tags.`mlflow.parentRunId` = '{parent_run_id}' and attributes.status = 'RUNNING'"
    ended = []
    for run in search(client, [parent.info.experiment_id], children):
        tags = run.data.tags
        if tags.get("host") != socket.gethostname() or lives(
            int(tags["pid"]), run.info.start_time / 1000, tags.get("process_ticks")
        ):
            continue
        _end_killed(client, run, "FAILED")
        ended.append(run.info.run_id)
    return ended


def process_tags() -> dict[str, object]:
    """Which process a run is run by, so that another can tell whether it still lives."""
    import psutil

    tags: dict[str, object] = {"host": socket.gethostname(), "pid": os.getpid()}
    with contextlib.suppress(OSError):
        # Containers of one host may share its name, but not the meaning of a process number.
        tags["pid_namespace"] = os.readlink("/proc/self/ns/pid")
    ticks = started_ticks(os.getpid())
    tags |= {} if ticks is None else {"process_ticks": ticks}
    return tags | {"process_started": psutil.Process().create_time()}


def end_dead(client: MlflowClient, experiment_id: str) -> list[str]:
    """End the runs of an experiment that a killed process of this machine left running, as KILLED.

    Returns:
        Their ids.
    """
    this_process = process_tags()
    if "pid_namespace" not in this_process:
        return []
    condition = " and ".join(f"tags.{name} = '{this_process[name]}'" for name in ("host", "pid_namespace"))
    ended = []
    for run in search(client, [experiment_id], f"attributes.status = 'RUNNING' and {condition}"):
        tags = run.data.tags
        # Not by the run's start: one that is gone on with has a later process.
        if "process_started" not in tags or lives(
            int(tags["pid"]), float(tags["process_started"]), tags.get("process_ticks")
        ):
            continue
        _end_killed(client, run, "KILLED")
        ended.append(run.info.run_id)
    return ended


def _end_killed(client: MlflowClient, run: Run, status: str) -> None:
    for folder in (Path(run.data.tags.get("run_dir", "")), local_folder(run.info.artifact_uri)):
        if folder is not None and folder.is_absolute():
            remove_halves(folder)
    client.set_tag(run.info.run_id, "failure", "its process was killed")
    client.set_terminated(run.info.run_id, status=status)


def lives(pid: int, since: float, ticks: str | None = None) -> bool:
    """Whether the process that had this number at that time still runs.

    Args:
        pid: Its number.
        since: A time at which it ran, in seconds since 1970.
        ticks: When it started, in ticks since the boot, where that was kept: the clock may have been set since.
    """
    import psutil

    try:
        if ticks is not None and (now := started_ticks(pid)) is not None:
            return str(now) == ticks
        # A later process may have been given the same number.
        return psutil.Process(pid).create_time() <= since + 1
    except psutil.NoSuchProcess:
        return False


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """MLflow's runs as a table; see :func:`list_children` for the columns."""
    rows = []
    for run in runs:
        ended = run.info.end_time
        row: dict[str, object] = {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "experiment": run.info.experiment_id,
            "started": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
            "seconds": (ended - run.info.start_time) / 1000 if ended else float("nan"),
        }
        row |= {f"params.{key}": value for key, value in run.data.params.items()}
        row |= {f"tags.{key}": value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        row |= {key: value for key, value in run.data.metrics.items() if not key.startswith("system/")}
        rows.append(row)
    columns = list(INFO) + [key for key in dict.fromkeys(key for row in rows for key in row) if key not in INFO]
    return pd.DataFrame(rows, columns=columns)
