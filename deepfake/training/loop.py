"""Epochs: train, validate, keep the best, save. Knows nothing of how its parts were chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from deepfake.data.batch import Batch
from deepfake.metrics import sample_metrics
from deepfake.training.checkpoint import BEST, LAST, save_weights
from deepfake.training.clock import clip_flops, peak_flops, peak_memory
from deepfake.training.errors import Interrupted, TrainingDiverged
from deepfake.training.gather import gather, share_buffers
from deepfake.training.interruption import Interruption
from deepfake.training.options import EvaluationOptions, TrainerOptions
from deepfake.training.progress import Progress, bar
from deepfake.training.score import sample_table, score_clips
from deepfake.training.source import BatchPlan, ClipSource, share
from deepfake.training.state import FitState
from deepfake.training.update import EpochSums, Loss, Updater


@dataclass
class Loop:
    """Epochs of training and validation.

    Attributes:
        train: Clips with their random changes.
        val: Clips that choose the best epoch.
        options: The ``trainer.*`` keys.
        fabric: Device, precision and processes.
        checkpoints: The folder that gets the best weights and the last state.
        plan: Which clips train together.
        seed: With epoch and step, fixes dropout.
        progress: Told how far the epoch is.
        updater: Steps.
        state: All that changes; may come from an interrupted fit.
        began: When this process took over, by ``time.perf_counter``.
        evaluation: How a sample's score is made of its clips'.
        workers: Loader processes.
        unavailable: Validation metrics that do not exist, and why; as of the last epoch.
        flops: Operations of training on one clip, once they were counted.
    """

    train: ClipSource
    val: ClipSource
    options: TrainerOptions
    fabric: Fabric
    checkpoints: Path
    plan: BatchPlan
    seed: int
    progress: Progress
    updater: Updater
    state: FitState
    began: float
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    workers: int = 0
    unavailable: dict[str, str] = field(default_factory=dict)
    flops: float | None = None

    def run(self, on_epoch: Callable[[int, dict[str, float]], None], interruption: Interruption) -> None:
        """Go on to the last epoch, or until patience runs out; see ``fit`` for what it raises."""
        state = self.state
        while state.epoch < self.options.epochs and not state.monitor.exhausted:
            began = time.perf_counter()
            metrics = self._train_epoch(interruption)
            with self.updater.clock("validation"):
                metrics |= self._validate()
            metrics["epoch_seconds"] = time.perf_counter() - began
            metrics |= self._profile(metrics["samples_per_second"])
            state.history.append({"epoch": float(state.epoch), **metrics})
            if state.monitor.update(state.epoch, metrics):
                self._keep_best()
            state.schedule.after_epoch(metrics.get(state.monitor.name))
            # Counts towards the next epoch: this one's numbers are what is being told.
            with self.updater.clock("logging"):
                on_epoch(state.epoch, metrics)
                state.epoch, state.batch, state.sums = state.epoch + 1, 0, EpochSums()
                self._save()
            if state.epoch < self.options.epochs and interruption.asked():
                raise Interrupted(f"SIGTERM after epoch {state.epoch}; saved in {self.checkpoints / LAST}")

    def seconds(self) -> float:
        """Spent on this fit so far, by all processes that worked on it one after another."""
        return self.state.seconds + time.perf_counter() - self.began

    def _train_epoch(self, interruption: Interruption) -> dict[str, float]:
        state = self.state
        began = time.perf_counter()
        planned = self.plan.batches(state.epoch)
        rest = planned[state.batch :]
        state.detector.train()
        text = f"epoch {state.epoch + 1}/{self.options.epochs}"
        with bar(self.progress, sum(map(len, planned)), text) as told:
            told.advance(sum(map(len, planned[: state.batch])))
            self._train_batches(rest, told, interruption)
        metrics = self._train_metrics()
        # As they stand after the epoch: the same whether or not it was interrupted.
        rates = {str(group["name"]): float(group["lr"]) for group in state.optimizer.param_groups}
        metrics["lr"] = rates.get("head", rates.get("head/no_decay", 0.0))
        if "backbone" in rates:
            metrics["lr_backbone"] = rates["backbone"]
        metrics["samples_per_second"] = sum(map(len, rest)) / (time.perf_counter() - began)
        return metrics

    def _train_batches(self, rest: list[list[int]], told: Progress, interruption: Interruption) -> None:
        state = self.state
        done = state.batch + len(rest)
        for sizes, batches in self._groups(rest):
            seed = _step_seed(self.seed, state.epoch, state.batch, self.fabric.global_rank)
            self.updater.step(batches, sum(sizes), seed, state.sums)
            state.schedule.after_update()
            state.batch += len(sizes)
            state.updates += 1
            if state.average is not None:
                state.average.update(state.detector, step=state.updates)
            told.advance(sum(sizes))
            if state.batch < done and interruption.asked(state.updates):
                self._save()
                raise Interrupted(
                    f"SIGTERM in epoch {state.epoch + 1} after {state.batch} of {done} batches; "
                    f"saved in {self.checkpoints / LAST}"
                )

    def _groups(self, planned: list[list[int]]) -> Iterator[tuple[list[int], list[Batch]]]:
        """Batches that make one update together: their sizes over all processes, and this one's share of them."""
        mine = [share(batch, self.fabric.global_rank, self.fabric.world_size) for batch in planned]
        pin = self.fabric.device.type == "cuda"
        loader = iter(self.train.read(mine, self.state.epoch, self.workers, pin))
        for i in range(0, len(planned), self.options.accumulate):
            together = planned[i : i + self.options.accumulate]
            with self.updater.clock("data_wait"):
                batches = [next(loader) for _ in together]
            yield [len(batch) for batch in together], batches

    def _train_metrics(self) -> dict[str, float]:
        """The epoch's own loss and ROC-AUC, from the logits each clip got as it was trained on."""
        parts = gather(self.state.sums.joined(), self.fabric)
        losses, logits, labels = (torch.cat(column).double().numpy() for column in zip(*parts, strict=True))
        loss = float(losses.mean())
        if not np.isfinite(loss):
            raise TrainingDiverged(
                f"the training loss is {loss} in epoch {self.state.epoch + 1}; a lower optimizer.lr, a smaller "
                "trainer.clip_norm or trainer.precision=32 may help"
            )
        metrics = {"train/loss": loss}
        if 0 < labels.sum() < len(labels):
            from sklearn.metrics import roc_auc_score

            metrics["train/roc_auc"] = float(roc_auc_score(labels, logits))
        return metrics

    def _validate(self) -> dict[str, float]:
        if len(self.val) == 0:
            self.unavailable["val/loss"] = "the val split has no clips"
            return {}
        share_buffers(self.state.best, self.fabric)
        scores = score_clips(
            self.state.best,
            self.val,
            fabric=self.fabric,
            batch_size=self.plan.batch_size,
            num_workers=self.workers,
            progress=self.progress,
            text="validating",
        )
        logits, labels = torch.from_numpy(scores.logits), torch.from_numpy(np.asarray(self.val.labels)).double()
        loss = Loss(self.updater.loss.pos_weight.cpu().double(), self.options.label_smoothing)(logits, labels).mean()
        if not torch.isfinite(loss):
            raise TrainingDiverged(f"the validation loss is {loss.item()} in epoch {self.state.epoch + 1}")
        found = sample_metrics(sample_table(self.val, scores, "val", self.evaluation), self.options.threshold)
        self.unavailable = {f"val/{name}": reason for name, reason in found.unavailable.items()}
        return {"val/loss": loss.item()} | {f"val/{name}": value for name, value in found.values.items()}

    def _profile(self, clips_per_second: float) -> dict[str, float]:
        if not self.options.profile:
            return {}
        metrics = self.updater.clock.read()
        if self.flops is None:
            batch = self.train.fetch([0], 0).to(self.fabric.device)
            self.flops = clip_flops(self.state.detector, batch.clips, batch.mask)
        rate = clips_per_second * self.flops
        metrics |= {"profile/peak_memory_bytes": peak_memory(self.fabric.device), "profile/flops_per_second": rate}
        peak = peak_flops(self.fabric.device, self.fabric.strategy.precision.precision)
        return metrics if peak is None else metrics | {"profile/mfu": rate / peak / self.fabric.world_size}

    def _keep_best(self) -> None:
        if self.fabric.is_global_zero:
            monitor = self.state.monitor
            notes = {"epoch": str(monitor.best_epoch), "monitor": monitor.name, "value": repr(monitor.best_value)}
            save_weights(self.state.best, self.checkpoints / BEST, notes)
        self.fabric.barrier()

    def _save(self) -> None:
        self.state.save(self.checkpoints / LAST, self.fabric, self.seconds())


def _step_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """One number from where a step stands, well mixed, so that neighbours share nothing."""
    return int(np.random.SeedSequence([seed % 2**63, epoch, batch, rank]).generate_state(1, np.uint64)[0] >> 1)
