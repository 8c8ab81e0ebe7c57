"""A detector and two splits to its best weights. Knows no files of data and no tracking."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from deepfake.models.compat import prepare_torchvision
from deepfake.models.detector import Detector, parameter_groups
from deepfake.training.checkpoint import BEST, LAST, load_weights
from deepfake.training.clock import Clock, waiting_note
from deepfake.training.fitting import choose_batch_size, choose_workers, try_to_compile
from deepfake.training.interruption import Interruption
from deepfake.training.loop import Loop
from deepfake.training.monitor import create_monitor
from deepfake.training.optimizers import create_optimizer, create_schedule
from deepfake.training.options import EvaluationOptions, OptimizerOptions, SchedulerOptions, TrainerOptions
from deepfake.training.progress import Progress, Silent
from deepfake.training.source import BatchPlan, ClipSource, plan_batches
from deepfake.training.state import FitState
from deepfake.training.update import Loss, Updater


@dataclass
class FitResult:
    """What came of a fit; the detector itself holds the best epoch's weights.

    Attributes:
        best_epoch: From 0; the last one where there was nothing to validate on.
        best_metrics: That epoch's.
        epochs_run: Finished ones.
        history: Each epoch's metrics, with its number as ``epoch``.
        unavailable: Validation metrics that do not exist, and why.
        stopped_early: Whether patience ran out.
        seconds: Training and validation, over all processes that worked on it one after another.
        batch_size: Clips a step over all processes, as it was in the end.
        workers: Loader processes per training process.
        notes: What was done differently from what was asked, for the user to read.
    """

    best_epoch: int
    best_metrics: dict[str, float]
    epochs_run: int
    history: list[dict[str, float]]
    unavailable: dict[str, str]
    stopped_early: bool
    seconds: float
    batch_size: int
    workers: int = 0
    notes: list[str] = field(default_factory=list)


def fit(
    detector: Detector,
    train: ClipSource,
    val: ClipSource,
    *,
    options: TrainerOptions,
    optimizer: OptimizerOptions,
    scheduler: SchedulerOptions,
    backbone_lr: float | None,
    fabric: Fabric,
    folder: Path,
    seed: int,
    on_epoch: Callable[[int, dict[str, float]], None],
    progress: Progress | None = None,
    resume: bool = False,
    evaluation: EvaluationOptions | None = None,
) -> FitResult:
    """Train, and leave the best epoch's weights in the detector and in ``folder/checkpoints``.

    Args:
        detector: Trained in place.
        train: Clips with their random changes.
        val: Clips that choose the best epoch.
        options: The ``trainer.*`` keys.
        optimizer: Which, and the head's rate.
        scheduler: How rates change.
        backbone_lr: None means a tenth of the head's.
        fabric: From ``setup.create_fabric``; its processes share every batch.
        folder: Gets ``checkpoints/best.safetensors`` and ``checkpoints/last.pt``.
        seed: With the epoch and step, fixes order and dropout.
        on_epoch: Told each epoch's number and metrics, on every process. It may raise to end the fit. An epoch is
            saved after it was told, so one that was interrupted in between is told again on resuming.
        progress: Told how far the epoch is.
        resume: Go on from ``last.pt`` where there is one.
        evaluation: How a sample's score is made of its clips'; their mean where None.

    Raises:
        UserError: Options that cannot work with this data.
        TrainingDiverged: The loss is no longer a number.
        Interrupted: SIGTERM came; the state is saved.
    """
    began = time.perf_counter()
    last = folder / "checkpoints" / LAST
    if options.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.to(fabric.device)
    batch_size, notes = choose_batch_size(detector, train, options.batch_size, fabric, last if resume else None)
    plan, more = plan_batches(train, batch_size, seed, options.balance == "sampler", fabric.world_size)
    monitor = create_monitor(options.monitor, options.mode, options.patience, val.labels)
    notes += more + monitor.notes
    average = _average(detector, options.ema)
    mine = -(-plan.batch_size // fabric.world_size)
    if options.compile:
        notes += try_to_compile(detector, train, mine, fabric)
    workers, more = choose_workers(detector, train, options.num_workers, mine, fabric)
    notes += more
    groups = parameter_groups(detector, optimizer.lr, backbone_lr, optimizer.weight_decay)
    inner = create_optimizer(optimizer, groups, fused=_can_fuse(fabric))
    updates = options.epochs * -(-len(plan) // options.accumulate)
    schedule = create_schedule(scheduler, inner, updates=updates, mode=monitor.mode)
    model, wrapped = fabric.setup(detector, inner)
    loss = Loss(_pos_weight(train.labels, options.balance).to(fabric.device), options.label_smoothing)
    clock = Clock(fabric.device, options.profile)
    may_split = options.on_oom == "accumulate"
    updater = Updater(fabric, model, wrapped, loss, options.clip_norm, clock, may_split, notes=notes)
    state = FitState(detector, average, inner, schedule, monitor, _identity(train, plan, options, seed, fabric))
    if resume:
        notes += _resume(state, last, fabric)
    told = progress or Silent()
    judged = evaluation or EvaluationOptions()
    checkpoints = folder / "checkpoints"
    loop = Loop(
        train, val, options, fabric, checkpoints, plan, seed, told, updater, state, began, judged, workers=workers
    )
    with Interruption(fabric) as interruption:
        loop.run(on_epoch, interruption)
    notes += waiting_note(state.history)
    load_weights(detector, folder / "checkpoints" / BEST)
    best = max(0, monitor.best_epoch)
    return FitResult(
        best_epoch=best,
        best_metrics={name: value for name, value in state.history[best].items() if name != "epoch"},
        epochs_run=state.epoch,
        history=state.history,
        unavailable=loop.unavailable,
        stopped_early=state.epoch < options.epochs,
        seconds=loop.seconds(),
        batch_size=plan.batch_size,
        workers=workers,
        notes=notes,
    )


def _identity(train: ClipSource, plan: BatchPlan, options: TrainerOptions, seed: int, fabric: Fabric) -> dict[str, int]:
    """What must be equal for a resumed fit to give an uninterrupted one's numbers."""
    return {
        "clips": len(train),
        "batch_size": plan.batch_size,
        "accumulate": options.accumulate,
        "epochs": options.epochs,
        "seed": seed,
        "processes": fabric.world_size,
    }


def _resume(state: FitState, path: Path, fabric: Fabric) -> list[str]:
    if not path.is_file():
        return [f"nothing to resume from at {path}: started from the first step"]
    note = state.load(path, fabric)
    return [note] if note else []


def _can_fuse(fabric: Fabric) -> bool:
    # A loss scaler must unscale gradients before they are clipped, which fused optimizers do not let it.
    scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
    return fabric.device.type in ("cuda", "cpu") and not scaled


def _average(detector: Detector, decay: float | None) -> Any:
    if decay is None:
        return None
    prepare_torchvision()
    from timm.utils import ModelEmaV3

    # The warm-up lets the average forget the random weights it began with, however short the run.
    return ModelEmaV3(detector, decay=decay, use_warmup=True)


def _pos_weight(labels: Sequence[float] | np.ndarray, balance: str) -> torch.Tensor:
    fakes = float(np.sum(labels))
    reals = len(labels) - fakes
    weigh = balance == "pos_weight" and fakes > 0 and reals > 0
    return torch.tensor(reals / fakes if weigh else 1.0)
