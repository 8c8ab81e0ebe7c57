"""What is removed of runs: files below a root of ours, artifacts, models and runs of MLflow. Counts what that frees.

Nothing is followed through a link, and nothing outside of the roots is touched. Everything may be begun again.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.compat import purge_model, purge_run
from deepfake.tracking.delivery import reason
from deepfake.tracking.runs import lives, process_tags
from deepfake.tracking.store import Store, local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run


class LeftError(Exception):
    """Something was left as it is; the text says what and why."""


def is_ours(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path lies below one of the roots, wherever links lead, and is no link itself."""
    real = os.path.realpath(path)
    below = any(os.path.commonpath((root, real)) == root != real for root in map(os.path.realpath, roots))
    return below and not path.is_symlink()


def taken(paths: Iterable[Path], *, freed: bool = False) -> int:
    """The bytes on disk of files and of all below folders; one with several names among them counts once.

    Args:
        paths: Files and folders.
        freed: Count what their removal would free: not what has another name elsewhere.
    """
    names: Counter[tuple[int, int]] = Counter()
    facts: dict[tuple[int, int], os.stat_result] = {}
    for path in paths:
        for file in _files(path):
            with suppress(FileNotFoundError):
                one = file.lstat()
                names[one.st_dev, one.st_ino] += 1
                facts[one.st_dev, one.st_ino] = one
    return sum(512 * one.st_blocks for key, one in facts.items() if not freed or names[key] >= one.st_nlink)


def remove(path: Path, roots: Sequence[Path]) -> int:
    """Remove a file, or a folder with all in it; what is gone already is no mistake.

    Returns:
        The bytes that are free now: a file that has another name is not.

    Raises:
        LeftError: It lies outside of the roots, or cannot be removed.
    """
    if not os.path.lexists(path):
        return 0
    if not is_ours(path, roots):
        raise LeftError(f"{path} is a link or lies outside of {' and '.join(map(str, roots))}: it is left")
    freed = 0
    try:
        for file in list(_files(path)):
            with suppress(FileNotFoundError):
                facts = file.lstat()
                file.unlink()
                freed += 512 * facts.st_blocks if facts.st_nlink == 1 else 0
        if path.is_dir():
            shutil.rmtree(path)
    except FileNotFoundError:
        # Another process removes it too.
        return freed + (remove(path, roots) if os.path.lexists(path) else 0)
    except OSError as error:
        raise LeftError(f"{path} cannot be removed: {error.strerror or error}") from error
    return freed


def remove_artifacts(uri: str, store: Store, name: str = "") -> int:
    """Remove artifacts of a run or a model: those below a name, or all.

    Args:
        uri: Where they are kept.
        store: On a local disk they must lie among its own.
        name: A file or folder among them; empty for all.

    Returns:
        The bytes that are free now, where they lay on a local disk.

    Raises:
        LeftError: They lie outside of the store, or where they lie does not delete.
    """
    folder = local_folder(uri)
    if folder is not None:
        if store.artifacts is None:
            raise LeftError(f"{folder} belongs to the server {store.uri}: it is left")
        return remove(folder / name, [store.artifacts])
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        get_artifact_repository(uri, tracking_uri=store.uri).delete_artifacts(name or None)
    except Exception as error:
        raise LeftError(f"{uri} {name} is left: it does not delete ({reason(error)})".replace("  ", " ")) from error
    return 0


def models_of(client: MlflowClient, experiment: str, run_id: str) -> list[LoggedModel]:
    """The models that a run logged and that were not deleted."""
    found: list[LoggedModel] = []
    token = None
    while True:
        page = client.search_logged_models([experiment], f"source_run_id = '{run_id}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def deleted_runs(client: MlflowClient) -> list[Run]:
    """The runs that were deleted and can still be restored."""
    from mlflow.entities import ViewType

    experiments = [one.experiment_id for one in client.search_experiments(view_type=ViewType.ALL)]
    found: list[Run] = []
    token = None
    while experiments:
        page = client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    return found


def remove_model(client: MlflowClient, store: Store, model: LoggedModel) -> int:
    """Remove a logged model, its files first; returns the bytes that are free now.

    Raises:
        LeftError: Its files could not be removed, so that it stays.
    """
    freed = remove_artifacts(model.artifact_location, store)
    client.delete_logged_model(model.model_id)
    return freed


def remove_run(client: MlflowClient, store: Store, run: Run, left: Callable[[str], None]) -> int:
    """Remove a run from MLflow: its models, its artifacts and its record.

    A database's record goes for good; a server keeps it among what was deleted, as ``mlflow gc`` says.

    Args:
        client: Opened on the store.
        store: Where the run is remembered.
        run: As MLflow gives it.
        left: Told of what stays, a line each.

    Returns:
        The bytes that are free now.
    """
    freed = 0
    for model in models_of(client, run.info.experiment_id, run.info.run_id):
        try:
            freed += remove_model(client, store, model)
        except LeftError as error:
            left(str(error))
            client.delete_logged_model(model.model_id)
        if not store.serves:
            purge_model(client, model.model_id)
    try:
        freed += remove_artifacts(run.info.artifact_uri, store)
        folder = local_folder(run.info.artifact_uri)
        if folder is not None and folder.parent.name == run.info.run_id:
            remove(folder.parent, [store.artifacts] if store.artifacts is not None else [])
    except LeftError as error:
        left(str(error))
    from mlflow.exceptions import MlflowException

    try:
        client.delete_run(run.info.run_id)
        if not store.serves:
            purge_run(client, run.info.run_id)
    except MlflowException as error:
        # Another process has removed it meanwhile.
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return freed


def is_at_work(run: Run) -> bool:
    """Whether a process of this machine is at work on a run; of other machines' nothing is known here."""
    tags, here = run.data.tags, process_tags()
    same = all(tags.get(name) == here.get(name) for name in ("host", "pid_namespace"))
    if run.info.status != "RUNNING" or not same or "process_started" not in tags:
        return False
    return lives(int(tags["pid"]), float(tags["process_started"]), tags.get("process_ticks"))


def _files(path: Path) -> Iterator[Path]:
    """A file or link itself, or all below a folder that are no folders."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for place, folders, names in os.walk(path):
        yield from (Path(place) / name for name in names)
        yield from (Path(place) / name for name in folders if os.path.islink(os.path.join(place, name)))
