"""The runs of a sweep in MLflow, all together: who is at work on them, what refers to them, and removing them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.tracking.removal import is_at_work, models_of, remove_run
from deepfake.tracking.runs import search
from deepfake.tracking.search import open_existing, search_all, sweeps_named
from deepfake.tracking.store import Store, local_folder
from deepfake.tracking.weights import References, called

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run


class SweepRuns:
    """The run of a sweep and those nested under it; there may be several sweeps' if it was begun anew.

    Args:
        name: The sweep's name.
        folder: Its folder: others may have a sweep of that name, on the same server too.
        parent: The id of its run, as the folder has it.
        store: Where runs are remembered; need not exist.
    """

    def __init__(self, name: str, folder: Path, parent: str | None, store: Store) -> None:
        self._name, self._folder, self._store = name, folder, store
        self._client = open_existing(store)
        found = [] if self._client is None else sweeps_named(self._client, name)
        self._parents = [run for run in found if run.info.run_id == parent or _lies_in(run, folder)]
        nested = {child.info.run_id: child for run in self._parents for child in self._nested(run)}
        # Those of a parent that somebody deleted are known by their folders.
        nested |= {child.info.run_id: child for child in self._inside(folder)}
        self._children = list(nested.values())

    def __len__(self) -> int:
        return len(self._parents) + len(self._children)

    @property
    def at_work(self) -> list[str]:
        """The names of those that a process of this machine works on."""
        return [str(run.info.run_name) for run in (*self._children, *self._parents) if is_at_work(run)]

    @property
    def places(self) -> list[Path]:
        """What they keep on a local disk, logged models included."""
        return list(self._places())

    def referred(self, outputs: Path, folders: Sequence[Path]) -> list[str]:
        """What else refers to the weights of the sweep's runs, in a few words each.

        Args:
            outputs: Where run folders lie.
            folders: Of the sweep's runs, in MLflow or not.
        """
        references = References(self._client, outputs)
        found, known = [], set()
        for run in self._children:
            folder = Path(run.data.tags["run_dir"]) if "run_dir" in run.data.tags else None
            known.add(folder)
            found += references.to(run.info.run_id, folder, (*called(run), f"best:{self._name}"))
            if references.any_model:
                found += references.registered(run.info.run_id, self._models(run))
        for folder in folders:
            if folder not in known:
                found += references.to(None, folder, (f"{self._name}:{folder.name}",))
        own = {run.info.run_id for run in self._children}
        return [text for text in dict.fromkeys(found) if not any(one in text for one in own)]

    def remove_children(self, left: Callable[[str], None]) -> int:
        """Remove the nested runs; see :func:`deepfake.tracking.removal.remove_run`."""
        return self._remove(self._children, left)

    def remove_parents(self, left: Callable[[str], None]) -> int:
        """Remove the sweep's own run."""
        return self._remove(self._parents, left)

    def _remove(self, runs: Sequence[Run], left: Callable[[str], None]) -> int:
        if self._client is None:
            return 0
        return sum(remove_run(self._client, self._store, run, left) for run in runs)

    def _nested(self, parent: Run) -> list[Run]:
        assert self._client is not None
        condition = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        return search(self._client, [parent.info.experiment_id], condition)

    def _inside(self, folder: Path) -> list[Run]:
        if self._client is None:
            return []
        quoted = str(folder).replace("'", "_")
        found = search_all(self._client, f"tags.run_dir LIKE '{quoted}/%'")
        return [run for run in found if folder in Path(run.data.tags["run_dir"]).parents]

    def _models(self, run: Run) -> list[LoggedModel]:
        assert self._client is not None
        return models_of(self._client, run.info.experiment_id, run.info.run_id)

    def _places(self) -> Iterator[Path]:
        for run in (*self._parents, *self._children):
            for uri in (run.info.artifact_uri, *(model.artifact_location for model in self._models(run))):
                place = local_folder(uri)
                if place is not None:
                    yield place


def _lies_in(run: Run, folder: Path) -> bool:
    return os.path.realpath(run.data.tags.get("sweep.folder", "")) == os.path.realpath(folder)
