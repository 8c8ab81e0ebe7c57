"""``python train.py resume=RUN``: an interrupted run again, from where it was saved, with its own config."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from deepfake.commands.context import RunContext
from deepfake.commands.restore import share_threads
from deepfake.config import RunConfig, is_environment_key, literal, load_values, plain_yaml
from deepfake.errors import UserError, masked
from deepfake.tracking.folder import CONFIG, PROVENANCE, RESOLVED
from deepfake.tracking.query import find_run
from deepfake.tracking.record import RunRecord, from_folder
from deepfake.tracking.runs import lives
from deepfake.tracking.store import locate


def resumed(config: RunConfig, context: RunContext) -> tuple[DictConfig, RunContext]:
    """The config and the context of the run that ``config.resume`` names.

    Args:
        config: As typed: where outputs and tracking are, and ``resume``.
        context: Of the command; its overrides may say nothing about the run itself.

    Raises:
        UserError: There is no such run, it is finished, going on or gone, or it was asked to change.
    """
    # Another name would be another run.
    places = [text for text in context.overrides if is_environment_key(text) and not text.startswith("name=")]
    changes = [text for text in context.overrides if text not in places and not text.startswith("resume=")]
    if changes:
        raise UserError(
            f"resume={config.resume} goes on with the run as it was; {changes[0]!r} would change it",
            f"leave the other overrides out, or run it anew: deepfake reproduce {config.resume} --set {changes[0]}",
        )
    outputs = _outputs(str(config.resume), config, places)
    record = find_run(str(config.resume), locate(config.tracking, outputs), outputs)
    folder = _unfinished_folder(record)
    share_threads(record)
    values = _placed(record, config, outputs, places)
    choices = record.provenance().get("data", {}).get("choices", {}) if record.has(PROVENANCE) else {}
    return OmegaConf.create(literal(values)), replace(
        context,
        folder=folder,
        composed=record.file(CONFIG).read_text(encoding="utf-8", errors="replace"),
        resolved=plain_yaml(values),
        overrides=record.overrides(),
        choices={str(key): str(value) for key, value in choices.items()},
        parent_run_id=record.tags.get("mlflow.parentRunId"),
        resume=True,
        resume_id=record.run_id,
    )


def _outputs(reference: str, config: RunConfig, places: list[str]) -> Path:
    """What was typed, else the folder that the run's own lies below: only that is no place of a stranger's choosing."""
    path = Path(reference).expanduser()
    if path.is_dir() and not any(text.startswith("paths.") for text in places):
        saved = load_values(from_folder(path).config()).outputs
        if path.resolve().is_relative_to(saved.resolve()):
            return saved
    return config.outputs


def _placed(record: RunRecord, config: RunConfig, outputs: Path, places: list[str]) -> dict[str, Any]:
    """The run's own values, kept and tracked where this command says.

    Raises:
        UserError: It was tracked in another place, and nobody but its folder says so.
    """
    values = record.config()
    saved = values.get("tracking")
    tracking = dict(saved) if isinstance(saved, dict) else {}
    told, here = tracking.get("uri"), config.tracking.uri
    if record.run_id is None and told is not None and here is None:
        raise UserError(
            f"run {record} says that it was tracked in {masked(str(told))}, which was not typed",
            "where runs are sent is never read from a folder: give tracking.uri=… if you trust that place",
        )
    typed = [text.partition("=")[0].split(".") for text in places]
    tracking |= {name: value for name, value in asdict(config.tracking).items() if ["tracking", name] in typed}
    tracking["uri"] = here
    for section, name in (key for key in typed if key[0] not in ("paths", "tracking")):
        values[section] = {**values[section], name: getattr(getattr(config, section), name)}
    return {**values, "paths": {"outputs": str(outputs)}, "tracking": tracking}


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
    if (
        here
        and pid.isdigit()
        and int(pid) != os.getpid()
        and lives(int(pid), _written(folder), record.tags.get("process_ticks"))
    ):
        raise UserError(f"run {record} is still going on, in process {pid}", "wait for it, or stop it first")
    return folder


def _written(folder: Path) -> float:
    """When the run last began, in seconds since 1970: a process younger than that is another one."""
    return max((folder / name).stat().st_mtime for name in (RESOLVED, PROVENANCE) if (folder / name).is_file())
