"""A run's weights after its end: what refers to them, and letting go of them wherever they lie.

Which runs keep theirs is decided elsewhere. Knows MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.errors import UserError
from deepfake.tracking import run_folder as files
from deepfake.tracking.removal import LeftError, is_ours, models_of, remove, remove_artifacts, remove_model
from deepfake.tracking.run_folder import refuse_links, write_json
from deepfake.tracking.search import search_all
from deepfake.tracking.store import Store, local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

#: In a run's folder, and among its artifacts, all that holds weights.
_FOLDERS = (str(Path(files.WEIGHTS).parent), "folds")
_INIT = "trainer.init_from"


class References:
    """Who refers to the weights of runs: registered models, ensembles, and runs that began with them.

    Looked up once, in a store and in the folders of runs.

    Args:
        client: Opened on the store; None where there is none.
        outputs: Where run folders lie.
    """

    def __init__(self, client: MlflowClient | None, outputs: Path) -> None:
        self._client = client
        self._outputs = outputs

    def to(self, run_id: str | None, folder: Path | None, names: tuple[str, ...] = ()) -> list[str]:
        """What refers to a run's weights, each in a few words.

        Args:
            run_id: Its MLflow id.
            folder: Its folder.
            names: What else it is called: its name, ``SWEEP:NUMBER``.
        """
        found = [name for name, told in self._ensembles.items() if _is_named(told, run_id, folder)]
        said = [f"the ensemble {name}" for name in found]
        called = {str(one) for one in (run_id, *names) if one}
        for name, origin in self._begun_with.items():
            inside = folder is not None and Path(origin).expanduser().is_relative_to(folder)
            said += [f"the run {name}, which began with them"] if origin in called or inside else []
        return said

    def registered(self, run_id: str, models: Sequence[LoggedModel]) -> list[str]:
        """The registered models that are made of a run's, in a few words."""
        ids = [run_id, *(model.model_id for model in models)]
        # One that was registered by its address alone knows no run.
        found = [one for one in self._versions if any(text in (f"{one.run_id} {one.source}") for text in ids)]
        return [f"the registered model {one.name}, version {one.version}" for one in found]

    @property
    def any_model(self) -> bool:
        """Whether there is any registered model at all."""
        return bool(self._versions)

    @cached_property
    def _versions(self) -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token: str | None = None
        while self._client is not None:
            page = self._client.search_model_versions(page_token=token)
            found += page
            token = page.token
            if not token:
                break
        return found

    @cached_property
    def _ensembles(self) -> Mapping[str, str]:
        """What each says of its members, by its name."""
        found = {}
        for file in (self._outputs / "runs").glob(f"*/{files.ENSEMBLE}"):
            try:
                found[file.parent.name] = json.dumps(json.loads(file.read_text(encoding="utf-8")), ensure_ascii=False)
            except (OSError, ValueError):
                continue
        if self._client is not None:
            tag = Path(files.ENSEMBLE).stem
            for run in search_all(self._client, f"tags.{tag} LIKE '%'"):
                found[str(run.info.run_name)] = run.data.tags[tag]
        return found

    @cached_property
    def _begun_with(self) -> Mapping[str, str]:
        if self._client is None:
            return {}
        runs = search_all(self._client, f"params.`{_INIT}` != 'None'")
        return {f"{run.info.run_name} ({run.info.run_id})": run.data.params[_INIT] for run in runs}


def _is_named(told: str, run_id: str | None, folder: Path | None) -> bool:
    """Whether what an ensemble says of its members names a run; rather once too often."""
    return any(str(one) in told for one in (run_id, folder) if one)


@dataclass
class Forgotten:
    """What letting go of weights came to.

    Attributes:
        runs: How many runs let go of theirs.
        freed: Bytes.
        left: What was left, and why, a line each.
    """

    runs: int = 0
    freed: int = 0
    left: list[str] = field(default_factory=list)


