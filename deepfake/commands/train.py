"""Train one detector from a composed config: data, model, loop, scores and what is kept of them.

Wires the rooms; decides nothing that a room decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import DictConfig

from deepfake.commands.console import Console
from deepfake.commands.context import RunContext
from deepfake.commands.front import told
from deepfake.commands.resume import resumed
from deepfake.config import RunConfig, flatten, load_config, to_plain
from deepfake.errors import UserError
from deepfake.sweeping import trial
from deepfake.tracking.folder import UNFINISHED, RunFolder
from deepfake.tracking.run import Ending, RunLog, TrackedRun, track
from deepfake.tracking.store import Store, locate
from deepfake.training.errors import Interrupted

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.commands.data import Data
    from deepfake.data.manifest import Manifest
    from deepfake.models.detector import Detector
    from deepfake.training.fit import FitResult

SHOWN = ("accuracy", "f1", "roc_auc")


@dataclass
class RunResult:
    """What came out of a run: where it is kept and its metrics."""

    run_id: str | None
    run_dir: str
    name: str
    status: str
    metrics: dict[str, float]


def train(composed: DictConfig) -> dict[str, object]:
    """What Hydra calls for each job; returns :class:`RunResult` as a dict, for sweeps.

    Raises:
        UserError: The config, the data or the model cannot be used as asked.
    """
    context = RunContext.from_hydra(composed)
    try:
        config = load_config(composed)
        if config.resume is not None:
            new_folder = context.folder
            composed, context = resumed(config, context)
            config = load_config(composed)
            _remove_if_empty(new_folder)
        return asdict(run(config, context, parameters=flatten(to_plain(composed))))
    except Interrupted as error:
        # As Ctrl-C: a sweep stops too, and its next start goes on with this trial.
        raise KeyboardInterrupt(str(error)) from error
    except UserError as error:
        _remove_if_empty(context.folder)
        if context.number is None:
            # Raised through Hydra, it would be told with a preamble of Hydra's.
            raise SystemExit(told(error)) from None
        raise


def run(config: RunConfig, context: RunContext, parameters: dict[str, Any]) -> RunResult:
    """Train, score and keep one run.

    Args:
        config: Typed and checked.
        context: Its folder, and what was typed.
        parameters: The resolved config with dotted keys, as it is logged.
    """
    began = time.time()
    from deepfake.commands.data import open_data, read_manifest
    from deepfake.models.detector import create_detector
    from deepfake.training.setup import create_fabric, seed_everything

    fabric = create_fabric(config.trainer)
    console = Console(quiet=not fabric.is_global_zero)
    folder = RunFolder(Path(fabric.broadcast(str(context.folder))))
    store = locate(config.tracking, config.outputs)
    # What a user most often gets wrong fails here, before anything is recorded.
    manifest = read_manifest(config, console)
    seed_everything(config.seed, config.trainer.deterministic)
    detector = create_detector(config.backbone, config.head, config.dataset.size)
    console.say(_start_line(config, manifest, detector, fabric))
    with _tracked(config, context, store, fabric) as log, _identified(log, folder, config):
        data = open_data(config, manifest, console)
        if fabric.is_global_zero:
            _keep_inputs(config, context, folder, data, log, parameters, str(fabric.device))
        result = _fit(config, context, data, detector, fabric, folder, log, console, began)
        metrics = _score_and_keep(config, data, detector, fabric, folder, log, result, console)
        if isinstance(log, TrackedRun) and config.tracking.log_model:
            _log_model(log, config, folder)
    console.say(_end_lines(folder, metrics, store, log))
    return RunResult(log.id, str(folder.path), config.name, "finished", metrics)


def _tracked(config: RunConfig, context: RunContext, store: Store, fabric: Fabric) -> AbstractContextManager[RunLog]:
    if not fabric.is_global_zero:
        return nullcontext(RunLog())
    tags = {f"choice.{group}": choice for group, choice in context.choices.items()}
    tags |= {"device": str(fabric.device), "run_dir": str(context.folder), **context.tags}
    if context.number is not None:
        tags["job"] = str(context.number)
    return track(
        store,
        config.tracking.experiment or config.dataset.name,
        config.name,
        parent_run_id=context.parent_run_id,
        tags=tags,
        options=config.tracking,
        resume_id=context.resume_id or _earlier_attempt(),
        endings={trial.Pruned: Ending("FINISHED", "pruned"), Interrupted: Ending("KILLED", "interrupted")},
    )


def _earlier_attempt() -> str | None:
    """The tracking run of this trial's earlier attempt, whose process died."""
    reporting = trial.current()
    return None if reporting is None else reporting.identity.get("run_id") or None


