"""What is logged to a tracking run: parameters, metrics, tags, artifacts, data sets, the machine's load."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from deepfake.data.manifest import SPLITS, Manifest
from deepfake.errors import masked
from deepfake.metrics import class_counts
from deepfake.tracking.delivery import BEST_DIR, BEST_ID, MARK, Delivery, plain_dataset
from deepfake.tracking.names import param_text
from deepfake.tracking.spool import FOLDER, Entry
from deepfake.tracking.store import local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset

    from deepfake.tracking.outbox import Outbox


_DIGEST_LENGTH = 32


def counts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Samples by split and class: ``{"train": {"real": 10, "fake": 12}, ...}``."""
    return {split: class_counts(table.loc[table["split"] == split, "label"]) for split in SPLITS}


def dataset_entities(manifest: Manifest) -> list[Dataset]:
    """One MLflow data set for each data set of the manifest; the digest is of identities, labels, splits and sizes."""
    from mlflow.entities import Dataset

    entities = []
    for name, table in manifest.table.groupby("dataset", sort=True):
        digest = manifest.digest()
        if len(table) < len(manifest):
            digest = hashlib.sha256(table[["sample_id", "label", "split"]].to_csv(index=False).encode()).hexdigest()
        profile = {"samples": len(table), **counts(table), "methods": int(table["method"].nunique())}
        entities.append(
            Dataset(
                name=str(name)[:500],
                digest=digest[:_DIGEST_LENGTH],
                source_type="local",
                source=json.dumps({"uri": str(manifest.roots.get(str(name), ""))}),
                schema=json.dumps({"columns": list(map(str, table.columns))}),
                profile=json.dumps(profile),
            )
        )
    return entities


_log = logging.getLogger(__name__)

_MAX_PARAM = 6000
_MAX_TAG = 8000


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

    def note(self, text: str) -> None:
        """Describe the run in Markdown; a description that somebody else wrote stays."""

    def experiment_note(self, text: str) -> None:
        """Describe its experiment likewise."""


class Clock:
    """The time of a run, which goes on evenly when the machine's clock is set forward or back in the meantime."""

    def __init__(self) -> None:
        self._began = time.time() - _uptime()

    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(1000 * (self._began + _uptime()))


