"""The runs of a store: those that a filter finds, and the ending of those whose process was killed."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.files import remove_halves
from deepfake.installation import started_ticks
from deepfake.tracking.store import local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: A tag that is there while a run is paused, and its value.
STATE, PAUSED = "state", "paused"


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


def mark_pruned(client: MlflowClient, run_id: str) -> None:
    """Let a run say that it was pruned, whose process said something else or nothing; one that is gone is left so."""
    run = _there(client, run_id)
    if run is None or (run.info.status == "FINISHED" and "pruned" in run.data.tags and STATE not in run.data.tags):
        return
    _untag(client, run, STATE, "interrupted", "failure")
    client.set_tag(run_id, "pruned", "true")
    client.set_terminated(run_id, status="FINISHED")


def mark_paused(client: MlflowClient, run_id: str, paused: bool) -> None:
    """Let a run say that it is paused, or that it is to go on; one that is gone is left so."""
    run = _there(client, run_id)
    if run is None or (run.info.status == "SCHEDULED" and (STATE in run.data.tags) == paused):
        return
    _untag(client, run, "interrupted", "failure", *([] if paused else [STATE]))
    if paused:
        client.set_tag(run_id, STATE, PAUSED)
    client.update_run(run_id, status="SCHEDULED")


def _there(client: MlflowClient, run_id: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _untag(client: MlflowClient, run: Run, *names: str) -> None:
    for name in names:
        if name in run.data.tags:
            client.delete_tag(run.info.run_id, name)


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
