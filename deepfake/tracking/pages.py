"""Which page of MLflow's shows what a user means: a run, or the runs of a sweep beside each other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.errors import UserError
from deepfake.installation import TRAIN
from deepfake.tracking.delivery import keep_view
from deepfake.tracking.run_folder import RESOLVED
from deepfake.tracking.search import find_run, open_existing, search_all, sweeps_named
from deepfake.tracking.store import Store
from deepfake.tracking.view import run_page, sweep_page, sweep_view, tag_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Before each swept key among the parameters of a sweep's run.
_SPACE = "space."


@dataclass(frozen=True)
class Page:
    """A page of MLflow's.

    Attributes:
        name: What the run is called.
        experiment: Its experiment's id.
        run_id: Its own.
        sweep: Whether it is a sweep's: the page compares the runs nested under it.
    """

    name: str
    experiment: str
    run_id: str
    sweep: bool

    def address(self, server: str) -> str:
        """Where a server shows it."""
        page = sweep_page if self.sweep else run_page
        return page(server, self.experiment, self.run_id)

    def charts(self, server: str) -> str | None:
        """Where it shows the same in charts, if it does."""
        return sweep_page(server, self.experiment, self.run_id, charts=True) if self.sweep else None


def find_page(reference: str | None, store: Store, outputs: Path) -> Page:
    """The page that a user means; a sweep of an older version gets the view that it lacks.

    Args:
        reference: A run as :func:`deepfake.tracking.search.find_run` takes it, or a sweep by its name or folder; None
            for what was begun last.
        store: Where runs are remembered.
        outputs: Where run and sweep folders lie.

    Raises:
        UserError: There is no store yet, no such run, or the store does not know it.
    """
    client = open_existing(store)
    if client is None:
        raise UserError(
            f"there is no tracking store yet: {store.uri}",
            f"train something first: {TRAIN}; or say where it is: tracking.uri=…, paths.outputs=…",
        )
    run = _newest(client, store) if reference is None else _named(reference, client, store, outputs)
    sweep = "sweep" in run.data.tags and "mlflow.parentRunId" not in run.data.tags
    if sweep:
        _add_view(client, run)
    return Page(run.info.run_name, run.info.experiment_id, run.info.run_id, sweep)


def _newest(client: MlflowClient, store: Store) -> Run:
    for run in search_all(client):
        if "mlflow.parentRunId" not in run.data.tags:
            return run
    raise UserError(f"{store.uri} holds no run yet", f"train something first: {TRAIN}")


def _named(reference: str, client: MlflowClient, store: Store, outputs: Path) -> Run:
    path = Path(reference).expanduser()
    folder = path.is_dir() and not (path / RESOLVED).is_file()
    if sweeps := sweeps_named(client, path.resolve().name if folder else reference):
        return sweeps[0]
    found = find_run(reference, store, outputs)
    if found.run_id is None:
        raise UserError(f"{store.uri} does not know run {found}", "name a run of it, or set tracking.uri")
    return client.get_run(found.run_id)


def _add_view(client: MlflowClient, parent: Run) -> None:
    swept = [key.removeprefix(_SPACE) for key in parent.data.params if key.startswith(_SPACE)]
    # Who may only read gets MLflow's own columns instead.
    with suppress(Exception):
        if tag_of(parent.info.run_id) not in client.get_experiment(parent.info.experiment_id).tags:
            state = sweep_view(parent.info.run_id, swept, "val/roc_auc", maximize=True)
            keep_view(client, parent.info.experiment_id, parent.info.run_id, state)
