"""Files into a run's artifacts, each whole or not at all. Knows where MLflow keeps them, not what they hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from deepfake.whole import appearing

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Larger files of a local store share their bytes with the run folder: weights are not kept twice.
_LINK_FROM_BYTES = 1 << 20


def local_folder(artifact_uri: str) -> Path | None:
    """The folder behind an artifact URI, None where the artifacts lie elsewhere than on a local disk."""
    parts = urlsplit(artifact_uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(artifact_uri) if not parts.scheme else None


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
        if not _linked(source, partial):
            shutil.copyfile(source, partial)


def _linked(source: Path, target: Path) -> bool:
    if source.stat().st_size < _LINK_FROM_BYTES:
        return False
    try:
        os.link(source, target)
    except OSError:
        # Another disk, or a file system without links.
        return False
    return True