class Forgetter:
    """Lets go of the weights of runs that have ended: in their folder, among their artifacts, as logged models.

    All else stays, so that each can be run again. What is being deleted says so first: a process that is killed on the
    way leaves a run whose weights are partly there, and the next one goes on with it.

    Args:
        client: Opened on the store.
        store: Where the runs are remembered.
        outputs: Below which their folders lie; none outside is touched.

    Attributes:
        total: What all of it came to.
    """

    def __init__(self, client: MlflowClient, store: Store, outputs: Path) -> None:
        self.client, self._store, self._outputs = client, store, outputs
        self.total = Forgotten()
        self._done: set[tuple[str | None, Path | None]] = set()

    def forget(self, run_id: str | None, folder: Path | None, why: str, references: References) -> bool:
        """Let go of one run's weights, unless somebody refers to them or the run goes on; what is left is noted.

        Args:
            run_id: Its MLflow id, where it has one.
            folder: Its folder, which may be gone, or on another machine.
            why: What a command that asks for them will say.
            references: Looked up a moment ago.

        Returns:
            Whether that is settled; False where the run goes on, and is to be asked for again.
        """
        from mlflow.exceptions import MlflowException

        key = run_id, folder
        if key in self._done or (folder is not None and _is_done(folder)):
            return True
        try:
            run = None if run_id is None else self._run(run_id)
            if run is not None and run.info.status == "RUNNING":
                # Its end was not heard of yet, or somebody goes on with it.
                return False
            models = [] if run is None else models_of(self.client, run.info.experiment_id, run.info.run_id)
            names = () if run is None else called(run)
            said = references.to(run_id, folder, names)
            said += [] if run is None else references.registered(run.info.run_id, models)
            if said:
                raise LeftError(f"{names[0] if names else folder}: {' and '.join(said)} refers to its weights")
            self._forget(run, folder, why, models)
            self.total.runs += 1
        except (LeftError, OSError, UserError, MlflowException) as error:
            self.total.left.append(str(getattr(error, "message", error)))
        self._done.add(key)
        return True

    def _run(self, run_id: str) -> Run | None:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise LeftError(
                f"{self._store.uri} does not say whether run {run_id} has ended: {error.message}"
            ) from error

    def _forget(self, run: Run | None, folder: Path | None, why: str, models: list[LoggedModel]) -> None:
        there = folder is not None and folder.is_dir()
        if there:
            assert folder is not None
            if not is_ours(folder, [self._outputs]):
                raise LeftError(f"{folder} is a link or lies outside of {self._outputs}: its weights are left")
            refuse_links(folder, "checkpoints")
            say_let_go(folder, why, done=False)
        if run is not None:
            self.client.set_tag(run.info.run_id, files.LET_GO_TAG, why)
            self._forget_artifacts(run, why, models)
        if there:
            assert folder is not None
            for name in _FOLDERS:
                self.total.freed += remove(folder / name, [self._outputs])
            say_let_go(folder, why)

    def _forget_artifacts(self, run: Run, why: str, models: list[LoggedModel]) -> None:
        for model in models:
            self.total.freed += remove_model(self.client, self._store, model)
        uri = run.info.artifact_uri
        root = local_folder(uri)
        if root is None or (root / _FOLDERS[0]).exists():
            self.total.freed += remove_artifacts(uri, self._store, _FOLDERS[0])
        if root is None:
            self.client.log_dict(run.info.run_id, _said(why), files.LET_GO)
        elif root.is_dir():
            say_let_go(root, why)


def say_let_go(folder: Path, why: str, *, done: bool = True) -> Path:
    """Write into a run's folder that its weights were deleted, and why; returns the file.

    Args:
        folder: Of the run, or of its artifacts.
        why: For a person.
        done: Whether that is over.
    """
    write_json(folder / files.LET_GO, _said(why, done=done))
    return folder / files.LET_GO


def _said(why: str, *, done: bool = True) -> dict[str, object]:
    return {"why": why, "done": done}


def _is_done(folder: Path) -> bool:
    try:
        said = json.loads((folder / files.LET_GO).read_text(encoding="utf-8"))
        return bool(said["done"]) and not (folder / files.WEIGHTS).exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def called(run: Run) -> tuple[str, ...]:
    """What a run is called: its name, and its number in a sweep where the sweep is known by its folder."""
    tags = run.data.tags
    folder = Path(tags.get("run_dir", ""))
    job = tags.get("job")
    return (str(run.info.run_name), *([f"{folder.parent.name}:{job}"] if job else []))
