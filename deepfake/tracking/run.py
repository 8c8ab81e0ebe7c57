"""One run as MLflow remembers it: how it begins, how it ends and what is said of that.

No run is ever MLflow's "active run", so that runs may nest, follow one another in one process or share a parent
with other processes. Knows nothing of training or of the configuration's format.
"""

from __future__ import annotations

import getpass
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake import __version__
from deepfake.errors import UserError
from deepfake.tracking.log import RunLog, TrackedRun, clean_name, tag_text
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.provenance import git_state
from deepfake.tracking.runs import end_dead, process_tags
from deepfake.tracking.store import Store, connect, experiment_id
from deepfake.tracking.system import SystemSampler

if TYPE_CHECKING:
    from mlflow import MlflowClient


__all__ = ["Ending", "RunLog", "TrackedRun", "add_failed", "clean_name", "reopen", "track"]


@dataclass(frozen=True)
class Ending:
    """How a run ends when a certain exception leaves it: an MLflow status and a tag that says why."""

    status: str
    tag: str


@contextmanager
def track(
    store: Store,
    experiment: str,
    name: str,
    *,
    parent_run_id: str | None = None,
    tags: Mapping[str, object] | None = None,
    options: TrackingOptions | None = None,
    resume_id: str | None = None,
    endings: Mapping[type[BaseException], Ending | None] | None = None,
) -> Iterator[TrackedRun]:
    """A run for as long as the ``with`` block lasts; how the block is left decides how the run ends.

    An exception makes it FAILED, with the traceback as ``traceback.txt`` and its last line as the tag
    ``failure``; KeyboardInterrupt makes it KILLED. Whatever was raised is raised on.

    Args:
        store: Where; see :func:`deepfake.tracking.store.locate`.
        experiment: Its experiment's name, made where it does not exist.
        name: The run's name, which need not be unique.
        parent_run_id: The run to nest it under, in whichever process that one lives.
        tags: Tags beyond git, host, process and ``options.tags``.
        options: Whether and how often to sample the machine.
        resume_id: Go on with this run instead of making one.
        endings: Exceptions that end a run in another way, such as pruning; None leaves it as it is, to others.
    """
    options = options or TrackingOptions()
    client = connect(store)
    known = _tags(parent_run_id, {**(options.tags or {}), **(tags or {})})
    run = _begin(client, store, experiment, name, resume_id, known)
    if parent_run_id is None:
        end_dead(client, run.experiment)
    sampler = SystemSampler(client, run.id, options.system_metrics_seconds) if options.system_metrics else None
    if sampler is not None:
        sampler.start()
    status: str | None = "FINISHED"
    try:
        yield run
    except BaseException as error:
        status = _note_ending(run, error, endings or {})
        raise
    finally:
        if sampler is not None:
            sampler.stop()
        if status is not None:
            run.flush()
            client.set_terminated(run.id, status=status)


def reopen(store: Store, run_id: str) -> TrackedRun:
    """A run of the past, to add what was found out about it later; how it ended stays as it is.

    Raises:
        UserError: The store cannot be opened, or has no such run.
    """
    from mlflow.exceptions import MlflowException

    client = connect(store)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UserError(f"{store.uri} has no run {run_id}", f"list the runs: {store.ui_command}") from error
    return TrackedRun(client, run_id, run.info.experiment_id, run.info.artifact_uri)


def add_failed(
    parent: TrackedRun,
    name: str,
    reason: str,
    *,
    tags: Mapping[str, object],
    params: Mapping[str, object],
    trace: Path | None = None,
) -> str:
    """Record a job that failed before it began a run of its own, as a FAILED run nested under its parent.

    Args:
        parent: The sweep's run, still open.
        name: The run's name.
        reason: Why it failed, in one line; the tag ``failure``.
        tags: Tags beyond git, host and process.
        params: What was chosen for it.
        trace: A file that holds its exception, kept with it.

    Returns:
        The new run's id.
    """
    client = parent.client
    every = _tags(parent.id, {**tags, "failure": reason})
    run = client.create_run(parent.experiment, run_name=name, tags=every)
    failed = TrackedRun(client, run.info.run_id, run.info.experiment_id, run.info.artifact_uri)
    failed.params(params)
    if trace is not None and trace.is_file():
        failed.files([trace])
    failed.flush()
    client.set_terminated(failed.id, status="FAILED")
    return failed.id


def _begin(
    client: MlflowClient, store: Store, experiment: str, name: str, resume_id: str | None, tags: dict[str, str]
) -> TrackedRun:
    if resume_id is None:
        run = client.create_run(experiment_id(client, store, experiment), run_name=name, tags=tags)
    else:
        run = client.get_run(resume_id)
        client.update_run(resume_id, status="RUNNING")
    tracked = TrackedRun(client, run.info.run_id, run.info.experiment_id, run.info.artifact_uri)
    if resume_id is not None:
        tracked.resumed(run.data.params)
        tracked.tags({**tags, "resumed": "true"})
    return tracked


def _tags(parent_run_id: str | None, given: Mapping[str, object]) -> dict[str, str]:
    git = git_state()
    tags: dict[str, object] = {
        "mlflow.user": _user(),
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
        **process_tags(),
    }
    if git.commit is not None:
        tags |= {"mlflow.source.git.commit": git.commit, "git_commit": git.commit, "git_dirty": git.dirty}
    else:
        tags["version"] = __version__
    if parent_run_id is not None:
        tags["mlflow.parentRunId"] = parent_run_id
    return {clean_name(key): tag_text(value) for key, value in {**tags, **given}.items()}


def _note_ending(
    run: TrackedRun, error: BaseException, endings: Mapping[type[BaseException], Ending | None]
) -> str | None:
    """The status that a run ends with, None where it is to be left alone."""
    known = [ending for kind, ending in endings.items() if isinstance(error, kind)]
    if known == [None]:
        return None
    ending = known[0] if known else None
    # What is told here must never hide the error that is being told.
    with suppress(Exception):
        if ending is not None:
            run.tags({ending.tag: "true"})
            return ending.status
        if isinstance(error, KeyboardInterrupt):
            run.tags({"interrupted": "true"})
            return "KILLED"
        lines = traceback.format_exception_only(error)
        run.tags({"failure": lines[-1].strip()[:500]})
        run.text("".join(traceback.format_exception(error)), "traceback.txt")
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # Containers run as ids that have no name.
        return str(os.getuid())