@contextmanager
def _identified(log: RunLog, folder: RunFolder, config: RunConfig) -> Iterator[None]:
    """The study knows which run its trial is from the start; a pruned one keeps its files too."""
    reporting = trial.current()
    if reporting is not None:
        reporting.identify(run_id=log.id or "", run_dir=str(folder.path), name=config.name)
    try:
        yield
    except trial.Pruned:
        log.folder(folder.path, skip=UNFINISHED)
        raise


def _keep_inputs(
    config: RunConfig,
    context: RunContext,
    folder: RunFolder,
    data: Data,
    log: RunLog,
    parameters: dict[str, Any],
    device: str,
) -> None:
    from deepfake.tracking.provenance import collect

    folder.write_config(context.composed, context.resolved, context.overrides)
    folder.write_manifest(data.manifest)
    folder.write_provenance(
        collect(
            seeds={"seed": config.seed, "split_seed": config.dataset.split_seed},
            data={
                "manifest": data.manifest.digest(),
                "crops": data.store.key,
                "roots": {name: str(root) for name, root in data.manifest.roots.items()},
                "choices": context.choices,
            },
            device=device,
        )
    )
    log.params(parameters)
    log.dataset(data.manifest)


def _fit(
    config: RunConfig,
    context: RunContext,
    data: Data,
    detector: Detector,
    fabric: Fabric,
    folder: RunFolder,
    log: RunLog,
    console: Console,
    began: float,
) -> FitResult:
    from deepfake.training.fit import fit

    reporting = trial.current()

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        log.epoch(epoch, metrics)
        console.say(_epoch_line(epoch, config.trainer.epochs, metrics))
        if reporting is not None:
            reporting.report(epoch, metrics)

    log.summary({"startup_seconds": time.time() - began})
    with console.progress() as bar:
        result = fit(
            detector,
            data.splits["train"],
            data.splits["val"],
            options=config.trainer,
            optimizer=config.optimizer,
            scheduler=config.scheduler,
            backbone_lr=config.backbone.lr,
            fabric=fabric,
            folder=folder.path,
            seed=config.seed,
            on_epoch=on_epoch,
            progress=bar,
            # A trial whose process died is begun again in the same folder.
            resume=context.resume or (reporting is not None and reporting.attempt > 0),
        )
    for note in result.notes:
        console.warn(note)
    return result


