"""One run as MLflow remembers it: its parameters, curves, files and how it ended.

Every call names the run by its id, never MLflow's "active run", so that runs may nest, follow one another in
one process or share a parent with other processes. Knows nothing of training or of the configuration's format.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.data.manifest import Manifest
from deepfake.tracking.artifacts import store_files
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.provenance import git_state
from deepfake.tracking.store import Store, connect, experiment_id
from deepfake.tracking.system import SystemSampler

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_log = logging.getLogger(__name__)

_MAX_PARAM = 6000
_MAX_TAG = 8000
_BATCH = 100
_METRICS_BATCH = 1000


@dataclass(frozen=True)
class Ending:
    """How a run ends when a certain exception leaves it: an MLflow status and a tag that says why."""

    status: str
    tag: str


class RunLog:
    """Where a run's numbers and files go. This one forgets them: for the other ranks of a data-parallel run."""

    id: str | None = None

    def tags(self, tags: Mapping[str, object]) -> None:
        """Set tags, replacing those of the same name."""

    def params(self, params: Mapping[str, object]) -> None:
        """Log parameters by their dotted keys; those logged before stay as they are."""

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one epoch in one call."""

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Log metrics that belong to the run as a whole; one that has a curve becomes ``best/<name>``."""

    def text(self, text: str, name: str) -> None:
        """Keep a text as the artifact ``name``."""

    def files(self, paths: Iterable[Path], folder: str = "") -> None:
        """Keep single files as artifacts, in a folder among them."""

    def folder(self, path: Path, into: str = "", skip: Sequence[str] = ()) -> None:
        """Keep all files below ``path`` as artifacts, except those matching a pattern of ``skip``."""

    def dataset(self, manifest: Manifest, context: str = "training") -> None:
        """Say which data went in."""


class TrackedRun(RunLog):
    """A run in an MLflow store. Made by :func:`track`."""

    def __init__(self, client: MlflowClient, run_id: str, experiment: str, artifacts: str) -> None:
        self.id: str = run_id
        self.client = client
        self.experiment = experiment
        self.artifacts = artifacts
        self._unsent: list[Metric] = []
        # MLflow refuses to change a parameter, which a resumed run would otherwise ask it to.
        self._known_params: set[str] = set()
        self._curves: set[str] = set()

    def tags(self, tags: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        named = [RunTag(clean_name(key), _cut(value, _MAX_TAG)) for key, value in tags.items()]
        for start in range(0, len(named), _BATCH):
            self.client.log_batch(self.id, tags=named[start : start + _BATCH])

    def params(self, params: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        named = {clean_name(key): _cut(value, _MAX_PARAM) for key, value in params.items()}
        fresh = [Param(key, value) for key, value in named.items() if key not in self._known_params]
        for start in range(0, len(fresh), _BATCH):
            self.client.log_batch(self.id, params=fresh[start : start + _BATCH])
        self._known_params.update(named)

    def resumed(self, params: Mapping[str, object]) -> None:
        """Take note of the parameters that the run logged in an earlier life."""
        self._known_params.update(params)

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        self._curves.update(metrics)
        self._log(step, metrics)

    def summary(self, metrics: Mapping[str, float]) -> None:
        # One more point would bend the curve, and MLflow shows a curve's last point as the metric's value.
        self._log(0, {f"best/{key}" if key in self._curves else key: value for key, value in metrics.items()})

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._unsent += [Metric(clean_name(key), float(value), now, step) for key, value in metrics.items()]
        self.flush()

    def flush(self) -> None:
        """Send the metrics that a busy or absent store has not taken yet; keep them where it still does not."""
        from mlflow.exceptions import MlflowException

        try:
            while self._unsent:
                self.client.log_batch(self.id, metrics=self._unsent[:_METRICS_BATCH])
                del self._unsent[:_METRICS_BATCH]
        except MlflowException as error:
            _log.warning("%d metrics wait for the tracking store: %s", len(self._unsent), error.message)

    def text(self, text: str, name: str) -> None:
        self.client.log_text(self.id, text, name)

    def files(self, paths: Iterable[Path], folder: str = "") -> None:
        store_files(self.client, self.id, self.artifacts, {path: Path(folder) / path.name for path in paths})

    def folder(self, path: Path, into: str = "", skip: Sequence[str] = ()) -> None:
        found = (file for file in sorted(path.rglob("*")) if file.is_file())
        kept = {file: file.relative_to(path) for file in found}
        kept = {file: name for file, name in kept.items() if not any(name.match(pattern) for pattern in skip)}
        store_files(self.client, self.id, self.artifacts, {file: Path(into) / name for file, name in kept.items()})

    def dataset(self, manifest: Manifest, context: str = "training") -> None:
        from mlflow.entities import DatasetInput, InputTag

        from deepfake.tracking.datasets import dataset_entities

        tag = InputTag("mlflow.data.context", context)
        inputs = [DatasetInput(entity, [tag]) for entity in dataset_entities(manifest)]
        self.client.log_inputs(self.id, datasets=inputs)


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
    endings: Mapping[type[BaseException], Ending] | None = None,
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
        endings: Exceptions that end a run in another way, such as pruning.
    """
    options = options or TrackingOptions()
    client = connect(store)
    run = _begin(client, store, experiment, name, resume_id, _tags(parent_run_id, {**options.tags, **(tags or {})}))
    sampler = SystemSampler(client, run.id, options.system_metrics_seconds) if options.system_metrics else None
    if sampler is not None:
        sampler.start()
    status = "FINISHED"
    try:
        yield run
    except BaseException as error:
        status = _note_ending(run, error, endings or {})
        raise
    finally:
        if sampler is not None:
            sampler.stop()
        run.flush()
        client.set_terminated(run.id, status=status)


def clean_name(key: str) -> str:
    """A key as MLflow takes it: letters, digits and ``_-. :/``; anything else becomes an underscore."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]


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
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    if git.commit is not None:
        tags |= {"mlflow.source.git.commit": git.commit, "git_commit": git.commit, "git_dirty": git.dirty}
    if parent_run_id is not None:
        tags["mlflow.parentRunId"] = parent_run_id
    return {clean_name(key): _cut(value, _MAX_TAG) for key, value in {**tags, **given}.items()}


def _note_ending(run: TrackedRun, error: BaseException, endings: Mapping[type[BaseException], Ending]) -> str:
    ending = next((ending for kind, ending in endings.items() if isinstance(error, kind)), None)
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


def _cut(value: object, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # Containers run as ids that have no name.
        return str(os.getuid())
