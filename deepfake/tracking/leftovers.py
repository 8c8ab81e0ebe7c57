"""Which runs live, in folders or in MLflow, and what those that were deleted there have left on this disk."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.tracking import run_folder as files
from deepfake.tracking.removal import deleted_runs, models_of, remove_artifacts, remove_model, taken
from deepfake.tracking.run_record import RunRecord, from_folder
from deepfake.tracking.search import open_existing, record, search_all
from deepfake.tracking.store import Store, local_folder
from deepfake.tracking.weights import References, called

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run


class LivingRuns:
    """The runs whose folder is there, or which MLflow has not deleted.

    Args:
        outputs: Where run folders lie.
        store: Where runs are remembered; need not exist.

    Attributes:
        ids: Of those that MLflow has; None where there is no store.
    """

    def __init__(self, outputs: Path, store: Store) -> None:
        self._outputs = outputs
        self._client = open_existing(store)
        self._active = [] if self._client is None else search_all(self._client)
        self.ids = None if self._client is None else {run.info.run_id for run in self._active}

    def records(self) -> list[RunRecord]:
        """Each of them once, as far as this machine is concerned."""
        sweeps, runs = self._outputs / "sweeps", self._outputs / "runs"
        folders = [file.parent for file in (*runs.glob(f"*/{files.RESOLVED}"), *sweeps.glob(f"*/*/{files.RESOLVED}"))]
        seen = {os.path.realpath(folder) for folder in folders}
        found = [from_folder(folder) for folder in folders]
        for run in self._active:
            folder = run.data.tags.get("run_dir")
            # A sweep's own run, and one that logged no folder, reads nothing that lies here.
            if self._client is None or folder is None or os.path.realpath(folder) in seen:
                continue
            # On a server there are other machines' runs, which have caches of their own.
            if local_folder(run.info.artifact_uri) is not None or run.data.tags.get("host") == socket.gethostname():
                found.append(record(self._client, run, self._outputs))
        return found


@dataclass(frozen=True)
class Artifacts:
    """What a run that was deleted in MLflow has left on this disk.

    Attributes:
        name: The run's.
        places: Its artifacts, and its logged models.
        bytes: What their removal frees.
    """

    name: str
    places: Sequence[Path]
    bytes: int
    _client: MlflowClient
    _store: Store
    _run: Run
    _models: Sequence[LoggedModel]

    def remove(self) -> int:
        """Remove them; returns the bytes that are free now.

        Raises:
            LeftError: They lie outside of the store, or cannot be removed.
        """
        freed = sum(remove_model(self._client, self._store, model) for model in self._models)
        return freed + remove_artifacts(self._run.info.artifact_uri, self._store)


def artifacts_of_deleted(outputs: Path, store: Store) -> list[Artifacts]:
    """Those of runs that were deleted in MLflow, unless somebody refers to their weights; of a server none."""
    client = open_existing(store)
    if client is None or store.artifacts is None:
        return []
    references = References(client, outputs)
    found = []
    for run in deleted_runs(client):
        models = models_of(client, run.info.experiment_id, run.info.run_id)
        uris = [run.info.artifact_uri, *(model.artifact_location for model in models)]
        places = [place for place in map(local_folder, uris) if place is not None and place.is_dir()]
        if not places or references.registered(run.info.run_id, models):
            continue
        folder = Path(run.data.tags["run_dir"]) if "run_dir" in run.data.tags else None
        # A folder that is still there has the same weights.
        alone = folder is None or not (folder / files.WEIGHTS).is_file()
        if alone and references.to(run.info.run_id, folder, called(run)):
            continue
        size = taken(places, freed=True)
        found.append(Artifacts(str(run.info.run_name), places, size, client, store, run, models))
    return found