def _score_and_keep(
    config: RunConfig,
    data: Data,
    detector: Detector,
    fabric: Fabric,
    folder: RunFolder,
    log: RunLog,
    result: FitResult,
    console: Console,
) -> dict[str, float]:
    """Validation and, once, test are scored with the best epoch's weights."""
    from deepfake.training.metrics import sample_metrics
    from deepfake.training.score import score

    metrics: dict[str, float] = {}
    unavailable: dict[str, str] = {}
    tables = []
    for split in ("val", "test"):
        scored = score(detector, data.splits[split], fabric=fabric, batch_size=result.batch_size, split=split)
        tables.append(scored.samples)
        found = sample_metrics(scored.samples, config.trainer.threshold)
        metrics |= {f"{split}/{name}": value for name, value in found.values.items()}
        unavailable |= {f"{split}/{name}": reason for name, reason in found.unavailable.items()}
        frames = scored.frame_metrics()
        metrics |= {f"{split}/frame/{name}": value for name, value in frames.values.items()}
        unavailable |= {f"{split}/frame/{name}": reason for name, reason in frames.unavailable.items()}
    metrics |= {
        "best_epoch": float(result.best_epoch),
        "epochs_run": float(result.epochs_run),
        "train_seconds": result.seconds,
        "parameters": float(sum(p.numel() for p in detector.parameters())),
    }
    if fabric.is_global_zero:
        _keep_outputs(folder, log, result, pd.concat(tables, ignore_index=True), metrics, unavailable, config)
        for name, reason in unavailable.items():
            if name in ("val/roc_auc", "test/roc_auc"):
                console.warn(f"{name} is not available: {reason}")
    return metrics


def _keep_outputs(
    folder: RunFolder,
    log: RunLog,
    result: FitResult,
    predictions: pd.DataFrame,
    metrics: dict[str, float],
    unavailable: dict[str, str],
    config: RunConfig,
) -> None:
    from deepfake.tracking.figures import draw_run

    folder.write_predictions(predictions)
    folder.write_history(result.history)
    folder.write_metrics({"metrics": metrics, "unavailable": unavailable, "notes": result.notes})
    draw_run(
        folder.figures,
        history=result.history,
        predictions=predictions[predictions["split"] == "test"],
        monitor=config.trainer.monitor,
        best_epoch=result.best_epoch + 1,
        threshold=config.trainer.threshold,
    )
    log.summary(metrics)
    if unavailable:
        log.tags({f"unavailable.{name}": reason for name, reason in unavailable.items()})
    log.folder(folder.path, skip=UNFINISHED)


def _log_model(log: TrackedRun, config: RunConfig, folder: RunFolder) -> None:
    from deepfake.tracking.model import DetectorSpec, log_model

    spec = DetectorSpec(
        config.backbone, config.head, config.dataset.frames, config.dataset.size, config.trainer.threshold
    )
    log_model(log, folder.best_weights, spec)


def _start_line(config: RunConfig, manifest: Manifest, detector: Detector, fabric: Fabric) -> str:
    from deepfake.commands.data import described

    millions = sum(p.numel() for p in detector.parameters()) / 1e6
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad) / 1e6
    return (
        f"{config.name}: {config.backbone.name} + {type(config.head).__name__.lower()} "
        f"({millions:.2f} M parameters, {trained:.2f} M trained) on {config.dataset.name} ({described(manifest)}), "
        f"{config.dataset.frames} frames of {config.dataset.size} px, batch {config.trainer.batch_size}, "
        f"{config.trainer.epochs} epochs, {fabric.device} x {fabric.world_size}"
    )


def _epoch_line(epoch: int, epochs: int, metrics: dict[str, float]) -> str:
    parts = [f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"]
    named = {"train/loss": "train loss", "val/loss": "val loss", "val/accuracy": "accuracy", "val/f1": "F1"}
    parts += [f"{text} {metrics[name]:.4f}" for name, text in named.items() if name in metrics]
    parts += [f"ROC-AUC {metrics['val/roc_auc']:.4f}"] if "val/roc_auc" in metrics else []
    parts += [f"{metrics['samples_per_second']:.0f} clips/s"] if "samples_per_second" in metrics else []
    return "  ".join(parts)


def _end_lines(folder: RunFolder, metrics: dict[str, float], store: Store, log: RunLog) -> str:
    shown = ", ".join(
        f"{name} {metrics[f'test/{name}']:.4f}" if f"test/{name}" in metrics else f"{name} not available"
        for name in SHOWN
    )
    return f"test: {shown} (epoch {int(metrics['best_epoch']) + 1})\nrun: {folder.path}\ntracked: {store.ui_command}"


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes a run's folder before the run can say that it will not begin."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
