"""A detector and two splits to its best weights: epochs that train, validate, keep the best, save, and can be resumed.

Everything a fit changes as it goes can be saved between any two steps. Random states are not among it: each step is
seeded by where it stands, so the position is the random state. Knows no files of data and no tracking.
"""

from __future__ import annotations

import functools
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from lightning_fabric import Fabric

from deepfake.data.clips import Batch, ClipSource
from deepfake.errors import Interrupted, TrainingDiverged, UserError
from deepfake.metrics import sample_metrics
from deepfake.models.detector import Detector
from deepfake.progress import Progress, bar
from deepfake.training.autotune import choose_batch_size, choose_workers, try_to_compile
from deepfake.training.averaging import MovingAverage, apart, create_average
from deepfake.training.checkpoint import (
    BEST,
    LAST,
    Base,
    base_of,
    create_monitor,
    damaged_state,
    load_state,
    load_weights,
    save_state,
    save_weights,
)
from deepfake.training.features.fused import Company, Shape, Stretch, shape_to_fuse
from deepfake.training.optimizers import create_optimizer, create_schedule, logged_rates, parameter_groups
from deepfake.training.options import EvaluationOptions, OptimizerOptions, SchedulerOptions, TrainerOptions
from deepfake.training.profiling import Clock, clip_flops, peak_flops, peak_memory, waiting_note
from deepfake.training.runtime import Interruption, gather, share_buffers
from deepfake.training.sampler import part_of, plan_batches
from deepfake.training.scoring import ClipScores, sample_table, score_clips
from deepfake.training.selection import MEASURES, VALIDATION, Selection
from deepfake.training.train_step import EpochSums, Loss, Updater
from deepfake.training.views import viewed

#: In a run's folder: what fits without a part of the data need to go on; removed once they are done.
FOLDS = "folds"
#: Told an epoch's number and metrics; what it returns is raised once the epoch is saved.
OnEpoch = Callable[[int, dict[str, float]], Exception | None]


@dataclass(frozen=True)
class FitOptions:
    """How a detector is trained.

    Attributes:
        trainer: The ``trainer.*`` keys.
        optimizer: Which, and the head's rate.
        scheduler: How rates change.
        backbone_lr: None means a tenth of the head's.
        evaluation: How a sample's score is made of its clips'.
        seed: With the epoch and step, fixes order and dropout.
        selection: What counts beside the validation split.
        layer_decay: How rates fall from the backbone's last layer to its first; None: they do not.
    """

    trainer: TrainerOptions
    optimizer: OptimizerOptions
    scheduler: SchedulerOptions
    backbone_lr: float | None = None
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    seed: int = 0
    selection: Selection = field(default_factory=Selection)
    layer_decay: float | None = None


