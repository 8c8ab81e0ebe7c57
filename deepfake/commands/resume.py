"""``python train.py resume=RUN``: an interrupted run again, from where it was saved, with its own config."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from deepfake.commands.context import RunContext
from deepfake.config import RunConfig, load_config
from deepfake.errors import UserError
from deepfake.tracking.folder import PROVENANCE, RESOLVED
from deepfake.tracking.query import find_run
from deepfake.tracking.record import RunRecord, from_folder
from deepfake.tracking.runs import lives
from deepfake.tracking.store import locate

_PLACES = ("paths.", "tracking.")


def resumed(config: RunConfig, context: RunContext) -> tuple[DictConfig, RunContext]:
    """The config and the context of the run that ``config.resume`` names.

    Args:
        config: As typed: where outputs and tracking are, and ``resume``.
        context: Of the command; its overrides may say nothing about the run itself.

    Raises:
        UserError: There is no such run, it is finished, going on or gone, or it was asked to change.
    """
    places = [text for text in context.overrides if text.startswith(_PLACES)]
    changes = [text for text in context.overrides if not text.startswith(("resume=", *_PLACES))]
    if changes:
        raise UserError(
            f"resume={config.resume} goes on with the run as it was; {changes[0]!r} would change it",
            f"leave the other overrides out, or run it anew: deepfake reproduce {config.resume} --set {changes[0]}",
        )
    record = _find(str(config.resume), config, places)
    folder = _unfinished_folder(record)
    saved = _moved(record, places)
    choices = record.provenance().get("data", {}).get("choices", {}) if record.has(PROVENANCE) else {}
    return saved, replace(
        context,
        folder=folder,
        composed=record.composed(),
        resolved=OmegaConf.to_yaml(saved),
        overrides=record.overrides(),
        choices={str(key): str(value) for key, value in choices.items()},
        parent_run_id=record.tags.get("mlflow.parentRunId"),
        resume=True,
        resume_id=record.run_id,
    )


def _find(reference: str, config: RunConfig, places: list[str]) -> RunRecord:
    """The run; a folder's config says where it was tracked, unless that was typed."""
    path = Path(reference).expanduser()
    if path.is_dir():
        config = load_config(_moved(from_folder(path), places))
    return find_run(reference, locate(config.tracking, config.outputs), config.outputs)


def _moved(record: RunRecord, places: list[str]) -> DictConfig:
    saved = OmegaConf.merge(OmegaConf.create(record.config()), OmegaConf.from_dotlist(places))
    assert isinstance(saved, DictConfig)
    return saved


def _unfinished_folder(record: RunRecord) -> Path:
    """Where the run is to go on."""
    if record.status == "FINISHED":
        raise UserError(f"run {record} is finished: there is nothing to resume", "start a new run")
    folder = next((place for place in record.places if (place / RESOLVED).is_file()), None)
    if folder is None:
        looked = ", ".join(str(place) for place in record.places)
        raise UserError(
            f"the folder of run {record} is gone, and what it saved with it: looked in {looked}",
            "only its folder holds an unfinished run; start a new one",
        )
    pid = record.tags.get("pid", "")
    here = record.tags.get("host") == socket.gethostname()
    if here and pid.isdigit() and int(pid) != os.getpid() and lives(int(pid), _written(folder)):
        raise UserError(f"run {record} is still going on, in process {pid}", "wait for it, or stop it first")
    return folder


def _written(folder: Path) -> float:
    """When the run last began, in seconds since 1970: a process younger than that is another one."""
    return max((folder / name).stat().st_mtime for name in (RESOLVED, PROVENANCE) if (folder / name).is_file())
