"""``python train.py``: one job of Hydra's as a run, its mistakes in two lines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from deepfake.commands import TOGETHER
from deepfake.config import load_config, to_plain
from deepfake.errors import Interrupted, UserError, first_line, is_device_lost
from deepfake.hydra_app import Refusal, print_error
from deepfake.installation import TRAIN
from deepfake.options import flatten
from deepfake.runs.context import RunContext, refuse_sweep_keys
from deepfake.sweeping.jobs import runs_together


@runs_together(TOGETHER)
def train(composed: DictConfig) -> dict[str, object]:
    """What Hydra calls for each job; returns :class:`deepfake.runs.train.RunResult` as a dict, for sweeps.

    Raises:
        UserError: The config, the data or the model cannot be used as asked.
        Refusal: The same of a single run, which Hydra would tell with a preamble of its own.
    """
    context = RunContext.from_hydra(composed)
    try:
        refuse_sweep_keys(HydraConfig.get())
        config = load_config(composed)
        # A mistyped key is told before anything heavy is imported.
        from deepfake.runs.saved_config import resume_config
        from deepfake.runs.train import run

        if config.resume is not None:
            new_folder = context.folder
            composed, context = resume_config(config, context)
            config = load_config(composed)
            _remove_if_empty(new_folder)
        return asdict(run(config, context, parameters=flatten(to_plain(composed))))
    except Interrupted as error:
        # As Ctrl-C: a sweep stops too, and its next start goes on with this trial.
        again = "" if context.number is not None else f"; go on with: {TRAIN} resume={context.folder}"
        raise KeyboardInterrupt(f"{error}{again}") from error
    except UserError as error:
        _remove_if_empty(context.folder)
        if context.number is None:
            raise Refusal(error) from None
        raise
    except RuntimeError as error:
        lost = _lost(error, context)
        if lost is None:
            raise
        raise lost from error


def _lost(error: RuntimeError, context: RunContext) -> SystemExit | None:
    """The end of this process, where its device was lost; a sweep then gives the trial to a fresh one."""
    if not is_device_lost(error):
        return None
    again = f"{TRAIN} resume={context.folder}" if context.number is None else "the same command"
    lost = UserError(f"the device was lost in mid-run: {first_line(error)}", f"once it is back, go on with: {again}")
    return Refusal(lost) if context.number is None else SystemExit(print_error(lost))


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes a run's folder before the run can say that it will not begin."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