@dataclass
class FitResult:
    """What came of a fit; the detector itself holds the best epoch's weights.

    Attributes:
        best_epoch: From 0; the last one where there was nothing to validate on.
        best_metrics: That epoch's.
        epochs_run: Finished ones.
        history: Each epoch's metrics, with its number as ``epoch``.
        unavailable: Validation metrics that do not exist, and why.
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
    seconds: float
    batch_size: int
    workers: int = 0
    notes: list[str] = field(default_factory=list)


class Trainer:
    """Trains one detector on two splits, once.

    Args:
        detector: Trained in place.
        train: Clips with their random changes.
        val: Clips that choose the best epoch.
        options: How.
        fabric: From :func:`deepfake.training.runtime.create_fabric`; its processes share every batch.
        folder: Gets ``checkpoints/best.safetensors`` and ``checkpoints/last.pt``.
        progress: Told how far each epoch is.
        company: Others that are trained at the same time by this process, with which steps are shared where it pays.
    """

    def __init__(
        self,
        detector: Detector,
        train: ClipSource,
        val: ClipSource,
        options: FitOptions,
        fabric: Fabric,
        folder: Path,
        progress: Progress | None = None,
        company: Company | None = None,
    ) -> None:
        self.detector, self.train, self.val = detector, train, val
        self.company = company
        # What those must have alike with which steps are shared; None where none are.
        self._shape: Shape | None = None
        self.options, self.keys, self.fabric = options, options.trainer, fabric
        self.best_weights = folder / "checkpoints" / BEST
        self.last_state = folder / "checkpoints" / LAST
        self.progress = progress
        self.folds = {
            name: Trainer(apart(detector), fold.train, fold.held, self._of_a_fold(), fabric, folder / FOLDS / str(i))
            for i, (name, fold) in enumerate(options.selection.folds.items())
        }
        # Where it stands: the epoch in work, from 0; its batches that are done; optimizer steps over all epochs.
        self.epoch = self.batch = self.updates = 0
        # What the epoch's clips came to so far, and each finished epoch's metrics.
        self.sums = EpochSums()
        self.history: list[dict[str, float]] = []
        # Validation metrics that do not exist, and why, as of the last epoch.
        self.unavailable: dict[str, str] = {}
        # Spent before this process took over, and when it did.
        self._seconds_before, self._began = 0.0, time.perf_counter()
        self._flops: float | None = None

    def fit(self, on_epoch: OnEpoch, resume: bool = False) -> FitResult:
        """Train, and leave the best epoch's weights in the detector and in ``folder/checkpoints``.

        Args:
            on_epoch: Told each epoch's number and metrics, on every process. It may raise to end the fit. An epoch is
                saved after this call, so one that was interrupted in between is reported again on resuming. It may
                also return an exception, which is raised after that: resuming then goes on with the next epoch.
            resume: Go on from ``last.pt`` where there is one.

        Raises:
            UserError: Options that cannot work with this data.
            TrainingDiverged: The loss is no longer a number.
            Interrupted: SIGTERM came; the state is saved.
        """
        self._began = time.perf_counter()
        notes = self._prepare(resume)
        if resume:
            notes += self._resume()
        for fold in self.folds.values():
            fold.keys = replace(fold.keys, batch_size=self.plan.batch_size)
            fold._prepare(resume)
            if resume:
                fold._resume()
        with Interruption(self.fabric) if self.company is None else self.company.interruption() as interruption:
            self._run(on_epoch, interruption)
        self._discard_folds()
        notes += waiting_note(self.history)
        load_weights(self.detector, self.best_weights)
        best = max(0, self.monitor.best_epoch)
        return FitResult(
            best_epoch=best,
            best_metrics={name: value for name, value in self.history[best].items() if name != "epoch"},
            epochs_run=self.epoch,
            history=self.history,
            unavailable=self.unavailable,
            seconds=self.seconds(),
            batch_size=self.plan.batch_size,
            workers=self.workers,
            notes=notes,
        )

    @property
    def best(self) -> Detector:
        """The weights that are evaluated and kept: the averaged ones where there is an average."""
        averaged = None if self.average is None else self.average.module
        return self.detector if averaged is None else averaged

    @property
    def in_last_epoch(self) -> bool:
        """Whether no epoch comes after the one that is being reported."""
        return self.epoch + 1 >= self.keys.epochs or self.monitor.exhausted

    def seconds(self) -> float:
        """Spent on this fit so far, by all processes that worked on it one after another."""
        return self._seconds_before + time.perf_counter() - self._began

    # ---- what is decided once

    def _prepare(self, resume: bool) -> list[str]:
        """Choose batches, loader processes, optimizer and schedule; returns notes for the user."""
        keys, fabric, detector = self.keys, self.fabric, self.detector
        _check_steps(keys, fabric)
        if keys.channels_last:
            detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        detector.to(fabric.device)
        resumed = self.last_state if resume else None
        batch_size, notes = choose_batch_size(detector, self.train, keys.batch_size, fabric, resumed)
        self.plan, more = plan_batches(
            self.train, batch_size, self.options.seed, fabric.world_size, keys.balance, keys.pairs
        )
        self.monitor = create_monitor(keys.monitor, keys.mode, keys.patience, self.val.labels, self._counted())
        notes += more + self.monitor.notes
        self.average = create_average(detector, keys, fabric)
        per_process = -(-self.plan.batch_size // fabric.world_size)
        if keys.compile:
            notes += try_to_compile(detector, self.train, per_process, fabric)
        self.workers, more = choose_workers(detector, self.train, keys.num_workers, per_process, fabric)
        notes += more
        options = self.options
        groups = parameter_groups(detector, options.optimizer, options.backbone_lr, options.layer_decay)
        self.optimizer = create_optimizer(options.optimizer, groups, fused=_can_fuse(fabric))
        updates = keys.epochs * -(-len(self.plan) // keys.accumulate)
        self.schedule = create_schedule(options.scheduler, self.optimizer, updates=updates, mode=self.monitor.mode)
        model, wrapped = fabric.setup(detector, self.optimizer)
        weight = _pos_weight(self.train, keys).to(fabric.device)
        loss = Loss(weight, keys.label_smoothing, keys.frame_loss)
        clock = Clock(fabric.device, keys.profile)
        may_split = keys.on_oom == "accumulate"
        self.updater = Updater(fabric, model, wrapped, loss, keys.clip_norm, clock, keys.sam, may_split, notes=notes)
        self._find_shape()
        return notes

    def _find_shape(self) -> None:
        """See whether steps are shared with others."""
        if self.company is None:
            return
        keys = self.keys
        shape: Shape | str = "trainer.profile and trainer.compile are of a single one"
        if not (keys.profile or keys.compile):
            size = self.plan.batch_size
            more = (keys.accumulate, keys.sam is None)
            shape = shape_to_fuse(self.detector, self.optimizer, self.train, size, self.fabric, *more)
        if isinstance(shape, str):
            self.company.alone(shape)
        else:
            self._shape = shape

    def _counted(self) -> list[str]:
        selection = self.options.selection
        return selection.metrics if selection.sets or selection.folds else []

    # ---- epochs

    def _run(self, on_epoch: OnEpoch, interruption: Interruption) -> None:
        """Go on to the last epoch, or until patience runs out."""
        while self.epoch < self.keys.epochs and not self.monitor.exhausted:
            for fold in self.folds.values():
                # One that was interrupted later than this fit is an epoch ahead.
                if fold.epoch == self.epoch:
                    fold._one_epoch(_ignore, interruption)
            self._one_epoch(on_epoch, interruption)
            if self.epoch < self.keys.epochs and interruption.asked():
                raise Interrupted(f"SIGTERM after epoch {self.epoch}; saved in {self.last_state}")

    def _one_epoch(self, on_epoch: OnEpoch, interruption: Interruption) -> None:
        began = time.perf_counter()
        metrics = self._train_epoch(interruption)
        with self.updater.clock("validation"):
            self._take_average()
            metrics |= self._validate()
            metrics |= self._selected(metrics)
        metrics["epoch_seconds"] = time.perf_counter() - began
        metrics |= self._profile(metrics["samples_per_second"])
        self.history.append({"epoch": float(self.epoch), **metrics})
        if self.monitor.update(self.epoch, metrics):
            self._keep_best()
        self.schedule.after_epoch(metrics.get(self.monitor.name))
        # Counts towards the next epoch: this one's numbers are being reported.
        with self.updater.clock("logging"):
            stopped = on_epoch(self.epoch, metrics)
            self.epoch, self.batch, self.sums = self.epoch + 1, 0, EpochSums()
            self._save()
        if stopped is not None:
            raise stopped

    def _train_epoch(self, interruption: Interruption) -> dict[str, float]:
        began = time.perf_counter()
        planned = self.plan.batches(self.epoch)
        rest = planned[self.batch :]
        self.detector.train()
        text = f"epoch {self.epoch + 1}/{self.keys.epochs}"
        with bar(self.progress, sum(map(len, planned)), text) as shown:
            shown.advance(sum(map(len, planned[: self.batch])))
            self._train_batches(rest, shown, interruption)
        metrics = self._train_metrics()
        # As they stand after the epoch: the same whether or not it was interrupted.
        metrics |= logged_rates(self.optimizer)
        metrics["samples_per_second"] = sum(map(len, rest)) / (time.perf_counter() - began)
        return metrics

    def _train_batches(self, rest: list[list[int]], shown: Progress, interruption: Interruption) -> None:
        last = self.batch + len(rest)
        if self.company is not None and self._shape is not None:
            self._train_in(self.company, self._stretch(rest, self._shape), shown, interruption)
            return
        for sizes, batches in self._groups(rest):
            seed = _step_seed(self.options.seed, self.epoch, self.batch, self.fabric.global_rank)
            self.updater.step(batches, sum(sizes), seed, self.sums)
            self.schedule.after_update()
            self.batch += len(sizes)
            self.updates += 1
            if self.average is not None:
                self.average.after_update(self.detector, self.updates)
            shown.advance(sum(sizes))
            if self.batch < last and interruption.asked(self.updates):
                self._leave_off(last)

    def _train_in(self, company: Company, stretch: Stretch, shown: Progress, interruption: Interruption) -> None:
        """Train an epoch's batches beside other trials."""
        first, before = self.batch, self.updates
        while stretch.done < len(stretch.batches):
            since = stretch.done
            company.train(stretch)
            self.batch = first + stretch.done
            self.updates = before - -stretch.done // stretch.accumulate
            shown.advance(sum(map(len, stretch.batches[since : stretch.done])))
            if stretch.done < len(stretch.batches) and interruption.asked():
                self._leave_off(first + len(stretch.batches))

    def _stretch(self, rest: list[list[int]], shape: Shape) -> Stretch:
        first, average = self.batch, self.average
        updates = itertools.count(self.updates + 1)

        def updated() -> None:
            assert average is not None
            average.after_update(self.detector, next(updates))

        return Stretch(
            detector=self.detector,
            optimizer=self.optimizer,
            schedule=self.schedule,
            loss=self.updater.loss,
            source=self.train,
            epoch=self.epoch,
            batches=rest,
            fabric=self.fabric,
            shape=shape,
            accumulate=self.keys.accumulate,
            clip_norm=self.keys.clip_norm,
            sam=self.keys.sam,
            seed=lambda batch: _step_seed(self.options.seed, self.epoch, first + batch, 0),
            sums=self.sums,
            updated=updated if isinstance(average, MovingAverage) else None,
        )

    def _leave_off(self, last: int) -> NoReturn:
        """Save what there is of an epoch of so many batches, and stop."""
        self._save()
        where = f"epoch {self.epoch + 1} after {self.batch} of {last} batches"
        raise Interrupted(f"SIGTERM in {where}; saved in {self.last_state}")

    def _take_average(self) -> None:
        """Once weights of the last epochs are averaged, these are what is chosen from."""
        if self.average is None:
            return
        planned = self.plan.batches(self.epoch)
        if self.average.after_epoch(self.detector, self.epoch, lambda: self._read(planned)):
            self.monitor.restart()

    def _read(self, planned: list[list[int]]) -> Iterator[Batch]:
        """This process's share of batches, in the host's memory."""
        parts = [part_of(batch, self.fabric.global_rank, self.fabric.world_size) for batch in planned]
        return iter(self.train.read(parts, self.epoch, self.workers, self.fabric.device.type == "cuda"))

    def _groups(self, planned: list[list[int]]) -> Iterator[tuple[list[int], list[Batch]]]:
        """Batches that make one update together: their sizes over all processes, and this one's share of them."""
        loader = self._read(planned)
        for i in range(0, len(planned), self.keys.accumulate):
            together = planned[i : i + self.keys.accumulate]
            with self.updater.clock("data_wait"):
                batches = [next(loader) for _ in together]
            yield [len(batch) for batch in together], batches

    def _train_metrics(self) -> dict[str, float]:
        """The epoch's own loss and ROC-AUC, from the logits each clip got as it was trained on."""
        parts = gather(self.sums.joined(), self.fabric)
        losses, logits, labels = (torch.cat(column).double().numpy() for column in zip(*parts, strict=True))
        loss = float(losses.mean())
        if not np.isfinite(loss):
            raise TrainingDiverged(f"the training loss is {loss} in epoch {self.epoch + 1}")
        metrics = {"train/loss": loss}
        if 0 < labels.sum() < len(labels):
            from sklearn.metrics import roc_auc_score

            metrics["train/roc_auc"] = float(roc_auc_score(labels, logits))
        return metrics

    def _validate(self) -> dict[str, float]:
        if len(self.val) == 0:
            self.unavailable["val/loss"] = "the val split has no clips"
            return {}
        share_buffers(self.best, self.fabric)
        scores = self._scores(self.val, "validating")
        logits, labels = torch.from_numpy(scores.logits), torch.from_numpy(np.asarray(self.val.labels)).double()
        loss = Loss(self.updater.loss.pos_weight.cpu().double(), self.keys.label_smoothing)(logits, labels).mean()
        if not torch.isfinite(loss):
            raise TrainingDiverged(f"the validation loss is {loss.item()} in epoch {self.epoch + 1}")
        table = sample_table(self.val, scores, "val", self.options.evaluation)
        found = sample_metrics(table, self.keys.threshold)
        self.unavailable = {f"val/{name}": reason for name, reason in found.unavailable.items()}
        return {"val/loss": loss.item()} | {f"val/{name}": value for name, value in found.values.items()}

    def _selected(self, epoch: Mapping[str, float]) -> dict[str, float]:
        """What else counts, as of this epoch; nothing where validation alone does."""
        selection = self.options.selection
        if not selection.sets and not selection.folds:
            return {}
        values: dict[str, Mapping[str, float]] = {}
        for name, clips in selection.sets.items():
            table = sample_table(clips, self._scores(clips, name), "val", self.options.evaluation)
            values[name] = sample_metrics(table, self.keys.threshold).values
        for name, fold in self.folds.items():
            values[name] = {measure: fold.history[self.epoch][f"val/{measure}"] for measure in MEASURES}
        return selection.combined(values, epoch)

    def _scores(self, clips: ClipSource, text: str) -> ClipScores:
        return score_clips(
            viewed(self.best, self.options.evaluation),
            clips,
            fabric=self.fabric,
            batch_size=self.plan.batch_size,
            num_workers=self.workers,
            progress=self.progress,
            text=text,
        )

    def _of_a_fold(self) -> FitOptions:
        """As long as this fit, whatever becomes of it on the way."""
        keys = replace(self.keys, monitor=VALIDATION, mode="max", patience=None, profile=False)
        return replace(self.options, trainer=keys, selection=Selection())

    def _discard_folds(self) -> None:
        if self.folds and self.fabric.is_global_zero:
            shutil.rmtree(self.best_weights.parents[1] / FOLDS, ignore_errors=True)

    def _profile(self, clips_per_second: float) -> dict[str, float]:
        if not self.keys.profile:
            return {}
        metrics = self.updater.clock.read()
        if self._flops is None:
            batch = self.train.fetch([0], 0).to(self.fabric.device)
            self._flops = clip_flops(self.detector, batch.clips, batch.mask)
        rate = clips_per_second * self._flops
        metrics |= {"profile/peak_memory_bytes": peak_memory(self.fabric.device), "profile/flops_per_second": rate}
        peak = peak_flops(self.fabric.device, self.fabric.strategy.precision.precision)
        return metrics if peak is None else metrics | {"profile/mfu": rate / peak / self.fabric.world_size}

    # ---- what is kept

    def _keep_best(self) -> None:
        if self.fabric.is_global_zero:
            monitor = self.monitor
            notes = {"epoch": str(monitor.best_epoch), "monitor": monitor.name, "value": repr(monitor.best_value)}
            save_weights(self.best, self.best_weights, notes, self._base if self.detector.based else None)
        self.fabric.barrier()

    @functools.cached_property
    def _base(self) -> Base | None:
        """What training leaves of a backbone of which it trains a part, or that is frozen and can be had again."""
        kept = self.detector.based or self.detector.backbone.fixed
        return base_of(self.detector, self.detector.fixed) if kept else None

    def _save(self) -> None:
        """Write everything that changes, replacing what was there; all processes must call it, the first one writes."""
        sums = gather(self.sums.joined(), self.fabric)
        if self.fabric.is_global_zero:
            state = {
                "identity": self._identity(),
                "base": None if self._base is None else self._base.digest,
                "detector": _changing(self.detector),
                "average": None if self.best is self.detector else _changing(self.best),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
                "monitor": self.monitor.state_dict(),
                "position": {"epoch": self.epoch, "batch": self.batch, "updates": self.updates},
                "sums": sums,
                "history": self.history,
                "seconds": self.seconds(),
            }
            save_state(state, self.last_state)
        self.fabric.barrier()

    def _resume(self) -> list[str]:
        """Go on from what :meth:`_save` wrote; returns what differs from the fit that wrote it, for the user."""
        if not self.last_state.exists():
            return [f"nothing to resume from at {self.last_state}: started from the first step"]
        state = load_state(self.last_state)
        try:
            return self._take_up(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise damaged_state(self.last_state, f"{type(error).__name__}: {error}") from error

    def _take_up(self, state: dict[str, Any]) -> list[str]:
        # Of a frozen backbone an older version noted nothing.
        noted = state.get("base") is not None or not self.detector.freeze
        if self._base is not None and noted and state.get("base") != self._base.digest:
            raise UserError(
                f"{self.last_state} was trained on top of another backbone's weights than these",
                "give the weights that the run began with",
            )
        whole = not self.detector.fixed
        self.detector.load_state_dict(state["detector"], strict=whole)
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"], state["position"]["epoch"], strict=whole)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.monitor.load_state_dict(state["monitor"])
        self.epoch, self.batch = state["position"]["epoch"], state["position"]["batch"]
        self.updates = state["position"]["updates"]
        self.history, self._seconds_before = state["history"], state["seconds"]
        self.sums = _sums_here(state["sums"], self.fabric)
        before, now = state["identity"], self._identity()
        changed = [f"{key} {before.get(key)} -> {now[key]}" for key in sorted(now) if before.get(key) != now[key]]
        if not changed:
            return []
        return [f"resumed with changes ({', '.join(changed)}): the result is not that of an uninterrupted run"]

    def _identity(self) -> dict[str, int]:
        """What must be equal for a resumed fit to give an uninterrupted one's numbers."""
        return {
            "clips": len(self.train),
            "batch_size": self.plan.batch_size,
            "accumulate": self.keys.accumulate,
            "epochs": self.keys.epochs,
            "seed": self.options.seed,
            "processes": self.fabric.world_size,
        }


def _ignore(epoch: int, metrics: dict[str, float]) -> None:
    """What a fold's epoch came to is told with the fit's own."""


@functools.lru_cache(maxsize=4096)
def _step_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """One number from where a step stands, well mixed, so that neighbours share nothing."""
    return int(np.random.SeedSequence([seed % 2**63, epoch, batch, rank]).generate_state(1, np.uint64)[0] >> 1)


def _check_steps(keys: TrainerOptions, fabric: Fabric) -> None:
    if keys.sam is not None and _scales_losses(fabric):
        raise UserError(
            f"trainer.sam={keys.sam} takes two gradients a step, and trainer.precision=fp16 scales them for one",
            "set trainer.precision=bf16 or 32",
        )


def _scales_losses(fabric: Fabric) -> bool:
    return getattr(fabric.strategy.precision, "scaler", None) is not None


def _can_fuse(fabric: Fabric) -> bool:
    # A loss scaler must unscale gradients before they are clipped, which fused optimizers do not let it.
    return fabric.device.type in ("cuda", "cpu") and not _scales_losses(fabric)


def _pos_weight(train: ClipSource, keys: TrainerOptions) -> torch.Tensor:
    """Reals to fakes as they are read: as many real clips as are made fakes are expected to count as such."""
    fakes = float(np.sum(train.labels))
    made = (len(train.labels) - fakes) * train.made_fake
    reals, fakes = len(train.labels) - fakes - made, fakes + made
    # In pairs both classes are drawn equally often.
    weigh = keys.balance == "pos_weight" and not keys.pairs and fakes > 0 and reals > 0
    return torch.tensor(reals / fakes if weigh else 1.0)


def _changing(detector: Detector) -> dict[str, torch.Tensor]:
    """What training changes of a detector: without what is fixed, which is most of it and saved at every epoch."""
    fixed = detector.fixed
    return {name: tensor for name, tensor in detector.state_dict().items() if name not in fixed}


def _sums_here(saved: list[tuple[torch.Tensor, ...]], fabric: Fabric) -> EpochSums:
    """This process's part; with another number of processes than before, the first takes all."""
    sums = EpochSums()
    if len(saved) == fabric.world_size:
        part = saved[fabric.global_rank]
    elif fabric.is_global_zero:
        part = tuple(torch.cat(parts) for parts in zip(*saved, strict=True))
    else:
        return sums
    losses, logits, labels = (tensor.to(fabric.device) for tensor in part)
    sums.add(losses, logits, labels)
    return sums
