"""A run as it was kept: what was run and what came out, read from its folder or from MLflow's copy of it.

Reads files; runs nothing. Knows file names, not what a configuration means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from packaging.version import Version

from deepfake import __version__
from deepfake.errors import UserError
from deepfake.installation import TRAIN
from deepfake.tracking import folder as files
from deepfake.tracking.provenance import FORMAT

_PACKAGE = "deepfake-sweeps"
WEIGHTS = "checkpoints/best.safetensors"


@dataclass(frozen=True)
class RunRecord:
    """One run of the past. Its files are looked up when asked for, wherever they still are.

    Attributes:
        name: Its name.
        run_id: Its MLflow id, None where no store knows it.
        status: MLflow's word (FINISHED, FAILED, KILLED, RUNNING), or for a folder alone what its files tell.
        failure: Why it failed, where it said so.
        places: Folders that may hold its files, the run folder first.
        fetch: Downloads one file from a server's artifacts; None where there is none to ask.
        tags: MLflow's tags.
        params: MLflow's parameters.
        logged: MLflow's metrics, last values.
    """

    name: str
    run_id: str | None
    status: str
    failure: str | None
    places: tuple[Path, ...]
    fetch: Callable[[str], Path | None] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    logged: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name!r} ({self.run_id})" if self.run_id else f"{self.name!r} ({self.places[0]})"

    def has(self, name: str) -> bool:
        """Whether a file of the run is still there."""
        return self._look(name) is not None

    def file(self, name: str) -> Path:
        """A file of the run, such as ``figures/roc.png``.

        Raises:
            UserError: It was never written, or was deleted.
        """
        found = self._look(name)
        if found is not None:
            return found
        if self.status != "FINISHED":
            raise self._unfinished(f"has no {name}")
        looked = ", ".join(str(place) for place in self.places) or "its artifacts"
        raise UserError(
            f"{name} of run {self} was deleted; looked in {looked}",
            "restore the run's folder or artifacts, or name another run",
        )

    def require_finished(self) -> RunRecord:
        """The record itself.

        Raises:
            UserError: The run is still going on, was stopped or failed; says which and why.
        """
        if self.status == "FINISHED":
            return self
        raise self._unfinished("never finished")

    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return dict(yaml.safe_load(self.file(files.RESOLVED).read_text(encoding="utf-8")))

    def composed(self) -> str:
        """The configuration as YAML text, before interpolations were resolved."""
        return self.file(files.CONFIG).read_text(encoding="utf-8")

    def overrides(self) -> list[str]:
        """What was typed."""
        return list(yaml.safe_load(self.file(files.OVERRIDES).read_text(encoding="utf-8")) or [])

    def provenance(self) -> dict[str, Any]:
        """Code, packages, machine, data and seeds; see :func:`deepfake.tracking.provenance.collect`.

        Raises:
            UserError: A newer version wrote it in a way this one cannot read.
        """
        found = self._json(files.PROVENANCE)
        if found.get("format", 0) > FORMAT:
            raise UserError(
                f"run {self} was written by a newer version (format {found['format']}, this one reads {FORMAT})",
                _newer(found, found.get("version")),
            )
        made = found.get("packages", {}).get(_PACKAGE, __version__)
        if Version(made) > Version(__version__):
            raise UserError(
                f"run {self} was made by version {made}, which is newer than this one, {__version__}",
                _newer(found, made),
            )
        return found

    def manifest(self) -> pd.DataFrame:
        """Every sample that was selected; ``groups`` are tuples again."""
        table = pd.read_parquet(self.file(files.MANIFEST))
        return table.assign(groups=table["groups"].map(tuple))

    def predictions(self) -> pd.DataFrame:
        """The scores of every sample."""
        return pd.read_parquet(self.file(files.PREDICTIONS))

    def clips(self) -> pd.DataFrame:
        """The logit of every clip that was scored."""
        return pd.read_parquet(self.file(files.CLIPS))

    def calibration(self) -> dict[str, Any]:
        """What was fitted on validation, as it was written."""
        return dict(self._json(files.CALIBRATION))

    def metrics(self) -> dict[str, float]:
        """The run's metrics with every digit; those MLflow logged where the file is gone."""
        if self.has(files.METRICS):
            found = self._json(files.METRICS)
            return {name: float(value) for name, value in found["metrics"].items() if value is not None}
        if self.logged:
            return {name: value for name, value in self.logged.items() if not name.startswith("system/")}
        return self._json(files.METRICS)["metrics"]

    def unavailable(self) -> dict[str, str]:
        """Why metrics that one might expect are missing."""
        return dict(self._json(files.METRICS).get("unavailable", {}))

    def history(self) -> list[dict[str, float]]:
        """The metrics of each epoch."""
        rows = self._json(files.HISTORY)
        return [{key: value for key, value in row.items() if value is not None} for row in rows]

    def weights(self) -> Path:
        """The best epoch's weights."""
        return self.file(WEIGHTS)

    def _json(self, name: str) -> Any:
        path = self.file(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}", "restore it, or name another run") from error

    def _look(self, name: str) -> Path | None:
        for place in self.places:
            if (place / name).is_file():
                return place / name
        return self.fetch(name) if self.fetch is not None else None

    def _unfinished(self, what: str) -> UserError:
        reason = f": {self.failure}" if self.failure else ""
        hint = f"name a run that finished, or go on with this one: {TRAIN} resume=<its folder>"
        if self.status == "RUNNING":
            hint = f"wait until it ends; if its process is gone, go on with it: {TRAIN} resume=<its folder>"
        return UserError(f"run {self} {what}; its status is {self.status}{reason}", hint)


def _newer(provenance: Mapping[str, Any], version: str | None) -> str:
    """How to read what a newer version wrote; one that was installed as a package left no commit."""
    commit = (provenance.get("git") or {}).get("commit")
    named = f"its commit {commit}" if commit else f"version {version}" if version else "a newer version"
    return f"update this installation to {named}"


def from_folder(folder: Path) -> RunRecord:
    """The run whose files lie in a folder, without asking any store.

    Raises:
        UserError: The folder is none of a run.
    """
    if not (folder / files.RESOLVED).is_file():
        raise UserError(
            f"{folder} is not the folder of a run: it has no {files.RESOLVED}",
            "name the folder that holds resolved.yaml, such as one below outputs/runs",
        )
    config = yaml.safe_load((folder / files.RESOLVED).read_text(encoding="utf-8"))
    finished = (folder / files.METRICS).is_file()
    name = str(config.get("name", folder.name)) if isinstance(config, dict) else folder.name
    return RunRecord(name, None, "FINISHED" if finished else "UNFINISHED", None, (folder.absolute(),))