def _uptime() -> float:
    """Seconds since some moment, those that the machine slept included."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class TrackedRun(RunLog):
    """A run in an MLflow store. Made by :func:`track`.

    Args:
        client: Opened on its store; None where the outbox opens it.
        run_id: Its id.
        experiment: Its experiment's id.
        artifacts: Where it keeps its artifacts.
        outbox: Takes what is logged for a server; None where the store is written directly.
    """

    def __init__(
        self, client: MlflowClient | None, run_id: str, experiment: str, artifacts: str, outbox: Outbox | None = None
    ) -> None:
        self.id: str = run_id
        self.client = client
        self.experiment = experiment
        self.artifacts = artifacts
        self.clock = Clock()
        # Around what a server is asked at once.
        self.ask: Callable[[str], AbstractContextManager[None]] = lambda what: nullcontext()
        self._outbox = outbox
        self._deliver = None if client is None else Delivery(client, run_id, experiment, artifacts)
        # Metrics that a busy database did not take.
        self._unsent: list[Entry] = []
        self._sending = threading.Lock()
        # MLflow refuses to change a parameter, which a resumed run would otherwise ask it to.
        self._known_params: set[str] = set()
        self._curves: set[str] = set()

    def tags(self, tags: Mapping[str, object]) -> None:
        self._tell({"kind": "tags", "values": {clean_name(key): tag_text(value) for key, value in tags.items()}})

    def params(self, params: Mapping[str, object]) -> None:
        named = param_texts(params)
        self._tell({"kind": "params", "values": {k: text for k, text in named.items() if k not in self._known_params}})
        self._known_params.update(named)

    def resumed(self, params: Mapping[str, object]) -> None:
        """Take note of the parameters that the run logged in an earlier life."""
        self._known_params.update(params)

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        self._curves.update(metrics)
        self.measured(step, metrics)

    def summary(self, metrics: Mapping[str, float]) -> None:
        # One more point would bend the curve, and MLflow shows a curve's last point as the metric's value.
        self.measured(0, {f"best/{key}" if key in self._curves else key: value for key, value in metrics.items()})

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics under their own names; from any thread."""
        values = {clean_name(key): float(value) for key, value in metrics.items()}
        entry = {"kind": "metrics", "step": step, "at": self.clock.now(), "values": values}
        if self._outbox is not None:
            self._outbox.put(entry)
            return
        with self._sending:
            self._unsent.append(entry)
        self.flush()

    def flush(self) -> None:
        """Send the metrics that a busy database has not taken yet; keep them where it still does not."""
        from mlflow.exceptions import MlflowException

        with self._sending:
            try:
                if self._unsent and self._deliver is not None:
                    self._deliver(self._unsent)
                self._unsent.clear()
            except MlflowException as error:
                waiting = sum(len(entry["values"]) for entry in self._unsent)
                _log.warning("%d metrics wait for the tracking store: %s", waiting, error.message.partition("\n")[0])

    def text(self, text: str, name: str) -> None:
        self._tell({"kind": "text", "text": text, "name": name})

    def files(self, paths: Iterable[Path], folder: str = "") -> None:
        self._files({path: Path(folder) / path.name for path in paths})

    def folder(self, path: Path, into: str = "", skip: Sequence[str] = ()) -> None:
        found = (file for file in sorted(path.rglob("*")) if file.is_file())
        names = {file: file.relative_to(path) for file in found}
        names = {file: name for file, name in names.items() if not any(name.match(pattern) for pattern in skip)}
        self._files({file: Path(into) / name for file, name in names.items() if name.parts[0] != FOLDER})

    def dataset(self, manifest: Manifest, context: str = "training") -> None:

        datasets = [plain_dataset(entity) for entity in dataset_entities(manifest)]
        self._tell({"kind": "inputs", "datasets": datasets, "context": context})

    def model(self, weights: Path, spec: str, name: str = "detector", base: Path | None = None) -> str | None:
        """Log a detector as a model of the run.

        Args:
            weights: The detector's state as safetensors.
            spec: How to build it: :meth:`deepfake.tracking.model.DetectorSpec.to_json`.
            name: The model's name in MLflow.
            base: What the weights leave out, which many models may share; only where :attr:`shares_disk`.

        Returns:
            The model's URI, for ``mlflow.pyfunc.load_model``; None where a server hears of it later.
        """
        files = {"weights": weights} | ({} if base is None else {"base": base})
        return self._tell({"kind": "model", "spec": spec, "name": name}, **files)

    @property
    def shares_disk(self) -> bool:
        """Whether what is kept of the run lies on a disk of this machine, where a file may have several names."""
        return self._outbox is None and local_folder(self.artifacts) is not None

    def note(self, text: str) -> None:
        self._tell({"kind": "note", "text": tag_text(text)})

    def experiment_note(self, text: str) -> None:
        self._tell({"kind": "experiment_note", "text": tag_text(text)})

    def renamed(self, name: str) -> None:
        """Give the run another name."""
        self.tags({"mlflow.runName": name})

    def compares(self, swept: Sequence[str], objective: str, maximize: bool) -> None:
        """Keep a view of the runs nested under this one; see :func:`deepfake.tracking.view.sweep_view`."""
        self._tell({"kind": "view", "swept": [*swept], "objective": objective, "maximize": maximize})

    def failed_child(self, name: str, tags: Mapping[str, str], params: Mapping[str, str], trace: Path | None) -> None:
        """Record a run nested under this one that failed before it began."""
        given = dict(tags) if self._outbox is None else {**tags, MARK: uuid.uuid4().hex}
        entry = {"kind": "failed_child", "name": name, "tags": given, "params": dict(params), "at": self.clock.now()}
        self._tell({**entry, "source": None}, **({} if trace is None else {"source": trace}))

    def best(self, run_id: str | None, run_dir: str) -> None:
        """Say which of the runs nested under this one is the best; one without an id yet is found by its folder."""
        self.tags({BEST_ID: run_id or "", BEST_DIR: run_dir})
        if not run_id:
            self._tell({"kind": "best"})

    def settle(self, children: Mapping[str, str]) -> None:
        """Let children say ``pruned`` or ``paused``, by their ids, whose own process was killed before it could."""
        self._tell({"kind": "settled", "children": dict(children)})

    def end_children(self) -> None:
        """End the runs nested under this one that a killed process of this machine left running."""
        self._tell({"kind": "end_children"})

    def goes_on(self) -> None:
        """Say that the run, which ended or was cut short, is being run again."""
        self._tell({"kind": "going_on"})

    def ended(self, status: str) -> None:
        """Say how the run ends."""
        self.flush()
        self._tell({"kind": "ending", "status": status, "at": self.clock.now()})

    def close(self, hurried: bool = False) -> None:
        """Wait a bounded time until a server has taken everything."""
        if self._outbox is not None:
            self._outbox.close(hurried)
            self.id = self.id or self._outbox.run_id

    @property
    def away(self) -> bool:
        """Whether a server did not take what it was last sent."""
        return self._outbox is not None and self._outbox.away

    def _files(self, files: Mapping[Path, Path]) -> None:
        for source, name in files.items():
            self._tell({"kind": "file", "name": name.as_posix()}, source=source)

    def _tell(self, entry: Entry, **files: Path) -> str | None:
        if self._outbox is not None:
            self._outbox.put(entry, *files.items())
            return None
        with self.ask(f"{entry['kind']} of a run"):
            assert self._deliver is not None
            return self._deliver([{**entry, **{key: str(path) for key, path in files.items()}}])


def param_texts(params: Mapping[str, object]) -> dict[str, str]:
    """Parameters as MLflow takes them; a longer value is cut visibly."""
    return {clean_name(key): _cut(param_text(value), _MAX_PARAM) for key, value in params.items()}


def clean_name(key: str) -> str:
    """A key as MLflow takes it: letters, digits and ``_-. :/``; anything else becomes an underscore."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]


def tag_text(value: object) -> str:
    """A tag's value as MLflow takes it; a longer one is cut visibly."""
    return _cut(value, _MAX_TAG)


def _cut(value: object, limit: int) -> str:
    text = masked(str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


class SystemSampler:
    """A thread that samples every few seconds and once more at the end, so that the shortest run has a sample.

    MLflow's own monitor drops the sample it holds when a run ends within its first interval, and reads the
    whole run back each time it samples.

    Args:
        tell: Takes the number of a sample and its values.
        seconds: From one sample to the next.
    """

    def __init__(self, tell: Callable[[int, Mapping[str, float]], None], seconds: float) -> None:
        self._tell = tell
        self._seconds = seconds
        self._monitors = _monitors()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="system-metrics")

    def start(self) -> None:
        """Begin sampling in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Take the last sample and wait until it is written."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        step, failing = 0, False
        while True:
            last = self._stop.wait(self._seconds)
            try:
                self._publish(step)
                failing = False
            except Exception as error:
                # A busy database or a driver's fault must not end the training it only looks at.
                if not failing:
                    _log.warning("no system metrics for now: %s", error)
                failing = True
            step += 1
            if last:
                return

    def _publish(self, step: int) -> None:
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            metrics |= {f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        self._tell(step, metrics)


def _monitors() -> list:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:
        _log.debug("no GPU metrics: %s", error)
    return monitors
