"""What can be written into a run: tags, parameters, curves, files, data sets.

Names the run by its id in every call, never as MLflow's "active run". Knows nothing of how a run begins or ends.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.data.manifest import Manifest
from deepfake.errors import masked
from deepfake.tracking.artifacts import store_files

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_log = logging.getLogger(__name__)

_MAX_PARAM = 6000
_MAX_TAG = 8000
_BATCH = 100
_METRICS_BATCH = 1000


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

        named = [RunTag(clean_name(key), tag_text(value)) for key, value in tags.items()]
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


def clean_name(key: str) -> str:
    """A key as MLflow takes it: letters, digits and ``_-. :/``; anything else becomes an underscore."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]


def tag_text(value: object) -> str:
    """A tag's value as MLflow takes it; a longer one is cut visibly."""
    return _cut(value, _MAX_TAG)


def _cut(value: object, limit: int) -> str:
    text = masked(str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"
