"""A run's entries into MLflow, one by one; and which failures are worth a retry.

Names the run by its id in every call. Every entry may be sent again: a second time changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deepfake.files import appearing, link_or_copy
from deepfake.tracking.model import DetectorSpec, send_model
from deepfake.tracking.notes import NOTE
from deepfake.tracking.runs import STATE, end_abandoned, mark_paused, mark_pruned, search
from deepfake.tracking.spool import Entry
from deepfake.tracking.store import local_folder
from deepfake.tracking.view import sweep_view, tag_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: How many of a kind one call takes.
_BATCH, _METRICS = 100, 1000
#: A file's upload may take a second for each so many bytes, beyond what any call may take.
SLOWEST = 1_000_000
#: The tag of a run that was made from an entry.
MARK = "told"
#: The tags of a sweep's run that name its best one: by its id, empty while no server knows it, and by its folder.
BEST_ID, BEST_DIR = "best.run_id", "best.run_dir"
#: Beside a description: whose it is. MLflow shows no tag that begins so.
_DIGEST = "mlflow.note.digest"
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_patience = threading.Lock()

#: What databases say, through MLflow, of two that make the same thing at once; and how often it may happen to an entry.
_CLASH, _CLASHES = ("UNIQUE constraint failed", "UniqueViolation", "Duplicate entry", "duplicate key"), 3
#: MLflow's words for what will be refused again however often it is sent.
_NEVER = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
#: And HTTP's, as artifacts are answered: malformed, too large, of a kind that is not taken.
_NEVER_STATUS = (400, 405, 411, 413, 414, 415, 422)


class Delivery:
    """Sends the entries of one run.

    Args:
        client: Opened on the run's store.
        run_id: The run.
        experiment: Its experiment's id.
        artifacts: Where it keeps its artifacts.
        named: From a file's name in an entry to the file.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        experiment: str,
        artifacts: str,
        named: Callable[[str], Path] = Path,
    ) -> None:
        self.client = client
        self._run_id = run_id
        self.experiment = experiment
        self._artifacts = artifacts
        self._named = named

    def __call__(self, entries: Sequence[Entry]) -> str | None:
        """Send entries of one kind, several only of metrics.

        Returns:
            The URI of the model, where the entry was one.
        """
        from mlflow.exceptions import MlflowException

        for clashes in range(_CLASHES, -1, -1):
            try:
                return self._send(entries)
            except MlflowException as error:
                # Runs that begin together make one data set; or a server that was frozen takes what it was sent
                # before, just as it is sent again. One of the two has made it, and the other finds it.
                if not clashes or not any(sign in error.message for sign in _CLASH):
                    raise
        return None

    def _send(self, entries: Sequence[Entry]) -> str | None:
        if entries[0]["kind"] == "metrics":
            self._metrics(entries)
            return None
        (entry,) = entries
        if entry["kind"] not in _KINDS:
            raise ValueError(f"{entry['kind']!r} is no kind of entry")
        sent: str | None = getattr(self, f"_{entry['kind']}")(entry)
        return sent

    def bytes(self, entry: Entry) -> int:
        """How large the file is that an entry sends."""
        name = entry.get("source") or entry.get("weights")
        try:
            return self._named(name).stat().st_size if name else 0
        except (OSError, ValueError, TypeError):
            return 0

    def _metrics(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, entry["at"], entry["step"])
            for entry in entries
            for key, value in entry["values"].items()
        ]
        for start in range(0, len(metrics), _METRICS):
            self.client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS])

    def _tags(self, entry: Entry) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, value) for key, value in entry["values"].items()]
        for start in range(0, len(tags), _BATCH):
            self.client.log_batch(self._run_id, tags=tags[start : start + _BATCH])

    def _params(self, entry: Entry) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in entry["values"].items()]
        for start in range(0, len(params), _BATCH):
            self.client.log_batch(self._run_id, params=params[start : start + _BATCH])

    def _note(self, entry: Entry) -> None:
        """One that somebody changed by hand stays as it is."""
        tags = self.client.get_run(self._run_id).data.tags
        if _is_ours(tags):
            self._tags({"values": _signed(entry["text"])})

    def _experiment_note(self, entry: Entry) -> None:
        tags = self.client.get_experiment(self.experiment).tags
        if not _is_ours(tags) or tags.get(NOTE) == entry["text"]:
            return
        for key, value in _signed(entry["text"]).items():
            self.client.set_experiment_tag(self.experiment, key, value)

    def _view(self, entry: Entry) -> None:
        keep_view(
            self.client,
            self.experiment,
            self._run_id,
            sweep_view(self._run_id, entry["swept"], entry["objective"], entry["maximize"]),
        )

    def _text(self, entry: Entry) -> None:
        self.client.log_text(self._run_id, entry["text"], _inside(entry["name"]))

    def _file(self, entry: Entry) -> None:
        source = self._named(entry["source"])
        with _enough_time(source.stat().st_size):
            store_files(self.client, self._run_id, self._artifacts, {source: Path(_inside(entry["name"]))})

    def _inputs(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tag = InputTag("mlflow.data.context", entry["context"])
        inputs = [DatasetInput(Dataset(**fields), [tag]) for fields in entry["datasets"]]
        self.client.log_inputs(self._run_id, datasets=inputs)

    def _model(self, entry: Entry) -> str:
        weights = self._named(entry["weights"])
        with _enough_time(weights.stat().st_size):
            return send_model(
                self.client,
                (self._run_id, self.experiment),
                weights,
                DetectorSpec.from_json(entry["spec"]),
                entry["name"],
                self._named(entry["base"]) if entry.get("base") else None,
            )

    def _failed_child(self, entry: Entry) -> None:
        """A run of its own, made once: where it may be sent again, it carries a mark by which it is found."""
        mark = entry["tags"].get(MARK)
        found = search(self.client, [self.experiment], f"tags.{MARK} = '{mark}'") if mark else []
        run = (found or [self.client.create_run(self.experiment, entry["at"], entry["tags"], entry["name"])])[0]
        child = Delivery(self.client, run.info.run_id, self.experiment, run.info.artifact_uri, self._named)
        child._params({"values": entry["params"]})
        if entry["source"] is not None:
            child._file({"source": entry["source"], "name": PurePosixPath(entry["source"]).name})
        child._ending({"status": "FAILED", "at": entry["at"]})

    def _best(self, entry: Entry) -> None:
        """One that is made later names itself."""
        for run in search(self.client, [self.experiment], f"tags.`mlflow.parentRunId` = '{self._run_id}'"):
            name_best(self.client, run)

    def _end_children(self, entry: Entry) -> None:
        end_abandoned(self.client, self._run_id)

    def _settled(self, entry: Entry) -> None:
        for run_id, state in entry["children"].items():
            if state == "pruned":
                mark_pruned(self.client, run_id)
            else:
                mark_paused(self.client, run_id, paused=True)

    def _going_on(self, entry: Entry) -> None:
        if STATE in self.client.get_run(self._run_id).data.tags:
            self.client.delete_tag(self._run_id, STATE)
        self.client.update_run(self._run_id, status="RUNNING")

    def _ending(self, entry: Entry) -> None:
        self.client.set_terminated(self._run_id, status=entry["status"], end_time=entry["at"])


#: The kinds of an entry, and what sends them; a journal may come from a stranger, so no other name is ever called.
_KINDS = (
    "tags",
    "params",
    "note",
    "experiment_note",
    "view",
    "text",
    "file",
    "inputs",
    "model",
    "failed_child",
    "best",
    "end_children",
    "settled",
    "going_on",
    "ending",
)


def keep_view(client: MlflowClient, experiment: str, run_id: str, state: str) -> None:
    """Keep the view of a sweep's runs where MLflow's pages look for it, once."""
    key = tag_of(run_id)
    if client.get_experiment(experiment).tags.get(key) != state:
        client.set_experiment_tag(experiment, key, state)


def _signed(text: str) -> dict[str, str]:
    """A description as tags, with a digest by which it is known to be ours."""
    return {NOTE: text, _DIGEST: hashlib.sha256(text.encode()).hexdigest()[:32]}


def _is_ours(tags: Mapping[str, str]) -> bool:
    """Whether nobody else wrote the description that is there."""
    return NOTE not in tags or _signed(tags[NOTE])[_DIGEST] == tags.get(_DIGEST)


def name_best(client: MlflowClient, run: Run) -> None:
    """Put a run's id into its sweep's run, where that calls it the best by its folder alone."""
    parent = run.data.tags.get("mlflow.parentRunId")
    folder = run.data.tags.get("run_dir")
    if not parent or not folder:
        return
    tags = client.get_run(parent).data.tags
    if not tags.get(BEST_ID) and tags.get(BEST_DIR) == folder:
        client.set_tag(parent, BEST_ID, run.info.run_id)


def comes_again(error: BaseException) -> bool:
    """Whether a failure is one of the moment: no answer, a busy server, a wrong password; not of what was sent."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError

    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code not in _NEVER_STATUS
    if isinstance(error, MlflowException):
        return error.error_code not in _NEVER
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
        return False
    # Libraries of object stores raise kinds of their own when there is no answer.
    return isinstance(error, OSError) or type(error).__module__ != "builtins"


def reason(error: BaseException) -> str:
    """What a failure says, in one short line."""
    text = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
    if status := re.search(r"too many (\d+) error responses", text):
        return f"it answers with status {status[1]}"
    for sign in (
        "timed out",
        "Connection refused",
        "Connection reset",
        "RemoteDisconnected",
        "Name or service not known",
    ):
        if sign in text:
            return sign.lower() if sign != "RemoteDisconnected" else "connection closed"
    return text if len(text) <= 200 else text[:199] + "…"


def _inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/"):
        raise ValueError(f"{name!r} is no name of an artifact")
    return name


@contextmanager
def _enough_time(size: int) -> Iterator[None]:
    """Let a large file take longer than the seconds after which any other call is given up."""
    usual = os.environ.get(_TIMEOUT)
    if usual is None or size < SLOWEST:
        yield
        return
    with _patience:
        os.environ[_TIMEOUT] = str(int(usual) + size // SLOWEST)
        try:
            yield
        finally:
            os.environ[_TIMEOUT] = usual


def plain_dataset(entity: Any) -> dict[str, str]:
    """An MLflow data set as plain values."""
    names = ("name", "digest", "source_type", "source", "schema", "profile")
    return {name: str(getattr(entity, name)) for name in names}


#: Larger files of a local store share their bytes with the run folder: nothing of size is kept twice. Files that
#: somebody may write in by hand are smaller, and stay two.
_LINK_FROM_BYTES = 1 << 14


def store_files(client: MlflowClient, run_id: str, artifact_uri: str, files: Mapping[Path, Path]) -> None:
    """Keep files as artifacts of a run.

    On a local disk each appears under its name only once complete, so that a killed process leaves no half
    file behind; elsewhere MLflow's own upload does its best.

    Args:
        client: Opened on the run's store.
        run_id: The run.
        artifact_uri: Where that run keeps its artifacts.
        files: What to keep, and under which relative name.
    """
    root = local_folder(artifact_uri)
    for source, name in files.items():
        if root is None:
            folder = name.parent.as_posix()
            client.log_artifact(run_id, str(source), None if folder == "." else folder)
        else:
            _place(source, root / name)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with appearing(target) as partial:
        if source.stat().st_size < _LINK_FROM_BYTES:
            shutil.copyfile(source, partial)
        else:
            link_or_copy(source, partial)
