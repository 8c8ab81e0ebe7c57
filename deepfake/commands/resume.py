"""``python train.py resume=RUN``: an interrupted run again, from where it was saved, with its own config."""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from deepfake.commands.context import RunContext
from deepfake.config import RunConfig
from deepfake.errors import UserError
from deepfake.tracking.folder import CHECKPOINT
from deepfake.tracking.query import find_run
from deepfake.tracking.store import locate


def resumed(config: RunConfig, context: RunContext) -> tuple[DictConfig, RunContext]:
    """The config and the context of the run that ``config.resume`` names.

    Args:
        config: As typed: where outputs and tracking are, and ``resume``.
        context: Of the command; its overrides may say nothing about the run itself.

    Raises:
        UserError: There is no such run, it is finished or was never saved, or it was asked to change.
    """
    changes = [text for text in context.overrides if not text.startswith(("resume=", "paths.", "tracking."))]
    if changes:
        raise UserError(
            f"resume={config.resume} goes on with the run as it was; {changes[0]!r} would change it",
            "leave the other overrides out, or start a new run with them",
        )
    record = find_run(str(config.resume), locate(config.tracking, config.outputs), config.outputs)
    if record.status == "FINISHED":
        raise UserError(f"run {record} is finished: there is nothing to resume", "start a new run")
    folder = record.file(CHECKPOINT).parents[1]
    return OmegaConf.create(record.config()), replace(
        context,
        folder=folder,
        composed=record.composed(),
        resolved=OmegaConf.to_yaml(OmegaConf.create(record.config())),
        overrides=record.overrides(),
        choices={key.removeprefix("choice."): value for key, value in record.tags.items() if key.startswith("choice.")},
        parent_run_id=record.tags.get("mlflow.parentRunId"),
        resume=True,
        resume_id=record.run_id,
    )
